"""The nearest of many rows, exactly and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 256
NEXT_ROWS = 10


@dataclass(frozen=True)
class Closest:
    """Euclidean distances (n, k), smallest first, and row numbers (n, k) of the k rows closest to each query."""

    distances: np.ndarray
    numbers: np.ndarray

    def relative(self) -> np.ndarray:
        """Distance (n,) to the closest row over the mean distance to the next ones: near 0 for a copy, at most 1.

        Dividing by the neighbourhood (Carlini et al. 2023, arXiv 2301.13188, section 4.2, do so with 50 neighbours)
        makes rows of crowded and of empty regions comparable: images without much structure are all near to one
        another, and no copies for that. Where the next rows are as equal as the closest, the quotient is 1.
        """
        return quotient(self.distances[:, 0], self.distances[:, 1:].mean(1))

    def nearest_over_second(self) -> np.ndarray:
        """The nearest-neighbour distance ratio (n,) in [0, 1]; 1 where both distances are zero."""
        return quotient(self.distances[:, 0], self.distances[:, 1])


def quotient(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.ones(len(over)), where=under > 0)


def as_views(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Feature rows (n, d) as the queries of `closest_rows`: blocks (rows, 1, d)."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS, None]


def closest_rows(
    queries: Iterable[np.ndarray], rows: np.ndarray, count: int = 1 + NEXT_ROWS, own: np.ndarray | None = None
) -> Closest:
    """The `count` closest of `rows` (n, d) to each query, fewer where there are not as many.

    Args:
        queries: blocks (rows, views, d); the distance of a query is that of its nearest view.
        own: for each query the number of the row that is the query itself and does not count.

    Distances that the arithmetic cannot tell from zero are zero.

    Raises:
        ValueError: fewer than two rows to compare with.
    """
    count = min(count, len(rows) - (own is not None))
    if count < 2:
        raise ValueError(f"copies can be looked for among 3 train images or more, got {len(rows)}; give more")
    distances, numbers = [], []
    for squares in squared_distances(queries, rows, own):
        found = np.argpartition(squares, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(squares, found, 1)
        order = np.argsort(values, axis=1, kind="stable")
        distances.append(np.sqrt(np.take_along_axis(values, order, 1)).astype(np.float64))
        numbers.append(np.take_along_axis(found, order, 1))
    return Closest(np.concatenate(distances), np.concatenate(numbers))


def nearest(queries: np.ndarray, rows: np.ndarray, skip_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance (n,) of each query (n, d) to its nearest row, and that row's number (n,), first of equals.

    With `skip_self` query i is row i and does not count.
    """
    own = np.arange(len(queries)) if skip_self else None
    numbers = np.concatenate([squares.argmin(1) for squares in squared_distances(as_views(queries), rows, own)])
    # The expanded square is inexact near zero, where copies are: the distances are taken anew from the differences.
    return np.linalg.norm(queries - rows[numbers], axis=1), numbers


def squared_distances(queries: Iterable[np.ndarray], rows: np.ndarray, own: np.ndarray | None) -> Iterator[np.ndarray]:
    """For each block of queries (q, views, d) the squared distances (q, n) of the nearest view from rows (n, d);
    infinite to a query's `own` row."""
    centre, start = rows.mean(0), 0
    centred = rows - centre
    lengths, least = (centred**2).sum(1), 16 * np.finfo(rows.dtype).eps
    for block in queries:
        count, views, dimension = block.shape
        flat = (block - centre).reshape(-1, dimension)
        both = lengths + (flat**2).sum(1)[:, None]
        squares = both - 2 * flat @ centred.T
        squares[squares < least * both] = 0
        squares = squares.reshape(count, views, -1).min(1)
        if own is not None:
            squares[np.arange(count), own[start : start + count]] = np.inf
        start += count
        yield squares
