"""Fréchet distance: against torchmetrics, scipy and closed forms; its interval; the `evaluate` metric."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from clinsynth.metrics.frechet.frechet import (
    BLOCK_ROWS,
    GaussianStatistics,
    covariance_factor,
    frechet_distance,
    frechet_extrapolated,
    frechet_interval,
    statistics_distance,
)

FOLDER = Path(__file__).parent.parent / "metrics" / "frechet"


def two_sets(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(d, d)) / np.sqrt(d)
    return generator.normal(size=(n, d)) @ mix, generator.normal(0.3, 1.3, size=(m, d)) @ mix


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), np.cov(rows, rowvar=False)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 16), (30, 25, 48), (30, 200, 48)])
def test_agrees_with_torchmetrics_and_a_matrix_square_root(n: int, m: int, d: int) -> None:
    real, synthetic = two_sets(n, m, d)
    (mean_1, cov_1), (mean_2, cov_2) = moments(real), moments(synthetic)
    value = frechet_distance(real, synthetic)
    theirs = _compute_fid(*(torch.from_numpy(x) for x in (mean_1, cov_1, mean_2, cov_2))).item()
    root = scipy.linalg.sqrtm(cov_1 @ cov_2).real
    reference = ((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1 + cov_2 - 2 * root)
    assert value == pytest.approx(theirs, rel=1e-6)
    assert value == pytest.approx(reference, rel=1e-6)


def test_one_dimension_has_the_closed_form() -> None:
    real, synthetic = two_sets(50, 60, 1)
    expected = (real.mean() - synthetic.mean()) ** 2 + (real.std(ddof=1) - synthetic.std(ddof=1)) ** 2
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-12)


def test_is_symmetric_and_zero_between_a_set_and_itself() -> None:
    real, synthetic = two_sets(40, 60, 80)
    assert frechet_distance(real, synthetic) == pytest.approx(frechet_distance(synthetic, real), rel=1e-12)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def statistics_of(*batches: np.ndarray) -> GaussianStatistics:
    statistics = GaussianStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


def test_streaming_sums_are_mean_and_covariance_far_from_zero_too() -> None:
    rows = two_sets(BLOCK_ROWS + 200, 2, 6)[0] + 1e6
    statistics = statistics_of(rows[:3], rows[3:1100])
    statistics.merge(statistics_of(rows[1100:]))
    statistics.merge(GaussianStatistics())
    mean, covariance = moments(rows - 1e6)
    assert statistics.count == len(rows)
    assert statistics.mean - 1e6 == pytest.approx(mean, rel=1e-7, abs=1e-8)
    assert statistics.covariance() == pytest.approx(
        covariance, rel=1e-7
    )  # plain sums of squares have an error of 1e-4


def test_distance_of_streaming_sums_is_that_of_the_rows() -> None:
    real, synthetic = two_sets(300, 200, 16)
    value = statistics_distance(statistics_of(real[:100], real[100:]), statistics_of(synthetic))
    assert value == pytest.approx(frechet_distance(real, synthetic), rel=1e-10)
    few = two_sets(30, 25, 48)
    value = statistics_distance(statistics_of(few[0]), statistics_of(few[1]))
    assert value == pytest.approx(frechet_distance(*few), rel=1e-6)


def test_dead_and_repeated_features_change_nothing() -> None:
    real, synthetic = two_sets(300, 200, 16)
    value = frechet_distance(real, synthetic)
    dead = [np.concatenate([x, np.zeros((len(x), 3)), np.full((len(x), 2), 7.0)], axis=1) for x in (real, synthetic)]
    assert covariance_factor(moments(dead[0])[1]).shape == (16, 21)
    assert frechet_distance(*dead) == pytest.approx(value, rel=1e-10)
    repeated = [np.concatenate([x, x], axis=1) for x in (real, synthetic)]
    assert frechet_distance(*repeated) == pytest.approx(2 * value, rel=1e-8)


def test_nearly_singular_covariances_keep_the_digits() -> None:
    generator = np.random.default_rng(3)
    scales = 10.0 ** -np.linspace(0, 7, 20)  # eigenvalues of the covariances over 14 orders of magnitude
    real, synthetic = (generator.normal(size=(400, 20)) * scale * scales for scale in (1.0, 1.2))
    q, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(20, 20)))
    rows = [np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(399) for x in (real, synthetic)]  # no covariance formed
    cross = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    expected = ((real.mean(0) - synthetic.mean(0)) ** 2).sum() + sum((x**2).sum() for x in rows) - 2 * cross
    assert frechet_distance(real @ q, synthetic @ q) == pytest.approx(expected, rel=1e-7)


def test_streaming_sums_refuse_other_columns_and_too_few_rows() -> None:
    statistics = statistics_of(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="matrix of 4 columns, got shape"):
        statistics.update(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="two rows or more, got 1"):
        statistics.covariance()
    with pytest.raises(ValueError, match="NaN or infinity"):
        statistics.update(np.full((1, 4), np.inf))
    with pytest.raises(ValueError, match="3 columns cannot be merged with 4"):
        statistics.merge(statistics_of(np.zeros((5, 3))))


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    generator = np.random.default_rng(2)
    draws = [(generator.normal(size=(90, 40)), generator.normal(0.2, 1.2, size=(120, 40))) for _ in range(12)]
    true = 40 * (0.2**2 + 0.2**2)
    plain = np.mean([frechet_distance(*draw) for draw in draws])
    extrapolated = np.mean([frechet_extrapolated(*draw, seed=i) for i, draw in enumerate(draws)])
    assert plain > 3 * true
    assert abs(extrapolated - true) < 0.1 * (plain - true)
    assert frechet_extrapolated(*draws[0], seed=5) == frechet_extrapolated(*draws[0], seed=5)
    calls: list[None] = []
    frechet_extrapolated(*draws[0], n_points=3, on_point=lambda: calls.append(None))
    assert len(calls) == 3


def test_interval_is_seeded_and_spreads_like_fresh_samples() -> None:
    generator = np.random.default_rng(1)
    draws = [(generator.normal(size=(200, 8)), generator.normal(0.3, 1.2, size=(200, 8))) for _ in range(60)]
    values = np.array([frechet_distance(*draw) for draw in draws])
    intervals = np.array([frechet_interval(*draw, n_bootstrap=50, seed=i) for i, draw in enumerate(draws)])
    covers = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
    assert covers.mean() >= 0.85  # without the centring it is 0.72
    assert (intervals[:, 0] < values).all() and (values < intervals[:, 1]).all()
    assert frechet_interval(*draws[0], n_bootstrap=20, seed=3) == frechet_interval(*draws[0], n_bootstrap=20, seed=3)


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "real features must be a matrix of two rows or more"),
        (np.zeros((5, 4)), np.full((5, 4), np.nan), "synthetic features hold NaN"),
        (np.zeros((5, 4)), np.zeros((5, 3)), "4 columns, synthetic 3"),
    ],
)
def test_refuses_what_has_no_distance(real: np.ndarray, synthetic: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, synthetic)


def test_loads_with_evaluate_from_its_folder() -> None:
    real, synthetic = two_sets(40, 30, 6)
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    for start in (0, 20):
        metric.add_batch(features=real[start : start + 20], source=["real"] * 20)
    metric.add_batch(features=synthetic, source=["synthetic"] * 30)
    result = metric.compute(n_bootstrap=10, seed=5, extrapolate=True)
    assert result["extrapolated"] == frechet_extrapolated(real, synthetic, 5)
    assert result["frechet"] == pytest.approx(frechet_distance(real, synthetic), rel=1e-12)
    assert tuple(result["interval"]) == frechet_interval(real, synthetic, 10, 5)
    assert (result["n_real"], result["n_synthetic"]) == (40, 30)


def test_measures_class_by_class_with_evaluate() -> None:
    real, synthetic = two_sets(40, 30, 6)
    metric = evaluate.load(str(FOLDER), "per_class", keep_in_memory=True)
    metric.add_batch(features=real, source=["real"] * 40, label=["a"] * 20 + ["b"] * 20)
    metric.add_batch(features=synthetic, source=["synthetic"] * 30, label=["a"] * 10 + ["b"] * 20)
    result = metric.compute()
    assert result["a"]["frechet"] == pytest.approx(frechet_distance(real[:20], synthetic[:10]), rel=1e-12)
    assert result["b"]["n_synthetic"] == 20


def test_refuses_an_unknown_source() -> None:
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    metric.add_batch(features=np.zeros((2, 3)), source=["real", "fake"])
    with pytest.raises(ValueError, match="got 'fake'"):
        metric.compute()
