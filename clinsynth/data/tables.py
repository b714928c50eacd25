"""Tables of samples, .csv, .tsv and .jsonl: from a file to rows, splits and a `datasets.Dataset`.

Rows of texts are written to a nameless temporary file as they are read, and mapped from there: of a large table a few
thousand rows are in memory at a time.
"""

from __future__ import annotations

import csv
import json
import logging
import mmap
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from datasets.fingerprint import generate_random_fingerprint
from PIL import Image

from clinsynth.images import to_png

logger = logging.getLogger("clinsynth")

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What a split may be called, in any case and with a word such as set behind it, and what it is called here."""
BESIDE_SPLIT = re.compile(r"[\W_]+(set|data|split|images|texts)$")

Rows = list[dict[str, Any]]

TABLES = (".csv", ".tsv", ".jsonl")
EXCESS = "(cells beyond the columns)"
SEPARATORS = ",;\t"
LONGEST_CELL = 10_000_000
"""Characters."""
AT_ONCE = 2000
"""Rows of a table of texts in memory."""


def split_named(name: str) -> str | None:
    """The split that is called so: `Training`, `TEST`, `val`, `test_set`; None of any other name."""
    return SPLIT_NAMES.get(BESIDE_SPLIT.sub("", name.strip().casefold()))


def settle(wrong: list[str], total: int, noun: str, skip: bool, notes: list[str]) -> None:
    """One message for all that cannot be read: an error, or where they are to be left out a warning and a note.

    The note holds their number alone, since it stands in reports.
    """
    if not wrong:
        return
    count = f"{len(wrong)} of {total} {noun}s cannot be read"
    if not skip:
        raise ValueError((f"{count}:" if len(wrong) > 1 else "") + first_ten(wrong))
    logger.warning("%s and are left out: %s", count, first_ten(wrong))
    notes.append(f"{count} and were left out (--on_bad_file skip)")


def first_ten(wrong: list[str]) -> str:
    """The first ten of what is wrong, and how many there are."""
    more = f"\n  … and {len(wrong) - 10} more" if len(wrong) > 10 else ""
    return wrong[0] if len(wrong) == 1 else "\n  " + "\n  ".join(wrong[:10]) + more


def png_cell(image: Image.Image) -> dict[str, Any]:
    """An image as a cell of an Image column, kept without loss."""
    return {"bytes": to_png(image, compress_level=1), "path": None}


def image_dataset(cells: list[dict[str, Any]], columns: dict[str, list[Any]]) -> Dataset:
    """A data set of an undecoded Image column and plain columns."""
    features = Features(image=ImageFeature(), **Dataset.from_dict(columns).features)
    return Dataset.from_dict({"image": cells, **columns}, features=features)


def split_column(rows: Rows) -> str | None:
    """The column that says which split a row belongs to."""
    return next((name for row in rows for name in row if name.strip().casefold() == "split"), None)


def with_splits(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row behind the split that its column split names, train without one.

    Raises:
        ValueError: an unknown split, or no train row.
    """
    column, unnamed, found = None, 0, dict[str, None]()
    for number, row in enumerate(rows, start=1):
        column = column or split_column([row])
        own = str(row.get(column) or "").strip() if column else ""
        split = split_named(own) if own else "train"
        if split is None:
            raise ValueError(f"{path}, row {number}: split is {own[:40]!r}; it may be train, validation or test")
        unnamed += not own
        found[split] = None
        yield split, row
    if column and unnamed:
        logger.warning("%s: %d rows name no split: they count as train", path, unnamed)
    if column and "train" not in found:
        raise ValueError(f"{path} has no row of split train; it has {', '.join(found)}")


def rows_by_split(path: Path, rows: Rows) -> dict[str, Rows]:
    """Rows by the column split, all of them train without it; raises what `with_splits` does."""
    splits: dict[str, Rows] = {}
    for split, row in with_splits(path, rows):
        splits.setdefault(split, []).append(row)
    return splits


def to_columns(rows: Rows) -> dict[str, list[Any]]:
    """All columns but split; None where a row has no such cell."""
    names = list(dict.fromkeys(name for row in rows for name in row if name.strip().casefold() != "split"))
    return {name: [row.get(name) for row in rows] for name in names}


def checked_columns(path: Path, rows: Rows) -> dict[str, pa.Array]:
    """`to_columns`, each of one kind of values.

    Raises:
        ValueError: a column is not; names it, and no value, which may be a patient's words.
    """
    columns = {}
    for name, cells in to_columns(rows).items():
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise mixed(path, name) from error
    return columns


def mixed(path: Path, column: str) -> ValueError:
    """The error for a column of several kinds of values."""
    return ValueError(f"{path}: a column mixes kinds of values ({column}); give each column one kind")


