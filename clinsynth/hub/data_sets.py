"""Synthetic data sets on their way to the Hub: evidence on exactly these, the gate, files that leave, and cards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinsynth.hub.gate import Reading, Thresholds
    from clinsynth.hub.shards import PublishedShards
    from clinsynth.hub.upload import Content
    from clinsynth.hub_cards.sources import Terms

CONFIG_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
KEPT_EVIDENCE = (
    "encoder extractor language_model measurements collapse classifier fidelity diversity memorisation findings "
    "distributions privacy seed"
).split()
KEPT_DATA = ("label_names", "counts", "resolution", "channels", "words_a_text", "shards_sha256")
NAMES_REAL_ROWS = ("pairs", "duplicates")


@dataclass
class SetToPush:
    """One synthetic set on its way: `config_name` is empty where it is the only one of its repository."""

    folder: Path
    evidence: Path
    config_name: str
    generation: dict[str, Any]
    shards: PublishedShards
    readings: list[Reading]

    @property
    def prefix(self) -> str:
        """Where it lies in the repository."""
        return f"{self.config_name}/" if self.config_name else ""

    @property
    def is_refused(self) -> bool:
        """Whether a reading is beyond its limit."""
        return not all(reading.passed for reading in self.readings)


def find_sets(folders: str, evidence: str, limits: Thresholds) -> list[SetToPush]:
    """The sets with what their evidence says of them.

    Args:
        folders: FOLDER or NAME=FOLDER, several as A,B,…
        evidence: the folder of the evidence on each, in their order.

    Raises:
        ValueError: sets and evidence do not match, or a name is no name of a configuration.
    """
    words, measured = folders.split(","), evidence.split(",")
    if len(words) != len(measured):
        raise ValueError(f"--evidence must name one folder for each of the {len(words)} sets, got {len(measured)}")
    if len(words) == 1:
        return [find_set(Path(folders.partition("=")[2] or folders), Path(evidence), "", limits)]
    pairs = [word.split("=", 1) if "=" in word else [Path(word).name, word] for word in words]
    names = [name for name, _ in pairs]
    for name in names:
        if not CONFIG_NAME.fullmatch(name) or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of a configuration of its own; write NAME={name}")
    return [
        find_set(Path(folder), Path(about), name, limits)
        for (name, folder), about in zip(pairs, measured, strict=True)
    ]


def find_set(folder: Path, evidence: Path, config_name: str, limits: Thresholds) -> SetToPush:
    """One set, its evidence checked to be about exactly its shards.

    Raises:
        ValueError: no finished set, no evidence, or evidence about other shards.
    """
    from clinsynth.hub.gate import read_gate
    from clinsynth.hub.shards import PublishedShards
    from clinsynth.hub_cards.evidence import check_about_set, read_evidence
    from clinsynth.synthesis.sets import read_finished
    from clinsynth.synthesis.shard_files import find_shards, hash_all, hash_each

    generation = read_finished(folder)
    find_shards(folder)
    read = read_evidence(evidence)
    assert read is not None
    check_about_set(read, generation, folder)
    measured, hashed = read.content["data"].get("shards_sha256"), hash_each(folder)
    if measured != hash_all(hashed.values()):
        why = "is about other shards than those in" if measured else "does not say which shards it is about, unlike"
        raise ValueError(f"--evidence {evidence} {why} {folder}; run `clinsynth evaluate` on this set and start again")
    shards = PublishedShards.of(generation, folder, hashed)
    return SetToPush(folder, evidence, config_name, generation, shards, read_gate(read.content, limits))


def pass_gate(one: SetToPush, accepted_risk: str) -> None:
    """Print what the gate reads, and raise a ValueError where it refuses and no risk is accepted."""
    from clinsynth.hub.gate import refuse

    for reading in one.readings:
        print(f"gate: {'passed' if reading.passed else 'NOT PASSED'}: {reading}")
    refusal = refuse(one.readings, str(one.folder))
    if refusal and not accepted_risk:
        raise ValueError(refusal)
    if refusal:
        print(f"gate: the risk is accepted, and the card says so: {accepted_risk}")


def files_of_sets(
    sets: list[SetToPush], repo_id: str, terms: Terms, accepted_risk: str
) -> Iterator[tuple[str, Content]]:
    """Path in the repository and content of each file, a shard in memory at a time.

    Shards come first, so that images are drawn while they are sent, and cards last, as they tell sizes.
    """
    from clinsynth.hub_cards.dataset_card import several_cards
    from clinsynth.hub_cards.sets import PICTURE

    cards = {}
    for one in sets:
        for path, content in one.shards.files(sum((one.generation.get("produced") or {}).values())):
            yield one.prefix + path, content
        facts = dict(facts_of(one))
        yield from ((one.prefix + path, content) for path, content in facts.items())
        if one.shards.left_out:
            print(f"{one.folder}: columns that are not published: {', '.join(one.shards.left_out)}")
        card = card_of(one, repo_id, terms, accepted_risk if one.is_refused else "", PICTURE in facts)
        yield f"{one.prefix}README.md", card.encode()
        cards[one.config_name] = card
    if len(sets) > 1:
        rows = {one.config_name: one.shards.num_rows for one in sets}
        yield "README.md", several_cards(cards, rows, repo_id, sets[0].shards.things).encode()


def facts_of(one: SetToPush) -> Iterator[tuple[str, bytes]]:
    """How the set was made and measured, and the images of its card."""
    from clinsynth.hub_cards.sets import PICTURE, sample_grid

    for name, values in (
        ("generation.json", published_generation(one.generation, one.folder)),
        ("evidence.json", published_evidence(one.evidence)),
    ):
        yield name, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    grid = sample_grid(one.folder, one.evidence)
    if grid is not None:
        yield PICTURE, grid


def published_generation(generation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """generation.json as it is published: no path, address, or digest of real texts."""
    from clinsynth.private_words import describe_command, without_paths
    from clinsynth.synthesis.provenance import find_provenance

    hidden = {"endpoint", "examples_sha256", "verify_labels_sha256"}
    generator = {name: value for name, value in generation["generator"].items() if name not in hidden}
    generator["model"] = generator.get("model") and find_provenance(generation, folder).generator
    environment = generation.get("environment") or {}
    kept = {name: environment[name] for name in ("python", "packages", "git_commit", "machine") if name in environment}
    kept["command"] = describe_command(environment.get("command"), folder)
    counts = {name: generation.get(name) for name in ("requested", "produced", "rejected", "given_up")}
    public: dict[str, Any] = without_paths({"generator": generator, **counts, "environment": kept})
    return public


def published_evidence(path: Path) -> dict[str, Any]:
    """evidence.json as it is published: its numbers, without paths and without the numbers or ids of real rows."""
    from clinsynth.hub_cards.evidence import read_evidence

    read = read_evidence(path)
    assert read is not None
    kept = {name: read.content[name] for name in KEPT_EVIDENCE if name in read.content}
    if isinstance(kept["privacy"], dict):
        kept["privacy"] = {name: part for name, part in kept["privacy"].items() if name not in NAMES_REAL_ROWS}
    data = read.content["data"]
    return {"data": {name: data[name] for name in KEPT_DATA if name in data}, **kept}


def card_of(one: SetToPush, repo_id: str, terms: Terms, accepted_risk: str, has_grid: bool) -> str:
    """The card of one set, whose shards have been gone through."""
    from clinsynth.hub_cards.dataset_card import Publication, dataset_card

    gate = [
        [reading.name, reading.value, reading.limit, "passed" if reading.passed else "**not passed**"]
        for reading in one.readings
    ]
    published = Publication(one.shards.totals(), one.shards.left_out, gate, has_grid, one.config_name)
    return dataset_card(
        one.folder, one.evidence, repo_id=repo_id, terms=terms, accepted_risk=accepted_risk, published=published
    )
