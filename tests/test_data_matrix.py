"""Every source with every oddity: all rows are read, or an error says what is wrong; nothing else is raised, no row is
lost on the way."""

import csv
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.hostile import PARQUET, hostile_files
from clinsynth.data.arguments import ImageDataArguments, TextDataArguments
from clinsynth.data.images import load_image_dataset
from clinsynth.data.texts import load_text_dataset

Rows = list[dict[str, Any]]
WORDS = "sad calm tired awake hungry quiet loud cold warm lost".split()


def plain() -> Rows:
    """Thirty texts of two classes."""
    return [
        {"text": f"{WORDS[row % 10]} and {WORDS[row // 10]} on day {row}, of stay {row * 7}", "label": "ab"[row % 2]}
        for row in range(30)
    ]


def every(**columns: Any) -> Callable[[Rows], Rows]:
    """A value, or what a function says of the row's number, in each row."""
    return lambda rows: [
        row | {name: value(place) if callable(value) else value for name, value in columns.items()}
        for place, row in enumerate(rows)
    ]


def first(**columns: Any) -> Callable[[Rows], Rows]:
    """A value in the first row alone."""
    return lambda rows: [rows[0] | columns, *rows[1:]]


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{key: value for key, value in row.items() if key != name} for row in rows]


SPLITS = ("train", "validation", "test")
ODDITIES: dict[str, Callable[[Rows], Rows]] = {
    "plain": lambda rows: rows,
    "an empty text": first(text=""),
    "a text of blanks": first(text="  \u00a0 "),
    "a missing text": first(text=None),
    "a missing label": first(label=None),
    "an empty label": first(label=""),
    "labels that are numbers": every(label=lambda row: row % 2),
    "labels that are floats": every(label=lambda row: float(row % 2)),
    "labels that are halves": every(label=lambda row: row % 2 + 0.5),
    "labels that are booleans": every(label=lambda row: row % 2 == 0),
    "negative labels": every(label=lambda row: row % 2 - 1),
    "a huge label": first(label=10**12),
    "labels alike but for a blank": first(label="a "),
    "labels alike but for case": first(label="A"),
    "labels alike but for Unicode": every(label=lambda row: ("\u00e4", "a\u0308")[row % 2]),
    "a label of 300 bytes": every(label=lambda row: "ab"[row % 2] * 300),
    "a label with a line break": every(label=lambda row: f"a\n{row % 2}"),
    "a label with a slash": every(label=lambda row: f"../{row % 2}"),
    "a label with a NUL": every(label=lambda row: f"a\0{row % 2}"),
    "a label in emoji": every(label=lambda row: "😀😢"[row % 2]),
    "a label that turns": every(label=lambda row: f"\u202ea{row % 2}"),
    "a label that is a formula": every(label=lambda row: f"=1+{row % 2}"),
    "one class": every(label="a"),
    "a class of one": first(label="c"),
    "a class a row": every(label=lambda row: f"c{row}"),
    "a text with a NUL": first(text="a\0b"),
    "a text with a quote": first(text='she said "no", and left'),
    "a text of lines": first(text="one\r\ntwo\rthree\u2028four"),
    "a long text": first(text="word " * 50_000),
    "texts that are numbers": every(text=lambda row: str(row * 1000)),
    "texts that are equal": every(text="the same"),
    "no text column": without("text"),
    "no label column": without("label"),
    "notes in another column": every(note=lambda row: f"seen by somebody on day {row}"),
    "splits in capitals": every(split=lambda row: ("Training", "VAL", "Test")[row % 3]),
    "splits in words": every(split=lambda row: SPLITS[row % 3]),
    "a split of another name": every(split=lambda row: ("train", "holdout")[row % 2]),
    "splits that miss in a row": lambda rows: first(split=None)(every(split="train")(rows)),
    "no train split": every(split="test"),
    "persons in two splits": every(split=lambda row: SPLITS[row % 3], patient_id=lambda row: f"p{row // 4}"),
    "persons": every(patient_id=lambda row: f"p{row // 3}"),
    "persons that miss": every(patient_id=lambda row: f"p{row // 3}" if row % 2 else None),
    "one person": every(patient_id="p"),
    "no row": lambda rows: [],
    "one row": lambda rows: rows[:1],
}


def write_table(path: Path, rows: Rows, by: str = ",") -> None:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["text", "label"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=by)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    path.mkdir()
    table = pa.Table.from_pylist(rows) if rows else pa.table({"text": pa.array([], pa.string())})
    pq.write_table(table, path / "train.parquet")


def write_folder(path: Path, rows: Rows) -> None:
    path.mkdir()
    write_table(path / "train.csv", rows)


SOURCES: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "csv": ("t.csv", write_table),
    "tsv": ("t.TSV", lambda path, rows: write_table(path, rows, "\t")),
    "jsonl": ("t.jsonl", write_jsonl),
    "parquet": ("set", write_parquet),
    "folder": ("folder", write_folder),
}


