"""Masks over a vocabulary, kept side by side in one tensor so that a batch is masked by row numbers.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import threading
import weakref
from collections.abc import Callable, Hashable

import numpy as np
import torch

from .constraint_graph import Closings
from .json_string_bytes import OPEN_STATES, PLAIN, TOKENS_TO_PLAIN
from .token_tables import TokenTables

NEAR = 16
"""Characters from a free text's least or most length within which its mask depends on how many there are."""

_pools: "weakref.WeakKeyDictionary[TokenTables, MaskPool]" = weakref.WeakKeyDictionary()


class MaskPool:
    """Masks of one vocabulary, True where a token is blocked; the first blocks all. Equal keys share one.

    Whoever adds to it, or to a graph on the same tokenizer, holds `lock`.
    """

    def __init__(self, size: int):
        self.blocked = torch.ones(64, size, dtype=torch.bool)
        self.used = 1
        self.lock = threading.RLock()
        self.numbers: dict[Hashable, int] = {}
        self.copies: dict[torch.device, tuple[int, torch.Tensor]] = {}

    def number(self, key: Hashable, allowed: Callable[[], np.ndarray]) -> int:
        """The row of the mask called `key`; where it is new, made of `allowed()`, bool (V)."""
        if key not in self.numbers:
            if self.used == len(self.blocked):
                self.blocked = torch.cat([self.blocked, torch.ones_like(self.blocked)])
            self.blocked[self.used] = torch.from_numpy(~allowed())
            self.used += 1
            self.numbers[key] = self.used - 1
        return self.numbers[key]

    def on(self, device: torch.device) -> torch.Tensor:
        """The masks, bool (at least `used`, V), on `device`; only new ones are sent there."""
        if device.type == "cpu":
            return self.blocked
        sent, copy = self.copies.get(device, (0, self.blocked[:0].to(device)))
        if sent < self.used:
            sent, copy = self.used, torch.cat([copy, self.blocked[sent : self.used].to(device)])
            self.copies[device] = (sent, copy)
        return copy


def pool_of(tables: TokenTables) -> MaskPool:
    """The pool that all constraints on one tokenizer share."""
    if tables not in _pools:
        _pools[tables] = MaskPool(tables.size)
    return _pools[tables]


def text_mask_key(least: int, most: int, state: int, longest: int) -> tuple[int, int, int]:
    """What a free text's mask depends on when `least` to `most` characters are to come and no token has more than
    `longest`.

    Far from both ends all places share a mask. Near them (16 characters) each has its own; between, from 16 to
    `longest` before the end, tokens of more than 16 characters are left out, which spares a mask for each length.
    """
    most_class = NEAR + 1 if most >= longest else min(most, NEAR)
    return state, min(max(least, 0), NEAR + 1), most_class


def text_mask(tables: TokenTables, closings: Closings, key: tuple[int, int, int], thrifty: bool) -> np.ndarray:
    """The tokens, bool (V), allowed within a free text at `key`.

    `thrifty` leaves those by which the text's least remainder gets shorter, and none that ends it.
    """
    state, least, most = key
    ends, characters = tables.ends[state], tables.characters[state]
    allowed: np.ndarray = ends < OPEN_STATES
    if most <= NEAR:
        allowed &= characters <= most
    if thrifty:
        cost = TOKENS_TO_PLAIN[np.minimum(ends, OPEN_STATES - 1)]
        shorter: np.ndarray = (cost < TOKENS_TO_PLAIN[state]) | ((ends == PLAIN) & (tables.added[state] > 0))
        return allowed & shorter
    if least <= NEAR:
        fits = closings.added >= least
        if most <= NEAR:
            fits &= closings.added <= most
        allowed[closings.tokens[fits]] = True
    return allowed
