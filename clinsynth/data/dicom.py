"""A folder of DICOM files with a label table, read as pixels and the table's columns: nothing else comes through.

`labels.csv` has the columns file (path relative to the folder) and label, and may have split, subgroups and a column
of patients. From a DICOM file only its pixels are taken, as 8-bit grey or colour. Its patient number serves once, in
memory, to keep one patient's images together, and is dropped before the data set is handed out.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from PIL import Image

from clinsynth.data.columns import is_missing
from clinsynth.data.persons import alike, person_column, rank_of
from clinsynth.data.tables import Rows, checked_columns, image_dataset, png_cell, read_file, rows_by_split

if TYPE_CHECKING:
    from pydicom import Dataset as DicomDataset

logger = logging.getLogger("clinsynth")

TABLE = "labels.csv"
PATIENT = "patient_id"
GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class DicomImage:
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


def read_dicom_folder(
    path: Path, window: tuple[float, float] | None = None, group_column: str | None = None
) -> dict[str, Dataset]:
    """Splits with image, the table's columns, and an anonymous number a patient (`patient_id`).

    The number stands for the id that the table gives (in `group_column`, or a column found by its name), else for the
    file's PatientID. `window` is a (centre, width) in the unit of the rescaled values; without it each file's own is
    used.

    Raises:
        ValueError: no table, a column that it lacks, or a file without a single 8- to 16-bit frame; names it.
    """
    table = path / TABLE
    if not table.is_file():
        raise ValueError(f"{path} holds DICOM files but no {TABLE}; write one with the columns file, label")
    rows = read_file(table)
    if "file" not in rows[0]:
        raise ValueError(f"{table} has no column file; it has {', '.join(rows[0])}; add it")
    images = [read_dicom(path / (row["file"] or ""), window) for row in rows]
    patients = patient_numbers(rows, images, group_column)
    patient_column = group_column if group_column not in (None, "none") else PATIENT
    named = {column for column in rows[0] if rank_of(column) is not None and column != patient_column}
    for row, image, patient in zip(rows, images, patients, strict=True):
        row |= {"image": png_cell(image.image), patient_column: patient}
    splits = {}
    for split, members in rows_by_split(table, rows).items():
        columns = checked_columns(table, members)
        cells = columns.pop("image")
        kept = {name: column for name, column in columns.items() if name not in named | {"file"}}
        splits[split] = image_dataset(cells, kept)
    windowings = Counter(image.windowing for image in images)
    logger.info("DICOM to 8 bits: %s", ", ".join(f"{count} by {how}" for how, count in windowings.items()))
    return splits


def patient_numbers(rows: Rows, images: list[DicomImage], asked: str | None) -> list[int | None]:
    """A number for whose each image is, by the table where it says so, else by the file; None where neither does."""
    column = person_column([list(rows[0])], asked)
    in_table = [None if column is None or is_missing(row[column]) else alike(str(row[column])) for row in rows]
    in_file = [image.patient.strip() or None for image in images]
    both = {pair for pair in zip(in_file, in_table, strict=True) if None not in pair}
    torn = sum(count > 1 for count in Counter(own for own, _ in both).values())
    if torn:
        logger.warning(
            "%d PatientIDs of files stand under several ids in column %s of %s, whose ids count", torn, column, TABLE
        )
    known = {own: given for own, given in both}  # a file's id says whose it is where the table is silent
    ids = [
        given or (known.get(own, f"file {own}") if own else None) for own, given in zip(in_file, in_table, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, ids)))}
    return [numbers[name] if name else None for name in ids]


def read_dicom(path: Path, window: tuple[float, float] | None = None) -> DicomImage:
    """The image of one file, mode L or RGB, and its patient number (empty if it has none).

    Raises:
        ValueError: no such file, no DICOM, no pixel data, several frames, text burned into the image, or pixels that
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
        raise ValueError(f"{path} says that text is burned into its image, maybe a name; remove its row from {TABLE}")
    try:
        image, windowing = to_eight_bits(dataset, window)
        return DicomImage(image, windowing, str(dataset.get("PatientID") or ""))
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be turned into an image: {error}") from error


def to_eight_bits(dataset: DicomDataset, window: tuple[float, float] | None) -> tuple[Image.Image, str]:
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
    centres, widths = (np.atleast_1d(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centres[0] is not None and widths[0] is not None:
        return float(centres[0]), float(widths[0])
    if "VOILUTSequence" in dataset:
        raise ValueError("its window is a lookup table, which is not supported; give ?window=CENTRE,WIDTH")
    return None


def apply_window(values: np.ndarray, window: tuple[float, float] | None, function: str) -> np.ndarray:
    """uint8 from rescaled values: DICOM's LINEAR, LINEAR_EXACT or SIGMOID function; the full range without a window.

    Raises:
        ValueError: a width below 1 (LINEAR) or not above 0, or an unknown function.
    """
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    if window is None:
        low, high = float(values.min()), float(values.max())
        share = (values - low) / (high - low) if high > low else np.zeros_like(values)
        return np.rint(255 * share).astype(np.uint8)
    eight_bits = Dataset()  # what the window's output range is taken from
    eight_bits.PhotometricInterpretation, eight_bits.PixelRepresentation, eight_bits.BitsStored = GREY[1], 0, 8
    eight_bits.WindowCenter, eight_bits.WindowWidth = window
    eight_bits.VOILUTFunction = function
    return np.rint(apply_windowing(values, eight_bits)).astype(np.uint8)
