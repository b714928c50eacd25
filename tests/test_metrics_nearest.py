"""Nearest neighbours: in blocks as all at once, and by an index as by comparing with every row."""

import sys
from pathlib import Path

import numpy as np
import pytest

from clinsynth.metrics import nearest as module
from clinsynth.metrics.nearest import BLOCK_ROWS, RECALL, Closest, as_views, closest_rows, loss_in_words, nearest


def test_chunks_give_the_same_as_all_distances_at_once() -> None:
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(BLOCK_ROWS + 5, 3))
    table = np.linalg.norm(queries[:, None] - queries[None], axis=2)
    np.fill_diagonal(table, np.inf)
    distances, rows = nearest(queries, queries, skip_self=True)
    assert (rows == table.argmin(1)).all()
    assert distances == pytest.approx(table.min(1))


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="needs FAISS, which `pip install clinsynth[large]` brings")
    monkeypatch.setattr(module, "INDEXED_ROWS", 1500)
    monkeypatch.setattr(module, "_kept", [])


def grouped_rows(count: int) -> np.ndarray:
    """Rows about 40 centres in 90 dimensions, as features of classes are."""
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(40, 90)) * 3
    return (centres[generator.integers(40, size=count)] + generator.normal(size=(count, 90))).astype(np.float32)


def test_an_index_finds_what_comparing_with_every_row_finds(indexed: None, tmp_path: Path) -> None:
    """Copies among the queries at distance zero, each query's own row left out, the rows mapped from a file."""
    rows = grouped_rows(2000)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    queries = np.concatenate([rows[:60], grouped_rows(2060)[2000:]])
    found, exact = closest_rows(as_views(queries), mapped, 5), closest_rows(as_views(queries), rows[:1400], 5)
    assert exact.recall == 1 and found.recall >= RECALL
    assert (found.numbers[:60, 0] == np.arange(60)).all() and (found.distances[:60, 0] == 0).all()
    distances = np.linalg.norm(queries[:, None] - rows, axis=2)
    assert (found.distances[:, 0] <= 1.01 * np.sort(distances, 1)[:, 0]).mean() >= 0.98
    assert np.take_along_axis(distances, found.numbers, 1) == pytest.approx(found.distances, abs=1e-4)
    assert not (nearest(rows, rows, skip_self=True)[1] == np.arange(2000)).any()
    assert module.index_of(mapped) is not module.index_of(rows) and module.index_of(rows) is module.index_of(rows)


def test_a_share_that_may_be_missed_is_told_and_none_without_an_index(
    indexed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = np.zeros((1, 2))
    assert loss_in_words(Closest(empty, empty)) == ""
    assert "in 99.2% of searches" in loss_in_words(Closest(empty, empty), Closest(empty, empty, 0.992))
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = grouped_rows(1600)
    assert closest_rows(as_views(rows[:3]), rows).recall == 1
    assert "pip install clinsynth[large]" in capsys.readouterr().out
