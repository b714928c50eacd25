"""YAML that somebody else may have written: plain values, bounded in size, depth and number, and nothing given twice.

280 bytes of aliases may stand for gigabytes, and a thousand brackets for a thousand nested calls: neither is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 256 << 10
MOST_DEPTH = 20
MOST_VALUES = 20_000
LONGEST_NUMBER = 64
MERGE = "tag:yaml.org,2002:merge"
SHOWN = 80
"""Characters of a value that messages repeat."""


def cut(value: object) -> str:
    """A value in a message, at most 80 characters of it, on one line."""
    text = " ".join(str(value)[: 4 * SHOWN].split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


class PlainLoader(yaml.SafeLoader):
    """Builds plain values only, and refuses a key given twice, and what is too deep, too much or too long.

    An alias counts as all that it stands for.
    """

    depth = values = deepest = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        """The next value of the file; raises a `yaml.YAMLError` at a bound."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        before, outer = self.values, self.deepest
        self.depth += 1
        self.values += 1
        self.deepest = self.depth
        self.check_bounds(mark)
        node: Any = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        if is_alias:
            if not hasattr(node, "weight"):
                raise yaml.MarkedYAMLError(None, None, "a value stands within itself; write it out", mark)
            self.values, self.deepest = before + node.weight, self.depth + node.height
            self.check_bounds(mark)
        else:
            node.weight, node.height = self.values - before, self.deepest - self.depth
        self.depth -= 1
        self.deepest = max(outer, self.deepest)
        return node

    def check_bounds(self, mark: Any) -> None:
        """Raise a `yaml.YAMLError` where the file is too deep or holds too much, at this place of it."""
        if self.deepest > MOST_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"more than {MOST_DEPTH} levels deep; make it simpler", mark)
        if self.values > MOST_VALUES:
            raise yaml.MarkedYAMLError(None, None, f"over {MOST_VALUES} values, aliases written out; cut it", mark)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """A text, or the digits of a number that is about to be built."""
        if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            raise yaml.MarkedYAMLError(None, None, "a number is too long; put a text in quotes", node.start_mark)
        return super().construct_scalar(node)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises a `yaml.YAMLError` that names the doubled key and its line."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:  # `<<: *name`, whose keys come in below
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(None, None, f"{cut(repr(key))} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else repr(key))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is no YAML, or beyond a bound; names the line and what is wrong.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 10} KB; make it smaller")
    try:
        return yaml.load(text, Loader=PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{cut(error.problem)}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(cut(error)) from error


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        ValueError: it cannot be read, or as of `parse_yaml`; names the file.
    """
    try:
        with open(path, "rb") as file:
            return parse_yaml(file.read(MOST_BYTES + 1).decode())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read as YAML in UTF-8 ({why}); correct it there") from error
