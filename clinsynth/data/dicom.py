"""A folder of DICOM files with a label table, read as pixels and a few declared columns: nothing else comes through.

`labels.csv` has the columns file (path relative to the folder) and label, and may have split, age and sex. From a
DICOM file only its pixels are taken, as 8-bit grey or colour. Its patient number serves once, in memory, to keep one
patient's pictures together when splits are cut, and is dropped before the data set is handed out.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clinsynth.data.labels import sounds_identifying
from clinsynth.data.sources import SPLIT_NAMES, picture_dataset, png_cell, read_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from pydicom import Dataset as DicomDataset

logger = logging.getLogger("clinsynth")

TABLE = "labels.csv"
SUBGROUPS = ("age", "sex")
GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class DicomPicture:
    """The pixels of one file, 8 bits; how they were windowed; and the patient number, for grouping only."""

    image: Image.Image
    windowing: str
    patient: str


def parse_window(options: str) -> tuple[float, float] | None:
    """(centre, width) from `window=40,400`; None from an empty text.

    Raises:
        ValueError: anything else.
    """
    if not options:
        return None
    try:
        key, _, value = options.partition("=")
        centre, width = map(float, value.split(","))
        if key != "window" or width < 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"a DICOM folder takes ?window=CENTRE,WIDTH with a width from 1, got ?{options}") from None
    return centre, width


def is_dicom_folder(path: Path) -> bool:
    """Whether the folder has a labels.csv or DICOM files by name (which need one)."""
    return (path / TABLE).is_file() or next(path.rglob("*.dcm"), None) is not None


def read_dicom_folder(path: Path, window: tuple[float, float] | None = None) -> dict[str, Dataset]:
    """Splits with image, label, the subgroups the table declares, and an anonymous number a patient (`patient_id`).

    `window` is a (centre, width) in the unit of the rescaled values; without it each file's own is used.

    Raises:
        ValueError: no table, an unsuitable column in it, or a file without a single 8- to 16-bit frame; names it.
    """
    table = path / TABLE
    if not table.is_file():
        raise ValueError(f"{path} holds DICOM files but no {TABLE}; write one with the columns file, label")
    rows = list(read_rows(table))
    columns = declared_columns(table, rows)
    patients: dict[str, int] = {}
    windowings: Counter[str] = Counter()
    by_split: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        split = SPLIT_NAMES.get(row.get("split") or "train")
        if split is None:
            raise ValueError(f"{table}, row {number}: split is {row['split']!r}; it may be train, validation or test")
        picture = read_dicom(path / (row["file"] or ""), window)
        windowings[picture.windowing] += 1
        kept = {column: row[column] for column in columns}
        patient = patients.setdefault(picture.patient or row["file"], len(patients))
        by_split.setdefault(split, []).append({"image": png_cell(picture.image), "patient_id": patient, **kept})
    logger.info("DICOM to 8 bits: %s", ", ".join(f"{count} by {how}" for how, count in windowings.items()))
    return {split: to_dataset(members) for split, members in by_split.items()}


def declared_columns(table: Path, rows: list[dict[str, Any]]) -> list[str]:
    """label and the subgroups that the table has; states what it leaves out and why."""
    if not rows:
        raise ValueError(f"{table} has no rows; write one a DICOM file, with the columns file, label")
    for needed in ("file", "label"):
        if needed not in rows[0]:
            raise ValueError(f"{table} has no column {needed}; it has {', '.join(rows[0])}; add it")
    others = [column for column in rows[0] if column not in ("file", "label", "split", *SUBGROUPS)]
    for column in others:
        reason = "may identify a person" if sounds_identifying(column) else f"only {', '.join(SUBGROUPS)} are taken"
        logger.info("%s: column %s left out: %s", table.name, column, reason)
    return ["label", *(column for column in SUBGROUPS if column in rows[0])]


def to_dataset(rows: list[dict[str, Any]]) -> Dataset:
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "image"}
    if "age" in columns:
        columns["age"] = [to_age(value) for value in columns["age"]]
    return picture_dataset([row["image"] for row in rows], columns)


def to_age(value: str) -> float | None:
    """Years; nothing for an empty cell."""
    try:
        return float(value) if value else None
    except ValueError:
        raise ValueError(f"{TABLE}: age must be a number of years, got {value!r}") from None


def read_dicom(path: Path, window: tuple[float, float] | None = None) -> DicomPicture:
    """The picture of one file, mode L or RGB, and its patient number (empty if it has none).

    Raises:
        ValueError: no such file, no DICOM, no pixel data, several frames, text burned into the picture, or pixels that
            cannot be decoded.
        ImportError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"DICOM needs pydicom ({error}); install clinsynth[dicom]") from error
    if not path.is_file():
        raise ValueError(f"{path} is named in {TABLE} but is not there; remove its row or correct the path")
    try:
        dataset = pydicom.dcmread(path)
    except (pydicom.errors.InvalidDicomError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no DICOM file ({error}); for PNG or JPEG give a .csv with columns image, label"
        ) from error
    if "PixelData" not in dataset:
        raise ValueError(f"{path} has no pixel data; remove its row from {TABLE}")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{path} has {dataset.NumberOfFrames} frames; save the one you mean as a file of its own")
    if dataset.get("BurnedInAnnotation") == "YES":
        raise ValueError(
            f"{path} says that text is burned into its picture, maybe a name; remove its row from {TABLE}"
        )
    try:
        image, windowing = to_picture(dataset, window)
        return DicomPicture(image, windowing, str(dataset.get("PatientID") or ""))
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be turned into a picture: {error}") from error


