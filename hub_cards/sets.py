"""What a synthetic data set's own files say of it: columns, rows, sizes, who made it and how."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.hub_cards.checkpoint import may_have_made, read_checkpoint
from clinsynth.hub_cards.evidence import Evidence, read_evidence
from clinsynth.hub_cards.sources import RunFiles, read_run
from clinsynth.images import contact_sheet, from_png, to_picture, to_png
from clinsynth.metrics.registry import COPIES
from clinsynth.private_words import HIDDEN, without_paths
from clinsynth.run_folder import read_metrics
from clinsynth.synthesis.provenance import find_provenance
from clinsynth.synthesis.sets import SetReader, read_finished
from clinsynth.synthesis.shard_files import Columns, open_shard, read_columns, shard_paths

NOT_SHOWN = {"model", "endpoint", "task_sha256", "examples_sha256", "verify_labels_sha256", "seed"}
SHARDS = "data/*.parquet"
SPLIT = "train"
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
LARGEST_SIZE = "10M<n<100M"
COLUMN_WORDS = {
    "image": "the synthetic image",
    "text": "the synthetic text",
    "label": "the class that was asked for",
    "seed": "of the row's own random generator: it makes the row again",
    "id": "number of the row",
    "example_ids": "real texts that were shown in the row's prompt, by id",
    "attempts": "how often the row was drawn until it was valid",
    "synthetic": "true: a model made the row",
    "generator": "what made the row",
    "revision": "SHA-256 of the generator's weights",
}


@dataclass(frozen=True)
class Shards:
    """All shards of a set: columns and types of their rows, how many rows, bytes once decompressed, and as files."""

    columns: Columns
    num_rows: int
    num_bytes: int
    download_size: int

    def info(self) -> dict[str, Any]:
        """`dataset_info` of a card's YAML: by it the Hub shows, and `load_dataset` reads, the shards."""
        return {
            "features": self.columns,
            "splits": [{"name": SPLIT, "num_bytes": self.num_bytes, "num_examples": self.num_rows}],
            "download_size": self.download_size,
            "dataset_size": self.num_bytes,
        }

    @property
    def size_category(self) -> str:
        return next((name for name, end in SIZES.items() if self.num_rows < end), LARGEST_SIZE)


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic data set on disk.

    Attributes:
        run: its run folder's files.
        generation: generation.json.
        trained: the generator's run folder, where it lies here and its weights are those that made the set.
    """

    run: RunFiles
    generation: dict[str, Any]
    shards: Shards
    trained: RunFiles | None

    @property
    def of_texts(self) -> bool:
        return all(column["name"] != "image" for column in self.shards.columns)

    @property
    def changed_from_real(self) -> bool:
        """Each image began as a real one (image-to-image)."""
        return "image_to_image" in self.generation["generator"]

    @property
    def things(self) -> str:
        return "texts" if self.of_texts else "images"

    @property
    def labels(self) -> list[str]:
        (label,) = (column["dtype"] for column in self.shards.columns if column["name"] == "label")
        return list(label["class_label"]["names"].values())

    @property
    def model_id(self) -> str | None:
        """The generator's id on the Hub, if it came from there when the set was made."""
        model = self.generation["generator"].get("model") or ""
        return model if "/" in model and find_provenance(self.generation, self.run.folder).generator == model else None

    def settings(self) -> dict[str, str]:
        """How the generator was sampled, as text."""
        known = {name: value for name, value in self.generation["generator"].items() if name not in NOT_SHOWN}
        shown = {name: str(value) for name, value in without_paths(known).items() if value is not None}
        return {name: value for name, value in shown.items() if value and HIDDEN not in value}


def read_set(folder: Path) -> SyntheticSet:
    """The synthetic data set in `folder`."""
    generation = read_finished(folder)
    files = [open_shard(path) for path in sorted(folder.glob(SHARDS))]
    groups = [file.metadata.row_group(i) for file in files for i in range(file.metadata.num_row_groups)]
    shards = Shards(
        read_columns(files[0].schema_arrow),
        sum(file.metadata.num_rows for file in files),
        sum(group.total_byte_size for group in groups),
        sum(path.stat().st_size for path in folder.glob(SHARDS)),
    )
    return SyntheticSet(read_run(folder), generation, shards, find_training(generation["generator"], folder))


