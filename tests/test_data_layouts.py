"""Layouts as people have them: folders, files and columns by any case, words in names, labels by name; or refused."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments, TextDataArguments
from clinsynth.data.images import load_image_arrays, load_image_dataset
from clinsynth.data.texts import load_text_dataset


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8))


def write(root: Path, *folders: str, count: int = 10, name: str = "{}.png") -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(abs(hash((folder, number))) % 2**32).save(root / folder / name.format(number))


def counts(spec: Path, **flags: Any) -> dict[str, dict[str, int]]:
    """Rows by split and class."""
    splits = load_image_dataset(ImageDataArguments(str(spec), **flags))
    names = splits["train"].features["label"].names
    return {name: dict(Counter(names[label] for label in split["label"])) for name, split in splits.items()}


def of(**classes: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    """Train, validation and test rows of each class."""
    return {
        split: {name.replace("_", " "): rows[number] for name, rows in classes.items()}
        for number, split in enumerate(("train", "validation", "test"))
    }


@pytest.mark.parametrize(
    ("folders", "name", "expected"),
    [
        (["a", "b"], "patient_train_{}.png", of(a=(7, 1, 2), b=(7, 1, 2))),
        (["a", "b"], "x_test_{}.PNG", of(a=(7, 1, 2), b=(7, 1, 2))),
        (["test negative", "test positive"], "{}.png", of(test_negative=(7, 1, 2), test_positive=(7, 1, 2))),
        (["Training/a", "Training/b", "Testing/a", "Testing/b"], "{}.png", of(a=(9, 1, 10), b=(9, 1, 10))),
        (["TRAIN/a", "TRAIN/b", "Val/a", "Val/b", "test_set/a", "test_set/b"], "{}.png", of(a=(10,) * 3, b=(10,) * 3)),
        (["set/train/a", "set/train/b", "set/valid/a", "set/valid/b", "set/test/a", "set/test/b"], "{}.png",
         of(a=(10,) * 3, b=(10,) * 3)),
        ([f"{c}/patient_{c}{n}" for c in "ab" for n in range(4)], "{}.png", of(a=(20, 10, 10), b=(20, 10, 10))),
        ([f"p{n}/{c}" for c in ("ill", "well") for n in range(8)], "{}.png", of(ill=(60, 10, 10), well=(60, 10, 10))),
    ],
)  # fmt: skip
def test_folders_of_images(tmp_path: Path, folders: list[str], name: str, expected: dict[str, dict[str, int]]) -> None:
    write(tmp_path, *folders, name=name)
    (tmp_path / "Thumbs.db").touch()
    assert counts(tmp_path) == expected


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["animals/cat", "animals/dog", "cars/bus", "cars/van"],
            "two ways: classes animals, cars with folders bus, cat",
        ),
        (["a", "b/p1"], r"images lie 1 and 2 folders deep \(.*give a \.csv"),
        (["a/x/y", "b/x/y"], "images lie 3 folders deep"),
        (["Testing/a", "Testing/b", "other/a"], "has no split train; it has Testing, other"),
        (["train/a", "Training/b"], "name a split twice"),
    ],
)
def test_folders_that_may_mean_two_things(tmp_path: Path, folders: list[str], message: str) -> None:
    write(tmp_path, *folders, count=2)
    with pytest.raises(ValueError, match=message):
        counts(tmp_path)


def test_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/a", "train/b", "extra/a", "__MACOSX/a", count=8)
    (tmp_path / "train" / "a" / "note.txt").touch()
    with caplog.at_level(logging.INFO, "clinsynth"):
        counts(tmp_path)
    assert "left out, since they lie in no split (train): extra: 8 images" in caplog.text
    assert "9 files that are no images are left out: 8 hidden, 1 .txt" in caplog.text
    caplog.clear()
    write(tmp_path / "m", ".", count=20)
    lines = [f"{n}.png,{'ab'[n % 2]},p{n // 2}" for n in range(16)]
    (tmp_path / "m" / "metadata.csv").write_text("\n".join(["file_name,label,Subject", *lines]))
    assert sum(sum(split.values()) for split in counts(tmp_path / "m").values()) == 16
    assert "4 images that" in caplog.text and "metadata.csv does not name are left out" in caplog.text


def test_classes_of_parquet_files_are_matched_by_name(tmp_path: Path) -> None:
    for split, names, label in (("train", ["x", "b", "a"], 2), ("TEST", ["a", "b", "x"], 0)):
        features = Features(image=ImageFeature(), label=ClassLabel(names=names))
        rows = {"image": [picture(n) for n in range(12)], "label": [label] * 8 + [1] * 2 + [2 - label] * 2}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    found = counts(tmp_path)
    assert found["test"] == {"a": 8, "b": 2, "x": 2}
    assert counts(tmp_path, label_names="a,b,x") == found
    assert counts(tmp_path, label_names="one,two,three")["test"] == {"three": 8, "two": 2, "one": 2}
    with pytest.raises(ValueError, match=r"--label_names gives 2 names, but the data set has 3 classes \(x, b, a\)"):
        counts(tmp_path, label_names="a,b")


def write_table(path: Path, header: str, rows: list[str], encoding: str = "utf-8") -> Path:
    for number in range(20):
        picture(number).save(path.parent / f"{number}.png")
    path.write_text("\n".join([header, *rows]), encoding=encoding)
    return path


def labels(*cells: str) -> list[str]:
    return [f"{n}.png,{cells[n % len(cells)]}" for n in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "flags", "classes"),
    [
        ("image,label", labels("0.0", "1.0"), {}, ["0", "1"]),
        ("image,label", labels("True", "False"), {}, ["False", "True"]),
        ("image,label", labels("8070", "8140"), {}, ["8070", "8140"]),
        ("image,label", labels("007", "010"), {}, ["007", "010"]),
        (" image , label", labels("a", "b"), {}, ["a", "b"]),
        ("image;label", [row.replace(",", ";") for row in labels("a,5", "b")], {}, ["a;5", "b"]),
        ("image,label", labels("mel", "mel ", "nv"), {"merge_alike_labels": True}, ["mel", "nv"]),
        ("image,label", labels("n\u00e4v", "na\u0308v", "mel"), {"merge_alike_labels": True}, ["mel", "n\u00e4v"]),
        ("image,label", labels("A", "a"), {"label_names": "A,a"}, ["A", "a"]),
        ("image,MEL,NV,BCC", labels("1.0,0.0,0.0", "0.0,1.0,0.0", "0.0,0.0,1.0"), {}, ["BCC", "MEL", "NV"]),
        ("image,MEL,NV", labels("1,1", "0,0"), {"label_column": "MEL"}, ["0", "1"]),
    ],
)  # fmt: skip
def test_labels_of_many_kinds(
    tmp_path: Path, header: str, rows: list[str], flags: dict[str, Any], classes: list[str]
) -> None:
    if ";" in header:
        rows = [row.replace("a;5", '"a;5"') for row in rows]
    table = write_table(tmp_path / "t.csv", header, rows)
    assert load_image_dataset(ImageDataArguments(str(table), **flags))["train"].features["label"].names == classes


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "image,label",
            labels("mel", "mel ", "nv"),
            r"differ by blanks.*'mel ' and 'mel'; .*--merge_alike_labels true",
        ),
        ("image,label", labels("n\u00e4v", "na\u0308v", "mel"), r"Unicode form alone: 'na\\u0308v' and 'n\\xe4v'"),
        ("image,label", labels("A", "a"), "differ by blanks, case"),
        ("label,image,label", [f"c,{row}" for row in labels("a", "b")], "has 2 columns called 'label'; rename"),
        ("image,A,B,C", labels("1,1,0", "0,0,0"), r"3 columns hold 0 and 1 \(A, B, C\), but 20 rows have several"),
        (
            "image,label",
            labels("Edema", "Mass", "Edema|Mass"),
            r"several labels a row, as 'Edema\|Mass'; choose one finding, as --label_column 'Edema'",
        ),
        ("image,label", labels("a\0b", "b"), r"line 2: byte \d+ is 0x00"),
        ("image,label", labels("漢" * 90, "b"), "texts of up to 270 bytes, not classes: a name may have 250"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    table = write_table(tmp_path / "t.csv", header, rows)
    with pytest.raises(ValueError, match=message):
        load_image_dataset(ImageDataArguments(str(table)))


def test_tables_of_other_names_and_signs(tmp_path: Path) -> None:
    rows = [f"{n}.png\t{'ab'[n % 2]}\t{('Train', ' TEST', 'dev', '')[n % 4]}" for n in range(20)]
    for name in ("t.TSV", "u.CSV"):
        assert counts(write_table(tmp_path / name, "image\tlabel\tSplit", rows)) == {
            "train": {"a": 5, "b": 5}, "validation": {"a": 5}, "test": {"b": 5},
        }  # fmt: skip
    lines = [json.dumps({"text": f"post {n} \ud83d", "label": "ab"[n % 2]}) for n in range(9)]
    (tmp_path / "half.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="line 1: a text holds half a character"):
        load_text_dataset(TextDataArguments(dataset=str(tmp_path / "half.jsonl")))
    (tmp_path / "deep.jsonl").write_text('{"text": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        load_text_dataset(TextDataArguments(dataset=str(tmp_path / "deep.jsonl")))


def test_no_row_is_lost_of_twenty_missing_files(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "image,label", [f"{n}.png,{'ab'[n % 2]}" for n in range(40)])
    with pytest.raises(ValueError, match=r"20 of 40 images cannot be read:(?s:.*)row 30: .*\n  … and 10 more"):
        load_image_arrays(ImageDataArguments(str(table)))
