"""The text of a bounded schema, laid out as json.dumps does: its grammar, and the shortest way to its end.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
import re
from bisect import bisect_left
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from .schemas import (
    LONGEST_NUMBER,
    LONGEST_PATTERN,
    first_characters,
    pattern_grammar,
    pattern_schema,
)

CHARACTER = r'(\\["\\nt]|[^"\\\x00-\x1F\x7F-\x9F])'
"""One character of a string. No \\u: every character is written as itself, and half a surrogate is none."""
DIGITS = {"integer": "/-?(0|[1-9][0-9]*)/", "number": r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?/"}
STRING = re.compile(r'"((?:\\u[0-9a-fA-F]{4}|\\[^u]|[^"\\])*)(\\(?:u[0-9a-fA-F]{0,3})?)?("?)')
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
LITERALS = {"boolean": ["true", "false"], "null": ["null"]}
NUMBER = re.compile(r"[-+.0-9eE]*")
BYTES = LLTokenizer("byte")

Rest = list[str | int]
"""What is left to write: text about which there is no choice, and numbers of characters of any kind, in turn."""


def grammar(form: dict[str, Any]) -> str:
    """The grammar of a bounded schema in llguidance's dialect of Lark."""
    names: dict[str, str] = {}
    start = rule(form, names)
    return "\n".join([f"start: {start}", *(f"{name}: {body}" for body, name in names.items())])


def rule(node: dict[str, Any], names: dict[str, str]) -> str:
    """The name of a value's rule, with a capital where it is a regular expression; `names` gets new ones, by body."""
    body, is_expression = describe_node(node, names)
    return names.setdefault(body, f"{'T' if is_expression else 'r'}{len(names)}")


def describe_node(node: dict[str, Any], names: dict[str, str]) -> tuple[str, bool]:
    """The body of a value's rule, and whether it is a regular expression."""
    kind = kind_of(node)
    if kind == "anyOf":
        return " | ".join(rule(option, names) for option in node["anyOf"]), False
    if kind == "pattern":
        return f"%json {json.dumps(pattern_schema(node['pattern']))}", False
    if kind == "string":
        return f'/"{CHARACTER}{{{node["minLength"]},{node["maxLength"]}}}"/', True
    if kind in DIGITS:
        return f"{DIGITS[kind]} & /.{{1,{LONGEST_NUMBER}}}/", True
    if kind == "object":
        leads = zip(node["x-leads"], node["properties"].values(), strict=True)
        parts = (f"{json.dumps(''.join(lead))} {rule(part, names)}" for lead, part in leads)
        return " ".join([*parts, '"}"']), False
    if kind == "array":
        item, least, most = rule(node["items"], names), node["minItems"], node["maxItems"]
        items = f'{item} (", " {item}){{{max(0, least - 1)},{most - 1}}}' if most > 1 else item
        return f'"[" {items if least else f"({items})?"} "]"', False
    return " | ".join(json.dumps(text) for text in LITERALS.get(kind) or node["x-texts"]), True


def kind_of(node: dict[str, Any]) -> str:
    """What a value of a bounded schema is made by: anyOf, pattern, enum, or its type."""
    return next((kind for kind in ("anyOf", "pattern", "enum") if kind in node), str(node.get("type")))


def ending(form: dict[str, Any], written: str, counts_blanks: bool = True) -> Rest:
    """The shortest rest of a text that begins with `written`, blanks between whose parts may differ from the layout.

    Args:
        counts_blanks: whether blanks that begin a string count for its length.

    Raises:
        ValueError: no text of the schema begins so.
    """
    reader = Reader(written, counts_blanks)
    reader.read(form)
    joined: Rest = []
    for part in reader.rest:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        elif part:
            joined.append(part)
    return joined


def size(rest: Rest) -> int:
    """The most tokens that a rest takes: one a byte of its text, one a character that is free."""
    return sum(part if isinstance(part, int) else len(part.encode()) for part in rest)


