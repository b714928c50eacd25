"""From a data set spec string to a `datasets.DatasetDict` with train, validation and test: id, text, label.

| spec | what it is |
|---|---|
| `phantom-posts` | built in: phantoms of four severities, no patients |
| `file.csv`, `file.jsonl` | columns text, label[, split, subgroups], in UTF-8 |
| folder of train.csv[, validation.csv, test.csv] | the same, a file a split; .jsonl also |
| folder of Parquet | what `clinsynth generate text` writes |
| folder with MTS-Dialog-TrainingSet.csv | MTS-Dialog: sections of clinical notes by header; test is its test set 1 |
| file with CounselChat's columns | CounselChat: one row a question, its first topic |
| anything else | an id on the Hugging Face Hub |
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value

from clinsynth.data import phantom_posts
from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.columns import with_subgroups
from clinsynth.data.duplicates import text_keys
from clinsynth.data.image_tables import NAMED, Places, ending, files_below, names_images
from clinsynth.data.labels import (
    PERSON,
    LabelledSamples,
    check_column,
    check_not_empty,
    persons_of,
    subgroups,
    with_class_labels,
)
from clinsynth.data.persons import warn, with_persons
from clinsynth.data.sources import is_parquet_of_images, parquet_files, read_file_or_hub, read_folder
from clinsynth.data.splits import Loaded, choose_train, with_all_splits, without_small_classes
from clinsynth.data.tables import (
    TABLES,
    cells_of,
    numbers_of,
    on_disk,
    read_rows,
    rows_of_file,
    settle,
    split_named,
    with_splits,
)

logger = logging.getLogger("clinsynth")


def load_text_dataset(args: TextDataArguments, seed: int = 0) -> DatasetDict:
    """Splits train, validation and test: `id` and `text` (string), `label` (ClassLabel) and subgroup columns.

    An id is the split's name in the source and the row's number there, so that it says nothing about a person.
    Missing splits are cut off train (20 % test, 10 % validation) by class, always in the same way; rows of one person,
    or without a column of persons of equal text, stay together. `--train_fraction` and `--few_shot` choose from train
    by `seed`.

    Raises:
        ValueError: whatever is wrong with the data set or a flag, with its name, value and a hint.
    """
    loaded = open_text_dataset(args, seed)
    return loaded.plain()


def open_text_dataset(args: TextDataArguments, seed: int = 0) -> Loaded:
    """`load_text_dataset`, with whose the rows are and what is to be said of them; errors are the same."""
    notes: list[str] = []
    splits = read_text_splits(args)
    check_not_empty(splits)
    splits = with_class_labels(splits, args.label_column, args.class_names, args.merge_alike_labels)
    splits = with_persons(with_texts(splits, args, notes), args, notes)
    own = ["id", "text", "label", *({PERSON} & set(splits["train"].column_names))]
    splits, kept, left_out = with_subgroups(splits, args.declared, own, GENERATED)
    if args.drop_small_classes:
        splits = without_small_classes(splits, args.min_class_size, args.noun)
    splits = with_all_splits(splits, args.noun, kept_together=keys_of)
    splits["train"] = choose_train(splits["train"], args, seed)
    warn_of_shared_texts(splits, notes)
    return Loaded(DatasetDict(splits), kept, left_out, notes)


def keys_of(dataset: Dataset) -> np.ndarray:
    """`text_keys` of a split's texts."""
    return text_keys(cells_of(dataset, "text"))


def warn_of_shared_texts(splits: dict[str, Dataset], notes: list[str]) -> None:
    train = keys_of(splits["train"])
    for name in ("validation", "test"):
        shared = int(np.isin(keys_of(splits[name]), train).sum())
        if shared:
            warn(
                notes,
                f"{shared} of {len(splits[name])} {name} texts also stand in train: results on {name} flatter",
            )


def holds_texts(spec: str) -> bool:
    """Whether a data set is one of texts: by the columns of its first file, or the names of its files."""
    path, name = Path(spec), spec.partition("?")[0]
    if path.exists() and parquet_files(path) and (path.is_dir() or path.suffix.lower() == ".parquet"):
        return not is_parquet_of_images(path)
    if path.is_dir():
        tables = [file for file in path.iterdir() if file.suffix.lower() in TABLES]
        known = {"counselchat_min.csv", *MTS_DIALOG.values()}
        named = any(split_named(file.stem) or file.name in known for file in tables)
        return named and not any(ending(file.name) for file in files_below(path))
    if path.suffix.lower() in TABLES and path.is_file():
        first = next(iter(read_rows(path)), {"image": ""})
        of_texts = "text" in first or COUNSELCHAT_COLUMNS.keys() <= first.keys()
        return of_texts or not ({*map(str.casefold, first)} & {*NAMED} or names_images(path, Places(path.parent)))
    return name == phantom_posts.NAME


