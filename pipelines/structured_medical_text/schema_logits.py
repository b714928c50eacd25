"""SchemaConstraint: logits masked so that a language model can write nothing but JSON of a schema.

    constraint = SchemaConstraint(tokenizer, schema)
    model.generate(**inputs, max_new_tokens=constraint.max_tokens,
                   logits_processor=[constraint.processor(inputs.input_ids.shape[1], len(inputs.input_ids))])

A constraint may serve any number of calls and threads. This file is copied into every checkpoint and imports nothing
from clinsynth.
"""

from typing import Any

import torch
from transformers import LogitsProcessor

from .constraint_graph import Graph, Node, Position, way_out
from .json_cursor import start
from .json_string_bytes import PLAIN
from .schema_bounds import bounded, most_tokens
from .token_masks import pool_of, text_mask, text_mask_key
from .token_tables import tables_of

SLACK = 3
"""Tokens by which one token, the first byte of a character of four, can put the text's end further off."""
SPARE = 8


class SchemaConstraint:
    """A schema on a tokenizer, worked out as texts are written; build it once and share it.

    Attributes:
        least_tokens: of the shortest text, the end token counted in.
        max_tokens: a budget for every text of the schema at one token a character, most taking far fewer; one that
            uses more (bytes of rare scripts) is brought to its end in time, so that no text is ever cut.

    Raises:
        ValueError: the schema has no bound or cannot be met, or the tokenizer lacks an end token or JSON's characters.
    """

    def __init__(self, tokenizer: Any, schema: dict[str, Any]):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has no end token, so that a text could not end; set eos_token"
            )
        form = bounded(schema)
        self.tokenizer, self.end_token = tokenizer, int(tokenizer.eos_token_id)
        self.tables = tables_of(tokenizer)
        self.pool = pool_of(self.tables)
        self.longest = int(self.tables.characters.max())
        self.graph = Graph(self.tables, start(form), self.spell, self.end_token)
        self.least_tokens = self.graph.need(self.graph.start)
        self.max_tokens = most_tokens(form) + SPARE

    def spell(self, text: bytes) -> list[int]:
        """The tokens of a stretch of text, as the tokenizer itself cuts it where that gives back the same bytes."""
        tokens: list[int] = self.tokenizer.encode(text.decode(errors="ignore"), add_special_tokens=False)
        if b"".join(self.tables.tokens[token] for token in tokens) == text:
            return tokens
        return self.tables.spell(text)

    def decode(self, tokens: list[int]) -> tuple[str, bool]:
        """The text of generated tokens up to the end token, and whether there is one. Bytes that are not UTF-8 become
        half surrogates, which `check_text` refuses."""
        finished = self.end_token in tokens
        written = tokens[: tokens.index(self.end_token)] if finished else tokens
        return b"".join(self.tables.tokens[token] for token in written).decode(errors="surrogateescape"), finished

    def processor(self, prompt_length: int, batch_size: int, max_tokens: int | None = None) -> "SchemaLogits":
        """A processor for one call of `generate` with prompts padded on the left to `prompt_length`.

        Args:
            max_tokens: the call's `max_new_tokens`, from `least_tokens` on; default: `self.max_tokens`.
        """
        return self.logits([self] * batch_size, prompt_length, [max_tokens or self.max_tokens] * batch_size)

    def logits(self, constraints: list[Any], prompt_length: int, budgets: list[int]) -> "SchemaLogits":
        """A processor for rows under constraints of this class, on one tokenizer."""
        return SchemaLogits(constraints, prompt_length, budgets)

    def row(self, budget: int) -> "Row":
        """The state of a text of at most `budget` tokens before its first."""
        return Row(self, budget)

    def text_mask(self, row: "Row", thrifty: bool) -> int:
        """The number of the mask for a row within a free text."""
        least, most = row.node.lengths or (0, 0)
        key = text_mask_key(least - row.length, most - row.length, row.state, self.longest)
        number = row.node.masks.get((key, thrifty))
        if number is None:
            with self.pool.lock:
                closings = self.graph.closing(row.node, row.state)
                shared = (key, thrifty, closings.tokens.tobytes(), closings.added.tobytes())
                number = self.pool.number(shared, lambda: text_mask(self.tables, closings, key, thrifty))
                row.node.masks[key, thrifty] = number
        return number

    def branch_mask(self, node: Node) -> int:
        """The number of the mask of a branch."""
        number = node.masks.get(None)
        if number is None:
            with self.pool.lock:
                allowed = self.tables.starts[:-1] < 0
                allowed[list(self.graph.branch(node))] = True
                number = node.masks[None] = self.pool.number(allowed.tobytes(), lambda: allowed)
        return number


