"""Data set specs: every kind of source gives the same splits and columns, or an error that names what is wrong."""

import io
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth.arguments import parse
from clinsynth.data import npz
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_arrays, load_image_dataset, to_arrays


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_npz(path: Path, **arrays: np.ndarray) -> str:
    for prefix, seed in (("train", 0), ("val", 1), ("test", 2)):
        arrays.setdefault(f"{prefix}_images", noise(8, 28, 28, seed=seed))
        arrays.setdefault(f"{prefix}_labels", np.arange(8, dtype=np.uint8)[:, None] % 2)
    np.savez(path, **arrays)
    return str(path)


def write_class_folders(path: Path, count: int = 10, splits: tuple[str, ...] = ("",)) -> str:
    for split in splits:
        for label in ("benign", "malign"):
            folder = path / split / label
            folder.mkdir(parents=True)
            for number, pixels in enumerate(noise(count, 32, 32, seed=len(split) + len(label) * 7)):
                Image.fromarray(pixels).save(folder / f"{label}{number}.png")
    return str(path)


def write_table(path: Path, rows: list[dict]) -> str:
    for row in rows:
        if not (path.parent / row["image"]).exists():
            seed = int.from_bytes(row["image"].encode()) % 2**32
            Image.fromarray(noise(1, 28, 28, seed=seed)[0]).save(path.parent / row["image"])
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) if path.suffix == ".csv" else "\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_npz_keeps_pixels_labels_and_splits(tmp_path):
    images = noise(8, 28, 28, seed=5)
    spec = write_npz(tmp_path / "pneumoniamnist_reconstructed.npz", train_images=images)
    splits = load_image_arrays(ImageDataArguments(spec))
    assert list(splits) == ["train", "validation", "test"]
    assert (splits["train"].images[:, 0] == images).all()
    assert splits["train"].labels.tolist() == [0, 1] * 4
    assert splits["test"].label_names == ["normal", "pneumonia"]


def test_npz_label_names_are_numbers_or_as_given(tmp_path):
    spec = write_npz(tmp_path / "mine.npz")
    assert load_image_dataset(ImageDataArguments(spec))["train"].features["label"].names == ["0", "1"]
    given = parse(ImageDataArguments, ["--dataset", spec, "--label_names", "healthy,ill"])
    assert load_image_dataset(given)["test"].features["label"].names == ["healthy", "ill"]


def test_npz_label_above_the_published_classes_is_refused(tmp_path):
    spec = write_npz(tmp_path / "breastmnist.npz", val_labels=np.full((8, 1), 2, dtype=np.uint8))
    with pytest.raises(ValueError, match="validation row 0: label 2 is out of range; 2 classes"):
        load_image_dataset(ImageDataArguments(spec))


def test_npz_that_says_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    header = io.BytesIO()
    claims = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28)}
    np.lib.format.write_array_header_1_0(header, claims)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(100))
    with pytest.raises(ValueError, match=r"train_images.npy holds less than its shape \(1000000000, 28, 28\) says"):
        load_image_dataset(ImageDataArguments(dataset=str(tmp_path / "claims.npz")))
    monkeypatch.setattr(npz, "memory", lambda: 1 << 20)
    np.savez_compressed(tmp_path / "large.npz", train_images=np.zeros((2000, 28, 28), np.uint8))
    assert (tmp_path / "large.npz").stat().st_size < 10_000
    with pytest.raises(ValueError, match="its arrays take 1,568,128 bytes when unpacked, more than 524,288"):
        load_image_dataset(ImageDataArguments(dataset=str(tmp_path / "large.npz")))


def test_npz_with_pickled_objects_is_refused(tmp_path):
    spec = write_npz(tmp_path / "evil.npz", train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickled objects"):
        load_image_dataset(ImageDataArguments(spec))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": noise(8, 28, 28).astype(np.uint16)}, "train_images is uint16, not uint8"),
        ({"train_images": noise(8, 28, 28).astype(np.float32)}, "train_images is float32, not uint8"),
        ({"train_images": noise(8, 28, 28, 28)}, r"train_images has shape \(8, 28, 28, 28\)"),
        ({f"{s}_labels": np.zeros((8, 14), np.uint8) for s in ("train", "val", "test")}, "14 columns hold 0 and 1"),
        ({"train_labels": np.full((8, 14), 3, dtype=np.uint8)}, r"\(8, 14\) are not 0 and 1, a column a finding"),
    ],
)
def test_npz_of_another_kind_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(ImageDataArguments(write_npz(tmp_path / "a.npz", **arrays)))


def test_npz_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz is damaged, no \.npz"):
        load_image_dataset(ImageDataArguments(str(tmp_path / "a.npz")))
    with pytest.raises(ValueError, match="no array train_images; it has x"):
        load_image_dataset(ImageDataArguments(str(tmp_path / "b.npz")))
    with pytest.raises(ValueError, match="there is no such file"):
        load_image_dataset(ImageDataArguments(str(tmp_path / "c.npz")))


def test_class_folders_with_splits(tmp_path):
    spec = write_class_folders(tmp_path / "set", 3, ("train", "validation", "test"))
    splits = load_image_dataset(ImageDataArguments(spec))
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 6, "test": 6}
    assert splits["train"].features["label"].names == ["benign", "malign"]
    assert splits["train"].column_names == ["image", "label"]


