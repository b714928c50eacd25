"""SchemaConstraint: logits masked so that a language model can write nothing but JSON of a schema.

    constraint = SchemaConstraint(tokenizer, schema)
    model.generate(**inputs, max_new_tokens=constraint.max_tokens,
                   logits_processor=[constraint.processor(inputs.input_ids.shape[1], len(inputs.input_ids))])

A constraint may serve any number of calls and threads. This file is copied into every checkpoint and imports nothing
from clinsynth.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from .back_ends import back_end, vocabulary_of
from .schema_text import ending, size
from .schemas import bounded, most_tokens, rise

SLACK = 3
"""Tokens by which the first byte of a character of four can put the text's end further off."""
SPARE = 8


class SchemaConstraint:
    """A schema on a tokenizer; build it once and share it.

    Args:
        tokenizer: of transformers, fast, with an end token.
        schema: a JSON schema of an object.
        backend: one of `back_ends.back_end`.

    Attributes:
        least_tokens: of the shortest text, the end token counted in.
        rise: tokens by which a place of a text can be further off its end than an earlier place.
        reserve: tokens that are enough to end a text from any place, whatever is begun there.
        max_tokens: a budget for every text of the schema at one token a character, most taking far fewer; one that
            uses more (bytes of rare scripts) is brought to its end in time, so that no text is ever cut.

    Raises:
        ValueError: the schema has no bound or cannot be met, the tokenizer lacks an end token or JSON's characters, or
            the back end is unknown or cannot use the schema.
        ImportError: the back end is not installed.
    """

    def __init__(self, tokenizer: Any, schema: dict[str, Any], backend: str = "llguidance"):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has no end token, so that a text could not end; set eos_token"
            )
        self.form = bounded(schema)
        self.tokenizer, self.end_token = tokenizer, int(tokenizer.eos_token_id)
        self.vocabulary = vocabulary_of(tokenizer)
        self.engine = back_end(backend, self.vocabulary, self.form)
        shortest = ending(self.form, "")
        self.least_tokens = 1 + sum(
            part if isinstance(part, int) else len(self.spell(part.encode())) for part in shortest
        )
        self.max_tokens = most_tokens(self.form) + SPARE
        self.rise = rise(self.form) + SLACK
        self.forced = lru_cache(maxsize=1024)(self.spell_whole)
        self.reserve = most_tokens(self.form, shortest=True) + self.rise + SPARE

    def spell(self, text: bytes) -> list[int]:
        """The tokens of a stretch of text, as the tokenizer itself cuts it where that gives back the same bytes."""
        return self.vocabulary.spell(text)

    def spell_whole(self, text: bytes) -> list[int]:
        """The tokens of a stretch of text up to where it ends within a character."""
        try:
            return self.spell(text) if text else []
        except UnicodeDecodeError as error:
            return self.spell(text[: error.start])

    def decode(self, tokens: list[int]) -> tuple[str, bool]:
        """The text of generated tokens up to the end token, and whether there is one. Bytes that are not UTF-8 become
        half surrogates, which `check_text` refuses."""
        finished = self.end_token in tokens
        written = tokens[: tokens.index(self.end_token)] if finished else tokens
        return b"".join(self.vocabulary.tokens[token] for token in written).decode(errors="surrogateescape"), finished

    def processor(self, prompt_length: int, batch_size: int, max_tokens: int | None = None) -> "SchemaLogits":
        """A processor for one call of `generate` with prompts padded on the left to `prompt_length`.

        Args:
            max_tokens: the call's `max_new_tokens`, from `least_tokens` on; default: `self.max_tokens`.
        """
        return SchemaLogits([self] * batch_size, prompt_length, [max_tokens or self.max_tokens] * batch_size)


class Row:
    """The state of one text that is being written in a budget of tokens.

    While what is left is enough for the shortest end, whatever the next token begins, the back end alone decides.
    After that only tokens are allowed that bring the end nearer.

    Attributes:
        left: tokens of the budget, the end token's among them.
        waiting: tokens that must follow.
        check_at: what `left` has to come down to before the budget can be short; no later place of a text needs more
            than `rise` tokens more than this one.
    """

    def __init__(self, constraint: SchemaConstraint, budget: int):
        if budget < constraint.least_tokens:
            raise ValueError(
                f"max_new_tokens must be at least {constraint.least_tokens}, which the shortest text of the schema "
                f"takes, got {budget}; raise it, or lower the schema's minLength"
            )
        self.constraint, self.left = constraint, budget
        self.state = constraint.engine.start()
        self.written = bytearray()
        self.waiting: list[int] = []
        self.limit: np.ndarray | None = None
        self.check_at = constraint.reserve

    def take(self, token: int) -> bool:
        """Go on by a token; False where it was the last.

        Raises:
            ValueError: the token is not allowed here.
        """
        if self.state.is_stopped() and token == self.constraint.end_token:
            return False
        if (self.waiting and token != self.waiting[0]) or not self.state.consume_token(token):
            raise ValueError(
                f"token {token} is not one that the schema allowed; no processor may change logits after the schema's"
            )
        self.waiting = self.waiting[1:]
        self.written += self.constraint.vocabulary.tokens[token]
        self.left -= 1
        return True

    def next(self) -> int:
        """The token that must follow, or -1: any that the back end allows, and within `limit` if there is one."""
        self.limit = None
        if self.state.is_stopped():
            return self.constraint.end_token
        if not self.waiting and self.left <= self.check_at:
            self.hurry()
        if not self.waiting and self.limit is None:
            self.waiting = self.constraint.forced(self.state.compute_ff_bytes())
        return self.waiting[0] if self.waiting else -1

    def hurry(self) -> None:
        """Where the budget asks for it, leave only the next part of the shortest way to the end."""
        begun, lacking = unfinished(self.written)
        text = self.written[: len(self.written) - begun].decode(errors="surrogateescape")
        try:
            rest = ending(self.constraint.form, text + "x" * bool(begun), self.constraint.engine.counts_blanks)
        except ValueError:  # within a character of a choice, or a number as only another back end writes it
            return
        need = size(rest) + lacking + 1
        self.check_at = need + 2 * self.constraint.rise
        if self.left > need + self.constraint.rise:
            return
        if lacking:
            self.limit = self.constraint.vocabulary.going_on(lacking)
        elif isinstance(rest[0], int):
            self.limit = self.constraint.vocabulary.within_text(rest[0])
        else:
            self.waiting = self.constraint.spell(rest[0].encode())


