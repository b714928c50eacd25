"""Nearest real neighbours: which synthetic pictures lie suspiciously near to a picture of the train split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class SuspiciousPair:
    """A synthetic row, its nearest train row, and their distance over the typical one (0 = equal features)."""

    synthetic_row: int
    train_row: int
    ratio: float


@dataclass(frozen=True)
class NearestNeighbours:
    """How near synthetic and held-out rows come to the train split.

    Attributes:
        typical_distance: median distance of a train row to its nearest other train row.
        pairs: the synthetic rows with the smallest ratios, smallest first.
        held_out_smallest: smallest ratio of a held-out row.
        held_out_fifth: the ratio below which 5 % of the held-out rows lie.
        below_held_out: synthetic rows with a smaller ratio than every held-out row; by chance about
            n_synthetic / (n_held_out + 1) would have one.
        share_below_fifth: share of the synthetic rows below it; near 0.05 where nothing is copied.
        n_train, n_held_out, n_synthetic: rows.
    """

    typical_distance: float
    pairs: list[SuspiciousPair]
    held_out_smallest: float
    held_out_fifth: float
    below_held_out: int
    share_below_fifth: float
    n_train: int
    n_held_out: int
    n_synthetic: int

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)


def find_suspicious(
    synthetic: np.ndarray, train: np.ndarray, held_out: np.ndarray, count: int = 12
) -> NearestNeighbours | None:
    """Compare nearest-neighbour distances of feature rows (n, d) to the train rows.

    Returns None where the train rows have no typical distance: fewer than two rows, or copies of one another.
    """
    within, _ = nearest(train, train, skip_self=True)
    typical = float(np.median(within)) if len(train) > 1 else 0.0
    if typical == 0:
        return None
    distances, rows = nearest(synthetic, train)
    ratios = distances / typical
    held_out_ratios = nearest(held_out, train)[0] / typical
    fifth = float(np.quantile(held_out_ratios, 0.05))
    order = np.argsort(ratios, kind="stable")[:count]
    return NearestNeighbours(
        typical_distance=typical,
        pairs=[SuspiciousPair(int(i), int(rows[i]), float(ratios[i])) for i in order],
        held_out_smallest=float(held_out_ratios.min()),
        held_out_fifth=fifth,
        below_held_out=int((ratios < held_out_ratios.min()).sum()),
        share_below_fifth=float((ratios < fifth).mean()),
        n_train=len(train),
        n_held_out=len(held_out),
        n_synthetic=len(synthetic),
    )


def nearest(queries: np.ndarray, rows: np.ndarray, skip_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance (n,) of each query to its nearest row, and that row's number (n,).

    With `skip_self` query i is row i and does not count. Works in chunks of 1,024 queries.
    """
    squares = (rows**2).sum(1)
    numbers = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), CHUNK_ROWS):
        chunk = queries[start : start + CHUNK_ROWS]
        scores = squares - 2 * chunk @ rows.T
        if skip_self:
            own = np.arange(len(chunk))
            scores[own, own + start] = np.inf
        numbers[start : start + CHUNK_ROWS] = scores.argmin(1)
    # The expanded square is inexact near zero, where copies are: the distances are taken anew from the differences.
    return np.linalg.norm(queries - rows[numbers], axis=1), numbers
