"""The tokens of a tokenizer as bytes, and which of them may stand where in a JSON text.

Tokens are bytes here, not decoded text: a letter or emoji may be spread over several tokens. This file is copied into
every checkpoint and imports nothing from clinsynth.
"""

import re
import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from llguidance.hf import from_tokenizer

SLICES = [rf'[^"\\\x00-\x1F\x7F-\x9F]{{1,{most}}}' for most in (8, 16, 32)]
"""Tokens of letters alone, by their longest: llguidance looks at each such group once, not at each of its tokens."""
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
NOT_PLAIN = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
CONTINUATION = re.compile(rb"[\x80-\xbf]+")
SINGLE_BYTES = [*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)]
"""What UTF-8 without control characters is made of."""

_known: "weakref.WeakKeyDictionary[Any, Vocabulary]" = weakref.WeakKeyDictionary()


class Vocabulary:
    """The V tokens of a tokenizer; masks are int32 (V / 32, rounded up), token t being bit t % 32 of number t // 32.

    Attributes:
        engine: llguidance's form of the tokenizer.
        count: how many tokens the tokenizer had.
        tokens: the bytes of each; of special and added ones, which are no text, none.
        usable: mask of those that may stand in JSON at all. Where the vocabulary lacks bytes, so that a character once
            begun might not be finished, that is whole characters only.

    Raises:
        ValueError: the tokens cannot be told in bytes, or none is the double quote alone.
    """

    def __init__(self, tokenizer: Any):
        try:
            self.engine = from_tokenizer(tokenizer, slices=SLICES)
        except ValueError as error:
            raise ValueError(
                f"the tokens of tokenizer {tokenizer.name_or_path!r} cannot be told in bytes ({error}); take a model "
                "with byte-level BPE or SentencePiece with bytes"
            ) from error
        self.count = len(tokenizer)
        no_text = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        numbers = range(self.engine.vocab_size)
        self.tokens = [b"" if number in no_text else self.engine.decode_bytes([number]) for number in numbers]
        bytes_there = {token[0] for token in self.tokens if len(token) == 1}
        if ord('"') not in bytes_there:
            raise ValueError('the tokenizer has no token for the double quote ("); it cannot write JSON')
        whole = not bytes_there.issuperset(SINGLE_BYTES)
        self.usable = self.pack(
            bool(token) and not CONTROL.search(token) and not (whole and is_cut(token)) for token in self.tokens
        )

    def pack(self, allowed: Iterable[bool]) -> np.ndarray:
        """A mask of V yes or no."""
        bits = np.fromiter(allowed, dtype=bool, count=len(self.tokens))
        return np.packbits(np.pad(bits, (0, -len(bits) % 32)), bitorder="little").view(np.int32)

    def spell(self, text: bytes) -> list[int]:
        """The tokens of a stretch of UTF-8, as the tokenizer cuts it where that gives back the same bytes.

        Raises:
            ValueError: the vocabulary lacks a character of it.
        """
        for cut in (self.engine.tokenize_str, self.engine.greedy_tokenize):
            tokens = cut(text.decode())
            if b"".join(self.tokens[token] for token in tokens) == text:
                return tokens
        raise ValueError(
            f"the tokenizer cannot write {text.decode()!r}, which the schema asks for; use a model whose vocabulary "
            "holds all single bytes"
        )

    @cached_property
    def characters(self) -> np.ndarray:
        """How many characters each token (V) has; 0 for one that does not leave a JSON string as open as it was."""
        whole = ("" if is_cut(token) else token.decode() for token in self.tokens)
        return np.array([0 if NOT_PLAIN.search(text) else len(text) for text in whole])

    @cached_property
    def continuing(self) -> np.ndarray:
        """How many bytes each token (V) has that only goes on with a character; 0 for the others."""
        return np.array([len(token) if CONTINUATION.fullmatch(token) else 0 for token in self.tokens])

    def within_text(self, most: int) -> np.ndarray:
        """Mask of the tokens of one character to `most`."""
        return self.pack((self.characters > 0) & (self.characters <= most))

    def going_on(self, most: int) -> np.ndarray:
        """Mask of the tokens that go on with a character by one byte to `most`."""
        return self.pack((self.continuing > 0) & (self.continuing <= most))


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a transformers tokenizer, built once (0.6 s for 49k tokens); errors as of a `Vocabulary`."""
    known = _known.get(tokenizer)
    if known is None or known.count != len(tokenizer):  # tokens may be added to it
        known = _known[tokenizer] = Vocabulary(tokenizer)
    return known


def is_cut(token: bytes) -> bool:
    """Whether a token begins or ends within a character."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return True
    return False
