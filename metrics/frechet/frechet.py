"""Fréchet distance between two sets of features, with a bootstrap interval and an extrapolation to many samples.

The distance of Heusel et al. 2017 (arXiv 1706.08500, equation 6) between the Gaussians fitted to two sets of features

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)),    C with 1/(n - 1).

On features of Inception-v3 (2015-12-05) it is the FID; on those of any other network it is not comparable with
published FIDs, so name the network beside the number. This file stands alone: `evaluate.load("./metrics/frechet")`.

No matrix square root is taken: with C = F'F for each side, tr((C1 C2)^(1/2)) is the sum of the singular values of
P = F1 F2'. F is the centred rows where they are fewer than the columns, else a Cholesky factor of C, pivoted where C
is singular (features that are always zero, or repeated). The singular values are the roots of the eigenvalues of PP',
which take a third of the time but lose half of the digits of the small ones; so the eigenvalues are taken where their
error, known from their sizes, is below 1e-8 of the distance, else the singular values themselves.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.linalg import lapack

_DESCRIPTION = "Fréchet distance between the features of real and of synthetic samples, with a bootstrap interval."
_CITATION = "Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017"
_INPUTS = """
Args:
    features: one row of d numbers a sample, real and synthetic together.
    source: "real" or "synthetic" for each row.
    label: class of each row; only of the configuration "per_class".
    n_bootstrap: bootstrap replicates of the interval, 0 for none.
    seed: of the bootstrap and of the subsets of the extrapolation.
    extrapolate: also give the distance extrapolated to many samples.
Returns:
    frechet, interval (95 %, or None), extrapolated (or None), n_real, n_synthetic; with "per_class" a dict of these
    by class.
"""


BLOCK_ROWS = 2048


def statistics_distance(real: "GaussianStatistics", synthetic: "GaussianStatistics") -> float:
    """Squared Fréchet distance between two Gaussians given by their streaming sums, >= 0.

    Raises:
        ValueError: fewer than two rows on a side, or different dimensions.
    """
    if len(real.mean) != len(synthetic.mean):
        raise ValueError(
            f"real features have {len(real.mean)} columns, synthetic {len(synthetic.mean)}; use one extractor for both"
        )
    return _distance(_side(real), _side(synthetic))


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to `real` (n, d) and `synthetic` (m, d), >= 0.

    Raises:
        ValueError: fewer than two rows on a side, different dimensions, or a value that is not finite.
    """
    real, synthetic = check_features(real, synthetic)
    return _distance(_fit(real), _fit(synthetic))


