"""NIfTI volumes: a slice of each by the scanner's axes, whatever the file's own order; labels by folder or table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel", reason="needs the extra clinsynth[nifti]")
from datasets import ClassLabel, Dataset, Features, Nifti  # noqa: E402

from clinsynth.data.arguments import ImageDataArguments  # noqa: E402
from clinsynth.data.images import load_image_arrays, load_image_dataset  # noqa: E402
from clinsynth.data.nifti import Slice, parse_options, read_slice  # noqa: E402

SHAPE = (28, 30, 32)


def volume(value: int = 0) -> np.ndarray:
    """Voxels by the patient's axes: bright to the right (200), the front (150) and the head (100), one of 255."""
    voxels = np.random.default_rng(value).integers(0, 20, SHAPE).astype(np.int16)
    voxels[-3:, :, :], voxels[:, -3:, :], voxels[:, :, -3:] = 200, 150, 100
    voxels[14, 15, 16] = 255
    return voxels


def write(path: Path, voxels: np.ndarray, kind: Any = nibabel.Nifti1Image, flipped: bool = False) -> Path:
    """A file whose first axis grows to the right or, flipped, to the left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(voxels[::-1] if flipped else voxels, np.diag([-1.0 if flipped else 1.0, 1, 1, 1])), path)
    return path


def write_classes(root: Path) -> Path:
    for number in range(20):
        write(root / "ab"[number % 2] / f"{number}.nii.gz", volume(number), flipped=number % 3 == 0)
    return root


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_planes_are_the_patients_whatever_the_files_order(tmp_path: Path, flipped: bool, kind: Any) -> None:
    name = str(write(tmp_path / "a.nii", volume(), kind, flipped))
    axial, coronal, sagittal = (np.asarray(read_slice(name, None, Slice(p))) for p in ("axial", "coronal", "sagittal"))
    assert axial.shape == (30, 28) and coronal.shape == (32, 28) and sagittal.shape == (32, 30)
    assert axial[20, 1] == 200 and axial[1, 20] == 150  # the right on the left side, the front at the top
    assert coronal[20, 1] == 200 and coronal[1, 20] == 100
    assert sagittal[20, 1] == 150 and sagittal[1, 20] == 100
    assert (
        axial[30 - 1 - 15, 28 - 1 - 14]
        == coronal[32 - 1 - 16, 28 - 1 - 14]
        == sagittal[32 - 1 - 16, 30 - 1 - 15]
        == 255
    )


def test_class_folders_options_and_rules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path / "set")
    flags: dict[str, Any] = {"resolution": 28, "fit": "squash"}
    with caplog.at_level("INFO", "clinsynth"):
        splits = load_image_arrays(ImageDataArguments(f"{root}?plane=coronal&slice=middle", **flags))
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    assert "NIfTI: 20 coronal slices, the middle one, each brought to 8 bits by the full range" in caplog.text
    dark = load_image_arrays(ImageDataArguments(f"{root}?slice=3", intensity="window:500,100", **flags))
    assert not dark["train"].images.any()
    with pytest.raises(ValueError, match=r"20 of 20 images cannot be read:(?s:.*)nii\.gz has 32 axial slices"):
        load_image_dataset(ImageDataArguments(f"{root}?slice=33"))
    for wrong in ("plane=up", "slice=0", "slice=last", "window=1,2"):
        with pytest.raises(ValueError, match="NIfTI volumes take"):
            parse_options(wrong)


def test_a_table_and_datasets_own_feature(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "set")
    rows = [f"{n},{'ab'[n % 2]},p{n // 2}" for n in range(20)]
    (root / "labels.csv").write_text("\n".join(["scan,diagnosis,subject_id", *rows]))
    assert sum(map(len, load_image_dataset(ImageDataArguments(str(root))).values())) == 20
    files = sorted(map(str, root.rglob("*.nii.gz")))
    features = Features(nifti=Nifti(), label=ClassLabel(names=["a", "b"]))
    Dataset.from_dict({"nifti": files, "label": [n % 2 for n in range(20)]}, features=features).to_parquet(
        tmp_path / "set.parquet"
    )
    splits = load_image_dataset(ImageDataArguments(f"{tmp_path / 'set.parquet'}?plane=sagittal"))
    assert splits["train"].features["label"].names == ["a", "b"] and splits["train"][0]["image"].size == (30, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write(p, np.zeros((9, 9, 9, 4), np.int16)), r"int16 of shape \(9, 9, 9, 4\); a single volume"),
        (lambda p: write(p, np.full(SHAPE, np.nan, np.float32)), "values that are no numbers"),
        (lambda p: write(p, volume()).write_bytes(p.read_bytes()[:2000]), "cannot be read as NIfTI"),
        (lambda p: p.write_bytes(b"no volume"), "cannot be read as NIfTI"),
        (lambda p: p.write_bytes(b""), "cannot be read as NIfTI"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=rf"a\.nii .*{message}"):
        read_slice(str(tmp_path / "a.nii"), None, Slice())
