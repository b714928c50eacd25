"""The label column as a `ClassLabel`, and the other columns that may come along."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

logger = logging.getLogger("clinsynth")

IDENTIFYING_WORDS = frozenset(
    "accession address birth birthdate city date dob email id ids identifier initials insurance mrn name names "
    "patient patientid patientname person phone physician postcode ssn street subject surname telephone uid".split()
)
SUBGROUP_WORDS = frozenset({"age", "sex", "gender"})
LONGEST_LABEL = 100
"""Characters of a class name: what is longer is somebody's text, and must not come into a message."""


def with_class_labels(splits: dict[str, Dataset], column: str, names: list[str] | None) -> dict[str, Dataset]:
    """Splits whose column `label` is a ClassLabel made from `column`: class names, or numbers from 0.

    Without `names` they are the train split's own, the sorted texts found, or the numbers as text.

    Raises:
        ValueError: no such column, an unknown name, a number out of range or a missing label; names split and row.
    """
    check_column(splits, column, "name the right one with --label_column")
    own = {split: getattr(dataset.features[column], "names", None) for split, dataset in splits.items()}
    values = {
        split: by_name(dataset[column][:], None if names else own[split], column) for split, dataset in splits.items()
    }
    if any(names and other is not None and len(other) != len(names) for other in own.values()):
        raise ValueError(
            f"--label_names gives {len(names or [])} names, but the data set has {len(own['train'] or [])} classes; "
            "give each one name, in the order of their numbers"
        )
    names = names or own["train"] or derive_names([value for column in values.values() for value in column])
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"--label_names must differ from each other and not be empty, got {', '.join(names)}")
    result = {}
    for split, dataset in splits.items():
        numbers = [to_number(value, names, f"{split} row {row}") for row, value in enumerate(values[split])]
        dataset = dataset.remove_columns(list({column, "label"} & set(dataset.column_names)))
        result[split] = dataset.add_column("label", numbers, feature=ClassLabel(names=names))
    return result


def check_column(splits: dict[str, Dataset], column: str, hint: str) -> None:
    """Raise a `ValueError` that ends in `hint` for a split without this column."""
    for split, dataset in splits.items():
        if column not in dataset.column_names:
            there = ", ".join(dataset.column_names)
            raise ValueError(f"{split} has no column {column!r}; it has {there}: {hint}")


def by_name(values: list[Any], own: list[str] | None, column: str) -> list[Any]:
    """Labels as the names `own` where a ClassLabel has some, else as they are.

    Raises:
        ValueError: one of them is a longer text than any class name.
    """
    if own is not None:
        return [own[value] if value is not None and value >= 0 else None for value in values]
    long = next((value for value in values if isinstance(value, str) and len(value) > LONGEST_LABEL), None)
    if long:
        raise ValueError(
            f"--label_column {column} holds texts of {len(long)} characters and more, not classes; name the column of "
            "classes"
        )
    return values


def derive_names(values: list[Any]) -> list[str]:
    """Class names from labels: 0 to the highest number where all are whole numbers, else the sorted texts."""
    given = [value for value in values if value is not None and value != ""]
    if all(is_number(value) for value in given):
        # More classes than rows leave some empty anyway; the bound keeps a stray 999999999 from filling the memory.
        return [str(number) for number in range(min(max(map(int, given), default=-1) + 1, len(given)))]
    return sorted({value for value in given if isinstance(value, str)})


def first_of(names: Iterable[str], most: int = 40) -> str:
    """`a, b, c` for a message; of more than `most` names the first, and how many there are."""
    listed = list(names)
    more = f", … ({len(listed):,} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.removeprefix("-").isdecimal()
    return isinstance(value, int)


def to_number(value: Any, names: list[str], where: str) -> int:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if value is None or value == "":
        raise ValueError(f"{where} has no label; give it one or remove the row")
    if not is_number(value):
        raise ValueError(
            f"{where}: label {value!r} is unknown; the classes are {', '.join(names) or 'none'}: "
            "make it one of them or a whole number, or name them with --label_names"
        )
    if not 0 <= int(value) < len(names):
        raise ValueError(
            f"{where}: label {value} is out of range; {len(names)} classes are numbered 0 to {len(names) - 1}: "
            "change it, or give all classes their --label_names"
        )
    return int(value)


