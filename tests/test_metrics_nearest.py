"""Nearest neighbours: in blocks as all at once."""

import numpy as np
import pytest

from clinsynth.metrics.nearest import BLOCK_ROWS, nearest


def test_chunks_give_the_same_as_all_distances_at_once() -> None:
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(BLOCK_ROWS + 5, 3))
    table = np.linalg.norm(queries[:, None] - queries[None], axis=2)
    np.fill_diagonal(table, np.inf)
    distances, rows = nearest(queries, queries, skip_self=True)
    assert (rows == table.argmin(1)).all()
    assert distances == pytest.approx(table.min(1))
