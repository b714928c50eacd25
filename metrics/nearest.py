"""The nearest of many rows in bounded memory: exactly, and of 50,000 rows and more by an index, whose recall is told.

The index is FAISS' inverted file over 64 principal directions in eight bits (Douze et al. 2024, arXiv 2401.08281): a
query looks into the lists about it alone, and what it finds there is compared again with the rows themselves: every
distance is exact, and only a row may be missed. How many lists are looked into is raised until 99 % of a sample of
rows find their closest other row, or one at most 1 % further away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

BLOCK_ROWS = 256
NEXT_ROWS = 10
INDEXED_ROWS = 50_000
"""Rows from which on an index answers: comparing everything with everything takes hours."""
RECALL = 0.99
PROBED_ROWS = 256
"""Rows that the recall is measured with."""
NEARLY = 1.01
"""Times the closest distance: a row as near as that is as good."""
DIRECTIONS, MOST_TRAINED = 64, 50_000
"""Principal directions that the index compares, and rows that it learns them and its lists from."""
FEWEST, SPARE = 48, 4
"""Candidates of the index, at least and for each row wanted, as it compares less than all that a row holds."""


@dataclass(frozen=True)
class Closest:
    """Euclidean distances (n, k), smallest first, and row numbers (n, k) of the k rows closest to each query.

    Attributes:
        recall: share of the closest rows that the search finds; 1 where every row was compared.
    """

    distances: np.ndarray
    numbers: np.ndarray
    recall: float = 1.0

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
    if index := index_of(rows):
        return index.closest(queries, count, own)
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
    if index := index_of(rows):
        found = index.closest(as_views(queries), 1, own)
        return found.distances[:, 0], found.numbers[:, 0]
    numbers = np.concatenate([squares.argmin(1) for squares in squared_distances(as_views(queries), rows, own)])
    # The expanded square is inexact near zero, where copies are: the distances are taken anew from the differences.
    return np.linalg.norm(queries - rows[numbers], axis=1), numbers


class RowIndex:
    """FAISS' inverted file over rows (n, d), which may be mapped from a file: 64 bytes a row are held in memory.

    Attributes:
        recall: share of a sample of rows of which it finds the closest other row, or one at most 1 % further away.
    """

    def __init__(self, rows: np.ndarray):
        import faiss

        self.rows, lists = rows, int(4 * len(rows) ** 0.5)
        generator = np.random.default_rng(0)
        chosen = np.sort(generator.permutation(len(rows))[: min(40 * lists, MOST_TRAINED)])
        self.index = faiss.index_factory(rows.shape[1], f"PCA{min(DIRECTIONS, rows.shape[1])},IVF{lists},SQ8")
        self.index.train(as_float32(rows[chosen]))
        for start in range(0, len(rows), BLOCK_ROWS):
            self.index.add(as_float32(rows[start : start + BLOCK_ROWS]))
        self.lists, self.recall = faiss.extract_index_ivf(self.index), 0.0
        probed = np.sort(generator.permutation(len(rows))[:PROBED_ROWS])
        reached = closest_other(rows, probed)
        while self.recall < RECALL and self.lists.nprobe < lists:
            self.lists.nprobe = min(2 * self.lists.nprobe, lists)
            found = self.closest([rows[probed][:, None]], 1, probed)
            self.recall = float((found.distances[:, 0] <= reached * NEARLY).mean())

    def closest(self, queries: Iterable[np.ndarray], count: int, own: np.ndarray | None) -> Closest:
        """As `closest_rows`, of the rows in the lists that are looked into."""
        distances: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        wanted = max(FEWEST, SPARE * count)
        for block in queries:
            squares, found = self.index.search(as_float32(block.reshape(-1, block.shape[2])), wanted)
            order = np.argsort(squares.reshape(len(block), -1), axis=1, kind="stable")
            ranked = np.take_along_axis(found.reshape(len(block), -1), order, 1)
            for views, candidates in zip(block, ranked, strict=True):
                itself = -1 if own is None else int(own[len(numbers)])
                near, which = self.compare(views, candidates, count, itself)
                distances.append(near)
                numbers.append(which)
        return Closest(np.stack(distances), np.stack(numbers), self.recall)

    def compare(self, views: np.ndarray, ranked: np.ndarray, count: int, own: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances (count,) and numbers (count,) of the rows closest to a query's views (v, d).

        Args:
            ranked: the numbers that the index found, the likeliest first, with repetitions; where they are too few,
                all rows are compared.
        """
        names, first = np.unique(ranked[(ranked >= 0) & (ranked != own)], return_index=True)
        candidates = names[np.argsort(first)][: max(FEWEST, SPARE * count)]
        if len(candidates) < count:
            candidates = np.delete(np.arange(len(self.rows)), [] if own < 0 else own)
        near = cdist(views, self.rows[candidates]).min(0)
        order = np.lexsort((candidates, near))[:count]
        return near[order], candidates[order]


def closest_other(rows: np.ndarray, probed: np.ndarray) -> np.ndarray:
    """The distance (m,) of each row of the numbers `probed` (m,) to its closest other row; all rows are compared."""
    least, start = np.full(len(probed), np.inf), 0
    for squares in squared_distances(as_views(rows), rows[probed], None):
        mine = (probed >= start) & (probed < start + len(squares))
        squares[probed[mine] - start, np.flatnonzero(mine)] = np.inf
        least = np.minimum(least, squares.min(0))
        start += len(squares)
    return np.sqrt(least)


_kept: list[RowIndex] = []
"""The last index: a set drawn batch by batch asks for the same rows again and again."""


def index_of(rows: np.ndarray) -> RowIndex | None:
    """The index of so many rows; None where there are fewer, or FAISS is not installed."""
    if len(rows) < INDEXED_ROWS:
        return None
    if _kept and _kept[0].rows is rows:
        return _kept[0]
    try:
        _kept[:] = [RowIndex(rows)]
    except ImportError:
        print(f"{len(rows)} rows are compared one by one; `pip install clinsynth[large]` brings an index", flush=True)
        return None
    return _kept[0]


def loss_in_words(*found: Closest) -> str:
    """What a reader is told of rows that an index may have missed; empty where all rows were compared."""
    recall = min(each.recall for each in found)
    if recall == 1:
        return ""
    return f" The closest of so many real ones is found, or one at most 1 % further away, in {recall:.1%} of searches."


def as_float32(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, dtype=np.float32)


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
