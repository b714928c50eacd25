"""The nearest of many rows, exactly and in bounded memory."""

from __future__ import annotations

import numpy as np

CHUNK_ROWS = 1024


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
