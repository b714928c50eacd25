"""Fréchet distance between two sets of features, with a bootstrap interval.

The distance of Heusel et al. 2017 (arXiv 1706.08500, equation 6) between the Gaussians fitted to two sets of features

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)),    C with 1/(n - 1).

On features of Inception-v3 (2015-12-05) it is the FID; on those of any other network it is not comparable with
published FIDs, so name the network beside the number. This file stands alone: `evaluate.load("./metrics/frechet")`.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Fréchet distance between the features of real and of synthetic samples, with a bootstrap interval."
_CITATION = "Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017"
_INPUTS = """
Args:
    features: one row of d numbers a sample, real and synthetic together.
    source: "real" or "synthetic" for each row.
    label: class of each row; only of the configuration "per_class".
    n_bootstrap: bootstrap replicates of the interval, 0 for none.
    seed: of the bootstrap.
Returns:
    frechet, interval (95 %, or None), n_real, n_synthetic; with "per_class" a dict of these by class.
"""


def frechet_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to `real` (n, d) and `synthetic` (m, d), >= 0.

    In float64, without a matrix square root: with C = F'F for each side, tr((C1 C2)^(1/2)) is the sum of the singular
    values of F1 F2', whose sides are min(n, d) and min(m, d) long.

    Raises:
        ValueError: fewer than two rows on a side, different dimensions, or a value that is not finite.
    """
    real, synthetic = check_features(real, synthetic)
    return _weighted_distance(real, np.ones(len(real)), synthetic, np.ones(len(synthetic)))


def frechet_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    n_bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.95,
    on_replicate: Callable[[], object] | None = None,
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of the Fréchet distance; rows of both sides are resampled.

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
        counts = [np.bincount(generator.integers(len(x), size=len(x)), minlength=len(x)) for x in (real, synthetic)]
        replicates[i] = _weighted_distance(real, counts[0], synthetic, counts[1])
        if on_replicate is not None:
            on_replicate()
    bias = replicates.mean() - frechet_distance(real, synthetic)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]) - bias
    return max(0.0, float(low)), max(0.0, float(high))


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


def _weighted_distance(
    real: np.ndarray, real_counts: np.ndarray, synthetic: np.ndarray, synthetic_counts: np.ndarray
) -> float:
    """The distance where row i counts `counts[i]` times; a row that does not count costs nothing."""
    mean_1, factor_1 = _mean_and_factor(real, real_counts)
    mean_2, factor_2 = _mean_and_factor(synthetic, synthetic_counts)
    cross = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    distance = ((mean_1 - mean_2) ** 2).sum() + (factor_1**2).sum() + (factor_2**2).sum() - 2 * cross
    return max(0.0, float(distance))


def _mean_and_factor(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and a factor F of the covariance, F'F = C, with min(n, d) rows."""
    used = counts > 0
    rows, counts = rows[used], counts[used]
    mean = counts @ rows / counts.sum()
    factor = np.sqrt(counts / (counts.sum() - 1))[:, None] * (rows - mean)
    if factor.shape[0] > factor.shape[1]:
        factor = np.asarray(np.linalg.qr(factor, mode="r"))
    return mean, factor


class Frechet(evaluate.Metric):
    """The functions above as an `evaluate` metric; configuration "per_class" takes a column `label` as well."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {"features": datasets.Sequence(datasets.Value("float64")), "source": datasets.Value("string")}
        if self.config_name == "per_class":
            columns["label"] = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(
        self, features: Any, source: Any, label: Any = None, n_bootstrap: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        rows, sources = np.asarray(features, dtype=np.float64), np.asarray(source)
        unknown = sorted(set(sources.tolist()) - {"real", "synthetic"})
        if unknown:
            raise ValueError(f'source must be "real" or "synthetic", got {unknown[0]!r}')
        if label is None:
            return self._measure(rows, sources, n_bootstrap, seed)
        labels = np.asarray(label)
        return {
            str(name): self._measure(rows[labels == name], sources[labels == name], n_bootstrap, seed)
            for name in np.unique(labels)
        }

    @staticmethod
    def _measure(rows: np.ndarray, sources: np.ndarray, n_bootstrap: int, seed: int) -> dict[str, Any]:
        real, synthetic = rows[sources == "real"], rows[sources == "synthetic"]
        return {
            "frechet": frechet_distance(real, synthetic),
            "interval": frechet_interval(real, synthetic, n_bootstrap, seed) if n_bootstrap else None,
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
