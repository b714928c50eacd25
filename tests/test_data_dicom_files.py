"""The files that pydicom tests itself with: what it decodes is read as it windows it, or refused by name."""

import importlib.util
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom: pip install clinsynth[dicom]")
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array  # noqa: E402

from clinsynth.data.dicom import read_dicom, read_header  # noqa: E402

FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("**/*.dcm"))
MORE = importlib.util.find_spec("data_store")
"""The package pydicom-data, 34 MB more of such files, where it is installed (`pip install pydicom-data`)."""
if MORE and MORE.origin:
    FILES += sorted((Path(MORE.origin).parent / "data").glob("**/*.dcm"))


def windowed(path: Path) -> np.ndarray | None:
    """The first frame of a file as pydicom shows it, in grey windowed, float in [0, 1]; None where it decodes none."""
    try:
        dataset = read_header(path)
        pixels = pixel_array(dataset, index=0)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
    except Exception:
        return None
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return pixels / np.iinfo(pixels.dtype).max
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    for group in (dataset[name][0] for name in groups if dataset.get(name)):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, []):
                dataset.update(item)
    values = apply_modality_lut(pixels, dataset)
    if "VOILUTSequence" in dataset:
        shown, ends = apply_voi_lut(values, dataset), (0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, ""):
        shown = apply_voi_lut(values, dataset)
        low, high = (-(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1)
        low, high = (low, high) if dataset.PixelRepresentation else (0, 2**dataset.BitsStored - 1)
        slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
        ends = (low * slope + intercept, high * slope + intercept) if "RescaleSlope" in dataset else (low, high)
    else:
        shown, ends = values, (float(values.min()), float(values.max()))
    share = (np.asarray(shown, dtype=np.float64) - ends[0]) / max(ends[1] - ends[0], 1e-9)
    return 1 - share if dataset.PhotometricInterpretation == "MONOCHROME1" else share


def test_pydicoms_own_files_are_read_as_pydicom_windows_them() -> None:
    """At least 95 % of those that it decodes; every other file is refused in one line that names it."""
    same, other, counts = [], {}, Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in FILES:
            expected, found = windowed(path), None
            try:
                found = np.asarray(read_dicom(path, frame=1).image, dtype=np.float64) / 255
            except ValueError as error:
                assert path.name in str(error) and "\n" not in str(error), error
            if expected is None:
                counts["decoded by neither" if found is None else "read, where pydicom shows nothing"] += 1
                continue
            counts["in colour" if expected.ndim == 3 else "in grey"] += 1
            fits = found is not None and found.shape == expected.shape
            apart = np.abs(found - expected).max() if fits else None
            if apart is not None and apart <= 1 / 255:
                same.append(path.name)
            else:
                other[path.name] = apart
    print({**counts, "within 1/255": len(same), "other": other})
    assert len(same) >= 20 and len(same) >= 0.95 * (len(same) + len(other)), other