def outcome(path: Path, of_images: bool = False) -> int | str:
    """How many rows are read, or what refuses them."""
    splits: Any
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if of_images:
                splits = load_image_dataset(ImageDataArguments(str(path)))
            else:
                splits = load_text_dataset(TextDataArguments(str(path)), 0)
    except ValueError as error:
        said = str(error)
        assert said.count("\n") <= 11 and 20 < len(said) < 1500, said  # the first ten rows of what many have
        return said
    return sum(map(len, splits.values()))


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_with_each_oddity(source: str, tmp_path: Path) -> None:
    assert len(SOURCES) * len(ODDITIES) >= 200
    name, write = SOURCES[source]
    read: dict[str, int | str] = {}
    for place, (oddity, alter) in enumerate(ODDITIES.items()):
        folder = tmp_path / str(place)
        folder.mkdir()
        try:
            rows = alter(plain())
            write(folder / name, rows)
        except pa.ArrowException:
            continue  # Parquet holds no such rows
        read[oddity] = outcome(folder / name)
        assert isinstance(read[oddity], str) or read[oddity] == len(rows), (oddity, read[oddity])
    always = ("plain", "persons", "splits in words", "splits in capitals", "notes in another column", "a long text")
    assert [read[oddity] for oddity in always] == [30] * len(always), read
    never = ("no text column", "no label column", "no row", "labels alike but for a blank")
    assert not [oddity for oddity in never if isinstance(read[oddity], int)], read


GOOD = io.StringIO()
csv.writer(GOOD).writerows([("text", "label"), *((row["text"], row["label"]) for row in plain())])
CONTENT = GOOD.getvalue().encode()
LINES = "".join(json.dumps(row) + "\n" for row in plain()).encode()
FILES = {
    "nothing": b"",
    "blanks": b" \n\n ",
    "a head alone": b"text,label\n",
    "zeros": bytes(2000),
    "bytes of no kind": bytes(range(256)) * 8,
    "a byte order mark": b"\xef\xbb\xbf" + CONTENT,
    "UTF-16": CONTENT.decode().encode("utf-16"),
    "Latin-1": CONTENT.replace(b"sad", "tr\xe4ge".encode("latin-1")),
    "an open quote": CONTENT + b'"open',
    "a cell too many": CONTENT + b"a,b,c\n",
    "a cell too few": CONTENT + b"a\n",
    "columns called alike": b"text,label,label\nx,a,b\n",
    "a head without names": b",\nx,a\n",
    "cut off": CONTENT[:-20],
    "semicolons": CONTENT.replace(b",", b";"),
    "old line ends": CONTENT.replace(b"\r\n", b"\r"),
    "a zip's head": b"PK\x03\x04" + CONTENT,
    "gzip's head": b"\x1f\x8b" + CONTENT,
    "a page": b"<html><body>not found</body></html>",
    "lines of JSON": LINES,
    "a list in JSON": json.dumps(plain()).encode(),
    "JSON cut off": LINES[:-10],
    "JSON with a lone surrogate": LINES + b'{"text": "\\ud800 and more", "label": "a"}\n',
    "JSON that is deep": b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b', "label": "a"}\n',
    "JSON numbers": b"1\n2\n3\n",
    "JSON that is no number": b'{"text": "x", "label": NaN}\n' * 20,
    "a key twice": b'{"text": "x", "text": "y", "label": "a"}\n' * 20,
    "a text that is a list": b'{"text": ["x"], "label": "a"}\n' * 20,
    "a label that is a list": b'{"text": "some words", "label": ["a"]}\n' * 20,
    "a label that is an object": b'{"text": "some words", "label": {"a": 1}}\n' * 20,
}
READ = {(ending, 30) for ending in (".csv", ".tsv", ".jsonl")}
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".npz", ".png", ".dcm")


def place_file(folder: Path, ending: str, content: bytes) -> Path:
    """The content where a file of that ending is read; what --dataset names."""
    folder.mkdir()
    named = {".parquet": "train.parquet", ".png": "a/0.png", ".dcm": "0.dcm"}.get(ending, f"t{ending}")
    (folder / named).parent.mkdir(exist_ok=True)
    (folder / named).write_bytes(content)
    if ending == ".dcm":
        (folder / "labels.csv").write_text("file,label\n0.dcm,a\n")
    return folder if ending in (".parquet", ".png", ".dcm") else folder / named


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_ending_with_each_content(ending: str, tmp_path: Path) -> None:
    """210 files of which few are what their name says: each is read or refused by a `ValueError`."""
    assert len(FILES) * len(ENDINGS) == 210
    for place, (kind, content) in enumerate(FILES.items()):
        said = outcome(place_file(tmp_path / str(place), ending, content), ending in (".npz", ".png", ".dcm"))
        assert isinstance(said, str) or (ending, said) in READ, (ending, kind, said)


@pytest.mark.parametrize("ending", ["npz", "parquet", "png"])
def test_hostile_files_are_refused(ending: str, tmp_path: Path) -> None:
    """Those that `benchmarks.hostile` makes, but for the largest, which `python -m tests.bad_inputs` reads, too."""
    for place, (kind, own, content) in enumerate(hostile_files(large=False)):
        if own == ending:
            said = outcome(place_file(tmp_path / str(place), f".{ending}", content), ending != "parquet")
            assert isinstance(said, str), (kind, said)


def test_parquet_that_stands_for_far_more_than_its_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    for place, (kind, told) in enumerate(
        {
            "one text of a megabyte, 20,000 times": "unpack to more than 256 MB, over 100 times their size",
            "one text of a kilobyte, a million times": "unpack to more than 256 MB",
            "ten thousand columns": "10000 columns, where 1000 are read",
        }.items()
    ):
        said = outcome(place_file(tmp_path / str(place), ".parquet", PARQUET[kind]()))
        assert isinstance(said, str) and told in said, said
    rows = pa.table({"text": pa.array([f"text {row % 40}" for row in range(80)]).dictionary_encode()})
    pq.write_table(rows.append_column("label", pa.array(["a", "b"] * 40)), tmp_path / "honest.parquet")
    assert outcome(tmp_path / "honest.parquet") == 80
