"""DICOM files, read as pixels: nothing else of them comes through.

Pixels become 8-bit grey or colour. The file's patient number serves once, in memory, to keep one patient's images
together, and is dropped before the data set is handed out.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from clinsynth.data.arguments import WayInArguments
from clinsynth.data.columns import is_missing
from clinsynth.data.decoding import BROKEN
from clinsynth.data.persons import alike, person_column, rank_of
from clinsynth.data.tables import Rows, png_cell, settle

if TYPE_CHECKING:
    from pydicom import Dataset as DicomDataset

logger = logging.getLogger("clinsynth")

PATIENT = "patient_id"
GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class DicomImage:
    """The pixels of one file, 8 bits; how they were windowed; and the patient number, for grouping only."""

    image: Image.Image
    windowing: str
    patient: str


@dataclass(frozen=True)
class Options:
    """What stands after the ? of a folder: a window (centre, width) and the frame to take, from 1."""

    window: tuple[float, float] | None = None
    frame: int | None = None


def parse_options(options: str) -> Options:
    """`window=40,400` and `frame=3`, with & between them.

    Raises:
        ValueError: anything else.
    """
    found: dict[str, str] = dict(parse_qsl(options, keep_blank_values=True))
    try:
        window = tuple(map(float, found.pop("window").split(","))) if "window" in found else None
        frame = int(found.pop("frame")) if "frame" in found else None
        if found or (options and (window, frame) == (None, None)) or (frame is not None and frame < 1):
            raise ValueError
        if window is not None and (len(window) != 2 or window[1] < 1):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"a DICOM folder takes ?window=CENTRE,WIDTH with a width from 1 and &frame=N from 1, got ?{options}"
        ) from None
    return Options(window, frame)  # type: ignore[arg-type]


def read_rows(
    source: Path, splits: dict[str, Rows], options: Options, args: WayInArguments, notes: list[str]
) -> dict[str, Rows]:
    """Rows whose images are those of the files that they name, with an anonymous number a patient (`patient_id`).

    The number stands for the id that the rows give (in `--group_column`, or a column found by its name), else for the
    file's PatientID. Without a window each file's own is used.

    Raises:
        ValueError: files that cannot be read; names them.
    """
    wrong: list[str] = []
    read: list[tuple[str, dict[str, Any], DicomImage]] = []
    for split, row in ((split, row) for split, rows in splits.items() for row in rows):
        try:
            read.append((split, row, read_dicom(row["image"], options.window, options.frame)))
        except ValueError as error:
            wrong.append(str(error))
    settle(wrong, len(wrong) + len(read), "image", args.on_bad_file == "skip", notes)
    rows, images = [row for _, row, _ in read], [image for _, _, image in read]
    patients = patient_numbers(source, rows, images, args.group_column)
    patient_column = args.group_column if args.group_column not in (None, "none") else PATIENT
    named = {column for column in splits["train"][0] if rank_of(column) is not None and column != patient_column}
    result: dict[str, Rows] = {split: [] for split in splits}
    for (split, row, image), patient in zip(read, patients, strict=True):
        kept = {name: cell for name, cell in row.items() if name not in named}
        result[split].append(kept | {"image": png_cell(image.image), patient_column: patient})
    windowings = Counter(image.windowing for image in images)
    logger.info("DICOM to 8 bits: %s", ", ".join(f"{count} by {how}" for how, count in windowings.items()))
    return {split: own for split, own in result.items() if own}


def patient_numbers(source: Path, rows: Rows, images: list[DicomImage], asked: str | None) -> list[int | None]:
    """A number for whose each image is, by its row where it says so, else by the file; None where neither does."""
    column = person_column([list(rows[0])] if rows else [[]], asked)
    in_table = [None if column is None or is_missing(row[column]) else alike(str(row[column])) for row in rows]
    in_file = [image.patient.strip() or None for image in images]
    both = {pair for pair in zip(in_file, in_table, strict=True) if None not in pair}
    torn = sum(count > 1 for count in Counter(own for own, _ in both).values())
    if torn:
        logger.warning(
            "%d PatientIDs of files stand under several ids in column %s of %s, whose ids count", torn, column, source
        )
    known = {own: given for own, given in both}  # a file's id says whose it is where the table is silent
    ids = [
        given or (known.get(own, f"file {own}") if own else None) for own, given in zip(in_file, in_table, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, ids)))}
    return [numbers[name] if name else None for name in ids]


def read_dicom(path: Path, window: tuple[float, float] | None = None, frame: int | None = None) -> DicomImage:
    """The image of one file, mode L or RGB, and its patient number (empty if it has none).

    `frame` counts from 1; a file of several needs it.

    Raises:
        ValueError: no such file, no DICOM, no pixel data, several frames, text burned into the image, or pixels that
            cannot be decoded.
        ImportError: pydicom is not installed.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; remove its row or correct the path")
    with unheard():
        return image_of(path, window, frame)


@contextmanager
def unheard() -> Iterator[None]:
    """Without what pydicom says of a file's tags: values of a patient's."""
    said = logging.getLogger("pydicom")
    level = said.level
    said.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        said.setLevel(level)