def find_training(generator: dict[str, Any], folder: Path) -> RunFiles | None:
    """The run folder of the generator, looked for from here and beside the set; None where it is not there.

    A folder of that name that holds no checkpoint, or other weights, is another's.
    """
    model = generator.get("model")
    if not model:
        return None
    for place in (Path(), *folder.resolve().parents):
        found, is_its = place / model, False
        with suppress(ValueError):
            is_its = (found / "config.yaml").exists() and may_have_made(read_checkpoint(found), generator)
        if is_its:
            return read_run(found)
    return None


def describe_columns(columns: Columns) -> list[list[str]]:
    """Name, type and meaning of each column."""
    return [[column["name"], kind_of(column), COLUMN_WORDS.get(column["name"], "–")] for column in columns]


def kind_of(column: dict[str, Any]) -> str:
    """The type of a column in a word or two."""
    kind = column.get("dtype", "list" if "list" in column else "–")
    if isinstance(kind, dict):
        return "class label" if "class_label" in kind else "image" if "image" in kind else "–"
    return "image" if kind == "image" else str(kind)


PICTURE = "samples.png"
"""The file's name beside the card."""
COLUMNS = 8


def sample_grid(folder: str | Path, evidence: str | Path | None = None) -> bytes | None:
    """A PNG without metadata for the card of a checkpoint or of a synthetic image set; None where there is none.

    A checkpoint's is the grid that validation drew at the step that was kept; a set's are the first eight images of
    each class. With evidence, images among the closest to real ones are passed over; where copies were found there
    is no grid.
    """
    folder, read = Path(folder), read_evidence(evidence)
    if read is not None and not read.of_texts and read.content["privacy"]["verdict"] == COPIES:
        return None
    if (folder / "samples").is_dir():
        return training_grid(folder)
    if (folder / "generation.json").exists():
        return set_grid(folder, closest_rows(read))
    return None


def training_grid(folder: Path) -> bytes | None:
    """The grid of the step whose weights are the result, pixel for pixel: the best KID's, else the last validated."""
    records = read_metrics(folder)
    scores = {r["step"]: r["validation_kid"] for r in records if "validation_kid" in r}
    last = max((r["step"] for r in records if "validation_loss" in r), default=0)
    path = folder / "samples" / f"step-{min(scores, key=scores.__getitem__, default=last):07d}.png"
    return to_png(to_picture(from_png(path.read_bytes()))) if path.exists() else None


def closest_rows(evidence: Evidence | None) -> set[int]:
    """Numbers of the synthetic images that the evidence names as closest to real ones."""
    if evidence is None or evidence.of_texts:
        return set()
    return {pair["synthetic_row"] for pair in evidence.content["privacy"]["pairs"]}


def set_grid(folder: Path, left_out: set[int]) -> bytes | None:
    """The first images of each class, a row a class, without the rows `left_out`; None of a set without images."""
    reader = SetReader(str(folder), shard_paths(folder))
    if "image" not in reader.columns:
        return None
    chosen = first_rows(reader.values("label"), left_out)
    picked = reader.pick("image", {row for rows in chosen for row in rows})
    pictures = {row: from_png(image["bytes"]) for row, image in picked}
    if not pictures:
        return None
    blank = np.full_like(next(iter(pictures.values())), 255)
    rows = [([pictures[row] for row in rows] + [blank] * COLUMNS)[:COLUMNS] for rows in chosen]
    return to_png(contact_sheet(np.stack([picture for row in rows for picture in row]), COLUMNS))


def first_rows(labels: list[int], left_out: set[int]) -> list[list[int]]:
    """Numbers of the first rows of each class, classes in order, without those `left_out`."""
    chosen: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        if len(chosen[label]) < COLUMNS and row not in left_out:
            chosen[label].append(row)
    return list(chosen.values())
