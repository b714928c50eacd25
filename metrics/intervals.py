"""Percentile intervals of the bootstrap, the ones that stand beside every number here.

The metrics' own folders have theirs inside: each of those stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]
"""Lower and upper end."""
REPLICATES = 500


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


Persons = Sequence[np.ndarray | None]
"""Of each side whose each row is, (n,), or None."""


def resampled(generator: np.random.Generator, count: int, persons: np.ndarray | None = None) -> np.ndarray:
    """Row numbers of a resample of `count` rows; of as many persons, with all their rows, where `persons` (count,) are
    known (the cluster bootstrap of Field and Welsh 2007)."""
    if persons is None:
        return generator.integers(count, size=count)
    _, whose, sizes = np.unique(persons, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(whose, kind="stable"), np.cumsum(sizes)[:-1])
    return np.concatenate([rows[person] for person in generator.integers(len(rows), size=len(rows))])


def bootstrap(
    statistic: Callable[..., float],
    sides: Sequence[np.ndarray],
    replicates: int,
    seed: Sequence[int],
    persons: Persons | None = None,
) -> np.ndarray:
    """`statistic(*sides)`, float64 (replicates,), each time of a resample of every side (n, …), side by side in their
    order, by one generator."""
    generator = np.random.default_rng(seed)
    both = list(zip(sides, persons or [None] * len(sides), strict=True))
    drawn = ([side[resampled(generator, len(side), whose)] for side, whose in both] for _ in range(replicates))
    return np.array([statistic(*rows) for rows in drawn], dtype=np.float64)


def no_narrower(
    plain: Interval, statistic: Callable[..., float], sides: Sequence[np.ndarray], persons: Persons
) -> Interval:
    """An interval that takes rows for independent, widened to that of a bootstrap of persons where these are known of
    a side."""
    if all(whose is None for whose in persons):
        return plain
    low, high = percentile_interval(bootstrap(statistic, sides, REPLICATES, [0, 18], persons))
    return min(low, plain[0]), max(high, plain[1])


def bootstrap_interval(
    statistic: Callable[..., float],
    sides: Sequence[np.ndarray],
    replicates: int,
    seed: Sequence[int],
    persons: Persons | None = None,
) -> Interval | None:
    """The 95 % interval of `statistic(*sides)` by `bootstrap`; None where no replicate is asked for."""
    return percentile_interval(bootstrap(statistic, sides, replicates, seed, persons)) if replicates else None