def image_of(path: Path, window: tuple[float, float] | None, frame: int | None) -> DicomImage:
    """`read_dicom` of a file that is there."""
    dataset = read_header(path)
    if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(dir(dataset)):
        raise ValueError(f"{path} has no pixel data; leave it out")
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise ValueError(f"{path} says that text is burned into its image, maybe a name; leave it out")
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
    except ValueError as error:
        raise ValueError(f"{path} has a damaged number of frames ({error}); correct it or remove its row") from error
    if frames > 1 and frame is None:
        raise ValueError(f"{path} has {frames} frames; give ?frame=N, 1 to {frames}, or save the one you mean alone")
    if frame is not None and frame > frames:
        raise ValueError(f"{path} has {frames} frames, so that ?frame={frame} is none of them; give 1 to {frames}")
    try:
        image, windowing = to_eight_bits(dataset, window, (frame or 1) - 1)
        return DicomImage(image, windowing, str(dataset.get("PatientID") or ""))
    except BROKEN as error:
        why = " ".join(str(error).split())  # pydicom tells of each of its decoders in a line
        raise ValueError(f"{path} cannot be turned into an image: {why}") from error


def read_header(path: Path) -> DicomDataset:
    """A DICOM file; one without preamble or meta data where it holds pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"DICOM needs pydicom ({error}); install clinsynth[dicom]") from error
    try:
        try:
            return pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            dataset = pydicom.dcmread(path, force=True)
            if "PixelData" not in dataset:
                raise
            implicit = pydicom.uid.ImplicitVRLittleEndian if dataset.is_implicit_VR else None
            dataset.file_meta.TransferSyntaxUID = implicit or pydicom.uid.ExplicitVRLittleEndian
            return dataset
    except (*BROKEN, pydicom.errors.InvalidDicomError) as error:
        raise ValueError(
            f"{path} is no DICOM file ({error}); for PNG or JPEG give a .csv with columns image, label"
        ) from error


def to_eight_bits(
    dataset: DicomDataset, window: tuple[float, float] | None, frame: int = 0
) -> tuple[Image.Image, str]:
    """Decode, rescale, window and invert as the file says (DICOM PS3.3 C.7.6.3, C.11.1, C.11.2), to 8 bits."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    kind, pixels = dataset.PhotometricInterpretation, pixel_array(dataset, index=frame)  # makes RGB of YBR_FULL
    settings = settings_of_frame(dataset, frame)
    if kind in GREY:
        values = np.asarray(apply_modality_lut(pixels, settings), dtype=np.float64)
        padding = is_padding(pixels, dataset)
        grey, windowing = apply_voi(values, settings, window, padding)
        grey = 255 - grey if kind == "MONOCHROME1" else grey
        return Image.fromarray(np.where(padding, 0, grey) if windowing == FULL_RANGE else grey), windowing
    bits = int(dataset.get("BitsStored") or 8)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.itemsize
    elif kind != "RGB" and not kind.startswith("YBR"):
        raise ValueError(f"colour of kind {kind}; grey, palette, RGB and YBR are supported")
    if bits > 8:
        pixels = np.rint(255.0 * pixels / (2**bits - 1)).astype(np.uint8)
    return Image.fromarray(pixels), "colour as it is" if bits <= 8 else "colour by the full range of its bits"


def settings_of_frame(dataset: DicomDataset, frame: int) -> DicomDataset:
    """The attributes of rescaling and windowing of a frame: the file's own, or those of its functional groups
    (PS3.3 C.7.6.16); empty ones are as absent."""
    from pydicom import Dataset

    found = Dataset()
    groups = [*dataset.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += [*dataset.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]]
    places = [dataset] + [
        item
        for group in groups
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence")
        for item in group.get(name, [])[:1]
    ]
    for place in places:
        for name in OF_VALUES:
            value = place.get(name)
            if value is not None and value != "" and not (isinstance(value, Sequence) and not len(value)):
                found[name] = place[name]
    found.file_meta = dataset.file_meta  # tables are read by the file's byte order
    found.set_original_encoding(*dataset.original_encoding)
    if "RescaleSlope" not in found or "RescaleIntercept" not in found:
        for name in ("RescaleSlope", "RescaleIntercept"):
            found.pop(name, None)
    return found


OF_VALUES = (
    "RescaleSlope RescaleIntercept ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence "
    "PhotometricInterpretation BitsStored BitsAllocated PixelRepresentation"
).split()
FULL_RANGE = "the file's full range of values"


def is_padding(pixels: np.ndarray, dataset: DicomDataset) -> np.ndarray:
    """Where a frame is padded (PS3.3 C.7.5.1.1.2), bool of its shape."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(pixels.shape, dtype=bool)
    other = limit if isinstance(limit, int) else value
    return (pixels >= min(value, other)) & (pixels <= max(value, other))


def apply_voi(
    values: np.ndarray, settings: DicomDataset, window: tuple[float, float] | None, padding: np.ndarray
) -> tuple[np.ndarray, str]:
    """uint8 from rescaled values: by the window given, else the file's table, its first window, or its full range
    without padding; and which of these it was."""
    from pydicom.pixels import apply_voi_lut

    if window is None and "VOILUTSequence" in settings:
        bits = settings.VOILUTSequence[0].LUTDescriptor[2]
        share = np.asarray(apply_voi_lut(values.astype(np.int64), settings, prefer_lut=True), dtype=np.float64)
        return np.rint(255 * share / (2**bits - 1)).clip(0, 255).astype(np.uint8), "the file's table"
    own = own_window(settings)
    function = str(settings.get("VOILUTFunction") or "LINEAR")
    if window or own:
        return apply_window(values, window or own, function), "the window given" if window else "the file's window"
    inside = values[~padding] if not padding.all() else values
    clipped = np.clip(values, inside.min(), inside.max())
    return apply_window(clipped, None, function), FULL_RANGE


def own_window(dataset: DicomDataset) -> tuple[float, float] | None:
    """The file's first window (centre, width), if it has one."""
    centres, widths = (np.atleast_1d(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centres[0] is not None and widths[0] is not None:
        return float(centres[0]), float(widths[0])
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
