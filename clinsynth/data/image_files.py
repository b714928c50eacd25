"""From rows that name files to data sets of undecoded images: as they are, or what DICOM and NIfTI files show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from clinsynth.data import dicom, nifti
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.image_tables import KINDS, ending
from clinsynth.data.tables import Rows, checked_columns, image_dataset

MAGIC = (128, b"DICM")
"""Where a DICOM file without an ending says that it is one."""


def kind_of(file: Path) -> str:
    """image, DICOM or NIfTI, by the file's name; by its content where the name does not tell."""
    if (end := ending(file.name)) or not file.is_file():
        return KINDS.get(end, "image")
    with file.open("rb") as opened:
        return "DICOM" if opened.read(132)[MAGIC[0] :] == MAGIC[1] else "image"


def to_datasets(
    source: Path, splits: dict[str, Rows], options: str, args: ImageDataArguments, notes: list[str]
) -> dict[str, Dataset]:
    """Splits of rows whose `image` is a path.

    Raises:
        ValueError: files of several kinds, options that these do not take, or files that cannot be read; names them.
    """
    kinds = Counter(kind_of(row["image"]) for rows in splits.values() for row in rows)
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ValueError(f"{source} holds files of several kinds ({counts}); make a set of each kind")
    kind = next(iter(kinds), "image")
    if kind == "DICOM":
        splits = dicom.read_rows(source, splits, dicom.parse_options(options), args, notes)
    elif kind == "NIfTI":
        splits = nifti.read_rows(splits, nifti.parse_options(options), args, notes)
    else:
        refuse_options(source, options)
        splits = {split: [{**row, "image": in_file(row["image"])} for row in rows] for split, rows in splits.items()}
    columns = {split: checked_columns(source, rows) for split, rows in splits.items()}
    return {split: image_dataset(own.pop("image"), own) for split, own in columns.items()}


def in_file(path: Path) -> dict[str, Any]:
    """A cell of an Image column: a file that is read when it is needed."""
    return {"bytes": None, "path": str(path)}


def refuse_options(source: object, options: str) -> None:
    """Raise a `ValueError` where images take none."""
    if options:
        raise ValueError(
            f"{source}: only phantoms, DICOM and NIfTI files take options after a ?; leave ?{options} out"
        )