def unfinished(data: bytearray) -> tuple[int, int]:
    """How many bytes at the end of UTF-8 begin a character, and how many more it takes."""
    for begun, byte in enumerate(reversed(data[-3:]), start=1):
        if byte >= 0xC0:
            lacking = 1 + (byte >= 0xE0) + (byte >= 0xF0) + 1 - begun
            return (begun, lacking) if lacking > 0 else (0, 0)
        if byte < 0x80:
            break
    return 0, 0


class SchemaLogits(LogitsProcessor):
    """Masks the logits of one call of `generate`, in place, a constraint and a budget of tokens a row.

    It reads the last token of each row only, never the prompt, and forgets a row at its end.

    Attributes:
        forced: after a call, the token of each row about which the schema leaves no choice, or -1.
        rows: the state of each text, None behind its end.
    """

    def __init__(self, constraints: list[SchemaConstraint], prompt_length: int, budgets: list[int]):
        self.prompt_length, self.end_tokens = prompt_length, [constraint.end_token for constraint in constraints]
        self.vocabulary, self.engine = constraints[0].vocabulary, constraints[0].engine
        self.rows: list[Row | None] = [
            Row(constraint, budget) for constraint, budget in zip(constraints, budgets, strict=True)
        ]
        self.bits = np.zeros((len(constraints), len(self.vocabulary.usable)), dtype=np.int32)
        self.forced: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (batch, at least V) with -inf for all tokens not allowed; a row's only token, if so, gets 0.

        Raises:
            ValueError: a token was not one of those allowed, the model has fewer tokens than the tokenizer, or the
                tokenizer has no token for what the schema asks for.
        """
        if input_ids.shape[1] > self.prompt_length:
            self.take(input_ids[:, -1].tolist())
        self.forced = [row.next() if row else end for row, end in zip(self.rows, self.end_tokens, strict=True)]
        size = len(self.vocabulary.tokens)
        if scores.shape[1] < size:
            raise ValueError(
                f"the model has {scores.shape[1]} tokens and the tokenizer {size}; load the tokenizer of this model"
            )
        scores[:, size:] = -torch.inf
        self.fill_bits()
        block(scores[:, :size], self.bits)
        rows = [number for number, token in enumerate(self.forced) if token >= 0]
        if rows:
            scores[rows, [self.forced[number] for number in rows]] = 0.0
        return scores

    def take(self, tokens: list[int]) -> None:
        """Go on by a token a row; errors as of `Row.take`."""
        for number, token in enumerate(tokens):
            row = self.rows[number]
            if row is not None and not row.take(token):
                self.rows[number] = None

    def fill_bits(self) -> None:
        """Write the mask of every row, none allowed where a token is forced."""
        free = [(row, number) for number, row in enumerate(self.rows) if row and self.forced[number] < 0]
        self.bits[:] = 0
        self.engine.fill([(row.state, number) for row, number in free], self.bits)
        self.bits &= self.vocabulary.usable
        for row, number in free:
            if row.limit is not None:
                self.bits[number] &= row.limit
            if not self.bits[number].any():
                raise ValueError("the tokenizer has no token for what the schema asks for next; use another model")


def block(scores: torch.Tensor, bits: np.ndarray) -> None:
    """Set `scores` (batch, V) to -inf where a mask, a row of `bits`, has no 1.

    On the CPU only the tokens that a mask blocks are touched, or where those are most, the ones that it allows: within
    a free text that is a hundredth of the vocabulary, and most rows share a mask.
    """
    if scores.device.type != "cpu":
        block_all(scores, torch.from_numpy(bits).to(scores.device))
        return
    for row, mask in zip(scores, bits, strict=True):
        are_allowed, tokens = minority(mask.tobytes(), len(row))
        if are_allowed:
            kept = row[tokens]
            row.fill_(-torch.inf)
            row[tokens] = kept
        else:
            row.index_fill_(0, tokens, -torch.inf)


def block_all(scores: torch.Tensor, bits: torch.Tensor) -> None:
    """As `block`, all tokens at once, with the masks on the device of `scores`."""
    shifts = torch.arange(32, dtype=torch.int32, device=bits.device)
    allowed = (bits[:, :, None] >> shifts & 1).flatten(1)[:, : scores.shape[1]]
    scores.masked_fill_(allowed == 0, -torch.inf)


@lru_cache(maxsize=256)
def minority(mask: bytes, size: int) -> tuple[bool, torch.Tensor]:
    """Whether a mask allows fewer than half of the tokens, and those fewer: the allowed ones, or else the blocked."""
    allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[:size]
    are_allowed = bool(2 * np.count_nonzero(allowed) < size)
    return are_allowed, torch.from_numpy(np.flatnonzero(allowed == are_allowed))
