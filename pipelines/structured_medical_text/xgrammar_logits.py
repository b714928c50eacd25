"""The same constraint with xgrammar deciding which tokens may follow.

    constraint = XGrammarConstraint(tokenizer, schema)      # then as a SchemaConstraint

The schema is bounded first, so that its fields have one order and its text one layout. Where xgrammar 0.2 differs from
a SchemaConstraint: a text with minLength or maxLength, both of which it keeps, holds no backslash, and so no double
quotation mark and no line break; it may hold bytes that are no UTF-8 (half surrogates), which the check of the
finished text refuses; numbers may have an exponent and any count of digits. A text in which such a thing stands is not
brought to an end within its budget. This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import json
import weakref
from typing import Any

import numpy as np
import torch

from .schema_bounds import bounded, most_tokens
from .schema_logits import SPARE, Row, SchemaConstraint, SchemaLogits
from .token_tables import TokenTables

try:
    import xgrammar
except ImportError as error:
    raise ImportError(
        f"backend='xgrammar' needs the package xgrammar, which cannot be imported ({error}); pip install "
        "clinsynth[fast], or xgrammar itself, or leave backend out"
    ) from error

CONTROL = frozenset([*range(0x20), 0x7F])
"""Bytes that xgrammar allows in texts and JSON, or a SchemaConstraint, does not."""

_compilers: "weakref.WeakKeyDictionary[TokenTables, xgrammar.GrammarCompiler]" = weakref.WeakKeyDictionary()


class XGrammarConstraint(SchemaConstraint):
    """A `SchemaConstraint` whose free tokens xgrammar masks.

    Attributes:
        reserve: tokens that are enough to end a text from any place.

    Raises:
        ValueError: as of a `SchemaConstraint`, or xgrammar cannot compile the schema.
    """

    def __init__(self, tokenizer: Any, schema: dict[str, Any]):
        super().__init__(tokenizer, schema)
        form = bounded(schema)
        self.reserve = most_tokens(shortest(form)) + SPARE
        with self.pool.lock:
            self.unmasked = self.pool.number("unmasked", lambda: np.ones(self.tables.size, dtype=bool))
            self.grammar = compile_schema(compiler_of(self.tables), form)

    def row(self, budget: int) -> "XGrammarRow":  # type: ignore[override]
        return XGrammarRow(self, budget)

    def logits(self, constraints: list[Any], prompt_length: int, budgets: list[int]) -> "XGrammarLogits":
        return XGrammarLogits(constraints, prompt_length, budgets)


class XGrammarRow:
    """The state of one text: xgrammar's, until what is left of the budget might not do; then that of a `Row`, which
    knows the shortest way to the end."""

    def __init__(self, constraint: XGrammarConstraint, budget: int):
        self.constraint, self.budget = constraint, budget
        self.matcher = xgrammar.GrammarMatcher(constraint.grammar, override_stop_tokens=constraint.end_token)
        self.written: list[int] = []
        self.waiting: list[int] = []
        row = Row(constraint, budget)
        self.ending = row if budget <= constraint.reserve else None

    def take(self, token: int) -> bool:
        """Go on by a token; False where it was the last. Errors as of a `Row`."""
        if self.ending is not None:
            return self.ending.take(token)
        if not self.matcher.accept_token(token):
            raise ValueError(
                f"token {token} is not one that the schema allowed; no processor may change logits after the schema's"
            )
        self.written.append(token)
        self.waiting = self.waiting[1:]
        if self.budget - len(self.written) == self.constraint.reserve:
            self.ending = self.replay()
        return not self.matcher.is_terminated()

    def replay(self) -> Row | None:
        """A `Row` that has read the text so far; None where it knows no such text, say for a number's many digits."""
        row = Row(self.constraint, self.budget)
        try:
            for token in self.written:
                row.next()
                row.take(token)
        except ValueError:
            return None
        return row

    def next(self) -> tuple[int, int]:
        """As of a `Row`; the mask of a free token is one that blocks nothing."""
        if self.ending is not None:
            return self.ending.next()
        if not self.waiting:
            self.waiting = self.without_choice()
        return (self.waiting[0], 0) if self.waiting else (-1, self.constraint.unmasked)

    def without_choice(self) -> list[int]:
        """The tokens of the stretch about which the schema leaves no choice."""
        if self.matcher.is_completed():
            return [self.constraint.end_token]
        try:
            return self.constraint.spell(self.matcher.find_jump_forward_string().encode())
        except UnicodeDecodeError:  # it begins or ends within a character
            return []


class XGrammarLogits(SchemaLogits):
    """A `SchemaLogits` on xgrammar's bit masks."""

    def __init__(self, constraints: list[Any], prompt_length: int, budgets: list[int]):
        super().__init__(constraints, prompt_length, budgets)
        self.bits = xgrammar.allocate_token_bitmask(len(constraints), self.pool.blocked.shape[1])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = super().__call__(input_ids, scores)
        free = [number for number, token in enumerate(self.forced) if token < 0 and self.rows[number].ending is None]
        for number in free:
            self.rows[number].matcher.fill_next_token_bitmask(self.bits, number)
        if free:
            size = self.pool.blocked.shape[1]
            xgrammar.apply_token_bitmask_inplace(scores, self.bits.to(scores.device), vocab_size=size, indices=free)
        return scores


def compiler_of(tables: TokenTables) -> "xgrammar.GrammarCompiler":
    """xgrammar's compiler for a tokenizer, built once, without the tokens that hold control characters."""
    if tables not in _compilers:
        usable = [b"" if CONTROL & set(token) else token for token in tables.tokens]
        _compilers[tables] = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(usable, stop_token_ids=[]))
    return _compilers[tables]


def compile_schema(compiler: "xgrammar.GrammarCompiler", form: dict[str, Any]) -> "xgrammar.CompiledGrammar":
    """The grammar of a bounded schema, laid out as json.dumps does."""
    try:
        return compiler.compile_json_schema(json.dumps(form), any_whitespace=False, separators=(", ", ": "))
    except RuntimeError as error:
        raise ValueError(
            f"xgrammar cannot compile the schema ({error}); leave backend='xgrammar' out, or simplify the schema"
        ) from error


def shortest(node: dict[str, Any]) -> dict[str, Any]:
    """A bounded schema of which only the shortest texts and lists are left."""
    if "anyOf" in node:
        return {"anyOf": [shortest(option) for option in node["anyOf"]]}
    if "properties" in node:
        return {**node, "properties": {name: shortest(part) for name, part in node["properties"].items()}}
    if "items" in node:
        return {**node, "items": shortest(node["items"]), "maxItems": max(1, node["minItems"])}
    return {**node, "maxLength": node["minLength"]} if "maxLength" in node else node
