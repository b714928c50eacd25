"""From a `datasets.Dataset` of labelled texts to arrays in memory, the sibling of `clinsynth.data.images`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from clinsynth.data.subgroups import followed_by_unknown, subgroups

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.text_arguments import TextDataArguments


@dataclass(frozen=True)
class TextArrays:
    """One split in memory.

    Attributes:
        texts: strings (n,), as objects.
        labels: int64, (n,), each in 0 .. len(label_names) - 1.
        label_names: class names in the order of their numbers.
        groups: subgroup column to its texts (n,), "unknown" where a row has none; see `clinsynth.data.subgroups`.
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
    from clinsynth.data.texts import load_text_dataset

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


def as_objects(texts: Sequence[str]) -> np.ndarray:
    """Strings as an array (n,) of objects, each of its own length."""
    rows = np.empty(len(texts), dtype=object)
    rows[:] = texts
    return rows
