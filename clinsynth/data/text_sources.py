"""Readers of text data sets: from files to splits with the columns they came with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.data import phantom_posts
from clinsynth.data.labels import MAX_GROUPS, derive_names, sounds_identifying, to_number
from clinsynth.data.sources import SPLIT_NAMES, read_folder, read_hub, read_rows
from clinsynth.data.splits import PERSON_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.arguments import TextDataArguments

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


GENERATED = {"seed", "example_ids", "attempts"}
"""Columns of a synthetic data set that are no subgroups."""
LONGEST_LABEL = 100
"""Characters of a class name: what is longer is somebody's text, and must not come into a message."""


def with_text_columns(splits: dict[str, Dataset], args: TextDataArguments) -> dict[str, Dataset]:
    """Splits of id, text, label, subgroups and, where there is one, `person`, which only a cut looks at.

    Raises:
        ValueError: an empty split, a missing column, an empty text or a wrong label; names split, row and mend.
    """
    for split, dataset in splits.items():
        check_columns(split, dataset, args)
    names = class_names(splits, args)
    kept = subgroup_columns(splits, args)
    result = {}
    for split, dataset in splits.items():
        columns: dict[str, list[Any]] = {name: dataset[name][:] for name in kept}
        person = next((name for name in PERSON_COLUMNS if name in dataset.column_names), None)
        if person:
            columns["person"] = [str(value) for value in dataset[person]]
        columns["id"] = [f"{split}-{row}" for row in range(len(dataset))]
        columns["text"] = [checked_text(text, split, row) for row, text in enumerate(dataset[args.text_column])]
        columns["label"] = [
            to_number(value, names, f"{split} row {row}") for row, value in enumerate(label_values(dataset, args))
        ]
        result[split] = typed(columns, dataset, names)
    return result


def check_columns(split: str, dataset: Dataset, args: TextDataArguments) -> None:
    if not len(dataset):
        raise ValueError(f"--dataset {args.dataset}: split {split} is empty; add rows, or remove it")
    for flag in ("text_column", "label_column"):
        column = getattr(args, flag)
        if column not in dataset.column_names:
            raise ValueError(
                f"--dataset {args.dataset}: {split} has no column {column!r}; it has "
                f"{', '.join(dataset.column_names)}: name the right one with --{flag}"
            )


def label_values(dataset: Dataset, args: TextDataArguments) -> list[Any]:
    """Labels as names where the column is a ClassLabel, else as they are."""
    names = getattr(dataset.features[args.label_column], "names", None)
    values = dataset[args.label_column][:]
    if names is None or args.label_names is not None:
        return values
    return [names[value] if value is not None and value >= 0 else None for value in values]


def class_names(splits: dict[str, Dataset], args: TextDataArguments) -> list[str]:
    """`--label_names`, else the train split's ClassLabel, else the sorted texts found.

    Raises:
        ValueError: names that are empty or occur twice.
    """
    own = getattr(splits["train"].features[args.label_column], "names", None)
    found = [value for dataset in splits.values() for value in label_values(dataset, args)]
    long = next((value for value in found if isinstance(value, str) and len(value) > LONGEST_LABEL), None)
    if long:
        raise ValueError(
            f"--label_column {args.label_column} holds texts of {len(long)} characters and more, not classes; name "
            "the column of classes"
        )
    names = list(args.label_names or own or derive_names(found))
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"--label_names must differ from each other and not be empty, got {', '.join(names)}")
    return names


def checked_text(text: Any, split: str, row: int) -> str:
    if not isinstance(text, str) or not text.strip():
        what = "no text" if text is None or isinstance(text, str) else f"a {type(text).__name__} instead of a text"
        raise ValueError(f"{split} row {row} has {what}; write one or remove the row")
    return text


def subgroup_columns(splits: dict[str, Dataset], args: TextDataArguments) -> list[str]:
    """Plain columns that every split has, whose names do not sound identifying and whose texts form groups."""
    from datasets import ClassLabel, Value

    train = splits["train"]
    used = {args.text_column, args.label_column, "id", "text", "label", "split", *PERSON_COLUMNS, *GENERATED}
    shared = set.intersection(*(set(dataset.column_names) for dataset in splits.values())) - used
    kept = []
    for column in sorted(shared):
        feature = train.features[column]
        plain = isinstance(feature, ClassLabel | Value) and not sounds_identifying(column)
        if plain and (getattr(feature, "dtype", "") != "string" or len(set(train[column])) <= MAX_GROUPS):
            kept.append(column)
    left_out = sorted(shared - set(kept))
    if left_out:
        logger.info("columns left out, since they may identify a person or form no groups: %s", ", ".join(left_out))
    return kept


def typed(columns: dict[str, list[Any]], source: Dataset, names: list[str]) -> Dataset:
    from datasets import ClassLabel, Dataset, Features, Value

    own = {"id": Value("string"), "text": Value("string"), "person": Value("string"), "label": ClassLabel(names=names)}
    features = {name: own[name] if name in own else source.features[name] for name in columns}
    return Dataset.from_dict(columns, features=Features(features))


def without_small_classes(splits: dict[str, Dataset], least: int) -> dict[str, Dataset]:
    """Splits without the classes that have fewer than `least` train texts; a message names them and the rows lost.

    Raises:
        ValueError: no class is left.
    """
    from datasets import ClassLabel

    names = splits["train"].features["label"].names
    labels = splits["train"]["label"][:]
    large = [label for label in range(len(names)) if labels.count(label) >= least]
    if not large:
        raise ValueError(f"no class has {least} train texts; lower --min_class_size")
    if len(large) == len(names):
        return splits
    feature = ClassLabel(names=[names[label] for label in large])
    result = {}
    for split, dataset in splits.items():
        rows = [row for row, label in enumerate(dataset["label"]) if label in large]
        chosen = dataset.select(rows)
        numbers = [large.index(label) for label in chosen["label"]]
        result[split] = chosen.remove_columns("label").add_column("label", numbers, feature=feature)
    small = ", ".join(name for label, name in enumerate(names) if label not in large)
    lost = ", ".join(f"{split} {len(splits[split]) - len(result[split])}" for split in splits)
    logger.warning("classes below %d train texts are left out: %s; rows lost: %s", least, small, lost)
    return result
