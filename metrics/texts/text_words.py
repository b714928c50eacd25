"""Texts as the measures take them: sets of labelled texts, their words, and words as numbers.

A word is a run of letters and digits, hyphens and apostrophes within it included, without regard to case. Languages
that do not part words by blanks come out as few long words: measures on words then say little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

WORD = re.compile(r"\w+(?:['’-]\w+)*")


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


def words_of(text: str) -> list[str]:
    """The words of a text in their order, in lower case, with straight apostrophes."""
    return WORD.findall(text.casefold().replace("’", "'"))


def as_rows(items: Sequence[Any]) -> np.ndarray:
    """Anything but numbers as an array (n,) of objects, to be chosen from as feature rows are."""
    rows = np.empty(len(items), dtype=object)
    rows[:] = items
    return rows


def word_rows(texts: Iterable[str]) -> np.ndarray:
    """The words of each text: an array (n,) of lists."""
    return as_rows([words_of(text) for text in texts])


def number_words(*sides: Iterable[list[str]]) -> list[list[np.ndarray]]:
    """Each side's texts as int64 arrays of word numbers; equal words have one number on all sides."""
    numbers: dict[str, int] = {}
    return [
        [np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64) for words in side]
        for side in sides
    ]