class Row:
    """The state of one text that is being written."""

    __slots__ = ("at", "constraint", "left", "length", "node", "state")

    def __init__(self, constraint: SchemaConstraint, budget: int):
        if budget < constraint.least_tokens:
            raise ValueError(
                f"max_new_tokens must be at least {constraint.least_tokens}, which the shortest text of the schema "
                f"takes, got {budget}; raise it, or lower the schema's minLength"
            )
        self.constraint, self.left = constraint, budget
        self.enter((constraint.graph.start, 0, PLAIN))

    def enter(self, position: Position) -> None:
        self.node, self.length, self.state = position
        self.at = 0

    def take(self, token: int) -> bool:
        """Go on by a token; False where it was the last.

        Raises:
            ValueError: the token is not allowed here.
        """
        node = self.node
        self.left -= 1
        try:
            if node.forced:
                return self.take_forced(token)
            if node.lengths is None:
                self.enter((node.edges or {})[token])
            else:
                self.take_text(token)
        except LookupError as error:
            raise ValueError(
                f"token {token} is not one that the schema allowed; no processor may change logits after the schema's"
            ) from error
        return True

    def take_forced(self, token: int) -> bool:
        if self.node.forced[self.at] != token:
            raise LookupError
        self.at += 1
        if self.at == len(self.node.forced):
            if self.node.after is None:
                return False
            self.enter((self.node.after, 0, PLAIN))
        return True

    def take_text(self, token: int) -> None:
        closings = self.node.closings.get(self.state)
        if closings is not None and token in closings.targets:
            self.enter(closings.targets[token])
            return
        tables = self.constraint.tables
        ends, added = tables.steps
        at = self.state * tables.size + token
        if ends[at] >= len(tables.ends):
            raise LookupError
        self.length += added[at]
        self.state = ends[at]

    def next(self) -> tuple[int, int]:
        """The token that must follow, or -1, and then the number of the mask of those that may."""
        node = self.node
        if node.forced:
            return node.forced[self.at], 0
        if node.lengths is None:
            number = self.constraint.branch_mask(node)
            if self.left - 1 < node.most:
                return self.constraint.graph.tables.number[bytes([way_out(node.cursor)])], 0
            return -1, number
        return self.next_in_text(node)

    def next_in_text(self, node: Node) -> tuple[int, int]:
        graph = self.constraint.graph
        closings = node.closings.get(self.state)
        if closings is None:
            with self.constraint.pool.lock:
                closings = graph.closing(node, self.state)
        least, most = node.lengths or (0, 0)
        between_characters = self.state == PLAIN
        if between_characters and self.length == most:
            return graph.quote, 0
        need = graph.need_at((node, self.length, self.state))
        thrifty = self.left - 1 < max(need + SLACK, closings.most)
        if thrifty and between_characters and self.length >= least:
            return graph.quote, 0
        return -1, self.constraint.text_mask(self, thrifty)


class SchemaLogits(LogitsProcessor):
    """Masks the logits of one call of `generate`, in place, a constraint and a budget of tokens a row.

    It reads the last token of each row only, never the prompt, and forgets a row at its end.

    Attributes:
        forced: after a call, the token of each row about which the schema leaves no choice, or -1.
        rows: the state of each text, None behind its end.
    """

    def __init__(self, constraints: list[SchemaConstraint], prompt_length: int, budgets: list[int]):
        self.prompt_length, self.end_tokens = prompt_length, [constraint.end_token for constraint in constraints]
        self.pool = constraints[0].pool
        self.rows: list[Any] = [
            constraint.row(budget) for constraint, budget in zip(constraints, budgets, strict=True)
        ]
        self.forced: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (batch, at least V) with -inf for all tokens not allowed; a row's only token, if so, gets 0."""
        if input_ids.shape[1] > self.prompt_length:
            self.take(input_ids[:, -1].tolist())
        steps = [
            row.next() if row is not None else (end, 0) for row, end in zip(self.rows, self.end_tokens, strict=True)
        ]
        self.forced = [token for token, _ in steps]
        size = self.pool.blocked.shape[1]
        if scores.shape[1] < size:
            raise ValueError(
                f"the model has {scores.shape[1]} tokens and the tokenizer {size}; load the tokenizer of this model"
            )
        scores[:, size:] = -torch.inf
        numbers = torch.tensor([number for _, number in steps], device=scores.device)
        scores[:, :size].masked_fill_(self.pool.on(scores.device)[numbers], -torch.inf)
        rows = [row for row, token in enumerate(self.forced) if token >= 0]
        if rows:
            scores[rows, [self.forced[row] for row in rows]] = 0.0
        return scores

    def take(self, tokens: list[int]) -> None:
        for number, token in enumerate(tokens):
            row = self.rows[number]
            if row is not None and not row.take(token):
                self.rows[number] = None