def frechet_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    n_bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.95,
    on_replicate: Callable[[], object] | None = None,
    persons: np.ndarray | None = None,
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of the Fréchet distance; rows of both sides are resampled.

    Where `persons` (n_real,) say whose each real row is, persons are resampled with all their rows.

    A resample repeats rows, which adds the bias of a smaller sample once more: plain bootstrap distances lie above the
    distance that they are replicates of. The interval is therefore *centred*: the bootstrap's own estimate of that
    bias, mean(replicates) - distance, is subtracted from the percentiles. It covers the spread of the distance at
    these n; the upward bias of the distance itself, large where n is less than a few times d, stays in value and
    interval alike (compare with the real-vs-real floor). `on_replicate` is called after each replicate.
    """
    real, synthetic = check_features(real, synthetic)
    generator = np.random.default_rng(seed)
    replicates = np.empty(n_bootstrap)
    for i in range(n_bootstrap):
        counts = [_drawn(generator, len(real), persons), _drawn(generator, len(synthetic))]
        replicates[i] = _distance(_fit(real, counts[0]), _fit(synthetic, counts[1]))
        if on_replicate is not None:
            on_replicate()
    bias = replicates.mean() - frechet_distance(real, synthetic)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]) - bias
    return max(0.0, float(low)), max(0.0, float(high))


def _drawn(generator: np.random.Generator, count: int, persons: np.ndarray | None = None) -> np.ndarray:
    """How often each of `count` rows is drawn, with replacement, by itself or with its person."""
    whose = np.arange(count) if persons is None else np.unique(persons, return_inverse=True)[1]
    many = int(whose.max()) + 1
    counts: np.ndarray = np.bincount(generator.integers(many, size=many), minlength=many)[whose]
    return counts


def frechet_extrapolated(
    real: np.ndarray,
    synthetic: np.ndarray,
    seed: int = 0,
    n_points: int = 15,
    on_point: Callable[[], object] | None = None,
) -> float:
    """The Fréchet distance extrapolated to infinitely many rows, after Chong & Forsyth 2020 (arXiv 1911.07023).

    To first order the distance of n real and m synthetic rows is too high by a/n + b/m. Random subsets with the same
    share f of *both* sides (Chong & Forsyth shrink the synthetic one alone, their real side being large) are
    therefore too high by (a/n + b/m)/f: a straight line in 1/f, whose value at 1/f = 0 is returned. The 1/f are
    evenly spaced from 1 to 2; `seed` draws the subsets, without replacement. It may fall below zero where both sides
    have one distribution. Where n or m is below the number of directions in which the features really vary, the line
    bends and the result is nearer than the plain distance, but still too high. `on_point` is called after each subset.
    """
    real, synthetic = check_features(real, synthetic)
    generator = np.random.default_rng([seed, 2])
    inverse_shares = np.linspace(1, 2, n_points)
    distances = np.empty(n_points)
    for i, inverse in enumerate(inverse_shares):
        sizes = [max(2, round(len(x) / inverse)) for x in (real, synthetic)]
        index = [generator.permutation(len(x))[:size] for x, size in zip((real, synthetic), sizes, strict=True)]
        distances[i] = frechet_distance(real[index[0]], synthetic[index[1]])
        if on_point is not None:
            on_point()
    return float(np.polynomial.Polynomial.fit(inverse_shares, distances, 1)(0.0))


def check_features(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64 matrices; an error where a distance between them has no meaning."""
    real, synthetic = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    for name, rows in (("real", real), ("synthetic", synthetic)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"{name} features must be a matrix of two rows or more, got shape {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} features hold NaN or infinity; look at the extractor and its input")
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real features have {real.shape[1]} columns, synthetic {synthetic.shape[1]}; use one extractor for both"
        )
    return real, synthetic


Side = tuple[np.ndarray, np.ndarray, float]  # mean, factor and trace of the covariance


def _distance(real: Side, synthetic: Side) -> float:
    product = real[1] @ synthetic[1].T
    rest = float(((real[0] - synthetic[0]) ** 2).sum() + real[2] + synthetic[2])
    if min(product.shape) == len(real[0]):
        eigenvalues = np.linalg.eigvalsh(product @ product.T)
        if eigenvalues[0] > 0:
            roots = np.sqrt(eigenvalues)
            distance = float(rest - 2 * roots.sum())
            if 10 * np.finfo(float).eps * eigenvalues[-1] * (1 / roots).sum() < 1e-8 * distance:
                return distance
    return max(0.0, float(rest - 2 * np.linalg.svd(product, compute_uv=False).sum()))


def _fit(rows: np.ndarray, counts: np.ndarray | None = None) -> Side:
    """Mean, factor F of the covariance (F'F = C) with at most min(n, d) rows, and trace.

    Row i counts `counts[i]` times, or once; a row that does not count costs nothing.
    """
    if (len(rows) if counts is None else np.count_nonzero(counts)) > rows.shape[1]:
        statistics = GaussianStatistics()
        statistics.update(rows, counts)
        return _side(statistics)
    counts = np.ones(len(rows)) if counts is None else counts
    rows, counts = rows[counts > 0], counts[counts > 0]
    mean = counts @ rows / counts.sum()
    factor = np.sqrt(counts / (counts.sum() - 1))[:, None] * (rows - mean)
    return mean, factor, float((factor**2).sum())


def _side(statistics: "GaussianStatistics") -> Side:
    covariance = statistics.covariance()
    return statistics.mean, covariance_factor(covariance), float(np.trace(covariance))


