"""The card of a synthetic data set, from its folder and its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from clinsynth.hub_cards.evidence import Evidence, check_about_set, read_evidence
from clinsynth.hub_cards.evidence_summary import summarize_evidence
from clinsynth.hub_cards.render import LOCAL, Table, listed, render_card, repository_name
from clinsynth.hub_cards.sets import PICTURE, SHARDS, SPLIT, SyntheticSet, describe_columns, read_set, sample_grid
from clinsynth.hub_cards.sources import Source, Terms, describe_making, find_sources
from clinsynth.private_words import describe_command

SNIPPET = """\
from datasets import load_dataset

data = load_dataset({place}, split="train")  # streaming=True reads row by row
names = data.features["label"].names
row = data[0]
print(names[row["label"]], row["{column}"])"""


def dataset_card(
    synthetic_folder: str | Path,
    evidence: str | Path | None = None,
    accepted_risk: str = "",
    *,
    repo_id: str | None = None,
    has_picture: bool | None = None,
    data_name: str = "",
    data_url: str = "",
    data_license: str = "",
    license: str = "",
    license_override: str = "",
) -> str:
    """README.md of a synthetic data set: YAML metadata and Markdown, from its shards, generation.json and evidence.

    Args:
        synthetic_folder: the --output_dir of `clinsynth generate images` or `text`.
        evidence: evidence.json, or its folder, on this set.
        accepted_risk: why it is published although a reading failed; is printed.
        repo_id: where it will lie; the snippet loads it from there.
        has_picture: whether `sample_grid` draws one; None draws it to see.
        data_name, data_url, data_license: of the real data, where they are not known or known wrongly.
        license, license_override: see `data_sources.Terms`.

    Raises:
        ValueError: no finished set, evidence about another one, a licence that the real data's forbids, or something
            private in the card.
    """
    folder = Path(synthetic_folder)
    made, read = read_set(folder), read_evidence(evidence)
    if read is not None:
        check_about_set(read, made.generation, folder)
    terms = Terms(data_name, data_url, data_license, license, license_override)
    sources = made_from(made, read)
    source, card_license = terms.describe(sources[0]), terms.card_license(sources)
    name = repository_name(repo_id) or f"Synthetic {made.things}"
    column = "text" if made.of_texts else "image"
    if has_picture is None:
        has_picture = sample_grid(folder, evidence) is not None
    return render_card(
        "dataset.md",
        metadata(made, source, card_license, name),
        title=name,
        things=made.things,
        summary=summary(made, source),
        picture=PICTURE if has_picture else None,
        labels=made.labels,
        glance=glance(made, source, card_license),
        accepted_risk=accepted_risk,
        snippet=SNIPPET.format(place=json.dumps(repo_id or LOCAL), column=column),
        columns=Table("", ["column", "type", "what it holds"], describe_columns(made.columns)),
        measured=summarize_evidence(read),
        counts=count_table(made, read),
        made=making(made),
        settings=made.settings(),
        commands=list(commands(made, read)),
        own_limits=own_limits(made, source),
        license=card_license,
        source=source,
        terms=terms,
    )


def metadata(made: SyntheticSet, source: Source, license_: str, name: str) -> DatasetCardData:
    """The card's YAML, by which the Hub shows and `load_dataset` reads the shards."""
    split = {"name": SPLIT, "num_bytes": made.num_bytes, "num_examples": made.num_rows}
    return DatasetCardData(
        pretty_name=name,
        license=license_ or None,
        language=[source.language] if source.language and made.of_texts else None,
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"] if made.of_texts else None,
        source_datasets=[source.hub_id] if source.hub_id else None,
        size_categories=[made.size_category],
        task_categories=["text-classification" if made.of_texts else "image-classification"],
        tags=["synthetic", "medical", "clinsynth"],
        configs=[{"config_name": "default", "data_files": [{"split": SPLIT, "path": SHARDS}]}],
        dataset_info={
            "features": made.columns,
            "splits": [split],
            "download_size": made.download_size,
            "dataset_size": made.num_bytes,
        },
    )


def made_from(made: SyntheticSet, evidence: Evidence | None) -> list[Source]:
    """The real data behind the set: the generator's, then the evidence's, then that of the set's own flags."""
    specs = [] if made.trained is None else [(made.trained.config.get("dataset"), made.trained.folder)]
    specs += [] if evidence is None else [(evidence.real, evidence.folder)]
    specs += [(made.run.config.get("dataset"), made.run.folder)]
    return find_sources(specs, made.run.folder, made.labels)


def summary(made: SyntheticSet, source: Source) -> str:
    """What the set is, in plain words."""
    learned = f" The real data behind them are {source.name}" if source.name else ""
    what = f": {source.what}." if source.name and source.what else "." if source.name else ""
    nobody = " No patient's data were used." if source.invented else ""
    by = f" They were made by [{made.model_id}](https://huggingface.co/{made.model_id})." if made.model_id else ""
    invented = f"{made.things} changed from real ones," if made.changed_from_real else f"invented {made.things}"
    return (
        f"{made.num_rows:,} {invented} of {len(made.labels)} classes: {listed(made.labels)}.{by}{learned}"
        f"{what}{nobody} The numbers a class were chosen, and say nothing about how often a condition is."
    )


def glance(made: SyntheticSet, source: Source, license_: str) -> dict[str, str]:
    """The rows at the head of the card."""
    return {
        "holds": f"{made.num_rows:,} {made.things}",
        "classes": f"{len(made.labels)}: {listed(made.labels)}",
        "made by": made.model_id or made.generation["generator"].get("network") or "",
        "real data behind it": source.name,
        "download": f"{made.download_size / 1e6:.3g} MB",
        "licence": license_,
    }


def count_table(made: SyntheticSet, evidence: Evidence | None) -> Table:
    """Samples a class: asked for and made, and beside them the real ones that the evidence counted."""
    requested, produced = made.generation["requested"], made.generation["produced"]
    real = {} if evidence is None else evidence.counts("train")
    columns = ["class", "asked for", "made", *(["real train"] if real else [])]
    rows = [
        [label, f"{requested[label]:,}", f"{produced[label]:,}", *([f"{real.get(label, 0):,}"] if real else [])]
        for label in requested
        if requested[label]
    ]
    return Table("", columns, rows)


def making(made: SyntheticSet) -> dict[str, str]:
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


def commands(made: SyntheticSet, evidence: Evidence | None) -> Iterator[str]:
    """What trained the generator, made the set and measured it, as far as it is known."""
    environment: dict[str, Any] = made.generation.get("environment") or {}
    found = [
        None if made.trained is None else made.trained.command,
        describe_command(environment.get("command"), made.run.folder),
        None if evidence is None else evidence.commands[-1],
    ]
    yield from (command for command in found if command)


def own_limits(made: SyntheticSet, source: Source) -> Iterator[str]:
    """What is known of the set without any evidence."""
    yield f"A label is what the generator was asked for: nobody has looked whether the {made.things} show it."
    yield "Only real patients' data can tell whether a model that was trained on this set works."
    if source.invented:
        yield f"Behind the set are {source.what}: it says nothing about any disease."
    if made.changed_from_real and not source.invented:
        yield "Each picture began as one of a patient, and was changed: what it kept of it nobody has looked for."
    if made.of_texts:
        yield "The texts can be wrong in medicine, biased or upsetting."
