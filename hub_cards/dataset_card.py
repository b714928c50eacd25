"""The card of a synthetic data set, from its folder and its evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData
from markupsafe import Markup

from clinsynth.hub_cards import sets
from clinsynth.hub_cards.evidence import Evidence, check_about_set, read_evidence
from clinsynth.hub_cards.evidence_summary import summarize_evidence
from clinsynth.hub_cards.render import LOCAL, Table, cell, listed, render_card, repository_name
from clinsynth.hub_cards.sources import Source, Terms, describe_making, find_sources, is_non_commercial
from clinsynth.private_words import describe_command


@dataclass(frozen=True)
class Publication:
    """A set as it is pushed.

    Attributes:
        shards: those that are pushed.
        left_out: columns that are not.
        turned: signs that turn the direction of reading, which were taken out of texts.
        gate: name, value, limit and outcome of each reading.
        has_grid: whether what `sample_grid` drew is pushed.
        config_name: the set's configuration in the repository; empty where it is the only one.
    """

    shards: sets.Shards
    left_out: list[str] = field(default_factory=list)
    gate: list[list[str]] = field(default_factory=list)
    has_grid: bool = False
    config_name: str = ""
    turned: int = 0


def dataset_card(
    synthetic_folder: str | Path,
    evidence: str | Path | None = None,
    *,
    repo_id: str | None = None,
    terms: Terms | None = None,
    accepted_risk: str = "",
    published: Publication | None = None,
) -> str:
    """README.md of a synthetic data set: YAML metadata and Markdown, from its shards, generation.json and evidence.

    Args:
        synthetic_folder: the --output_dir of `clinsynth generate images` or `text`.
        evidence: evidence.json, or its folder, on this set.
        repo_id: where it will lie; the snippet loads it from there.
        terms: what is known better than by these files.
        accepted_risk: why it is published although a reading failed; is printed.
        published: of a set that is pushed.

    Raises:
        ValueError: no finished set, evidence about another one, a licence that the real data's forbids, or something
            private in the card.
    """
    folder, terms = Path(synthetic_folder), terms or Terms()
    made, read = sets.read_set(folder), read_evidence(evidence)
    if read is not None:
        check_about_set(read, made.generation, folder)
    made = made if published is None else replace(made, shards=published.shards)
    has_grid = sets.sample_grid(folder, evidence) is not None if published is None else published.has_grid
    sources = made_from(made, read)
    source, card_license = terms.overrule(sources[0]), terms.card_license(sources)
    name = repository_name(repo_id) or f"Synthetic {made.things}"
    return render_card(
        "dataset.md",
        set_metadata(made, source, card_license, name),
        title=name,
        things=made.things,
        summary=set_summary(made, source),
        image=sets.PICTURE if has_grid else None,
        labels=made.labels,
        overview=set_overview(made, source, card_license),
        accepted_risk=accepted_risk,
        place=repo_id or LOCAL,
        columns=Table("", ["column", "type", "what it holds"], sets.describe_columns(made.shards.columns)),
        measured=summarize_evidence(read),
        counts=count_table(made, read),
        made=how_made(made),
        settings=made.settings(),
        commands=list(commands(made, read)),
        own_limits=list(set_limits(made, source)),
        license=card_license,
        source=source,
        terms=terms,
        published=published,
    )


def made_from(made: sets.SyntheticSet, evidence: Evidence | None) -> list[Source]:
    """The real data behind the set: the generator's, then the evidence's, then that of the set's own flags."""
    specs = [] if made.trained is None else [(made.trained.config.get("dataset"), made.trained.folder)]
    specs += [] if evidence is None else [(evidence.real, evidence.folder)]
    return find_sources([*specs, (made.run.config.get("dataset"), made.run.folder)], made.run.folder, made.labels)


def set_metadata(made: sets.SyntheticSet, source: Source, license_: str, name: str) -> DatasetCardData:
    """The card's YAML, by which the Hub shows and `load_dataset` reads the shards."""
    return DatasetCardData(
        pretty_name=name,
        license=license_ or None,
        language=[source.language] if source.language and made.of_texts else None,
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"] if made.of_texts else None,
        source_datasets=[source.hub_id] if source.hub_id else None,
        size_categories=[made.shards.size_category],
        task_categories=["text-classification" if made.of_texts else "image-classification"],
        tags=["synthetic", "medical", "clinsynth"],
        configs=[{"config_name": "default", "data_files": [{"split": sets.SPLIT, "path": sets.SHARDS}]}],
        dataset_info=made.shards.info(),
    )