class Reader:
    """Reads a text along its schema; behind the text's end, what is missing of each part goes to `rest`."""

    def __init__(self, text: str, counts_blanks: bool):
        self.text, self.counts_blanks, self.at = text, counts_blanks, 0
        self.rest: Rest = []

    def ended(self) -> bool:
        """Whether nothing follows but blanks, which are passed over."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at == len(self.text)

    def read(self, node: dict[str, Any]) -> None:
        """Pass over a value."""
        kind = kind_of(node)
        if kind == "anyOf":
            self.read(self.option(node["anyOf"]))
        elif kind == "object":
            for lead, part in zip(node["x-leads"], node["properties"].values(), strict=True):
                self.read_marks(*lead)
                self.read(part)
            self.read_marks("}")
        elif kind == "array":
            self.read_array(node)
        elif kind in ("string", "pattern"):
            self.read_string(node)
        elif kind in DIGITS:
            self.read_number()
        else:
            self.read_choice(LITERALS.get(kind) or node["x-texts"])

    def read_marks(self, *marks: str) -> None:
        """Pass over parts of which no letter is free, and the blanks around them."""
        for mark in marks:
            core = mark.rstrip()
            found = "" if self.ended() else self.text[self.at : self.at + len(core)]
            if not core.startswith(found):
                raise ValueError(f"a text of the schema has {core!r} at character {self.at}")
            self.at += len(found)
            if self.at == len(self.text):
                self.rest.append(mark[len(found) :])

    def option(self, options: list[dict[str, Any]]) -> dict[str, Any]:
        """The one that is being written; where none is, the shortest."""
        if self.ended():
            return min(options, key=lambda option: size(ending(option, "")))
        fitting = (option for option in options if self.text[self.at] in "".join(first_characters(option)))
        return next(fitting, options[0])

    def read_array(self, node: dict[str, Any]) -> None:
        self.read_marks("[")
        for count in range(node["maxItems"]):
            if (count >= node["minItems"]) if self.ended() else self.text[self.at] == "]":
                break
            if count:
                self.read_marks(", ")
            self.read(node["items"])
        self.read_marks("]")

    def read_string(self, node: dict[str, Any]) -> None:
        if self.ended():
            self.rest += [shortest_match(node["pattern"], "")] if "pattern" in node else ['"', node["minLength"], '"']
            return
        found = STRING.match(self.text, self.at)
        if found is None or not (found[3] or found.end() == len(self.text)):
            raise ValueError(f"a text of the schema has a string at character {self.at}")
        self.at = found.end()
        if found[3]:
            return
        if "pattern" in node:
            self.rest.append(shortest_match(node["pattern"], found[0]))
            return
        body, begun = found[1] if self.counts_blanks else found[1].lstrip(), found[2] or ""
        written = len(ESCAPE.sub("x", body))
        self.rest += ["n" if begun == "\\" else "0" * (-len(begun) % 6)] if begun else []
        self.rest += [max(0, node["minLength"] - written - bool(begun)), '"']

    def read_number(self) -> None:
        begun = "" if self.ended() else NUMBER.findall(self.text, self.at)[0]
        self.at += len(begun)
        if self.at == len(self.text) and not begun[-1:].isdigit():
            self.rest.append("0")

    def read_choice(self, options: list[str]) -> None:
        written = "" if self.ended() else self.text[self.at :]
        begun = [option for option in options if option.startswith(written)]
        if begun:
            self.at = len(self.text)
            self.rest.append(min(begun, key=len)[len(written) :])
            return
        whole = [option for option in options if written.startswith(option)]
        if not whole:
            raise ValueError(f"a text of the schema has one of {', '.join(options)} at character {self.at}")
        self.at += len(max(whole, key=len))


@lru_cache(maxsize=1024)
def shortest_match(pattern: str, begun: str) -> str:
    """What is left of the shortest JSON string by a pattern, in characters, that begins with `begun`."""
    most = bisect_left(range(LONGEST_PATTERN + 1), True, key=lambda most: matcher(pattern, begun, most) is not None)
    state, rest = matcher(pattern, begun, most), b""
    if state is None:
        raise ValueError(f"no text by pattern {pattern!r} begins so")
    bits = allocate_token_bitmask(1, BYTES.vocab_size)
    while not state.is_stopped():
        forced = state.compute_ff_bytes()
        if not forced:
            fill_next_token_bitmask(state, bits)
            forced = bytes([int(np.unpackbits(bits.view(np.uint8), bitorder="little").argmax())])
        state.consume_tokens(list(forced))
        rest += forced
    return rest.decode()


def matcher(pattern: str, begun: str, most: int) -> LLMatcher | None:
    """llguidance's state, on bytes, behind the beginning of a string of at most `most` characters; None without."""
    state = LLMatcher(BYTES, pattern_grammar(pattern, maxLength=most), log_level=0)
    return state if state.consume_tokens(list(begun.encode())) and not state.is_error() else None
