"""Readers of text data sets: from files to splits with the columns they came with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.data import phantom_posts
from clinsynth.data.sources import SPLIT_NAMES, read_folder, read_hub, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.text_arguments import TextDataArguments

logger = logging.getLogger("clinsynth")

Rows = list[dict[str, Any]]

SUFFIXES = (".csv", ".jsonl")
MTS_DIALOG = {
    "train": "MTS-Dialog-TrainingSet.csv",
    "validation": "MTS-Dialog-ValidationSet.csv",
    "test": "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
}
MTS_DIALOG_COLUMNS = {"section_text": "text", "section_header": "label"}
COUNSELCHAT_COLUMNS = {"questionText": "text", "topic": "label"}


def read_text_splits(args: TextDataArguments) -> dict[str, Dataset]:
    """The splits of `args.dataset` that are there.

    Raises:
        ValueError: no such data set, or one that cannot be read; names the file and the mend.
    """
    path = Path(args.dataset)
    if not args.dataset:
        raise ValueError("--dataset is missing; give a .csv or .jsonl of text and label, a folder or a Hub id")
    if args.dataset.partition("?")[0] == phantom_posts.NAME:
        return phantom_posts.build_splits(args.dataset)
    if path.is_dir():
        return read_text_folder(path, args)
    if path.suffix not in SUFFIXES:
        return read_hub(args.dataset)
    if not path.is_file():
        raise ValueError(f"--dataset {args.dataset}: there is no such file; check the path")
    return to_datasets(path, by_split(path, known_layout(read_file(path), args)))


def read_text_folder(path: Path, args: TextDataArguments) -> dict[str, Dataset]:
    """A published folder of MTS-Dialog or CounselChat, a file a split, or Parquet."""
    if (path / MTS_DIALOG["train"]).is_file():
        return to_datasets(path, read_mts_dialog(path, args))
    counselchat = path / "counselchat_min.csv"
    if counselchat.is_file():
        return to_datasets(path, by_split(counselchat, known_layout(read_file(counselchat), args)))
    files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and file.stem in SPLIT_NAMES]
    if not files:
        return read_parquet(path)
    splits: dict[str, Rows] = {}
    for file in files:
        if SPLIT_NAMES[file.stem] in splits:
            raise ValueError(f"{path} holds two files of the split {SPLIT_NAMES[file.stem]}; remove {file.name} or it")
        splits[SPLIT_NAMES[file.stem]] = read_file(file)
    return to_datasets(path, splits)


def read_parquet(path: Path) -> dict[str, Dataset]:
    if next(path.rglob("*.parquet"), None):
        return read_folder(path)
    raise ValueError(
        f"{path} holds neither train.csv, train.jsonl nor Parquet files; put a file of text and label there and call "
        "it train.csv"
    )


def read_file(path: Path) -> Rows:
    """Rows of a .csv or .jsonl.

    Raises:
        ValueError: not in UTF-8, no such format, or no rows.
    """
    check_encoding(path)
    rows = list(read_rows(path))
    if not rows:
        raise ValueError(f"{path} has no rows; write one a text, below the names of the columns")
    return rows


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


def known_layout(rows: Rows, args: TextDataArguments) -> Rows:
    """Rows with text and label where the columns are CounselChat's: one a question, whatever its answers."""
    if "questionID" not in rows[0] or not COUNSELCHAT_COLUMNS.keys() <= rows[0].keys():
        return rows
    first: dict[str, dict[str, Any]] = {}
    several = set()
    for row in rows:
        known = first.setdefault(row["questionID"], row)
        if known["topic"] != row["topic"]:
            several.add(row["questionID"])
    if several:
        logger.info("%d of %d questions stand under two topics: the first is taken", len(several), len(first))
    return [renamed(row, COUNSELCHAT_COLUMNS, args, keep={"split"}) for row in first.values()]


def read_mts_dialog(path: Path, args: TextDataArguments) -> dict[str, Rows]:
    """The splits of MTS-Dialog; its second test set is left aside.

    Raises:
        ValueError: one of the three files is not there.
    """
    splits = {}
    for split, name in MTS_DIALOG.items():
        if not (path / name).is_file():
            raise ValueError(f"{path} has {MTS_DIALOG['train']} but no {name}; put MTS-Dialog's file there")
        splits[split] = [renamed(row, MTS_DIALOG_COLUMNS, args) for row in read_file(path / name)]
    return splits


def renamed(
    row: dict[str, Any], names: dict[str, str], args: TextDataArguments, keep: frozenset[str] | set[str] = frozenset()
) -> dict[str, Any]:
    """A row's text and label under their usual names, and what `--text_column` and `--label_column` ask for."""
    wanted = {args.text_column, args.label_column, *keep}
    return {new: row[old] for old, new in names.items()} | {name: row[name] for name in wanted & row.keys()}


def by_split(path: Path, rows: Rows) -> dict[str, Rows]:
    """Rows by the column split, all of them train without it.

    Raises:
        ValueError: an unknown split, or no train row.
    """
    splits: dict[str, Rows] = {}
    for number, row in enumerate(rows, start=1):
        split = row.get("split") or "train"
        if split not in SPLIT_NAMES:
            raise ValueError(f"{path}, row {number}: split is {split!r}; it may be train, validation or test")
        splits.setdefault(SPLIT_NAMES[split], []).append(row)
    if "train" not in splits:
        raise ValueError(f"{path} has no row of split train; it has {', '.join(splits)}")
    return splits


def to_datasets(path: Path, splits: dict[str, Rows]) -> dict[str, Dataset]:
    from datasets import Dataset

    result = {}
    for split, rows in splits.items():
        names = list(dict.fromkeys(name for row in rows for name in row if name != "split"))
        try:
            result[split] = Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
        except (TypeError, ValueError) as error:  # pyarrow's own are kinds of these
            raise ValueError(f"{path}: a column mixes kinds of values; give each column one kind") from error
    return result
