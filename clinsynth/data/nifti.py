"""One slice of each NIfTI volume as an 8-bit image; nothing else of the file comes through.

Volumes are turned to the scanner's axes first (nibabel's canonical orientation), so that axial, coronal and sagittal
mean the same in every file. A slice is shown as DICOM images are: the patient's left on the right side of an axial and
a coronal slice, the front at the top of an axial one and on the left of a sagittal one. Voxels become pixels one by
one, whatever their size in millimetres.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from datasets.features.nifti import Nifti
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.decoding import BROKEN, Limits, content_of, describe_intensity, grey_of, on_all_cores
from clinsynth.data.tables import Rows, image_dataset, png_cell, settle

logger = logging.getLogger("clinsynth")

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""A plane, and the axis that it cuts."""
GZIP = b"\x1f\x8b"
SIZE_OF_SECOND = 540  # bytes of the header of the format's second version, which begins with them


@dataclass(frozen=True)
class Slice:
    """What stands after the ? of a set of volumes: a plane, and the slice to take, from 1; None is the middle one."""

    plane: str = "axial"
    number: int | None = None


def parse_options(options: str) -> Slice:
    """`plane=axial` and `slice=middle` or `slice=12`, with & between them.

    Raises:
        ValueError: anything else.
    """
    found = dict(parse_qsl(options, keep_blank_values=True))
    plane, number = found.pop("plane", "axial"), found.pop("slice", "middle")
    if found or plane not in PLANES or not (number == "middle" or (number.isdecimal() and int(number) > 0)):
        raise ValueError(
            f"NIfTI volumes take ?plane=axial, coronal or sagittal and &slice=middle or N from 1, got ?{options}"
        )
    return Slice(plane, None if number == "middle" else int(number))


def slices_of(volumes: Iterable[tuple[str, bytes | None]], which: Slice, limits: Limits | None) -> list[Any]:
    """A cell of an Image column for each (name, content), or in its place the error that says why there is none."""
    return list(on_all_cores(partial(cell_of, which=which, limits=limits), volumes))


def cell_of(volume: tuple[str, bytes | None], which: Slice, limits: Limits | None) -> dict[str, Any] | ValueError:
    try:
        return png_cell(read_slice(*volume, which, limits))
    except ValueError as error:
        return error


def read_slice(name: str, content: bytes | None, which: Slice, limits: Limits | None = None) -> Image.Image:
    """A slice of the volume in a file, mode L: by the rule `limits`, else the full range of the slice's own values.

    Raises:
        ValueError: no NIfTI, no single volume of numbers, or no such slice; names the file.
        ImportError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(f"NIfTI needs nibabel ({error}); install clinsynth[nifti]") from error
    content = content_of(name, content)
    try:
        plain = gzip.decompress(content) if content[:2] == GZIP else content
        second = SIZE_OF_SECOND in (int.from_bytes(plain[:4], order) for order in ("little", "big"))
        volume = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(plain)
        voxels = np.asarray(nibabel.as_closest_canonical(volume).dataobj)
    except (
        *BROKEN,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    ) as error:
        raise ValueError(f"{name} cannot be read as NIfTI ({error}); replace or remove it") from error
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or voxels.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} holds {voxels.dtype} of shape {voxels.shape}; a single volume of numbers is needed: save the one "
            "you mean as a file of its own"
        )
    axis = PLANES[which.plane]
    count = voxels.shape[axis]
    if (which.number or 1) > count:
        raise ValueError(
            f"{name} has {count} {which.plane} slices, so that slice={which.number} is none of them; give 1 to {count}"
        )
    shown = np.take(voxels, count // 2 if which.number is None else which.number - 1, axis)
    values = np.asarray(shown[::-1, ::-1].T, dtype=np.float64)  # axes grow to the right, the front and the head
    return grey_of(name, values, limits, (float(values.min()), float(values.max())))


def read_rows(splits: dict[str, Rows], which: Slice, args: ImageDataArguments, notes: list[str]) -> dict[str, Rows]:
    """Rows whose images are slices of the volumes that they name."""
    total, wrong, result = sum(map(len, splits.values())), [], {}
    for split, rows in splits.items():
        cells = slices_of(((str(row["image"]), None) for row in rows), which, args.limits())
        wrong += [str(cell) for cell in cells if isinstance(cell, ValueError)]
        both = zip(rows, cells, strict=True)
        result[split] = [{**row, "image": cell} for row, cell in both if not isinstance(cell, ValueError)]
    settle(wrong, total, "image", args.on_bad_file == "skip", notes)
    say_slices(which, args, total - len(wrong))
    return result


def of_feature(
    splits: dict[str, Dataset], options: str, args: ImageDataArguments, notes: list[str]
) -> dict[str, Dataset]:
    """Splits with the column image in the place of one of datasets' feature Nifti; others as they are."""
    column, which, wrong, result = nifti_column(splits), parse_options(options), [], {}
    if column is None:
        return splits
    for split, rows in splits.items():
        stored = rows.cast_column(column, Nifti(decode=False))[column]
        volumes = ((cell["path"] or f"{split} row {row}", cell["bytes"]) for row, cell in enumerate(stored))
        cells = slices_of(volumes, which, args.limits())
        wrong += [str(cell) for cell in cells if isinstance(cell, ValueError)]
        kept = [row for row, cell in enumerate(cells) if not isinstance(cell, ValueError)]
        others = rows.remove_columns(column).select(kept)
        images = image_dataset([cells[row] for row in kept], {name: others[name][:] for name in others.column_names})
        result[split] = images.cast(Features({**images.features, **others.features}))
    settle(wrong, sum(map(len, splits.values())), "image", args.on_bad_file == "skip", notes)
    say_slices(which, args, sum(map(len, result.values())))
    return result


def nifti_column(splits: dict[str, Dataset]) -> str | None:
    """The column of datasets' feature Nifti, where there is none of images."""
    features = splits["train"].features
    columns = sorted(name for name, feature in features.items() if isinstance(feature, Nifti))
    return columns[0] if columns and not isinstance(features.get("image"), ImageFeature) else None


def say_slices(which: Slice, args: ImageDataArguments, count: int) -> None:
    """Say what was taken of how many volumes, and how it became 8 bits."""
    limits = args.limits()
    rule = describe_intensity(limits) if limits and limits[0] != "full" else "the full range of its own values"
    number = "the middle one" if which.number is None else f"number {which.number}"
    logger.info("NIfTI: %d %s slices, %s, each brought to 8 bits by %s", count, which.plane, number, rule)