class RowsOnDisk:
    """Rows of a table in a temporary file without a name, which goes with the process.

    Args:
        path: of the table, for messages.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, tempfile.TemporaryFile()
        self.waiting: Rows = []
        self.starts: list[int] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row behind the others."""
        self.waiting.append(row)
        if len(self.waiting) == AT_ONCE:
            self.write()

    def write(self) -> None:
        """Write those that wait, in their own schema: a later row may have further columns."""
        table = pa.table(checked_columns(self.path, self.waiting))
        self.starts.append(self.file.tell())
        with pa.ipc.new_stream(self.file, table.schema) as writer:
            writer.write_table(table)
        self.waiting = []

    def dataset(self) -> Dataset:
        """All rows, mapped.

        Raises:
            ValueError: a column mixes kinds of values.
        """
        self.write()
        self.file.flush()
        mapped = pa.py_buffer(mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ))
        parts = [pa.ipc.open_stream(mapped[start:]).read_all() for start in self.starts]
        for name in dict.fromkeys(name for part in parts for name in part.column_names):
            own = [pa.schema([part.schema.field(name)]) for part in parts if name in part.column_names]
            try:
                pa.unify_schemas(own, promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise mixed(self.path, name) from error
        table = pa.concat_tables(parts, promote_options="permissive")
        return Dataset(table, fingerprint=generate_random_fingerprint())  # else datasets hashes the whole of it


def on_disk(path: Path, rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Dataset]:
    """The rows of each split, as `RowsOnDisk`."""
    splits: dict[str, RowsOnDisk] = {}
    for split, row in rows:
        splits.setdefault(split, RowsOnDisk(path)).add(row)
    return {split: kept.dataset() for split, kept in splits.items()}


def cells_of(dataset: Dataset, column: str) -> Iterator[Any]:
    """The cells of a column, of which a few thousand are in memory at a time."""
    return chain.from_iterable(part[column] for part in dataset.select_columns(column).iter(AT_ONCE))


def numbers_of(dataset: Dataset, column: str) -> np.ndarray:
    """A column of whole numbers, int64 (n,); `dataset[column][:]` makes an object of each chosen row."""
    return np.fromiter(cells_of(dataset, column), dtype=np.int64, count=len(dataset))


def column_of(dataset: Dataset, column: str) -> list[Any]:
    """The cells of a column, equal texts as one: a long one with few different values takes little memory."""
    known: dict[str, str] = {}
    return [known.setdefault(cell, cell) if isinstance(cell, str) else cell for cell in cells_of(dataset, column)]


def read_file(path: Path) -> Rows:
    """Rows of a .csv, .tsv or .jsonl; raises what `rows_of_file` does."""
    return list(rows_of_file(path))


def rows_of_file(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .csv, .tsv or .jsonl, one after the other.

    Raises:
        ValueError: not in UTF-8, no such format, or no rows.
    """
    check_encoding(path)
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path} has no rows; write them below the names of the columns")
    yield first
    yield from rows


def check_encoding(path: Path) -> None:
    """Raise a `ValueError` that names the first byte that is not UTF-8, its line, and how to convert the file."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            guess = "UTF-16" if b"\0" in line or line[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
            at = line.find(b"\0")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                at = error.start
            if at >= 0:
                raise ValueError(
                    f"{path}, line {number}: byte {start + at} is 0x{line[at]:02x}, which is not text in UTF-8; if it "
                    f"is {guess}, convert it: iconv -f {guess} -t UTF-8 {path.name} > utf8{path.suffix}"
                )
            start += len(line)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .csv, .tsv or .jsonl; numbers in a .csv stay text.

    Raises:
        ValueError: no UTF-8 text, no such format, or a row with more cells than the table has columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from read_jsonl(path, file) if path.suffix.lower() == ".jsonl" else read_csv(path, file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as {path.suffix} text in UTF-8") from error


def read_csv(path: Path, lines: TextIO) -> Iterator[dict[str, Any]]:
    """Rows of a table whose columns are parted by what its first line has most of: comma, semicolon or tab."""
    first = lines.readline()
    lines.seek(0)
    by = max(SEPARATORS, key=first.count)
    if by != "," and path.suffix.lower() == ".csv":
        logger.info("%s: columns are parted by %r", path, by)
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(lines, restkey=EXCESS, strict=True, delimiter=by)
    names = reader.fieldnames or []
    twice = [name for name, count in Counter(name.strip() for name in names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path} has {names.count(twice[0])} columns called {twice[0]!r}; rename or remove all but one"
        )
    reader.fieldnames = [name.strip() for name in names]
    for number, row in enumerate(reader, start=1):
        if EXCESS in row:
            raise ValueError(f"{path}, row {number} has more cells than there are columns; quote texts with commas")
        yield row


def read_jsonl(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects of the lines of a file; an empty line is an error too."""
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object; write one a line")
        if "\\ud" in line and any(lone_surrogate(value) for value in row.values()):
            raise ValueError(
                f"{path}, line {number}: a text holds half a character (a lone surrogate such as \\ud83d), which no "
                "file can keep; write the whole character or leave it out"
            )
        yield row


def lone_surrogate(value: Any) -> bool:
    """Whether a text holds half of a character of UTF-16."""
    return any("\ud800" <= letter <= "\udfff" for letter in str(value))
