"""What a data set must fulfil before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


def check_not_empty(splits: dict[str, Dataset]) -> None:
    """Raises ValueError for a split without rows."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"split {name} is empty; remove it, and it is cut off train")


def check_classes(counts: Sequence[int] | np.ndarray, names: Sequence[str], min_class_size: int) -> None:
    """Raises ValueError for fewer than two classes, an empty class, or one below `min_class_size` train images."""
    if min_class_size < 1:
        raise ValueError(f"--min_class_size must be at least 1, got {min_class_size}")
    if len(names) < 2:
        raise ValueError(f"the data set has {len(names)} class; at least two are needed: add pictures of another")
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise ValueError(
                f"class {name!r} has no train images; add some, or leave the class out: without its name in "
                "--label_names, and with labels numbered from 0 without a gap"
            )
        if count < min_class_size:
            raise ValueError(
                f"class {name!r} has {count} train images, fewer than --min_class_size {min_class_size}; "
                f"add images, or give --min_class_size {count}"
            )
