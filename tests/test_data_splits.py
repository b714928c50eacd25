"""Cuts and choices of rows: by class, seeded, of train only, one person's pictures together; and the class checks."""

import logging

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_dataset
from clinsynth.data.labels import sounds_identifying
from clinsynth.data.npz import published_names
from clinsynth.data.splits import cut_rows, with_all_splits

COUNTS = [40, 20, 4]


def write_npz(path, counts=COUNTS) -> str:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    arrays = {f"{split}_images": images for split in ("train", "val", "test")}
    np.savez(path, **arrays, **{f"{split}_labels": labels for split in ("train", "val", "test")})
    return str(path)


def bytes_of(split: Dataset) -> list[bytes]:
    return [cell["bytes"] for cell in split.cast_column("image", ImageFeature(decode=False))["image"]]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [({"train_fraction": 0.25}, [10, 5, 1]), ({"few_shot": 3}, [3, 3, 3])],
)
def test_train_is_chosen_by_class_and_seed(tmp_path, choice, expected):
    spec = write_npz(tmp_path / "a.npz")
    args = ImageDataArguments(spec, min_class_size=1, **choice)
    first, again, other = (load_image_dataset(args, seed) for seed in (0, 0, 1))
    assert np.bincount(first["train"]["label"]).tolist() == expected
    assert bytes_of(first["train"]) == bytes_of(again["train"]) != bytes_of(other["train"])
    for split in ("validation", "test"):
        assert len(first[split]) == sum(COUNTS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"few_shot": 5}, r"--few_shot 5: class '2' has only 4 train images; give at most 4"),
        ({"few_shot": 0}, "--few_shot must be at least 1"),
        ({"train_fraction": 0.0}, "--train_fraction must be above 0 and at most 1, got 0.0"),
        ({"train_fraction": 1.5}, "--train_fraction must be above 0 and at most 1, got 1.5"),
        ({"few_shot": 2, "train_fraction": 0.5}, "give only one of them"),
        ({"min_class_size": 5}, "class '2' has 4 train images, fewer than --min_class_size 5"),
        ({"min_class_size": 0}, "--min_class_size must be at least 1, got 0"),
        ({"label_names": ["a", "b", "c", "d"]}, "class 'd' has no train images"),
        ({"label_names": ["a", "b"]}, "train row 60: label 2 is out of range; 2 classes"),
        ({"label_names": ["a", "b", "b"]}, "must differ from each other"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(ImageDataArguments(write_npz(tmp_path / "a.npz"), **flags))


def test_a_class_of_one_image_needs_leave(tmp_path):
    spec = write_npz(tmp_path / "a.npz", [5, 1])
    with pytest.raises(ValueError, match=r"class '1' has 1 train images.*--min_class_size 1"):
        load_image_dataset(ImageDataArguments(spec))
    assert len(load_image_dataset(ImageDataArguments(spec, min_class_size=1))["train"]) == 6


def test_an_empty_class_and_a_single_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class '1' has no train images"):
        load_image_dataset(ImageDataArguments(write_npz(tmp_path / "a.npz", [5, 0, 5]), min_class_size=1))
    with pytest.raises(ValueError, match=r"1 class \(0\); two or more are needed: add images"):
        load_image_dataset(ImageDataArguments(write_npz(tmp_path / "b.npz", [5])))


def test_an_empty_split_is_refused(tmp_path):
    spec = write_npz(tmp_path / "a.npz", [0, 0])
    with pytest.raises(ValueError, match="split train is empty"):
        load_image_dataset(ImageDataArguments(spec))


def test_cut_gives_every_class_its_share_and_no_row_twice():
    labels = np.repeat([0, 1, 2], [100, 30, 1])
    rows = cut_rows(labels, np.arange(131), {"test": 0.2, "validation": 0.1})
    assert sorted(row for chosen in rows.values() for row in chosen) == list(range(131))
    counts = {name: np.bincount(labels[chosen], minlength=3).tolist() for name, chosen in rows.items()}
    assert counts == {"train": [70, 21, 1], "test": [20, 6, 0], "validation": [10, 3, 0]}


def test_a_set_too_small_to_cut_is_refused(tmp_path):
    for number in range(6):
        Image.new("L", (28, 28), number).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,{('no', 'yes')[number % 2]}\n" for number in range(6))
    (tmp_path / "t.csv").write_text(f"image,label\n{rows}")
    with pytest.raises(ValueError, match="no class is large enough to cut off a validation split"):
        load_image_dataset(ImageDataArguments(str(tmp_path / "t.csv")))


def test_cut_keeps_persons_together():
    persons = np.random.default_rng(0).permutation(np.arange(200) % 40)
    labels = persons % 2
    rows = cut_rows(labels, persons, {"test": 0.2, "validation": 0.1})
    seen = [set(persons[chosen].tolist()) for chosen in rows.values()]
    assert all(seen) and sum(map(len, seen)) == len(set.union(*seen)) == 40
    assert 25 <= len(rows["test"]) <= 40 and 5 <= len(rows["validation"]) <= 20


def test_only_the_missing_split_is_cut(caplog):
    features = Features(image=ImageFeature(), label=Value("int64"), person=Value("int64"))
    picture = Image.new("L", (28, 28))
    columns = {"image": [picture] * 20, "label": [0, 1] * 10, "person": [n // 2 for n in range(20)]}
    train = Dataset.from_dict(columns, features=features)
    with caplog.at_level(logging.INFO, "clinsynth"):
        splits = with_all_splits({"train": train, "test": train.select(range(4))})
    assert list(splits) == ["train", "validation", "test"]
    assert len(splits["test"]) == 4 and len(splits["train"]) + len(splits["validation"]) == 20
    assert "one person's rows kept together" in caplog.text


def test_identifying_columns_are_told_by_their_words():
    for column in ("image_id", "PatientName", "patient", "date_of_birth", "MRN", "lesionID", "id"):
        assert sounds_identifying(column), column
    for column in ("age", "sex", "patient_age", "PatientSex", "localization", "skin_type", "video", "seed"):
        assert not sounds_identifying(column), column


def test_published_names():
    assert published_names("organamnist_64.npz")[6] == "liver"
    assert published_names("data/dermamnist.npz")[4] == "melanoma"
    assert published_names("mine.npz") is None
