"""What lies in the folders of a run: synthetic sets, evidence on each, their generators, attacks and classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clinsynth.hub.pack.files import Files, Node
from clinsynth.hub_cards.checkpoint import may_have_made, read_checkpoint
from clinsynth.hub_cards.sets import SyntheticSet, read_set
from clinsynth.hub_cards.sources import read_run
from clinsynth.judges.text_rules import AUDIT_FILE
from clinsynth.metrics.privacy.exact import TRAINED_ON
from clinsynth.private_words import last_part
from clinsynth.synthesis.shard_files import find_shards, hash_shards

ATTACKS = {"membership": "membership.json", "text_attacks": "attacks.json"}
"""What forms call the files of attacks on a generator."""
OF_TRAINING = {
    "train_config": "config.yaml",
    "train_environment": "environment.json",
    "train_data": TRAINED_ON,
    "train_facts": "training.json",
    "train_metrics": "metrics.jsonl",
    "train_step": "step.json",
    "train_privacy": "privacy.json",
}
"""What forms call the files of a generator's run folder."""
KNOWN = ("generation.json", "evidence.json", "results.json", "report.json", AUDIT_FILE, *ATTACKS.values())
OF_SET = {"generation": "generation.json", "task": "task.json", "credentials": "content_credentials.json"}


@dataclass
class PackedSet:
    """A synthetic set and what was found about it; `sources` as forms take them."""

    made: SyntheticSet
    shards_sha256: str
    sources: dict[str, list[Node]]
    evidence: Path | None = None

    @property
    def name(self) -> str:
        return self.made.run.folder.resolve().name

    @property
    def kind(self) -> str:
        return "texts" if self.made.of_texts else "images"


@dataclass
class PackedRun:
    """All that was found, with the files that were read."""

    files: Files
    sets: list[PackedSet] = field(default_factory=list)
    results: list[Node] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return sorted({one.kind for one in self.sets})

    def sources(self) -> dict[str, list[Node]]:
        """What forms take of all sets together."""
        found: dict[str, list[Node]] = {"results": self.results}
        for one in self.sets:
            for name, nodes in one.sources.items():
                known = {node.file for node in found.get(name, [])}
                found.setdefault(name, []).extend(node for node in nodes if node.file not in known)
        return found


def read_folders(folders: Iterable[Path]) -> PackedRun:
    """What lies in `folders` and one level below each.

    Raises:
        ValueError: there is no set, one is not finished, a file is damaged, or evidence is about another set.
    """
    run, found = PackedRun(Files()), []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; name the folders that clinsynth wrote")
        run.files.add_root(folder)
        inside = sorted(folder_of(folder))
        if not inside:
            raise ValueError(
                f"{folder} holds nothing of a run ({', '.join(KNOWN)}, or folders with them); name a synthetic set, "
                "its evidence, classifiers, an attack, or a study"
            )
        check_study(folder)
        found += inside
    for folder in dict.fromkeys(found):
        if (folder / "generation.json").is_file():
            run.sets.append(read_packed(folder, run.files))
    names = [one.name for one in run.sets]
    if len(set(names)) < len(names):
        raise ValueError(f"two of the sets have one name ({', '.join(names)}); rename one, or pack them one by one")
    if not run.sets:
        raise ValueError("these folders hold no synthetic set; name the --output_dir of `clinsynth generate` too")
    for folder in dict.fromkeys(found):
        add_findings(folder, run)
    return run


