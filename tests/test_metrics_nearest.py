"""Nearest neighbours: planted copies come first, held-out rows give the scale."""

import numpy as np
import pytest

from clinsynth.metrics.nearest import CHUNK_ROWS, find_suspicious, nearest


def test_planted_copies_are_the_most_suspicious() -> None:
    generator = np.random.default_rng(0)
    train, held_out, synthetic = (generator.normal(size=(n, 8)) for n in (200, 100, 150))
    synthetic[17] = train[5]
    synthetic[90] = train[33] + 0.01
    found = find_suspicious(synthetic, train, held_out, count=4)
    assert found is not None
    assert [(pair.synthetic_row, pair.train_row) for pair in found.pairs[:2]] == [(17, 5), (90, 33)]
    assert found.pairs[0].ratio == 0
    assert 0 < found.pairs[1].ratio < 0.05 < found.held_out_smallest
    assert len(found.pairs) == 4
    assert 2 <= found.below_held_out < 8
    assert 0 < found.share_below_fifth < 0.15


def test_typical_distance_is_the_median_to_another_train_row() -> None:
    train = np.array([[0.0], [1.0], [3.0], [7.0]])
    found = find_suspicious(np.array([[4.0]]), train, np.array([[8.0]]))
    assert found is not None
    assert found.typical_distance == pytest.approx(1.5)  # of 1, 1, 2, 4
    assert found.pairs[0].ratio == pytest.approx(1 / 1.5)


def test_train_rows_that_are_all_alike_have_no_scale() -> None:
    assert find_suspicious(np.ones((3, 2)), np.zeros((5, 2)), np.ones((3, 2))) is None


def test_chunks_give_the_same_as_all_distances_at_once() -> None:
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(CHUNK_ROWS + 5, 3))
    table = np.linalg.norm(queries[:, None] - queries[None], axis=2)
    np.fill_diagonal(table, np.inf)
    distances, rows = nearest(queries, queries, skip_self=True)
    assert (rows == table.argmin(1)).all()
    assert distances == pytest.approx(table.min(1))
