"""The picture of a card: synthetic samples, a class a row. No real picture is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    chosen: dict[int, list[np.ndarray]] = {}
    labels = 0
    for number, (row, labels) in enumerate(read_rows(folder)):
        pictures = chosen.setdefault(row["label"], [])
        if number not in left_out and len(pictures) < COLUMNS:
            pictures.append(from_png(row["image"]["bytes"]))
        if len(chosen) == labels and all(len(pictures) == COLUMNS for pictures in chosen.values()):
            break
    if not chosen or not any(chosen.values()):
        return None
    blank = np.full_like(next(pictures[0] for pictures in chosen.values() if pictures), 255)
    rows = [(chosen[label] + [blank] * COLUMNS)[:COLUMNS] for label in sorted(chosen)]
    return to_png(contact_sheet(np.stack([picture for row in rows for picture in row]), COLUMNS))


def read_rows(folder: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows of image and label in the shards' order, a batch in memory, each with the number of classes."""
    import pyarrow.parquet as pq
    from datasets import Features

    for path in sorted(folder.glob(SHARDS)):
        file = pq.ParquetFile(path)
        if "image" not in file.schema_arrow.names:
            return
        count = Features.from_arrow_schema(file.schema_arrow)["label"].num_classes
        for batch in file.iter_batches(batch_size=64, columns=["image", "label"]):
            yield from ((row, count) for row in batch.to_pylist())
