"""DICOM files in folders and tables, with every oddity of a file: all are read, or one message names what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra clinsynth[dicom]")

from test_data_dicom import RAMP, write_dicom
from test_data_matrix_images import TABLES, Item, check, outcome, place, write_folder

COUNT = 12
COLOUR = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SIGNED = {"PixelRepresentation": 1, "RescaleSlope": 1, "RescaleIntercept": -1024}


def tags(**found: Any) -> Callable[[Path], object]:
    return lambda path: write_dicom(path, **found)


# what is written in the place of the first file, and how many images are read or what the message holds
FILES: dict[str, tuple[Callable[[Path], object], int | str]] = {
    "plain": (tags(), COUNT),
    "8 bits": (tags(pixels=(RAMP // 4).astype(np.uint8)), COUNT),
    "12 bits of 16": (tags(BitsStored=12, HighBit=11), COUNT),
    "signed": (tags(**SIGNED), COUNT),
    "colour": (tags(pixels=COLOUR), COUNT),
    "inverted": (tags(PhotometricInterpretation="MONOCHROME1"), COUNT),
    "a window": (tags(WindowCenter=500, WindowWidth=300), COUNT),
    "several windows": (tags(WindowCenter=[500, 40], WindowWidth=[300, 400]), COUNT),
    "an empty window": (tags(WindowCenter="", WindowWidth=""), COUNT),
    "an empty rescale": (tags(RescaleSlope="", RescaleIntercept=""), COUNT),
    "a sigmoid": (tags(WindowCenter=500, WindowWidth=300, VOILUTFunction="SIGMOID"), COUNT),
    "padding": (tags(PixelPaddingValue=1023), COUNT),
    "no patient": (tags(PatientID=None), COUNT),
    "no pixels": (tags(PixelData=None), "has no pixel data"),
    "frames": (tags(NumberOfFrames=4), "has 4 frames; give"),
    "burned in": (tags(BurnedInAnnotation="YES"), "text is burned into its image"),
    "burned in, in small letters": (tags(BurnedInAnnotation="yes "), "text is burned into its image"),
    "a palette without one": (tags(PhotometricInterpretation="PALETTE COLOR"), "cannot be turned into an image"),
    "pixels cut off": (tags(PixelData=b"12"), "cannot be turned into an image"),
    "a width of 0": (tags(WindowCenter=500, WindowWidth=0), "must be greater than"),
    "empty": (lambda path: path.write_bytes(b""), "is no DICOM file"),
    "a PNG called so": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "is no DICOM file"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:400]), r"0\.dcm"),
}


@pytest.mark.parametrize("source", ["folder", *TABLES])
def test_each_source_with_each_dicom_file(source: str, tmp_path: Path) -> None:
    items = []
    for number in range(COUNT):
        file = write_dicom(tmp_path / f"{number}.dcm", (RAMP + number).astype(np.uint16))
        items.append(Item(file.name, file.read_bytes(), {"label": "ab"[number % 2]}))
    (tmp_path / "set").mkdir()
    spec = {"folder": write_folder, **TABLES}[source](tmp_path / "set", items)
    first = next(spec.rglob("0.dcm") if spec.is_dir() else spec.parent.rglob("0.dcm"))
    for write, expected in FILES.values():
        place(first, items[0].content)
        write(first)
        check(outcome(spec), expected, "0.dcm")
