"""The picture of a card: synthetic samples, a class a row. No real picture is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clinsynth.hub.shards import open_shard, read_rows
from clinsynth.hub_cards.evidence import Evidence, read_evidence
from clinsynth.hub_cards.sets import SHARDS
from clinsynth.images import contact_sheet, from_png, to_picture, to_png
from clinsynth.run_folder import read_metrics

PICTURE = "samples.png"
"""The file's name beside the card."""
COLUMNS = 8


def sample_grid(folder: str | Path, evidence: str | Path | None = None) -> bytes | None:
    """A PNG without metadata for the card of a checkpoint or of a synthetic image set; None where there is none.

    A checkpoint's is the grid that validation drew at the step that was kept; a set's are the first eight pictures of
    each class. With evidence, pictures among the closest to real ones are passed over; where copies were found there
    is no grid.
    """
    from clinsynth.metrics.privacy.verdict import COPIES

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
    """Numbers of the synthetic pictures that the evidence names as closest to real ones."""
    if evidence is None or evidence.of_texts:
        return set()
    return {pair["synthetic_row"] for pair in evidence.content["privacy"]["pairs"]}


def set_grid(folder: Path, left_out: set[int]) -> bytes | None:
    """The first pictures of each class, a row a class, without the rows `left_out`; None of a set without pictures."""
    of_shard = read_labels(folder)
    chosen = first_rows([label for found in of_shard.values() for label in found], left_out)
    counts = {path: len(found) for path, found in of_shard.items()}
    pictures = dict(read_pictures(counts, {row for rows in chosen for row in rows}))
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


def read_labels(folder: Path) -> dict[Path, list[int]]:
    """The class numbers of each shard's rows, in the shards' order; empty of a set without pictures."""
    found = {}
    for path in sorted(folder.glob(SHARDS)):
        file = open_shard(path)
        if "image" not in file.schema_arrow.names:
            return {}
        found[path] = read_rows(file, path, ["label"])["label"].to_pylist()
    return found


def read_pictures(counts: dict[Path, int], rows: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Row number and picture of the named rows; a shard without one of them is not opened.

    Args:
        counts: rows of each shard, in the shards' order.
    """
    first = 0
    for path, count in counts.items():
        inside = sorted(row for row in rows if first <= row < first + count)
        if inside:
            images = read_rows(open_shard(path), path, ["image"])["image"]
            yield from ((row, from_png(images[row - first].as_py()["bytes"])) for row in inside)
        first += count
