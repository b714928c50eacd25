"""Kernel distance (KID) between two sets of features, with a bootstrap interval.

The unbiased squared maximum mean discrepancy of Bińkowski et al. 2018 (arXiv 1801.01401, section 4 and equation 4)
with the cubic polynomial kernel k(x, y) = (x.y / d + 1)^3, over all rows instead of an average over subsets. Being a
U-statistic it has no bias at small n, and may be slightly negative where both sides have the same distribution.
This file stands alone: `evaluate.load("./metrics/kid")`.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Unbiased kernel distance between the features of real and of synthetic samples, with an interval."
_CITATION = "Bińkowski et al., Demystifying MMD GANs, 2018"
_INPUTS = """
Args:
    features: one row of d numbers a sample, real and synthetic together.
    source: "real" or "synthetic" for each row.
    label: class of each row; only of the configuration "per_class".
    n_bootstrap: bootstrap replicates of the interval, 0 for none.
    seed: of the bootstrap and of the subsets of the spread.
Returns:
    kid, interval (95 %, or None), spread and subset_size (of Bińkowski's subsets), n_real, n_synthetic; with
    "per_class" a dict of these by class.
"""

BLOCK_ROWS = 1024


def kernel_distance(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Unbiased squared MMD between `real` (n, d) and `synthetic` (m, d) with the cubic kernel.

    Raises:
        ValueError: fewer than two rows on a side, different dimensions, or a value that is not finite.
    """
    real, synthetic = check_features(real, synthetic)
    once = [(rows, np.ones((1, len(rows)))) for rows in (real, synthetic)]
    return float(_weighted_distances(once[0], once[1])[0])


def kernel_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    n_bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.95,
    on_block: Callable[[], object] | None = None,
    persons: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of `kernel_distance`; rows of both sides are resampled.

    Where `persons` (n_real,) say whose each real row is, persons are resampled with all their rows.

    The replicates are weighted sums over one evaluation of the kernel. A pair made of two copies of the same original
    is left out of every replicate, as the U-statistic leaves out the diagonal; otherwise each replicate would be
    biased upwards. The kernel is walked through in blocks of 1,024 rows: memory grows with n, not with n squared.
    `on_block` is called after each block.
    """
    real, synthetic = check_features(real, synthetic)
    generator = np.random.default_rng(seed)
    units = [np.arange(len(x)) for x in (real, synthetic)]
    if persons is not None:
        units[0] = np.unique(persons, return_inverse=True)[1]
    many = [int(own.max()) + 1 for own in units]
    drawn = [generator.multinomial(own, np.full(own, 1 / own), size=n_bootstrap) for own in many]
    counts = [own[:, whose] for own, whose in zip(drawn, units, strict=True)]
    replicates = _weighted_distances((real, counts[0].astype(float)), (synthetic, counts[1].astype(float)), on_block)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def kernel_spread(
    real: np.ndarray, synthetic: np.ndarray, n_subsets: int = 100, max_size: int = 1000, seed: int = 0
) -> tuple[float, float, int]:
    """KID as Bińkowski et al. report it: (mean, standard deviation, size) over random subsets of both sides.

    Subsets have `max_size` rows a side, or half of the smaller side where that is less (a subset of all rows would
    not vary), and are drawn without replacement. All of them are weighted sums over one evaluation of the kernel. The
    standard deviation is that of a subset's value, larger than the uncertainty of `kernel_distance` over all rows.
    """
    real, synthetic = check_features(real, synthetic)
    size = max(2, min(max_size, min(len(real), len(synthetic)) // 2))
    generator = np.random.default_rng([seed, 1])
    members = []
    for rows in (real, synthetic):
        chosen = np.zeros((n_subsets, len(rows)))
        for subset in chosen:
            subset[generator.choice(len(rows), size, replace=False)] = 1
        members.append((rows, chosen))
    values = _weighted_distances(members[0], members[1])
    return float(values.mean()), float(values.std(ddof=1)), size


def count_blocks(n_real: int, n_synthetic: int) -> int:
    """How often `kernel_interval` calls `on_block`."""
    return 2 * -(-n_real // BLOCK_ROWS) + -(-n_synthetic // BLOCK_ROWS)


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


Weighted = tuple[np.ndarray, np.ndarray]  # rows (n, d), and how often each counts in each replicate (replicates, n)


def _weighted_distances(
    real: Weighted, synthetic: Weighted, on_block: Callable[[], object] | None = None
) -> np.ndarray:
    """One distance for each replicate."""
    cross = _pair_sums(real, synthetic, on_block) / (real[1].sum(1) * synthetic[1].sum(1))
    return _mean_of_pairs(real, on_block) + _mean_of_pairs(synthetic, on_block) - 2 * cross


def _mean_of_pairs(side: Weighted, on_block: Callable[[], object] | None) -> np.ndarray:
    """Mean kernel over ordered pairs of different originals, for each replicate."""
    rows, counts = side
    own = ((rows**2).sum(1) / rows.shape[1] + 1) ** 3
    pairs = _pair_sums(side, side, on_block) - counts**2 @ own
    return pairs / (counts.sum(1) ** 2 - (counts**2).sum(1))


def _pair_sums(left: Weighted, right: Weighted, on_block: Callable[[], object] | None) -> np.ndarray:
    """sum_ij left_counts[b, i] k(left_i, right_j) right_counts[b, j] for each replicate b."""
    (rows, counts), sums = left, np.zeros(len(left[1]))
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        kernel = (rows[block] @ right[0].T / rows.shape[1] + 1) ** 3
        sums += ((counts[:, block] @ kernel) * right[1]).sum(1)
        if on_block is not None:
            on_block()
    return sums


class KID(evaluate.Metric):
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
    def _measure(rows: np.ndarray, sources: np.ndarray, n_bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
        real, synthetic = rows[sources == "real"], rows[sources == "synthetic"]
        _, spread, subset_size = kernel_spread(real, synthetic, seed=seed)
        return {
            "kid": kernel_distance(real, synthetic),
            "interval": kernel_interval(real, synthetic, n_bootstrap, seed) if n_bootstrap else None,
            "spread": spread,
            "subset_size": subset_size,
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
