"""Publish a synthetic data set on the Hub, with its evidence and through a gate.

    clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence
    clinsynth push dataset ddpm=runs/by-ddpm gan=runs/by-gan --repo_id me/retina-synthetic \\
        --evidence runs/ddpm-evidence,runs/gan-evidence
    clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence \\
        --dry_run

What leaves: the Parquet shards with known columns alone, each row and picture marked as synthetic, as generation has
written them or, where it has not, written anew; the card with a picture of samples; how the set was made and measured,
without paths. The same command again goes on where it stopped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clinsynth.arguments import run
from clinsynth.hub.gate import Thresholds
from clinsynth.hub.repository import PushArguments, TermsArguments

if TYPE_CHECKING:
    from clinsynth.hub.gate import Reading
    from clinsynth.hub.shards import PublishedShards
    from clinsynth.hub.upload import Content

CONFIG_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
KEPT_EVIDENCE = (
    "encoder extractor language_model measurements collapse classifier fidelity diversity memorisation findings "
    "distributions privacy seed"
).split()
KEPT_DATA = ("label_names", "counts", "resolution", "channels", "words_a_text", "shards_sha256")
NAMES_REAL_ROWS = ("pairs", "duplicates")


@dataclass
class PushDatasetArguments(PushArguments, TermsArguments, Thresholds):
    """Publish a synthetic data set on the Hub, with its evidence and through a gate.

    Several folders become several configurations, each called as its folder, or as NAME in NAME=FOLDER. Example:

      clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence
    """

    evidence: str = ""
    """folder of `clinsynth evaluate` on exactly this set; of several sets A,B,… in their order"""
    accept_risk: str = ""
    """why the set may be published although a reading is beyond its limit; the card prints it"""
    gated: Literal["auto", "manual"] | None = None
    """who wants to read must ask; auto lets everybody in who does, manual waits for your yes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if not self.evidence:
            raise ValueError(
                "--evidence is missing: a synthetic set is published with its privacy evidence only; give the "
                "--output_dir of `clinsynth evaluate images` or `text` on it"
            )


@dataclass
class SetToPush:
    """One synthetic set on its way: where it lies in the repository (`prefix`, empty or `name/`), and its gate."""

    name: str
    folder: Path
    evidence: Path
    prefix: str
    shards: "PublishedShards"
    readings: "list[Reading]"
    generation: dict[str, Any] = field(repr=False)


def main(args: PushDatasetArguments) -> None:
    """Check, pass the gate, publish, read back."""
    from clinsynth.hub.repository import Target
    from clinsynth.hub.upload import push

    sets = find_sets(args)
    for one in sets:
        pass_gate(one, args.accept_risk)
    replaced = r"(?:[A-Za-z0-9][\w-]*/)?(?:data/[^/]*\.parquet|samples\.png|generation\.json|evidence\.json)"
    target = Target.of(args, "dataset", gated=args.gated)
    names = [one.name for one in sets] if len(sets) > 1 else []
    push(args, target, files_to_push(args, sets), replaced, names)


