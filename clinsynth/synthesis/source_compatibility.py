"""Which sources a class may be made from: those with a body site, skin type or the like that the class comes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.data.subgroups import UNKNOWN


def read_compatible(path: str, train: Any, targets: list[str]) -> dict[str, dict[str, list[str]]]:
    """Class to column to the values that its sources may have; an unknown value agrees with nothing.

    Raises:
        ValueError: the file cannot be read, or names a column or class that there is not.
    """
    import yaml

    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--compatible {path} cannot be read as YAML in UTF-8 ({error}); correct it there") from error
    if not isinstance(table, dict) or not table.get("agree") or set(table) - {"agree", "classes"}:
        raise ValueError(
            f"--compatible {path} must hold `agree: [column, …]` and, if need be, `classes:`; write these"
        )
    own = table.get("classes") or {}
    for name in own:
        if name not in train.label_names:
            raise ValueError(f"--compatible {path} names the class {name!r}; there are {', '.join(train.label_names)}")
    for column in [*table["agree"], *(column for values in own.values() for column in values)]:
        if column not in train.groups:
            raise ValueError(
                f"--compatible {path}: --from_images has no column {column!r} of groups; it has "
                f"{', '.join(train.groups) or 'none'}"
            )
    return {name: {**values_of(train, name, table["agree"]), **as_texts(own.get(name, {}))} for name in targets}


def values_of(train: Any, name: str, columns: list[str]) -> dict[str, list[str]]:
    """The known values that the train pictures of a class have in each column."""
    mine = np.array([train.label_names[label] == name for label in train.labels])
    return {column: sorted(set(train.groups[column][mine]) - {UNKNOWN}) for column in columns}


def as_texts(values: dict[str, list[Any]]) -> dict[str, list[str]]:
    return {column: [str(value) for value in entries] for column, entries in values.items()}