def without_identifiers(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Keep image, label and plain columns (subgroups), unless their names sound like a person's or a record's."""
    features = splits["train"].features
    dropped = [column for column in features if column != "image" and not is_plain(column, features)]
    if dropped:
        logger.info(
            "columns left out, since they may identify a person or are not plain values: %s", ", ".join(dropped)
        )
    shared = set.intersection(*(set(split.column_names) for split in splits.values())) - set(dropped)
    order = ["image", "label", *sorted(shared - {"image", "label"})]
    return {name: split.select_columns(order) for name, split in splits.items()}


def is_plain(column: str, features: Features) -> bool:
    """Whether a column holds plain values and its name does not sound like a person's or a record's."""
    return isinstance(features[column], ClassLabel | Value) and not sounds_identifying(column)


def sounds_identifying(column: str) -> bool:
    """Whether a column's name has a word such as id, name, patient or birth: image_id, PatientName, date-of-birth.

    A patient's age and sex are subgroups.
    """
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)}
    return bool(words & IDENTIFYING_WORDS) and not words & SUBGROUP_WORDS


def check_not_empty(splits: dict[str, Dataset]) -> None:
    """Raises ValueError for a split without rows."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"split {name} is empty; remove it, and it is cut off train")


AGE_BANDS = (0, 18, 40, 60, 80)  # lower ends, years

UNKNOWN = "unknown"
MAX_GROUPS = 30  # a column with more values than these names rows rather than groups


def subgroups(dataset: Dataset) -> dict[str, np.ndarray]:
    """Texts (n,) of every column but image and label that divides the rows into groups.

    Names of a ClassLabel, texts, whole numbers as they are, ages as the bands of `clinsynth summarize`; a missing
    value is "unknown". Columns of other numbers, and those with more than 30 different values, are left out.
    """
    found = {}
    for column, feature in dataset.features.items():
        if column in ("image", "label") or not isinstance(feature, ClassLabel | Value):
            continue
        values = dataset[column][:]
        if isinstance(feature, ClassLabel):
            texts = [feature.names[value] if value is not None and value >= 0 else UNKNOWN for value in values]
        elif is_age(column):
            texts = [age_band(float(value)) if is_numeric(value) else UNKNOWN for value in values]
        elif feature.dtype.startswith("float"):
            continue
        else:
            texts = [UNKNOWN if value is None or not str(value).strip() else str(value) for value in values]
        if len(set(texts)) <= MAX_GROUPS:
            found[column] = np.array(texts, dtype=str)
    return found


class LabelledRows:
    """One split in memory: samples, or features of them, with their labels and subgroups; of frozen dataclasses.

    Attributes:
        noun: what a row is called in messages and in published records.
        rows_in: name of the field that holds the samples, an array of n.
        labels: int64, (n,), each in 0 .. len(label_names) - 1.
        label_names: class names in the order of their numbers.
        groups: subgroup column to its texts (n,), "unknown" where a row has none; see `subgroups`.
    """

    noun: ClassVar[str]
    rows_in: ClassVar[str]
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> Self:
        """The rows at `rows` (numbers or a mask)."""
        groups = {column: values[rows] for column, values in self.groups.items()}
        return self._with(getattr(self, self.rows_in)[rows], self.labels[rows], groups)

    def followed_by(self, more: Self) -> Self:
        """These rows and after them those of `more`, whose subgroups count as unknown."""
        values = [getattr(rows, self.rows_in) for rows in (self, more)]
        unknown = np.full(len(more.labels), UNKNOWN)
        groups = {column: np.concatenate([known, unknown]) for column, known in self.groups.items()}
        return self._with(np.concatenate(values), np.concatenate([self.labels, more.labels]), groups)

    def _with(self, values: np.ndarray, labels: np.ndarray, groups: dict[str, np.ndarray]) -> Self:
        fields: dict[str, Any] = {self.rows_in: values, "labels": labels, "groups": groups}
        return replace(self, **fields)  # type: ignore[type-var]  # a frozen dataclass inherits from this


class LabelledSamples(LabelledRows):
    """Samples as a generator makes them and a classifier takes them.

    Attributes:
        column: of a data set that holds them.
        made_by: the command that writes synthetic ones.
    """

    column: ClassVar[str]
    made_by: ClassVar[str]

    def content(self) -> bytes:
        """The samples as bytes, other ones for other samples."""
        raise NotImplementedError

    def read_like(self, dataset: Dataset) -> Self:
        """The samples and labels of a data set, in the form of these."""
        raise NotImplementedError

    def check_like(self, other: Self, name: str) -> None:
        """Raise a `ValueError` where the samples of `other`, the set called `name`, have another form than these."""


def is_age(column: str) -> bool:
    """Whether one of the words of a column's name is age: age, patient_age."""
    return "age" in re.split(r"[^a-z]+", column.lower())


def is_numeric(value: Any) -> bool:
    try:
        return float(value) >= 0
    except (TypeError, ValueError):
        return False


def age_band(age: float) -> str:
    number = int(np.searchsorted(AGE_BANDS, age, side="right"))
    return f"{AGE_BANDS[number - 1]}-{AGE_BANDS[number] - 1}" if number < len(AGE_BANDS) else f"{AGE_BANDS[-1]}+"
