"""Subgroups of a data set's rows: its columns of sex, age band, skin type and the like, as texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

AGE_BANDS = (0, 18, 40, 60, 80)  # lower ends, years

UNKNOWN = "unknown"
MAX_GROUPS = 30  # a column with more values than these names rows rather than groups


def subgroups(dataset: Dataset) -> dict[str, np.ndarray]:
    """Texts (n,) of every column but image and label that divides the rows into groups.

    Names of a ClassLabel, texts, whole numbers as they are, ages as the bands of `clinsynth summarize`; a missing
    value is "unknown". Columns of other numbers, and those with more than 30 different values, are left out.
    """
    from datasets import ClassLabel, Value

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
            texts = as_texts(values)
        if len(set(texts)) <= MAX_GROUPS:
            found[column] = np.array(texts, dtype=str)
    return found


def followed_by_unknown(groups: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Subgroups with `count` more rows of which none is known."""
    unknown = np.full(count, UNKNOWN)
    return {column: np.concatenate([values, unknown]) for column, values in groups.items()}


def as_texts(values: Sequence[Any]) -> list[str]:
    return [UNKNOWN if value is None or str(value).strip() == "" else str(value) for value in values]


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
