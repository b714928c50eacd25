"""Percentile intervals of the bootstrap, the ones that stand beside every number here.

The metrics' own folders have theirs inside: each of those stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]
"""Lower and upper end."""


def percentile_interval(replicates: np.ndarray | Sequence[float], level: float = 0.95) -> Interval:
    """The middle `level` of replicates (r,): their (1 - level) / 2 and (1 + level) / 2 quantiles."""
    tail = round((1 - level) / 2, 12)  # 0.025, not 0.025000000000000022
    low, high = np.quantile(np.asarray(replicates, dtype=float), [tail, 1 - tail])
    return float(low), float(high)


def centred_interval(
    replicates: np.ndarray | Sequence[float], value: float, lowest: float = 0.0, highest: float = np.inf
) -> Interval:
    """The 95 % interval of replicates (r,) less their mean distance from `value`, cut to [lowest, highest].

    For distances: a resample repeats rows, which brings it further from the other side than its original was.
    """
    low, high = percentile_interval(replicates)
    bias = float(np.asarray(replicates, dtype=float).mean()) - value
    return min(max(low - bias, lowest), highest), min(max(high - bias, lowest), highest)


def bootstrap(
    statistic: Callable[..., float], sides: Sequence[np.ndarray], replicates: int, seed: Sequence[int]
) -> np.ndarray:
    """`statistic(*sides)`, float64 (replicates,), each time of as many rows of every side (n, …), drawn with
    replacement, side by side in their order, by one generator."""
    generator = np.random.default_rng(seed)
    return np.array(
        [
            statistic(*(side[generator.integers(len(side), size=len(side))] for side in sides))
            for _ in range(replicates)
        ],
        dtype=np.float64,
    )


def bootstrap_interval(
    statistic: Callable[..., float], sides: Sequence[np.ndarray], replicates: int, seed: Sequence[int]
) -> Interval | None:
    """The 95 % interval of `statistic(*sides)` by `bootstrap`; None where no replicate is asked for."""
    return percentile_interval(bootstrap(statistic, sides, replicates, seed)) if replicates else None