def test_class_folders_without_splits_are_cut_and_it_is_said(tmp_path, caplog):
    spec = write_class_folders(tmp_path / "set", 10)
    with caplog.at_level(logging.INFO, "clinsynth"):
        splits = load_image_dataset(ImageDataArguments(spec))
    assert {name: np.bincount(split["label"]).tolist() for name, split in splits.items()} == {
        "train": [7, 7],
        "validation": [1, 1],
        "test": [2, 2],
    }
    assert "no split test or validation: cut off train by class: train 14, test 4, validation 2" in caplog.text


def test_pictures_outside_class_folders_are_refused(tmp_path):
    spec = write_class_folders(tmp_path / "set")
    Image.fromarray(noise(1, 32, 32)[0]).save(tmp_path / "set" / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png lies in no class folder"):
        load_image_dataset(ImageDataArguments(spec))


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no Parquet files"):
        load_image_dataset(ImageDataArguments(str(tmp_path)))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_table_with_splits_and_subgroups(tmp_path, suffix):
    rows = [
        {"image": f"{split}{label}{n}.png", "label": label, "split": split, "sex": "fm"[n % 2], "patient_name": "Doe"}
        for split in ("train", "val", "test")
        for label in ("no", "yes")
        for n in range(3)
    ]
    splits = load_image_dataset(ImageDataArguments(write_table(tmp_path / f"t{suffix}", rows)))
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 6, "test": 6}
    assert splits["train"].column_names == ["image", "label", "sex"]
    assert splits["train"].features["label"].names == ["no", "yes"]
    assert splits["train"]["image"][0].size == (28, 28)


def test_table_errors_name_the_row(tmp_path):
    rows = [{"image": f"{n}.png", "label": "01"[n % 2]} for n in range(12)]
    spec = write_table(tmp_path / "t.csv", rows)
    assert load_image_dataset(ImageDataArguments(spec))["train"].features["label"].names == ["0", "1"]
    with pytest.raises(
        ValueError, match="no column 'grade'; it has image, label: name the right one with --label_column"
    ):
        load_image_dataset(ImageDataArguments(spec, label_column="grade"))
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"row 4: there is no file .*3\.png"):
        load_image_dataset(ImageDataArguments(spec))
    for content, message in (
        ("image,label\n", "has no rows"),
        ("picture,label\na,b\n", "no column image; it has picture"),
    ):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_image_dataset(ImageDataArguments(spec))


def test_unknown_label_and_missing_label_name_the_row(tmp_path):
    rows = [{"image": f"{n}.png", "label": "ab"[n % 2], "split": "train"} for n in range(6)]
    spec = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match="train row 1: label 'b' is unknown; the classes are a, c"):
        load_image_dataset(ImageDataArguments(spec, label_names=["a", "c"]))
    rows[2]["label"] = ""
    with pytest.raises(ValueError, match="train row 2 has no label"):
        load_image_dataset(ImageDataArguments(write_table(tmp_path / "t.csv", rows)))


def test_folder_as_generate_writes_it(tmp_path):
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a", "b c"]))
    cells = [Image.fromarray(pixels) for pixels in noise(20, 28, 28)]
    dataset = Dataset.from_dict({"image": cells, "label": [0, 1] * 10}, features=features)
    (tmp_path / "data").mkdir()
    dataset.add_column("seed", list(range(20))).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    header = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n"
    (tmp_path / "README.md").write_text(f"---\n{header}---\n")
    splits = load_image_dataset(ImageDataArguments(str(tmp_path)))
    assert {name: len(split) for name, split in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    assert splits["train"].column_names == ["image", "label"]
    assert splits["train"].features["label"].names == ["a", "b c"]


def test_hub_that_cannot_be_reached_is_a_plain_error():
    with pytest.raises(
        ValueError, match="nobody/nothing is no file or folder here, and could not be had from the Hub"
    ):
        load_image_dataset(ImageDataArguments("nobody/nothing"))


def test_options_after_other_specs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="only phantoms, DICOM and NIfTI files take options"):
        load_image_dataset(ImageDataArguments(f"{write_class_folders(tmp_path / 'set', 8)}?size=3"))


def test_text_named_png_and_truncated_images_are_named(tmp_path):
    spec = write_class_folders(tmp_path / "set", 8)
    for name in ("whole.jpg", "whole.png"):
        whole = tmp_path / "set" / "benign" / name
        Image.fromarray(noise(1, 32, 32)[0]).save(whole)
        whole.write_bytes(whole.read_bytes()[:500])
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            load_image_arrays(ImageDataArguments(spec))
        whole.unlink()
    (tmp_path / "set" / "malign" / "note.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"note\.png cannot be read as an image"):
        load_image_arrays(ImageDataArguments(spec))


def test_retinamnist(shared_data):
    splits = load_image_dataset(ImageDataArguments(str(shared_data / "retinamnist.npz")))
    assert np.bincount(splits["train"]["label"]).tolist() == [486, 128, 206, 194, 66]
    assert splits["train"].features["label"].names[4] == "grade 4"


def test_ham10000_parquet_keeps_subgroups_and_drops_identifiers(shared_data):
    splits = load_image_dataset(ImageDataArguments(str(shared_data / "ham10000_128"), few_shot=2))
    assert splits["train"].column_names == ["image", "label", "age", "localization", "sex"]
    assert splits["train"].features["label"].names == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert to_arrays(splits["train"], 64, None, None).images.shape == (14, 3, 64, 64)
