"""Maximum mean discrepancy (MMD) between two sets of embeddings with a Gaussian kernel, with a bootstrap interval.

The unbiased squared MMD of Gretton et al. 2012 (JMLR 13, lemma 6) with k(x, y) = exp(-|x - y|^2 / (2 s^2)). Being a
U-statistic it has no bias at small n, and may be slightly negative where both sides have one distribution. The
bandwidth s is the median distance between rows (section 8 there), here of the *real* rows alone: a bandwidth that
depends on the synthetic rows gives every generator, and the real-vs-real floor, a measure of its own.
This file stands alone: `evaluate.load("./metrics/mmd")`.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Unbiased squared MMD (Gaussian kernel, median heuristic) between embeddings, with an interval."
_CITATION = "Gretton et al., A Kernel Two-Sample Test, 2012"
_INPUTS = """
Args:
    features: one row of d numbers a sample, real and synthetic together.
    source: "real" or "synthetic" for each row.
    label: class of each row; only of the configuration "per_class".
    bandwidth: of the kernel; None takes the median distance between real rows (with "per_class" those of the class).
    n_bootstrap: bootstrap replicates of the interval, 0 for none.
    seed: of the bootstrap.
Returns:
    mmd_squared, interval (95 %, or None), bandwidth, n_real, n_synthetic; with "per_class" a dict of these by class.
"""

BLOCK_ROWS = 1024
MEDIAN_ROWS = 2000


def median_bandwidth(rows: np.ndarray) -> float:
    """Median Euclidean distance between two different rows (n, d), of 2,000 evenly spaced ones where there are more.

    Raises:
        ValueError: fewer than two rows, or more than half of the pairs are equal rows.
    """
    rows = check_rows("real", rows)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MEDIAN_ROWS)).astype(int))]
    squares = squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    median = float(np.sqrt(np.median(squares)))
    if median == 0:
        raise ValueError("more than half of the real pairs are equal rows, their median distance is 0; give bandwidth")
    return median


def mmd_squared(real: np.ndarray, synthetic: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared MMD between `real` (n, d) and `synthetic` (m, d), at most 2.

    Raises:
        ValueError: fewer than two rows on a side, different dimensions, a value that is not finite, or a bandwidth
            that is not positive.
    """
    real, synthetic = check_sides(real, synthetic, bandwidth)
    once = [(rows, np.ones((1, len(rows)))) for rows in (real, synthetic)]
    return float(_weighted_distances(once[0], once[1], bandwidth)[0])


def mmd_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    bandwidth: float,
    n_bootstrap: int = 200,
    seed: int = 0,
    level: float = 0.95,
    on_block: Callable[[], object] | None = None,
    persons: np.ndarray | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of `mmd_squared`; rows of both sides are resampled.

    Where `persons` (n_real,) say whose each real row is, persons are resampled with all their rows.

    The replicates are weighted sums over one evaluation of the kernel, in blocks of 1,024 rows, without the pairs made
    of two copies of one original, which would bias each of them upwards. `on_block` is called after each block.
    """
    real, synthetic = check_sides(real, synthetic, bandwidth)
    generator = np.random.default_rng(seed)
    units = [np.arange(len(x)) for x in (real, synthetic)]
    if persons is not None:
        units[0] = np.unique(persons, return_inverse=True)[1]
    many = [int(own.max()) + 1 for own in units]
    drawn = [generator.multinomial(own, np.full(own, 1 / own), size=n_bootstrap) for own in many]
    counts = [own[:, whose] for own, whose in zip(drawn, units, strict=True)]
    sides = (real, counts[0].astype(float)), (synthetic, counts[1].astype(float))
    replicates = _weighted_distances(*sides, bandwidth, on_block)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def count_blocks(n_real: int, n_synthetic: int) -> int:
    """How often `mmd_interval` calls `on_block`."""
    return 2 * -(-n_real // BLOCK_ROWS) + -(-n_synthetic // BLOCK_ROWS)


def check_rows(name: str, rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"{name} features must be a matrix of two rows or more, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} features hold NaN or infinity; look at the extractor and its input")
    return rows


def check_sides(real: np.ndarray, synthetic: np.ndarray, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64 matrices; an error where a distance between them has no meaning."""
    real, synthetic = check_rows("real", real), check_rows("synthetic", synthetic)
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real features have {real.shape[1]} columns, synthetic {synthetic.shape[1]}; use one extractor for both"
        )
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be above 0, got {bandwidth}; median_bandwidth(real) gives one")
    return real, synthetic


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    return np.maximum(squares, 0)


Weighted = tuple[np.ndarray, np.ndarray]  # rows (n, d), and how often each counts in each replicate (replicates, n)


def _weighted_distances(
    real: Weighted, synthetic: Weighted, bandwidth: float, on_block: Callable[[], object] | None = None
) -> np.ndarray:
    """One distance for each replicate."""

    def pair_sums(left: Weighted, right: Weighted) -> np.ndarray:
        """sum_ij left_counts[b, i] k(left_i, right_j) right_counts[b, j] for each replicate b."""
        (rows, counts), sums = left, np.zeros(len(left[1]))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            kernel = np.exp(squared_distances(rows[block], right[0]) / (-2 * bandwidth**2))
            sums += ((counts[:, block] @ kernel) * right[1]).sum(1)
            if on_block is not None:
                on_block()
        return sums

    def mean_of_pairs(side: Weighted) -> np.ndarray:
        """Mean kernel over ordered pairs of different originals, for each replicate; k(x, x) is 1."""
        copies = (side[1] ** 2).sum(1)
        return (pair_sums(side, side) - copies) / (side[1].sum(1) ** 2 - copies)

    cross = pair_sums(real, synthetic) / (real[1].sum(1) * synthetic[1].sum(1))
    return mean_of_pairs(real) + mean_of_pairs(synthetic) - 2 * cross


class MMD(evaluate.Metric):
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
        rows: np.ndarray, sources: np.ndarray, bandwidth: float | None = None, n_bootstrap: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        real, synthetic = rows[sources == "real"], rows[sources == "synthetic"]
        width = median_bandwidth(real) if bandwidth is None else bandwidth
        return {
            "mmd_squared": mmd_squared(real, synthetic, width),
            "interval": mmd_interval(real, synthetic, width, n_bootstrap, seed) if n_bootstrap else None,
            "bandwidth": width,
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
