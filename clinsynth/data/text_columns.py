"""The columns id, text, label and subgroups of a text data set, from the columns that it came with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from clinsynth.data.labels import derive_names, sounds_identifying, to_number
from clinsynth.data.splits import PERSON_COLUMNS
from clinsynth.data.subgroups import MAX_GROUPS

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.text_arguments import TextDataArguments

logger = logging.getLogger("clinsynth")

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