MTS_DIALOG = {
    "train": "MTS-Dialog-TrainingSet.csv",
    "validation": "MTS-Dialog-ValidationSet.csv",
    "test": "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
}
MTS_DIALOG_COLUMNS = {"section_text": "text", "section_header": "label"}
COUNSELCHAT_COLUMNS = {"questionText": "text", "topic": "label"}


def read_text_splits(args: TextDataArguments) -> dict[str, Dataset]:
    """The splits of `args.dataset` that are there."""
    path = Path(args.dataset)
    if not args.dataset:
        raise ValueError("--dataset is missing; give a .csv or .jsonl of text and label, a folder or a Hub id")
    if args.dataset.partition("?")[0] == phantom_posts.NAME:
        return phantom_posts.build_splits(args.dataset)
    if path.is_dir():
        return read_text_folder(path, args)
    if path.suffix.lower() not in TABLES or not path.is_file():
        return read_file_or_hub(args.dataset, path)
    return on_disk(path, with_splits(path, known_layout(path, args)))


def read_text_folder(path: Path, args: TextDataArguments) -> dict[str, Dataset]:
    """A published folder of MTS-Dialog or CounselChat, a file a split, or Parquet."""
    if (path / MTS_DIALOG["train"]).is_file():
        return on_disk(path, read_mts_dialog(path, args))
    counselchat = path / "counselchat_min.csv"
    if counselchat.is_file():
        return on_disk(path, with_splits(counselchat, known_layout(counselchat, args)))
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in TABLES]
    if not files and parquet_files(path):
        return read_folder(path)
    named = [(split, file) for file in files if (split := split_named(file.stem))]
    if not named:
        raise ValueError(
            f"{path} holds neither train.csv, train.jsonl nor Parquet files; put a file of text and label there and "
            "call it train.csv"
        )
    if left := [file.name for file in files if not split_named(file.stem)]:
        logger.warning("%s: files left out, since they are not called as a split: %s", path, ", ".join(left))
    found = [split for split, _ in named]
    for split, file in named:
        if found.count(split) > 1:
            raise ValueError(f"{path} holds two files of the split {split}; remove {file.name} or it")
    return on_disk(path, ((split, row) for split, file in named for row in rows_of_file(file)))


def known_layout(path: Path, args: TextDataArguments) -> Iterator[dict[str, Any]]:
    """A table's rows; where its columns are CounselChat's text and label, one a question, whatever its answers."""
    rows = rows_of_file(path)
    head = next(rows)
    if "questionID" not in head or not COUNSELCHAT_COLUMNS.keys() <= head.keys():
        yield head
        yield from rows
        return
    first: dict[str, dict[str, Any]] = {}
    several = set()
    for row in (head, *rows):
        known = first.setdefault(row["questionID"], row)
        if known["topic"] != row["topic"]:
            several.add(row["questionID"])
    if several:
        logger.info("%d of %d questions stand under two topics: the first is taken", len(several), len(first))
    yield from (renamed(row, COUNSELCHAT_COLUMNS, args) for row in first.values())


