"""The picture of a card: synthetic samples, a class a row. No real picture is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clinsynth.hub_cards.evidence_file import Evidence, read_evidence
from clinsynth.pictures import contact_sheet, from_png, to_picture, to_png
from clinsynth.run_folder import read_metrics

PICTURE = "samples.png"
"""The file's name beside the card."""
COLUMNS = 8
SHARDS = "data/*.parquet"


def sample_grid(folder: str | Path, evidence: str | Path | None = None) -> bytes | None:
    """A PNG without metadata for the card of a checkpoint or of a synthetic image set; None where there is none.

    A checkpoint's is the grid that validation drew at the step that was kept; a set's are the first eight pictures of
    each class. With evidence, pictures among the closest to real ones are passed over; where copies were found there
    is no grid.
    """
    from clinsynth.metrics.privacy_verdict import COPIES

    folder, read = Path(folder), read_evidence(evidence)
    if read is not None and not read.of_texts and read.content["privacy"]["verdict"] == COPIES:
        return None
    if (folder / "samples").is_dir():
        return training_grid(folder)
    if (folder / "generation.json").exists():
        return set_grid(folder, closest_rows(read))
    return None


def training_grid(folder: Path) -> bytes | None:
    """The grid of the step with the best KID, whose weights are the result, pixel for pixel."""
    scores = {r["step"]: r["validation_kid"] for r in read_metrics(folder) if "validation_kid" in r}
    path = folder / "samples" / f"step-{min(scores, key=scores.__getitem__, default=0):07d}.png"
    return to_png(to_picture(from_png(path.read_bytes()))) if path.exists() else None


def closest_rows(evidence: Evidence | None) -> set[int]:
    """Numbers of the synthetic pictures that the evidence names as closest to real ones."""
    if evidence is None or evidence.of_texts:
        return set()
    return {pair["synthetic_row"] for pair in evidence.content["privacy"]["pairs"]}


def set_grid(folder: Path, left_out: set[int]) -> bytes | None:
    """The first pictures of each class, a row a class, without the rows `left_out`; None of a set without pictures."""
    labels = read_labels(folder)
    if labels is None:
        return None
    kept = np.setdiff1d(np.arange(len(labels)), sorted(left_out))
    chosen = [kept[labels[kept] == label][:COLUMNS] for label in np.unique(labels)]
    pictures = dict(read_pictures(folder, {int(row) for rows in chosen for row in rows}))
    if not pictures:
        return None
    blank = np.full_like(next(iter(pictures.values())), 255)
    rows = [([pictures[row] for row in rows.tolist()] + [blank] * COLUMNS)[:COLUMNS] for rows in chosen]
    return to_png(contact_sheet(np.stack([picture for row in rows for picture in row]), COLUMNS))


def read_labels(folder: Path) -> np.ndarray | None:
    """The class numbers of all rows, in the shards' order; None of a set without pictures."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted(folder.glob(SHARDS)):
        file = pq.ParquetFile(path)
        if "image" not in file.schema_arrow.names:
            return None
        found.append(file.read(columns=["label"])["label"].to_numpy())
    return np.concatenate(found) if found else None


def read_pictures(folder: Path, rows: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Row number and picture of the named rows; a shard without one of them is not opened for its pictures."""
    import pyarrow.parquet as pq

    first = 0
    for path in sorted(folder.glob(SHARDS)):
        file = pq.ParquetFile(path)
        last = first + file.metadata.num_rows
        inside = sorted(row for row in rows if first <= row < last)
        if inside:
            images = file.read(columns=["image"])["image"].take([row - first for row in inside])
            pictures = (from_png(image["bytes"]) for image in images.to_pylist())
            yield from zip(inside, pictures, strict=True)
        first = last