def to_picture(dataset: DicomDataset, window: tuple[float, float] | None) -> tuple[Image.Image, str]:
    """Decode, rescale, window and invert as the file says (DICOM PS3.3 C.7.6.3, C.11.1, C.11.2), to 8 bits."""
    from pydicom.pixels import apply_modality_lut, pixel_array

    kind, pixels = dataset.PhotometricInterpretation, pixel_array(dataset)  # makes RGB of YBR_FULL
    if kind in GREY:
        values = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)
        own = own_window(dataset)
        grey = apply_window(values, window or own, str(dataset.get("VOILUTFunction") or "LINEAR"))
        windowing = "the window given" if window else "the file's window" if own else "the file's full range of values"
        return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey), windowing
    if pixels.dtype != np.uint8 or not (kind == "RGB" or kind.startswith("YBR_FULL")):
        raise ValueError(f"colour of kind {kind} and {pixels.dtype}; only 8-bit RGB and YBR_FULL are supported")
    return Image.fromarray(pixels), "colour as it is"


def own_window(dataset: DicomDataset) -> tuple[float, float] | None:
    """The file's first window (centre, width), if it has one."""
    from pydicom.multival import MultiValue

    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre is None or width is None:
        if "VOILUTSequence" in dataset:
            raise ValueError("its window is a lookup table, which is not supported; give ?window=CENTRE,WIDTH")
        return None
    first = [value[0] if isinstance(value, MultiValue) else value for value in (centre, width)]
    return float(first[0]), float(first[1])


def apply_window(values: np.ndarray, window: tuple[float, float] | None, function: str) -> np.ndarray:
    """uint8 from rescaled values: DICOM's LINEAR, LINEAR_EXACT or SIGMOID function; the full range without a window.

    Raises:
        ValueError: a width below 1 (LINEAR) or not above 0, or an unknown function.
    """
    if window is None:
        low, high = float(values.min()), float(values.max())
        share = (values - low) / (high - low) if high > low else np.zeros_like(values)
        return np.rint(255 * share).astype(np.uint8)
    centre, width = window
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"window width {width} is too small")
    if function == "LINEAR":
        # A width of 1 is a threshold: the limit of the formula.
        share = (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    elif function == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (values - centre) / width))
    else:
        raise ValueError(f"window function {function} is not supported")
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