def read_mts_dialog(path: Path, args: TextDataArguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of MTS-Dialog, each behind its split; the second test set is left aside."""
    for split, name in MTS_DIALOG.items():
        if not (path / name).is_file():
            raise ValueError(f"{path} has {MTS_DIALOG['train']} but no {name}; put MTS-Dialog's file there")
        for row in rows_of_file(path / name):
            yield split, renamed(row, MTS_DIALOG_COLUMNS, args)


def renamed(row: dict[str, Any], names: dict[str, str], args: TextDataArguments) -> dict[str, Any]:
    """A row's text and label under their usual names, and what `--text_column` and `--label_column` ask for."""
    wanted = {args.text_column, args.label_column, "split"}
    return {new: row[old] for old, new in names.items()} | {name: row[name] for name in wanted & row.keys()}


GENERATED = frozenset({"seed", "example_ids", "attempts", "prompt_choices", "thought_tokens", "split"})
"""Columns of a synthetic data set that need no mention."""


def with_texts(splits: dict[str, Dataset], args: TextDataArguments, notes: list[str]) -> dict[str, Dataset]:
    """Splits whose columns id and text are a row's place in the source, and its text."""
    check_column(splits, args.text_column, "name the right one with --text_column")
    cells = {split: cells_of(dataset, args.text_column) for split, dataset in splits.items()}
    bad = {split: {row: why for row, text in enumerate(own) if (why := no_text(text))} for split, own in cells.items()}
    wrong = [
        f"{split} row {row} has {why}; write one or remove the row" for split in bad for row, why in bad[split].items()
    ]
    settle(wrong, sum(map(len, splits.values())), "text", args.on_bad_file == "skip", notes)
    result = {}
    for split, dataset in splits.items():
        others = [name for name in dataset.column_names if name in ("id", "text") and name != args.text_column]
        own = dataset.remove_columns(others)
        own = own if args.text_column == "text" else own.rename_column(args.text_column, "text")
        if own.features["text"] != Value("string"):
            own = own.cast_column("text", Value("string"))
        numbers = pc.cast(pa.array(np.arange(len(own))), pa.string())
        own = own.add_column("id", pc.binary_join_element_wise(f"{split}-", numbers, ""))
        result[split] = own.select([row for row in range(len(own)) if row not in bad[split]]) if bad[split] else own
    check_not_empty(result)
    return result


def no_text(text: Any) -> str | None:
    """What stands in the place of a text; None where it is one."""
    if isinstance(text, str) and text.strip():
        return None
    return "no text" if text is None or isinstance(text, str) else f"a {type(text).__name__} instead of a text"


@dataclass(frozen=True)
class TextArrays(LabelledSamples):
    """One split in memory; see `LabelledRows`.

    Attributes:
        texts: strings (n,), as objects.
    """

    noun: ClassVar[str] = "text"
    rows_in: ClassVar[str] = "texts"
    column: ClassVar[str] = "text"
    made_by: ClassVar[str] = "clinsynth generate text"

    texts: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    persons: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def content(self) -> list[bytes]:
        return [json.dumps(self.texts.tolist()).encode()]

    def read_like(self, dataset: Dataset) -> TextArrays:
        """The columns text and label of a data set.

        Raises:
            ValueError: a row without text or label; names the row.
        """
        texts, labels = dataset["text"][:], dataset["label"][:]
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            if why := no_text(text):
                raise ValueError(f"synthetic row {row} has {why}; write one or remove the row")
            if label is None or label < 0:
                raise ValueError(f"synthetic row {row} has no label; give it one or remove the row")
        return TextArrays(as_objects(texts), np.asarray(labels, dtype=np.int64), list(dataset.features["label"].names))


def load_text_arrays(args: TextDataArguments, seed: int = 0) -> dict[str, TextArrays]:
    """Splits train, validation and test of `args.dataset`.

    Raises:
        ValueError: as `clinsynth.data.texts.load_text_dataset` does.
    """

    loaded = open_text_dataset(args, seed)
    arrays = {str(name): to_text_arrays(split) for name, split in loaded.splits.items()}
    return {name: replace(split, notes=tuple(loaded.notes)) for name, split in arrays.items()}


def to_text_arrays(dataset: Dataset) -> TextArrays:
    """A split with columns id, text, label and subgroups."""
    return TextArrays(
        as_objects(dataset["text"][:]),
        numbers_of(dataset, "label"),
        list(dataset.features["label"].names),
        # the texts of a small split are few enough to be taken for groups
        subgroups(dataset.remove_columns(["id", "text"])),
        persons_of(dataset),
    )


def as_objects(items: Sequence[Any]) -> np.ndarray:
    """Anything but numbers as an array (n,) of objects, each of its own length, to be chosen from by rows."""
    rows = np.empty(len(items), dtype=object)
    rows[:] = items
    return rows


@dataclass(frozen=True)
class TextSet:
    """Labelled texts.

    Attributes:
        texts: n of them.
        labels: int64 (n,), numbers of the class names that go with the set.
        ids: one a text; those of the train split are what `example_ids` name.
        example_ids: for each synthetic text the ids of the train texts in its prompt; None where that is not known.
        persons: int64 (n,), whose each real text is; None where that is not known.
    """

    texts: list[str]
    labels: np.ndarray
    ids: list[str]
    example_ids: list[list[str]] | None = None
    persons: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, dataset: Dataset) -> TextSet:
        """The set of a data set with columns text and label, and perhaps id and example_ids."""
        columns = dataset.column_names
        ids = dataset["id"][:] if "id" in columns else [str(row) for row in range(len(dataset))]
        examples = dataset["example_ids"][:] if "example_ids" in columns else None
        labels = numbers_of(dataset, "label")
        return cls(dataset["text"][:], labels, ids, examples, persons_of(dataset))
