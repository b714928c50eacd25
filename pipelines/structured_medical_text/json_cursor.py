"""A place in the JSON text of a schema, on lm-format-enforcer's parser, walked byte by byte.

The parser knows the structure: objects, arrays, numbers, patterns, alternatives. What is within a string and how the
text is laid out is decided here, because the parser lets raw line breaks, half surrogates and uncounted leading spaces
into strings, and whitespace without end between them. The layout is json.dumps's: one space after a comma or colon.
This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
import string
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser
from lmformatenforcer.characterlevelparser import CharacterLevelParser, UnionParser
from lmformatenforcer.jsonschemaparser import (
    ListParsingState,
    NumberParsingState,
    ObjectParsingStage,
    ObjectParsingState,
    StringParsingState,
)

from .schema_bounds import LONGEST_NUMBER

WHITESPACE = frozenset(b" \t\r\n")
ALPHABET = "".join(map(chr, range(0x20, 0x7F)))
DIGITS = frozenset(string.digits.encode())
QUOTE, COMMA, COLON, SPACE, DOT = b'",: .'


@dataclass(frozen=True)
class Cursor:
    """A place in the text.

    Attributes:
        parser: what lm-format-enforcer knows of it.
        space_due: a comma or colon has just been written.
        spelled: within a string that is one of several, what is written of it, as JSON.
    """

    parser: CharacterLevelParser
    space_due: bool = False
    spelled: bytes = b""

    @cached_property
    def top(self) -> CharacterLevelParser | None:
        """The innermost value being written."""
        stack = getattr(self.parser, "object_stack", None)
        return stack[-1] if stack else None

    @cached_property
    def open_string(self) -> StringParsingState | None:
        """The string whose opening quote is written and whose closing quote is not."""
        top = self.top
        if not isinstance(top, StringParsingState) or not top.require_opening_quote:
            return None
        return top if top.seen_opening_quote and not top.seen_closing_quote else None

    @cached_property
    def choices(self) -> dict[bytes, str]:
        """JSON text, without quotes, to value, of the strings that may be written here; empty where none is open."""
        values = (self.open_string.allowed_strings or []) if self.open_string else []
        return {json.dumps(value, ensure_ascii=False)[1:-1].encode(): value for value in values}

    @cached_property
    def lengths(self) -> tuple[int, int] | None:
        """Least and most characters where a free text begins here, else None."""
        text = self.open_string
        if text is None or self.choices or text.regex_parser:
            return None
        return text.min_length or 0, text.max_length

    @cached_property
    def complete(self) -> bool:
        """The text may end here, and cannot go on."""
        return not self.allowed and bool(self.parser.can_end())

    @cached_property
    def allowed(self) -> frozenset[int]:
        """The bytes that may follow; those of a free text are not told."""
        if self.space_due:
            return frozenset([SPACE])
        if self.choices:
            rests = [text[len(self.spelled) :] for text in self.choices if text.startswith(self.spelled)]
            return frozenset(rest[0] if rest else QUOTE for rest in rests)
        characters = frozenset(self.parser.get_allowed_characters().encode("ascii", errors="ignore"))
        if self.open_string:
            return characters if self.open_string.parsed_string else characters - WHITESPACE
        if isinstance(self.top, NumberParsingState):
            characters -= number_forbids(self.top)
        return characters - WHITESPACE

    def advance(self, byte: int) -> "Cursor":
        """The place after `byte`, which must be allowed."""
        if self.space_due:
            return Cursor(self.parser)
        if self.choices:
            spelled = self.spelled + bytes([byte])
            if any(text.startswith(spelled) for text in self.choices):
                return Cursor(self.parser, spelled=spelled)
            return self.close(self.choices[self.spelled])
        in_text = self.open_string is not None
        return Cursor(self.parser.add_character(chr(byte)), space_due=not in_text and byte in (COMMA, COLON))

    def close(self, value: str | None = None) -> "Cursor":
        """The place after the closing quote of a choice with this value, or of a free text."""
        text: Any = self.open_string
        filled = text._clone()
        # the parser asks for the least length before it lets a string end; which characters is nothing to it
        filled.parsed_string = value if value is not None else "x" * (text.min_length or 0)
        parser = JsonSchemaParser(self.parser.context, self.parser.config, [*self.parser.object_stack[:-1], filled])
        parser.last_non_whitespace_character = "x"
        return Cursor(parser.add_character('"'))

    @cached_property
    def key(self) -> Hashable:
        """The same for all places from which the same texts follow."""
        return signature(self.parser), self.space_due, self.spelled


def start(schema: dict[str, Any]) -> Cursor:
    """The beginning of the text of a bounded schema."""
    config = CharacterLevelParserConfig(
        alphabet=ALPHABET,
        max_consecutive_whitespaces=1 << 30,
        force_json_field_order=True,
        max_json_array_length=1 << 30,
    )
    return Cursor(JsonSchemaParser(schema, config))


def number_forbids(number: NumberParsingState) -> frozenset[int]:
    """What the parser allows in a number and is not wanted: exponents, points in whole numbers, endless digits."""
    forbidden = frozenset(b"eE+") if number.parsed_string else frozenset(b"eE+.")
    if not number.allow_floating_point or len(number.parsed_string) >= LONGEST_NUMBER - 2:
        forbidden |= {DOT}
    return forbidden | DIGITS if len(number.parsed_string) >= LONGEST_NUMBER else forbidden


def signature(parser: Any) -> Hashable:
    """What of a parser's state decides how the text may go on."""
    if isinstance(parser, JsonSchemaParser):
        stack: list[Any] = parser.object_stack
        top = stack[-1] if stack else None
        closed = isinstance(top, StringParsingState) and top.seen_closing_quote
        name_follows = closed and len(stack) > 1 and is_before_colon(stack[-2])
        return (
            tuple(signature(part) for part in stack),
            stack[-1].parsed_string if name_follows else "",
            parser.last_parsed_string if is_before_colon(top) else "",
            parser.last_non_whitespace_character == "[",
        )
    if isinstance(parser, UnionParser):
        return ("union", tuple(signature(part) for part in parser.parsers))
    if isinstance(parser, ObjectParsingState):
        return ("object", id(parser.schema_object), parser.current_stage.value, len(parser.existing_keys))
    if isinstance(parser, ListParsingState):
        seen = (parser.seen_list_opener, parser.seen_list_closer, parser.num_items_seen)
        return ("list", id(parser.list_member_type), parser.min_items, parser.max_items, seen)
    if isinstance(parser, NumberParsingState):
        return ("number", parser.allow_floating_point, number_signature(parser))
    if isinstance(parser, StringParsingState):
        return ("string", string_signature(parser))
    return type(parser).__name__


def is_before_colon(parser: Any) -> bool:
    """An object whose property's name is being written, or just was."""
    stage = ObjectParsingStage.PARSING_KEY_VALUE_SEPARATOR
    return isinstance(parser, ObjectParsingState) and parser.current_stage == stage


def number_signature(number: NumberParsingState) -> Hashable:
    written = number.parsed_string
    start_matters = written if written in ("", "-", "0", "-0") else ""
    return len(written), start_matters, number.seen_decimal_point, written[-1:].isdigit()


def string_signature(text: StringParsingState) -> Hashable:
    choices = tuple(map(str, text.allowed_strings or ()))
    bounds = (text.min_length, text.max_length, text.pattern)
    state = text.regex_parser.current_state if text.regex_parser else None
    # of a closed string nothing matters any more but a name's text, which the object asks for
    written = text.parsed_string if choices and not text.seen_closing_quote else bool(text.parsed_string)
    return choices, bounds, state, written, text.seen_opening_quote, text.seen_closing_quote