def folder_of(folder: Path) -> Iterator[Path]:
    """The folder itself and those in it that hold a known file."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))):
        if any((place / name).is_file() for name in KNOWN):
            yield place


def check_study(folder: Path) -> None:
    """Raise a ValueError where a study was begun in `folder` and has no report yet."""
    if not (folder / "report.json").exists() and "generators" in read_run(folder).config:
        raise ValueError(f"{folder} is a study that is not finished; start its `clinsynth study` command again")


def read_packed(folder: Path, files: Files) -> PackedSet:
    """The set in `folder`, and its generator's run folder where that lies here.

    Raises:
        ValueError: it is not finished, or a shard is missing or damaged.
    """
    made = read_set(folder)
    find_shards(folder)
    rows = sum((made.generation.get("produced") or {}).values())
    if made.shards.num_rows != rows:
        raise ValueError(
            f"{folder} holds {made.shards.num_rows} rows, but its generation.json says {rows}; start its `clinsynth "
            "generate` command again"
        )
    sources = {name: files.read(folder / file) for name, file in OF_SET.items()}
    trained = made.trained.folder if made.trained else trained_in(files, made.generation["generator"])
    if trained is not None:
        sources |= {name: files.read(trained / file) for name, file in OF_TRAINING.items()}
    return PackedSet(made, hash_shards(folder), sources)


def trained_in(files: Files, generator: dict[str, Any]) -> Path | None:
    """The generator's run folder among those that were given, by its name and its weights, where the run was moved."""
    model = last_part(generator.get("model") or "")
    for root in files.roots.values():
        for place in (root, root / model) if model else ():
            with suppress(ValueError):
                its = place.name == model and (place / "config.yaml").exists()
                if its and may_have_made(read_checkpoint(place), generator):
                    return place
    return None


def add_findings(folder: Path, run: PackedRun) -> None:
    """Add what one folder holds about the sets: evidence, an attack, classifiers."""
    for node in run.files.read(folder / "evidence.json"):
        for one in sets_of_shards(run, find_text(node, "data/shards_sha256"), folder / "evidence.json"):
            if one.evidence is not None:
                raise ValueError(f"{one.evidence} and {folder} both hold evidence on {one.name}; name one of them")
            one.sources["evidence"], one.evidence = [node], folder
    for name, file in ATTACKS.items():
        for node in run.files.read(folder / file):
            for one in sets_of_model(run, last_part(find_text(node, "model")), folder / file):
                one.sources[name] = [node]
    for node in run.files.read(folder / AUDIT_FILE):
        for one in sets_of_shards(run, find_text(node, "shards_sha256"), folder / AUDIT_FILE):
            one.sources["audit"] = [node]
    for node in run.files.read(folder / "results.json"):
        check_trained_on(folder, [one.name for one in run.sets])
        run.results.append(node)


def sets_of_shards(run: PackedRun, digest: str, path: Path) -> list[PackedSet]:
    """The sets whose shards a file is about; a ValueError where that is none of them."""
    about = [one for one in run.sets if one.shards_sha256 == digest]
    if not about:
        raise ValueError(
            f"{path} is about other shards than those of the sets that were given; name its set too, or measure the "
            "set as it is now"
        )
    return about


def sets_of_model(run: PackedRun, model: str, path: Path) -> list[PackedSet]:
    """The sets that a model of this name made; a ValueError where that is none of them."""
    about = [one for one in run.sets if model == last_part(one.made.generation["generator"].get("model") or "")]
    if not about:
        raise ValueError(
            f"{path} is about the model {model}, which made none of the sets that were given; leave it out, or name "
            "the set that it made"
        )
    return about


def check_trained_on(folder: Path, names: list[str]) -> None:
    """Raise a ValueError where the classifiers in `folder` were trained on other synthetic sets than those given."""
    said = str(read_run(folder).config.get("synthetic") or "")
    used = [last_part(word.rpartition("=")[2]) for word in said.split(",") if word]
    unknown = [name for name in used if name not in names]
    if unknown:
        raise ValueError(
            f"{folder / 'results.json'} is of classifiers that were trained on {', '.join(unknown)}, which was not "
            "given; name that set too, or leave these classifiers out"
        )


def find_text(node: Node, path: str) -> str:
    """The text at a place; empty where there is none."""
    return next((str(one.value) for one in node.find(path)), "")
