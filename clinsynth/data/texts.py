"""From a data set spec string to a `datasets.DatasetDict` with train, validation and test: id, text, label.

| spec | what it is |
|---|---|
| `phantom-posts` | built in: made-up posts of four severities, no patients |
| `file.csv`, `file.jsonl` | columns text, label[, split, subgroups], in UTF-8 |
| folder of train.csv[, validation.csv, test.csv] | the same, a file a split; .jsonl also |
| folder of Parquet | what `clinsynth generate text` writes |
| folder with MTS-Dialog-TrainingSet.csv | MTS-Dialog: sections of clinical notes by header; test is its test set 1 |
| file with CounselChat's columns | CounselChat: one row a question, its first topic |
| anything else | an id on the Hugging Face Hub |
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.labels import followed_by_unknown, subgroups

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from clinsynth.data.arguments import TextDataArguments

logger = logging.getLogger("clinsynth")


def load_text_dataset(args: TextDataArguments, seed: int = 0) -> DatasetDict:
    """Splits train, validation and test: `id` and `text` (string), `label` (ClassLabel) and subgroup columns.

    An id is the split's name in the source and the row's number there, so that it says nothing about a person.
    Missing splits are cut off train (20 % test, 10 % validation) by class, always in the same way; rows of equal text
    or of one person stay together. `--train_fraction` and `--few_shot` choose from train by `seed`.

    Raises:
        ValueError: whatever is wrong with the data set or a flag, with its name, value and mend.
    """
    from datasets import DatasetDict

    from clinsynth.data.text_sources import read_text_splits, with_text_columns, without_small_classes

    splits = with_text_columns(read_text_splits(args), args)
    if args.drop_small_classes:
        splits = without_small_classes(splits, args.min_class_size)
    splits = with_all_text_splits(splits)
    splits["train"] = choose_train_texts(splits["train"], args, seed)
    check_text_classes(splits["train"], args)
    warn_of_shared_texts(splits)
    order = ["id", "text", "label"]
    shared = set.intersection(*(set(split.column_names) for split in splits.values())) - {*order, "person"}
    return DatasetDict({name: split.select_columns([*order, *sorted(shared)]) for name, split in splits.items()})


def with_all_text_splits(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Cut a missing test or validation split off train, by class.

    Raises:
        ValueError: a split would come out empty.
    """
    import numpy as np

    from clinsynth.data.splits import SHARES, cut_rows

    missing = {name: share for name, share in SHARES.items() if name not in splits}
    train = splits["train"]
    if missing:
        rows = cut_rows(np.asarray(train["label"][:]), np.array(groups_of(train)), missing)
        for name, chosen in rows.items():
            if not chosen:
                raise ValueError(
                    f"no class is large enough to cut off a {name} split; add texts, or name the splits in a column "
                    "split"
                )
        splits = {**splits, **{name: train.select(chosen) for name, chosen in rows.items()}}
        parts = ", ".join(f"{name} {len(rows[name])}" for name in rows)
        logger.info("no split %s: cut off train by class: %s texts", " or ".join(missing), parts)
    return {name: splits[name] for name in ("train", "validation", "test")}


def groups_of(dataset: Dataset) -> list[str]:
    """What must not be torn apart by a cut: the person where there is a column of them, else the text itself."""
    if "person" in dataset.column_names:
        return [str(person) for person in dataset["person"]]
    return [fingerprint(text) for text in dataset["text"]]