class GaussianStatistics:
    """Mean and covariance of rows that arrive in batches, in float64: memory grows with d squared, not with n.

    The sum of squares is kept about the running mean (Chan et al. 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances"), so that features far from zero lose no digits. The sums of several processes are
    joined with `merge`.

    Attributes:
        count: rows seen.
        mean: float64 (d,), empty before the first batch.
        squares: float64 (d, d), the sum over rows of (x - mean)(x - mean)'.
    """

    def __init__(self) -> None:
        self.count = 0.0
        self.mean = np.zeros(0)
        self.squares = np.zeros((0, 0))

    def update(self, batch: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Add the rows of `batch` (n, d), row i `counts[i]` times (once, if not given).

        Raises:
            ValueError: not a matrix, other columns than before, or a value that is not finite.
        """
        batch = np.asarray(batch, dtype=np.float64)
        if batch.ndim != 2 or (self.count and batch.shape[1] != len(self.mean)):
            raise ValueError(f"a batch must be a matrix of {len(self.mean) or 'd'} columns, got shape {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features hold NaN or infinity; look at the extractor and its input")
        for start in range(0, len(batch), BLOCK_ROWS):
            rows = batch[start : start + BLOCK_ROWS]
            weights = None if counts is None else counts[start : start + BLOCK_ROWS]
            if weights is not None and not weights.all():
                rows, weights = rows[weights > 0], weights[weights > 0]
            if len(rows):
                self._add_rows(rows, weights)

    def merge(self, other: "GaussianStatistics") -> None:
        """Add the rows that `other` has seen."""
        if other.count and self.count and len(other.mean) != len(self.mean):
            raise ValueError(f"{len(other.mean)} columns cannot be merged with {len(self.mean)}; use one extractor")
        if other.count:
            between = self._move_mean(other.count, other.mean)
            self.squares += other.squares + np.outer(between, between)

    def covariance(self) -> np.ndarray:
        """Float64 (d, d), with 1/(n - 1).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two rows or more, got {self.count:g}")
        return self.squares / (self.count - 1)

    def _add_rows(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        total = float(len(rows) if weights is None else weights.sum())
        mean = rows.sum(axis=0) / total if weights is None else weights @ rows / total
        centred = np.empty((len(rows) + 1, len(mean)))
        np.subtract(rows, mean, out=centred[:-1])
        if weights is not None:
            centred[:-1] *= np.sqrt(weights)[:, None]
        centred[-1] = self._move_mean(total, mean)
        self.squares += centred.T @ centred  # numpy knows this product as a rank-k update: half the work

    def _move_mean(self, count: float, mean: np.ndarray) -> np.ndarray:
        """Join `count` rows to the mean; v such that vv' is what the distance of the two means adds to the squares."""
        if self.count == 0:
            self.mean = np.zeros(len(mean))
            self.squares = np.zeros((len(mean), len(mean)))
        difference, total = mean - self.mean, self.count + count
        between = difference * np.sqrt(self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total
        return between


def covariance_factor(covariance: np.ndarray) -> np.ndarray:
    """F (rank, d) with F'F = C of a positive semidefinite C (d, d): Cholesky, pivoted where C is singular."""
    try:
        return np.linalg.cholesky(covariance).T
    except np.linalg.LinAlgError:
        factor, pivots, rank, _ = lapack.dpstrf(covariance)
        result = np.zeros((rank, len(covariance)))
        result[:, pivots - 1] = np.triu(factor)[:rank]
        return result


class Frechet(evaluate.Metric):
    """The functions above as an `evaluate` metric; configuration "per_class" takes a column `label` as well."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {"features": datasets.Sequence(datasets.Value("float64")), "source": datasets.Value("string")}
        if self.config_name == "per_class":
            columns["label"] = datasets.Value("string")
        return evaluate.MetricInfo(_DESCRIPTION, _CITATION, datasets.Features(columns), _INPUTS)

    def _compute(self, features: Any, source: Any, label: Any = None, **settings: Any) -> dict[str, Any]:
        rows, sources = np.asarray(features, dtype=np.float64), np.asarray(source)
        unknown = sorted(set(sources.tolist()) - {"real", "synthetic"})
        if unknown:
            raise ValueError(f'source must be "real" or "synthetic", got {unknown[0]!r}')
        if label is None:
            return self._measure(rows, sources, **settings)
        labels = np.asarray(label)
        return {
            str(name): self._measure(rows[labels == name], sources[labels == name], **settings)
            for name in np.unique(labels)
        }

    @staticmethod
    def _measure(
        rows: np.ndarray, sources: np.ndarray, n_bootstrap: int = 0, seed: int = 0, extrapolate: bool = False
    ) -> dict[str, Any]:
        real, synthetic = rows[sources == "real"], rows[sources == "synthetic"]
        return {
            "frechet": frechet_distance(real, synthetic),
            "interval": frechet_interval(real, synthetic, n_bootstrap, seed) if n_bootstrap else None,
            "extrapolated": frechet_extrapolated(real, synthetic, seed) if extrapolate else None,
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
