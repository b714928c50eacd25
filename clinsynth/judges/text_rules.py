"""Reviewed rules that find kinds of texts: a YAML file of categories, each with patterns of words.

    refusal:
      meaning: the model declines to write
      patterns: [...]
      unless: [...]

A pattern is a regular expression without regard to case, in which a blank stands for any run of blanks. It counts in
a sentence that no pattern of `unless` is found in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.plain_yaml import read_yaml

SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
AUDIT_FILE = "audit.json"
"""What a safety audit by such rules writes into the folder of a set."""
FIELDS = {"meaning", "patterns", "unless"}


@dataclass(frozen=True)
class Category:
    """A kind of text: what it means, and what tells it."""

    name: str
    meaning: str
    patterns: tuple[re.Pattern[str], ...]
    unless: tuple[re.Pattern[str], ...]

    def holds(self, sentence: str) -> bool:
        """Whether a sentence is of it."""
        found = any(pattern.search(sentence) for pattern in self.patterns)
        return found and not any(pattern.search(sentence) for pattern in self.unless)


def read_categories(path: Path, flag: str) -> list[Category]:
    """The categories of a file, which `flag` named.

    Raises:
        ValueError: it is no such file; names the category and the pattern.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{flag} {path} must hold categories, each with a meaning and patterns")
    return [read_category(f"{flag} {path}: {name}", str(name), fields) for name, fields in values.items()]


def read_category(where: str, name: str, fields: Any) -> Category:
    if not isinstance(fields, dict) or not {"meaning"} <= fields.keys() <= FIELDS:
        raise ValueError(f"{where} must have a meaning, and may have patterns and unless")
    patterns, unless = (tuple(compiled(where, fields.get(key) or [])) for key in ("patterns", "unless"))
    return Category(name, " ".join(str(fields["meaning"]).split()), patterns, unless)


def compiled(where: str, patterns: Iterable[Any]) -> Iterable[re.Pattern[str]]:
    for pattern in patterns:
        try:
            yield re.compile(" ".join(str(pattern).split()).replace(" ", r"\s+"), re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{where} has the pattern {pattern!r}, which is none ({error}); correct it") from error


def categories_of(text: str, categories: Iterable[Category]) -> list[str]:
    """The names of the categories that a sentence of `text` is of."""
    sentences = SENTENCE.split(text.replace("’", "'"))
    return [category.name for category in categories if any(map(category.holds, sentences))]