def fingerprint(text: str) -> str:
    """A digest that is the same for texts that differ in case and blanks alone."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()


def warn_of_shared_texts(splits: dict[str, Dataset]) -> None:
    train = {fingerprint(text) for text in splits["train"]["text"]}
    for name in ("validation", "test"):
        shared = sum(fingerprint(text) in train for text in splits[name]["text"])
        if shared:
            logger.warning(
                "%d of %d %s texts also stand in train: results on %s flatter", shared, len(splits[name]), name, name
            )


def choose_train_texts(train: Dataset, args: TextDataArguments, seed: int) -> Dataset:
    """Apply `--train_fraction` or `--few_shot`: by class, seeded, rows in their old order.

    Raises:
        ValueError: a class with fewer texts than `--few_shot`, or a negative seed.
    """
    import numpy as np

    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    if args.few_shot is None and args.train_fraction == 1:
        return train
    labels = np.asarray(train["label"][:])
    chosen = []
    for label, name in enumerate(train.features["label"].names):
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        wanted = args.few_shot or max(1, round(args.train_fraction * len(members)))
        if args.few_shot and wanted > len(members):
            raise ValueError(
                f"--few_shot {wanted}: class {name!r} has only {len(members)} train texts; give at most {len(members)}"
            )
        chosen.append(members[:wanted])
    rows = np.sort(np.concatenate(chosen))
    logger.info("train: %d of %d texts, by class, seed %d", len(rows), len(train), seed)
    return train.select(rows.tolist())


def check_text_classes(train: Dataset, args: TextDataArguments) -> None:
    """Raise a `ValueError` for fewer than two classes, or one below `--min_class_size` train texts."""
    import numpy as np

    names = train.features["label"].names
    if len(names) < 2:
        raise ValueError(
            f"--dataset {args.dataset} has {len(names)} class ({', '.join(names)}); two or more are needed: add texts "
            "of another, or check --label_column"
        )
    counts = np.bincount(train["label"][:], minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if count < args.min_class_size:
            allow = f", give --min_class_size {count}" if count else ""
            raise ValueError(
                f"class {name!r} has {count} train texts, fewer than --min_class_size {args.min_class_size}; add "
                f"texts{allow} or leave such classes out with --drop_small_classes true"
            )


@dataclass(frozen=True)
class TextArrays:
    """One split in memory.

    Attributes:
        texts: strings (n,), as objects.
        labels: int64, (n,), each in 0 .. len(label_names) - 1.
        label_names: class names in the order of their numbers.
        groups: subgroup column to its texts (n,), "unknown" where a row has none; see `clinsynth.data.labels`.
        noun: what a row is called in messages.
        column: of a data set that holds it.
        made_by: the command that writes synthetic ones.
    """

    noun: ClassVar[str] = "text"
    column: ClassVar[str] = "text"
    made_by: ClassVar[str] = "clinsynth generate text"

    texts: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray] = field(default_factory=dict)

    def take(self, rows: np.ndarray) -> TextArrays:
        """The rows at `rows` (numbers or a mask)."""
        groups = {column: values[rows] for column, values in self.groups.items()}
        return TextArrays(self.texts[rows], self.labels[rows], self.label_names, groups)

    def followed_by(self, more: TextArrays) -> TextArrays:
        """These rows and after them those of `more`, whose subgroups count as unknown."""
        return TextArrays(
            np.concatenate([self.texts, more.texts]),
            np.concatenate([self.labels, more.labels]),
            self.label_names,
            followed_by_unknown(self.groups, len(more.labels)),
        )

    def content(self) -> bytes:
        """The texts as bytes, other ones for other texts."""
        return json.dumps(self.texts.tolist()).encode()

    def read_like(self, dataset: Dataset) -> TextArrays:
        """The columns text and label of a data set.

        Raises:
            ValueError: a row without text or label; names the row.
        """
        texts, labels = dataset["text"][:], dataset["label"][:]
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"synthetic row {row} has no text; write one or remove the row")
            if label is None or label < 0:
                raise ValueError(f"synthetic row {row} has no label; give it one or remove the row")
        return TextArrays(as_objects(texts), np.asarray(labels, dtype=np.int64), list(dataset.features["label"].names))

    def check_like(self, other: TextArrays, name: str) -> None:
        """Texts of any length go together."""


def load_text_arrays(args: TextDataArguments, seed: int = 0) -> dict[str, TextArrays]:
    """Splits train, validation and test of `args.dataset`.

    Raises:
        ValueError: as `clinsynth.data.texts.load_text_dataset` does.
    """

    return {name: to_text_arrays(split) for name, split in load_text_dataset(args, seed).items()}


def to_text_arrays(dataset: Dataset) -> TextArrays:
    """A split with columns id, text, label and subgroups."""
    return TextArrays(
        as_objects(dataset["text"][:]),
        np.asarray(dataset["label"][:], dtype=np.int64),
        list(dataset.features["label"].names),
        # the texts of a small split are few enough to be taken for groups
        subgroups(dataset.remove_columns(["id", "text"])),
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
    """

    texts: list[str]
    labels: np.ndarray
    ids: list[str]
    example_ids: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, dataset: Dataset) -> TextSet:
        """The set of a data set with columns text and label, and perhaps id and example_ids."""
        columns = dataset.column_names
        ids = dataset["id"][:] if "id" in columns else [str(row) for row in range(len(dataset))]
        examples = dataset["example_ids"][:] if "example_ids" in columns else None
        return cls(dataset["text"][:], np.asarray(dataset["label"][:], dtype=np.int64), ids, examples)
