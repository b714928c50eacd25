"""KID: against a double loop and torchmetrics; its interval; the `evaluate` metric."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from clinsynth.metrics.kid.kid import BLOCK_ROWS, count_blocks, kernel_distance, kernel_interval, kernel_spread

FOLDER = Path(__file__).parent.parent / "metrics" / "kid"


def two_sets(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, d)), generator.normal(0.3, 1.2, size=(m, d))


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return (x @ y / len(x) + 1) ** 3


def double_loop(real: np.ndarray, synthetic: np.ndarray) -> float:
    within = [
        np.mean([kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j])
        for rows in (real, synthetic)
    ]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in real for y in synthetic])


def test_agrees_with_a_double_loop_and_torchmetrics() -> None:
    real, synthetic = two_sets(14, 11, 5)
    assert kernel_distance(real, synthetic) == pytest.approx(double_loop(real, synthetic), rel=1e-10)
    real, synthetic = two_sets(60, 60, 5)
    theirs = poly_mmd(torch.from_numpy(real), torch.from_numpy(synthetic)).item()
    assert kernel_distance(real, synthetic) == pytest.approx(theirs, rel=1e-10)


def test_blocks_give_the_whole() -> None:
    real, synthetic = two_sets(BLOCK_ROWS + 30, 40, 3)
    theirs = (real @ synthetic.T / 3 + 1) ** 3
    grams = [(x @ x.T / 3 + 1) ** 3 for x in (real, synthetic)]
    within = [(g.sum() - np.trace(g)) / (len(g) * (len(g) - 1)) for g in grams]
    assert kernel_distance(real, synthetic) == pytest.approx(sum(within) - 2 * theirs.mean(), rel=1e-10)
    calls: list[None] = []
    kernel_interval(real, synthetic, 5, on_block=lambda: calls.append(None))
    assert len(calls) == count_blocks(len(real), len(synthetic)) == 5


def test_interval_is_that_of_resampled_rows_without_pairs_of_copies() -> None:
    real, synthetic = two_sets(9, 8, 4)
    generator = np.random.default_rng(7)
    counts = [generator.multinomial(n, np.full(n, 1 / n), size=3) for n in (9, 8)]
    expected = []
    for weights in zip(*counts, strict=True):
        rows = [np.repeat(np.arange(len(w)), w) for w in weights]
        within = [
            np.mean([kernel(x[i], x[j]) for i in index for j in index if i != j])
            for x, index in zip((real, synthetic), rows, strict=True)
        ]
        expected.append(sum(within) - 2 * np.mean([kernel(real[i], synthetic[j]) for i in rows[0] for j in rows[1]]))
    low, high = kernel_interval(real, synthetic, n_bootstrap=3, seed=7, level=0.5)
    assert [low, high] == pytest.approx(np.quantile(expected, [0.25, 0.75]), rel=1e-10)


def test_interval_lies_around_the_value_and_holds_zero_for_one_distribution() -> None:
    real, synthetic = two_sets(300, 300, 8)
    low, high = kernel_interval(real, synthetic)
    assert 0 < low < kernel_distance(real, synthetic) < high
    low, high = kernel_interval(real[:150], real[150:])
    assert low < 0 < high


def test_spread_is_that_of_the_values_of_subsets() -> None:
    real, synthetic = two_sets(60, 50, 4)
    mean, spread, size = kernel_spread(real, synthetic, n_subsets=6, max_size=20, seed=3)
    generator = np.random.default_rng([3, 1])
    chosen = [[generator.choice(len(x), 20, replace=False) for _ in range(6)] for x in (real, synthetic)]
    values = [kernel_distance(real[i], synthetic[j]) for i, j in zip(*chosen, strict=True)]
    assert (mean, spread, size) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 20)
    assert kernel_spread(real, synthetic)[2] == 25


def test_loads_with_evaluate_from_its_folder_overall_and_per_class() -> None:
    real, synthetic = two_sets(40, 30, 6)
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    metric.add_batch(features=np.concatenate([real, synthetic]), source=["real"] * 40 + ["synthetic"] * 30)
    result = metric.compute(n_bootstrap=10, seed=5)
    assert result["kid"] == pytest.approx(kernel_distance(real, synthetic), rel=1e-12)
    assert tuple(result["interval"]) == pytest.approx(kernel_interval(real, synthetic, 10, 5), rel=1e-12)
    assert result["spread"] == pytest.approx(kernel_spread(real, synthetic, seed=5)[1], rel=1e-12)
    assert result["subset_size"] == 15

    metric = evaluate.load(str(FOLDER), "per_class", keep_in_memory=True)
    metric.add_batch(features=real, source=["real"] * 40, label=["a"] * 20 + ["b"] * 20)
    metric.add_batch(features=synthetic, source=["synthetic"] * 30, label=["a"] * 10 + ["b"] * 20)
    result = metric.compute()
    assert result["a"]["kid"] == pytest.approx(kernel_distance(real[:20], synthetic[:10]), rel=1e-12)


def test_refuses_one_row() -> None:
    with pytest.raises(ValueError, match="synthetic features must be a matrix of two rows or more"):
        kernel_distance(np.zeros((5, 4)), np.zeros((1, 4)))