def set_summary(made: sets.SyntheticSet, source: Source) -> Markup:
    """What the set is, in plain words."""
    what = f": {cell(source.what)}" if source.what else ""
    learned = f" The real data behind them are {cell(source.name)}{what}." if source.name else ""
    nobody = " No patient's data were used." if source.invented else ""
    by = f" They were made by [{made.model_id}](https://huggingface.co/{made.model_id})." if made.model_id else ""
    invented = f"{made.things} changed from real ones," if made.changed_from_real else f"invented {made.things}"
    return Markup(
        f"{made.shards.num_rows:,} {invented} of {len(made.labels)} classes: {cell(listed(made.labels))}.{by}{learned}"
        f"{nobody} The numbers a class were chosen, and say nothing about how often a condition is."
    )


def set_overview(made: sets.SyntheticSet, source: Source, license_: str) -> dict[str, str]:
    """The rows at the head of the card."""
    return {
        "holds": f"{made.shards.num_rows:,} {made.things}",
        "classes": f"{len(made.labels)}: {listed(made.labels)}",
        "made by": made.model_id or made.generation["generator"].get("network") or "",
        "real data behind it": source.name,
        "download": f"{made.shards.download_size / 1e6:.3g} MB",
        "licence": license_,
    }


def count_table(made: sets.SyntheticSet, evidence: Evidence | None) -> Table:
    """Samples a class: asked for and made, and beside them the real ones that the evidence counted."""
    requested, produced = made.generation["requested"], made.generation["produced"]
    real = {} if evidence is None else evidence.counts("train")
    counts = {"asked for": requested, "made": produced, **({"real train": real} if real else {})}
    rows = [[label, *(f"{one.get(label, 0):,}" for one in counts.values())] for label, n in requested.items() if n]
    return Table("", ["class", *counts], rows)


def how_made(made: sets.SyntheticSet) -> dict[str, str]:
    """Seed, rejections, time, machine and versions of the generation."""
    generation = made.generation
    rejected = {reason: count for reason, count in (generation.get("rejected") or {}).items() if count}
    given_up = generation.get("given_up")
    given_up = given_up.get("rows") if isinstance(given_up, dict) else given_up
    rows = {
        "seed": str(generation["generator"].get("seed", "")),
        "drawn anew": ", ".join(f"{count:,} {reason}" for reason, count in rejected.items()),
        "given up": f"{given_up:,} rows" if given_up else "",
    }
    return {**rows, **describe_making(generation.get("environment") or {}, made.run.step)}


def commands(made: sets.SyntheticSet, evidence: Evidence | None) -> Iterator[str]:
    """What trained the generator, made the set and measured it, as far as it is known."""
    environment: dict[str, Any] = made.generation.get("environment") or {}
    found = [
        None if made.trained is None else made.trained.command,
        describe_command(environment.get("command"), made.run.folder),
        None if evidence is None else evidence.commands[-1],
    ]
    yield from (command for command in found if command)


def set_limits(made: sets.SyntheticSet, source: Source) -> Iterator[str]:
    """What is known of the set without any evidence."""
    yield f"A label is what the generator was asked for: nobody has looked whether the {made.things} show it."
    yield "Only real patients' data can tell whether a model that was trained on this set works."
    if source.invented:
        yield f"Behind the set are {source.what}: it says nothing about any disease."
    if made.changed_from_real and not source.invented:
        yield "Each image began as one of a patient, and was changed: what it kept of it nobody has looked for."
    if made.of_texts:
        yield "The texts can be wrong in medicine, biased or upsetting."


def several_cards(cards: dict[str, str], rows: dict[str, int], repo_id: str, things: str) -> str:
    """The card of a repository with several configurations, each a folder of its own with its own card.

    Args:
        cards, rows: by the configuration's name.
    """
    own: dict[str, Any] = {name: DatasetCard(card).data for name, card in cards.items()}
    first, *_ = own
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": [{"split": sets.SPLIT, "path": f"{name}/{sets.SHARDS}"}]} for name in own
    ]
    configs[0]["default"] = True
    changed = {
        "license": joint_license([data.license for data in own.values()]),
        "pretty_name": repository_name(repo_id),
        "configs": configs,
        "dataset_info": [{"config_name": name, **data.dataset_info} for name, data in own.items()],
    }
    shared = {name: value for name, value in (own[first].to_dict() | changed).items() if value is not None}
    data = DatasetCardData(**shared)
    return render_card(
        "datasets.md", data, title=data.pretty_name, things=things, rows=rows, first=first, place=repo_id
    )


def joint_license(licenses: list[str | None]) -> str | None:
    """The licence of all: the one that they share, else the first non-commercial one, else "other"."""
    if len(set(licenses)) == 1:
        return licenses[0]
    return next((name for name in licenses if name and is_non_commercial(name)), "other")
