"""Text data sets: kinds of spec, splits, columns, and files that are wrong."""

import csv
import json
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from clinsynth.data import tables
from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.duplicates import NearDuplicates
from clinsynth.data.texts import holds_texts, load_text_dataset


def texts(per_class: int = 20, labels: tuple[str, ...] = ("mild", "severe")) -> list[dict[str, Any]]:
    return [{"text": f"post {n} of {label}", "label": label} for label in labels for n in range(per_class)]


def write_csv(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(path: Path, seed: int = 0, **changes: Any) -> Any:
    return load_text_dataset(TextDataArguments(dataset=str(path), **changes), seed)


def test_a_csv_becomes_three_splits(tmp_path: Path) -> None:
    splits = load(write_csv(tmp_path / "posts.csv", texts()))
    assert {name: len(split) for name, split in splits.items()} == {"train": 28, "validation": 4, "test": 8}
    assert splits["train"].column_names == ["id", "text", "label"]
    assert splits["train"].features["label"].names == ["mild", "severe"]
    assert Counter(splits["test"]["label"]) == {0: 4, 1: 4}
    everything = {row["id"]: row["text"] for split in splits.values() for row in split}
    assert everything == {f"train-{row}": values["text"] for row, values in enumerate(texts())}
    again = load(tmp_path / "posts.csv", seed=5)
    assert again["test"]["id"] == splits["test"]["id"]


def test_a_single_file_of_each_kind_is_a_set_of_texts(tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "val", "test")[number % 3]} for number, row in enumerate(texts(12))]
    files = [write_csv(tmp_path / "a.csv", rows), tmp_path / "a.jsonl", tmp_path / "a.PARQUET"]
    files[1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    Dataset.from_list(rows).to_parquet(files[2])
    expected = {name: split.to_dict() for name, split in load(files[0]).items()}
    for file in files:
        assert holds_texts(str(file))
        assert {name: split.to_dict() for name, split in load(file).items()} == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("notes.txt", "has no labels; write a .csv of text, label"),
        ("notes.docx", "has no labels; write a .csv of text, label"),
        ("notes.json", "is not read; write one object a line into a .jsonl"),
        ("notes.csv.gz", "is an archive; unpack it"),
        ("notes.xlsx", "is a spreadsheet; save it as .csv"),
        ("notes.xyz", "is not read; give a folder, .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_text("some words")
    with pytest.raises(ValueError, match=f"{name} {hint}"):
        load(tmp_path / name)


def test_a_long_table_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows as at once, whatever a part lacks; and a column that differs in kind between parts is refused."""
    rows: list[dict[str, Any]] = [*texts(12), {"text": "the last one", "label": "mild", "age": 40, "stay": 1.5}]
    rows[3] |= {"age": None, "stay": 1}
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {name: split.to_dict() for name, split in load(file).items()}
    monkeypatch.setattr(tables, "AT_ONCE", 4)
    parts = load(file)
    assert {name: split.to_dict() for name, split in parts.items()} == whole
    assert parts["train"].features["age"].dtype == "int64" and "stay" not in parts["train"].column_names
    assert not list(Path(tempfile.gettempdir()).glob("*.arrow")) and parts["train"].cache_files == []
    file.write_text(file.read_text() + json.dumps({**rows[-1], "age": "forty"}) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: a column mixes kinds of values \(age\)"):
        load(file)


def test_a_column_split_a_jsonl_and_a_folder_say_the_same(tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "val", "test")[number % 3]} for number, row in enumerate(texts(12))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = load(write_csv(tmp_path / "a.csv", rows))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        chosen = [{key: row[key] for key in ("text", "label")} for row in rows if row["split"] == split]
        write_csv(folder / f"{name}.csv", chosen)
    for other in (load(tmp_path / "a.jsonl"), load(folder)):
        assert {name: split.to_dict() for name, split in other.items()} == {
            name: split.to_dict() for name, split in table.items()
        }
    assert {name: len(split) for name, split in table.items()} == {"train": 8, "validation": 8, "test": 8}


def test_texts_and_labels_of_any_script_survive(tmp_path: Path) -> None:
    names = ['say "no", twice', "two\nlines", "😀", "שלום"]
    rows = [{"text": f'{n} "a", b\nc 😀 مرحبا {label}', "label": label} for label in names for n in range(10)]
    train = load(write_csv(tmp_path / "posts.csv", rows))["train"]
    assert train.features["label"].names == sorted(names)
    assert {(row["text"], names.index(train.features["label"].names[row["label"]])) for row in train} <= {
        (row["text"], names.index(row["label"])) for row in rows
    }


def test_equal_texts_and_persons_are_not_torn_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"Post {n // 2}" + " " * (n % 2), "label": "ab"[n % 4 // 2]} for n in range(80)]
    splits = load(write_csv(tmp_path / "twice.csv", rows))
    kinds = [{text.strip() for text in split["text"]} for split in splits.values()]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and len(splits["test"]) == 16
    persons = [{"text": f"post {n}", "label": "ab"[n % 2], "patient_id": n // 4} for n in range(80)]
    splits = load(write_csv(tmp_path / "persons.csv", persons))
    groups = [{int(text.split()[1]) // 4 for text in split["text"]} for split in splits.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and splits["train"].column_names[0] == "id"
    shared = [{"text": "same", "label": label, "split": split} for label in "ab" for split in ("train", "val", "test")]
    with caplog.at_level(logging.WARNING):
        load(write_csv(tmp_path / "shared.csv", shared * 2))
    assert "4 of 4 test texts also stand in train" in caplog.text


def test_subgroups_stay_and_identifying_columns_go(tmp_path: Path) -> None:
    rows = [{**row, "sex": "fm"[n % 2], "name": "x", "dialogue": f"d {n}"} for n, row in enumerate(texts(40))]
    train = load(write_csv(tmp_path / "posts.csv", rows))["train"]
    assert train.column_names == ["id", "text", "label", "sex"]


def test_a_part_of_train(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "posts.csv", texts(40))
    few = load(path, few_shot=3)["train"]
    assert Counter(few["label"]) == {0: 3, 1: 3} and few["id"] == load(path, few_shot=3)["train"]["id"]
    assert few["id"] != load(path, seed=1, few_shot=3)["train"]["id"]
    assert Counter(load(path, train_fraction=0.5)["train"]["label"]) == {0: 14, 1: 14}
    with pytest.raises(ValueError, match=r"--few_shot 29: class 'mild' has only 28 train texts; give at most 28"):
        load(path, few_shot=29)


def test_small_classes_are_dropped_only_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_csv(tmp_path / "posts.csv", [*texts(), *texts(1, ("rare",))])
    with pytest.raises(ValueError, match=r"class 'rare' has 1 train texts.*--drop_small_classes true"):
        load(path)
    with caplog.at_level(logging.WARNING):
        splits = load(path, drop_small_classes=True)
    assert splits["train"].features["label"].names == ["mild", "severe"] and set(splits["test"]["label"]) == {0, 1}
    assert "left out: rare; rows lost: train 1" in caplog.text
    with pytest.raises(ValueError, match="no class has 50 train texts"):
        load(path, drop_small_classes=True, min_class_size=50)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("cp1252", r"posts.csv, line 3: byte 37 is 0xe9, which is not text in UTF-8.*iconv -f WINDOWS-1252 -t UTF-8"),
        ("utf-16", r"posts.csv, line 1: byte 0 is 0xff, .*iconv -f UTF-16"),
        ("utf-16-le", r"posts.csv, line 1: byte 1 is 0x00, .*iconv -f UTF-16"),
    ],
)
def test_a_wrong_encoding_is_named(encoding: str, message: str, tmp_path: Path) -> None:
    rows = [{"text": "plain words here", "label": "a"}, {"text": "a café", "label": "b"}] * 2
    with pytest.raises(ValueError, match=message):
        load(write_csv(tmp_path / "posts.csv", rows, encoding))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + write_csv(tmp_path / "a.csv", texts()).read_bytes())
    assert len(load(tmp_path / "bom.csv")["train"]) == 28


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("", {}, "has no rows"),
        ("text,label\n", {}, "has no rows; write them below the names"),
        ("text,label\n" + "a b,one\n" * 20, {}, r"no class is large enough|has 1 class \(one\)"),
        ("text,label\n" + "".join(f"t{n},one\n" for n in range(20)), {}, r"has 1 class \(one\); two or more are"),
        ("post,label\nx,a\ny,b\n", {}, "no column 'text'; it has post, label: name the right one with --text_column"),
        ("text,topic\nx,a\ny,b\n", {}, "no column 'label'.*--label_column"),
        ("text,label\nx,a\n ,b\n", {}, "train row 1 has no text; write one or remove the row"),
        ("text,label\nx,a\ny,\n", {}, "train row 1 has no label; give it one"),
        ("text,label\nx,a\ny,c\n", {"label_names": "a,b"}, "train row 1: label 'c' is unknown; the classes are a, b"),
        ("text,label\nx,a\ny,b\n", {"label_names": "a,a"}, "--label_names must differ"),
        ("text,label,split\nx,a,trian\n", {}, "row 1: split is 'trian'"),
        ("text,label,split\nx,a,test\n", {}, "has no row of split train"),
        ("text,label\nx,y,a\n", {}, "row 1 has more cells than there are columns; quote texts with commas"),
        ('text,label\n"x,a\n', {}, "cannot be read"),
    ],
)
def test_wrong_tables_are_named(content: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "posts.csv", **changes)


def test_other_wrong_specs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        load(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"holds neither train\.csv"):
        load(tmp_path)
    with pytest.raises(ValueError, match="--dataset is missing"):
        load_text_dataset(TextDataArguments())
    with pytest.raises(ValueError, match="could not be had from the Hub"):
        load(Path("nobody/nothing"))
    for changes, message in (({"few_shot": 0}, "--few_shot must"), ({"train_fraction": 0.0}, "--train_fraction must")):
        with pytest.raises(ValueError, match=message):
            TextDataArguments(**changes)  # type: ignore[arg-type]
    (tmp_path / "rows.jsonl").write_text('{"text": 5, "label": "a"}\n')
    with pytest.raises(ValueError, match="train row 0 has a int instead of a text"):
        load(tmp_path / "rows.jsonl")


def test_texts_that_are_none_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "posts.csv", [*texts(), *({"text": " ", "label": "mild"} for _ in range(12))])
    with pytest.raises(
        ValueError, match=r"12 of 52 texts cannot be read:\n  train row 40 has no text(?s:.*)… and 2 more"
    ):
        load(path)
    assert sum(map(len, load(path, on_bad_file="skip").values())) == 40


def test_a_patients_words_do_not_come_into_a_message(tmp_path: Path) -> None:
    secret = "I told nobody that " + "I sleep badly " * 10
    rows = [{"text": "a", "label": secret}, {"text": "b", "label": secret + "!"}]
    with pytest.raises(ValueError, match=r"label holds texts of up to \d+ bytes, not classes") as raised:
        load(write_csv(tmp_path / "posts.csv", rows))
    assert "nobody" not in str(raised.value)


def test_published_layouts(shared_data: Path) -> None:
    notes = load(shared_data / "mts_dialog")
    assert {name: len(split) for name, split in notes.items()} == {"train": 1201, "validation": 100, "test": 200}
    assert len(notes["train"].features["label"].names) == 20
    dialogues = load(shared_data / "mts_dialog", text_column="dialogue")
    assert dialogues["train"]["label"] == notes["train"]["label"]
    assert sum(map(len, dialogues["train"]["text"])) > 2 * sum(map(len, notes["train"]["text"]))
    questions = load(shared_data / "counselchat", drop_small_classes=True, min_class_size=5)
    assert {name: len(split) for name, split in questions.items()} == {"train": 679, "validation": 80, "test": 38}
    assert "depression" in questions["train"].features["label"].names
    with pytest.raises(ValueError, match="fewer than --min_class_size 2"):
        load(shared_data / "counselchat")


def test_near_duplicates_are_found_in_any_script() -> None:
    known = NearDuplicates(0.7)
    known.add("I have not slept well since the move, and work takes all I have left in me these days")
    known.add("今天早上我醒得很早，然后一整天都觉得很累，什么都不想做，只想躺着看窗外的雨")
    assert "I have not slept well since the move, and WORK takes all I have left in me  these days" in known
    assert "I have not slept well since the move, and work takes all I had left in me these days" in known
    assert "今天早上我醒得很早，然后一整天都觉得很累，什么都不想做，只想躺着看窗外的雪" in known
    assert "My sister came over and we cooked for hours; the kitchen is a mess and I do not mind" not in known
    exact = NearDuplicates(1.0)
    exact.add("a b")
    assert "A  b" in exact and "a c" not in exact and "x" not in exact