def find_sets(args: PushDatasetArguments) -> list[SetToPush]:
    """The sets with what their evidence says of them.

    Raises:
        ValueError: sets and evidence do not match, or a name is no name of a configuration.
    """
    words = args.folder.split(",")
    evidence = args.evidence.split(",")
    if len(words) != len(evidence):
        raise ValueError(f"--evidence must name one folder for each of the {len(words)} sets, got {len(evidence)}")
    pairs = [word.split("=", 1) if "=" in word else (Path(word).name, word) for word in words]
    for name, _ in pairs if len(pairs) > 1 else []:
        if not CONFIG_NAME.fullmatch(name) or [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of a configuration of its own; write NAME={name}")
    several = len(pairs) > 1
    return [
        find_set(name, Path(folder), Path(measured), args, f"{name}/" if several else "")
        for (name, folder), measured in zip(pairs, evidence, strict=True)
    ]


def find_set(name: str, folder: Path, evidence: Path, args: PushDatasetArguments, prefix: str) -> SetToPush:
    """One set, its evidence checked to be about exactly its shards.

    Raises:
        ValueError: no finished set, no evidence, or evidence about other shards.
    """
    from clinsynth.hub.gate import read_gate
    from clinsynth.hub.shards import PublishedShards
    from clinsynth.hub_cards.evidence import check_about_set, read_evidence
    from clinsynth.hub_cards.sets import read_generation
    from clinsynth.synthesis.shard_files import find_shards, hash_all, hash_each

    generation = read_generation(folder)
    find_shards(folder)
    read = read_evidence(evidence)
    assert read is not None
    check_about_set(read, generation, folder)
    measured, hashed = read.content["data"].get("shards_sha256"), hash_each(folder)
    if measured != hash_all(hashed.values()):
        why = "is about other shards than those in" if measured else "does not say which shards it is about, unlike"
        raise ValueError(f"--evidence {evidence} {why} {folder}; run `clinsynth evaluate` on this set and start again")
    shards = PublishedShards.of(generation, folder, hashed)
    return SetToPush(name, folder, evidence, prefix, shards, read_gate(read.content, args), generation)


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


def files_to_push(args: PushDatasetArguments, sets: list[SetToPush]) -> "Iterator[tuple[str, Content]]":
    """Path in the repository and content of each file, a shard in memory at a time.

    Shards come first, so that pictures are drawn while they are sent, and cards last, as they tell sizes.
    """
    from clinsynth.hub.data_sets import several_cards
    from clinsynth.hub_cards.sets import PICTURE

    cards = {}
    for one in sets:
        produced = sum((one.generation.get("produced") or {}).values())
        for path, content in one.shards.files(produced):
            yield one.prefix + path, content
        facts = dict(facts_of(one))
        yield from ((one.prefix + path, content) for path, content in facts.items())
        if one.shards.left_out:
            print(f"{one.folder}: columns that are not published: {', '.join(one.shards.left_out)}")
        cards[one.name] = card_of(one, args, PICTURE in facts)
        yield f"{one.prefix}README.md", cards[one.name].encode()
    if len(sets) > 1:
        rows = {one.name: one.shards.num_rows for one in sets}
        things = "pictures" if sets[0].shards.of_pictures else "texts"
        yield "README.md", several_cards(cards, rows, args.repo_id, things).encode()


def facts_of(one: SetToPush) -> Iterator[tuple[str, bytes]]:
    """How the set was made and measured, and the picture of its card."""
    import json

    from clinsynth.hub.shards import describe_set
    from clinsynth.hub_cards.sets import PICTURE, sample_grid

    for name, values in (
        ("generation.json", describe_set(one.generation, one.folder)),
        ("evidence.json", describe_evidence(one.evidence)),
    ):
        yield name, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    picture = sample_grid(one.folder, one.evidence)
    if picture is not None:
        yield PICTURE, picture


def describe_evidence(path: Path) -> dict[str, Any]:
    """evidence.json as it is published: its numbers, without paths and without the numbers or ids of real rows."""
    from clinsynth.hub_cards.evidence import read_evidence

    read = read_evidence(path)
    assert read is not None
    kept = {name: read.content[name] for name in KEPT_EVIDENCE if name in read.content}
    if isinstance(kept["privacy"], dict):
        kept["privacy"] = {name: part for name, part in kept["privacy"].items() if name not in NAMES_REAL_ROWS}
    data = read.content["data"]
    return {"data": {name: data[name] for name in KEPT_DATA if name in data}, **kept}


def card_of(one: SetToPush, args: PushDatasetArguments, has_picture: bool) -> str:
    """The card of one set, whose shards have been gone through."""
    from clinsynth.hub.data_sets import finish_card
    from clinsynth.hub_cards.dataset_card import dataset_card

    failed = any(not reading.passed for reading in one.readings)
    risk = args.accept_risk if failed else ""
    card = dataset_card(one.folder, one.evidence, risk, repo_id=args.repo_id, has_picture=has_picture, **args.terms())
    if one.prefix:
        card = card.replace(f'load_dataset("{args.repo_id}",', f'load_dataset("{args.repo_id}", "{one.name}",')
    return finish_card(card, one.shards, one.readings, risk)


if __name__ == "__main__":
    run(PushDatasetArguments, main)
