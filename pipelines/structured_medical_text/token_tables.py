"""What each token of a vocabulary does inside a JSON string, as arrays: built once a tokenizer and kept on disk.

Tokens are bytes here, not decoded text: a letter or emoji may be spread over several tokens. This file is copied into
every checkpoint and imports nothing from clinsynth.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import weakref
import zipfile
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .json_string_bytes import CLOSED, DEAD, DONE, ESCAPE, OPEN_STATES, PLAIN, STEP

logger = logging.getLogger(__name__)

VERSION = 1

_cache: "weakref.WeakKeyDictionary[Any, TokenTables]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class TokenTables:
    """A vocabulary of V tokens.

    Attributes:
        data, starts: the tokens' bytes one after the other, uint8, and where each begins, int64 (V + 1); special and
            added tokens have none and are never allowed in text.
        ends: uint8 (10, V), the state to which a token leads from an open state.
        added: int16 (10, V), the characters that it completes before the closing quote, if there is one.
        closed_at: int16 (10, V), the position after the closing quote, 0 without one.
    """

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    added: np.ndarray
    closed_at: np.ndarray

    @property
    def size(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of every token."""
        data, starts = self.data.tobytes(), self.starts.tolist()
        return [data[start:end] for start, end in pairwise(starts)]

    @cached_property
    def in_order(self) -> tuple[list[bytes], list[int]]:
        """The usable tokens sorted by their bytes, and their numbers."""
        order = sorted((token for token in range(self.size) if self.tokens[token]), key=self.tokens.__getitem__)
        return [self.tokens[token] for token in order], order

    @cached_property
    def number(self) -> dict[bytes, int]:
        """Bytes to the first token that has them."""
        data, numbers = self.in_order
        return dict(zip(reversed(data), reversed(numbers), strict=True))

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters (10, V), int16, that an open token adds at least, one it leaves unfinished counted in."""
        return self.added + (self.ends != PLAIN)

    @cached_property
    def steps(self) -> tuple[memoryview, memoryview]:
        """`ends` and `added` in one row each, for quick look-ups at state * V + token."""
        return self.ends.reshape(-1).data, self.added.reshape(-1).data

    def spell(self, text: bytes) -> list[int]:
        """Tokens that write `text`, the longest first at each place.

        Raises:
            ValueError: the vocabulary lacks a byte of it.
        """
        result, at = [], 0
        longest = max(map(len, self.in_order[0]))
        while at < len(text):
            pieces = (text[at:end] for end in range(min(len(text), at + longest), at, -1))
            piece = next((piece for piece in pieces if piece in self.number), None)
            if piece is None:
                raise ValueError(
                    f"the tokenizer cannot write {text[at : at + 1]!r}, which the schema asks for; use a model whose "
                    "vocabulary holds all single bytes"
                )
            result.append(self.number[piece])
            at += len(piece)
        return result


def tables_of(tokenizer: Any) -> TokenTables:
    """The tables of a transformers tokenizer: from memory, from the user's cache folder, or built.

    Raises:
        ValueError: the tokenizer's tokens cannot be told in bytes.
    """
    tables = _cache.get(tokenizer)
    if tables is None or tables.size != len(tokenizer):
        tables = _cache[tokenizer] = read_or_build(token_bytes(tokenizer))
    return tables


def read_or_build(tokens: list[bytes]) -> TokenTables:
    """The tables of a vocabulary, from the cache folder where they lie under the SHA-256 of its content."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int32)
    content = hashlib.sha256(lengths.tobytes() + b"".join(tokens)).hexdigest()
    path = cache_folder() / f"{content[:40]}-{VERSION}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return TokenTables(**{field.name: file[field.name] for field in fields(TokenTables)})
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s); it is built anew", path, error)
    tables = build(tokens)
    try:
        write(tables, path)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the next start builds it again", path, error)
    return tables


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/clinsynth/tokens`, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clinsynth" / "tokens"


def write(tables: TokenTables, path: Path) -> None:
    """Complete or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **{field.name: getattr(tables, field.name) for field in fields(TokenTables)})
    os.replace(file.name, path)


def build(tokens: list[bytes]) -> TokenTables:
    """The tables of a vocabulary, all tokens at once, one pass a byte position.

    Raises:
        ValueError: no token is the double quote alone: a string could not be ended.
    """
    if b'"' not in tokens:
        raise ValueError('the tokenizer has no token for the double quote ("); it cannot write JSON')
    data = np.frombuffer(b"".join(tokens), dtype=np.uint8)
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    starts = np.concatenate([[0], lengths.cumsum()])
    states = [follow(data, starts[:-1], lengths, state) for state in range(OPEN_STATES)]
    ends, added, closed_at = (np.stack(parts) for parts in zip(*states, strict=True))
    return TokenTables(data, starts, refuse_dead_ends(ends, added), added, closed_at)


def follow(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, state: int) -> tuple[np.ndarray, ...]:
    """A row each of `ends`, `added` and `closed_at`: every token read from `state`."""
    ends = np.where(lengths > 0, state, DEAD).astype(np.uint8)
    added, closed_at = np.zeros(len(lengths), dtype=np.int16), np.zeros(len(lengths), dtype=np.int16)
    active = np.flatnonzero(lengths)
    for position in range(int(lengths.max())):
        active = active[(lengths[active] > position) & (ends[active] < CLOSED)]
        byte, before = data[starts[active] + position], ends[active]
        ends[active] = STEP[before, byte]
        added[active] += DONE[before, byte]
        closed_at[active[ends[active] == CLOSED]] = position + 1
    return ends, added, closed_at


def refuse_dead_ends(ends: np.ndarray, added: np.ndarray) -> np.ndarray:
    """`ends` without the tokens after which this vocabulary cannot finish the character begun."""
    live = np.zeros(12, dtype=bool)
    live[PLAIN] = True
    for _ in range(3):
        for state in range(ESCAPE, OPEN_STATES):
            finished = (ends[state] == PLAIN) & (added[state] == 1)
            live[state] |= bool((finished | (live[ends[state]] & (added[state] == 0))).any())
    unfinished = (ends < OPEN_STATES) & ~live[ends]
    return np.where(unfinished, DEAD, ends).astype(np.uint8)


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes of every token; of special and added ones, which are no text, none.

    Raises:
        ValueError: the tokenizer is neither byte-level BPE nor SentencePiece.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.decoder.__getstate__()) if backend is not None and backend.decoder else {}
    kinds = json.dumps(decoder)
    if "ByteLevel" in kinds:
        letters = byte_letters()
    elif "\\u2581" in kinds:
        letters = None
    else:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} is neither byte-level BPE nor SentencePiece (decoder: "
            f"{decoder.get('type')}); its tokens cannot be told in bytes"
        )
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    removed = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return [b"" if name is None or number in removed else to_bytes(name, letters) for number, name in enumerate(names)]


def to_bytes(name: str, letters: dict[str, int] | None) -> bytes:
    """A token's bytes from its name in the vocabulary; none for one that is not of its alphabet."""
    if letters is not None:
        return bytes(letters[letter] for letter in name) if letters.keys() >= set(name) else b""
    if re.fullmatch("<0x[0-9A-F]{2}>", name):
        return bytes([int(name[3:5], 16)])
    return name.replace("\u2581", " ").encode("utf-8", errors="ignore")


def byte_letters() -> dict[str, int]:
    """The letter by which byte-level BPE (GPT-2) names each byte: itself if printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
