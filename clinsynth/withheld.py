"""Values of a data set's columns that were left out: no file, log or message lets one through.

Whoever reads a data set withholds them; whoever writes asks `without_withheld`. It is a second look, since a column
that was left out is handed to nobody. Only hashes are kept, and only of values of several words: a shorter one, `left`
or `1.5`, stands in other places by itself.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import TextIO

WORD = re.compile(r"\w+")
FIRST = 2
"""Words by which a value is found."""
SHORTEST = 12
"""Characters of a value that is looked for."""
MOST = 100_000
"""Values of a column that are looked for."""

_columns: dict[int, dict[tuple[int, int], str]] = {}
"""Hash of a value's first words to length and hash of the value, and the column that it stood in."""


def withhold(column: str, values: Iterable[object]) -> None:
    """Look for `values` of the column in whatever is written from now on."""
    for _, value in zip(range(MOST), values, strict=False):
        for start, whole in marks(str(value)):
            _columns.setdefault(start, {})[whole] = column


def release(values: Iterable[object]) -> None:
    """Let `values` through: names of classes and of subgroups, which a column left out may hold too."""
    for value in values:
        for start, whole in marks(str(value)):
            _columns.get(start, {}).pop(whole, None)


def marks(value: str) -> Iterator[tuple[int, tuple[int, int]]]:
    """What a value is known by, as it stands in text, in JSON and in HTML; nothing of a short one."""
    value = value.strip()
    for form in {value, json.dumps(value)[1:-1], html.escape(value)} if len(value) >= SHORTEST else ():
        words = list(WORD.finditer(form))
        if len(words) >= FIRST:
            rest = form[words[0].start() :]
            yield hash(tuple(word.group() for word in words[:FIRST])), (len(rest), hash(rest))


def without_withheld(text: str) -> str:
    """`text` with each withheld value replaced by the name of its column."""
    if not _columns:
        return text
    parts, done, words = [], 0, list(WORD.finditer(text))
    for number, word in enumerate(words):
        start = word.start()
        known = _columns.get(hash(tuple(match.group() for match in words[number : number + FIRST])), {})
        for (length, whole), column in known.items():
            if start >= done and hash(text[start : start + length]) == whole:
                parts += [text[done:start], f"[withheld: column {column}]"]
                done = start + length
    return "".join([*parts, text[done:]])


class Withholding:
    """The stream `stream`, which withheld values do not pass."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text` without them."""
        return self.stream.write(without_withheld(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)
