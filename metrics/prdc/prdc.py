"""Precision, recall, density and coverage of synthetic features with respect to real ones.

A set's manifold is the union of balls about its rows, each as wide as the distance to its k-th nearest other row.

    precision  share of the synthetic rows inside the real manifold        (Kynkäänniemi et al. 2019, arXiv 1904.06991)
    recall     share of the real rows inside the synthetic manifold        (the same)
    density    real balls about a synthetic row over k, mean; may exceed 1 (Naeem et al. 2020, arXiv 2002.09797)
    coverage   share of the real balls that hold a synthetic row           (the same)

Distances are worked through in blocks of 1,024 by 1,024 rows, those within a set once for both directions: memory
grows with n, not with n squared. All four depend on n: compare sets of like size, and with the real-vs-real floor.
This file stands alone: `evaluate.load("./metrics/prdc")`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Precision, recall, density and coverage of synthetic samples' features, with intervals."
_CITATION = "Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020"
_INPUTS = """
Args:
    features: one row of d numbers a sample, real and synthetic together.
    source: "real" or "synthetic" for each row.
    label: class of each row; only of the configuration "per_class".
    nearest_k: neighbours that make a ball.
    n_replicates: subsets that the intervals are made of, 0 for none.
    seed: of the subsets.
Returns:
    precision, recall, density, coverage, intervals (a dict of 95 % intervals, or None), n_real, n_synthetic; with
    "per_class" a dict of these by class.
"""

NAMES = ("precision", "recall", "density", "coverage")
NEAREST_K = 5
BLOCK_ROWS = 1024
MAX_SUBSET = 1000


def prdc(
    real: np.ndarray,
    synthetic: np.ndarray,
    nearest_k: int = NEAREST_K,
    on_block: Callable[[], object] | None = None,
) -> dict[str, float]:
    """The four numbers by name, of `real` (n, d) and `synthetic` (m, d).

    Comparisons are strict, so a ball of radius zero (about a row with k copies) holds nothing. `on_block` is called
    after each block of distances.

    Raises:
        ValueError: no more than `nearest_k` rows on a side, different dimensions, or a value that is not finite.
    """
    real, synthetic = check_features(real, synthetic, nearest_k)
    centre = real.mean(0)  # distances do not change, but those between rows far from zero lose fewer digits
    radii = [squared_radii(rows, nearest_k, centre, on_block) for rows in (real, synthetic)]
    balls_about = np.zeros(len(synthetic))
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for i in blocks(len(real)):
        for j in blocks(len(synthetic)):
            distances = squared_distances(real[i] - centre, synthetic[j] - centre)
            in_real_ball = distances < radii[0][i, None]
            balls_about[j] += in_real_ball.sum(0)
            covered[i] |= in_real_ball.any(1)
            recalled[i] |= (distances < radii[1][j]).any(1)
            if on_block is not None:
                on_block()
    return {
        "precision": float((balls_about > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(balls_about.mean() / nearest_k),
        "coverage": float(covered.mean()),
    }


def squared_radii(
    rows: np.ndarray, nearest_k: int, centre: np.ndarray, on_block: Callable[[], object] | None = None
) -> np.ndarray:
    """Squared distance (n,) of each row to its k-th nearest other row; -1 where that cannot be told from zero.

    The squares come from |x|^2 + |y|^2 - 2xy, which for two copies leaves a rest of either sign.
    """
    nearest = np.full((len(rows), nearest_k), np.inf)
    for i in blocks(len(rows)):
        for j in blocks(i.stop):
            distances = squared_distances(rows[i] - centre, rows[j] - centre)
            if i == j:
                np.fill_diagonal(distances, np.inf)
            else:
                nearest[j] = smallest(nearest[j], distances.T, nearest_k)
            nearest[i] = smallest(nearest[i], distances, nearest_k)
            if on_block is not None:
                on_block()
    radii = nearest.max(1)
    longest = max(float(((rows[i] - centre) ** 2).sum(1).max()) for i in blocks(len(rows)))
    radii[radii < 4 * (rows.shape[1] + 8) * np.finfo(float).eps * longest] = -1
    return radii


def blocks(n: int) -> Iterator[slice]:
    """Slices of at most 1,024 that together are range(n)."""
    return (slice(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS))


def count_blocks(n_real: int, n_synthetic: int) -> int:
    """How often `prdc` calls `on_block`."""
    real, synthetic = -(-n_real // BLOCK_ROWS), -(-n_synthetic // BLOCK_ROWS)
    return (real * (real + 1) + synthetic * (synthetic + 1)) // 2 + real * synthetic


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (n, m), exact to rounding errors of the squared lengths, so not always >= 0."""
    distances = left @ right.T
    distances *= -2
    distances += (left**2).sum(1)[:, None]
    distances += (right**2).sum(1)
    return distances


def smallest(kept: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of each row of both."""
    if candidates.shape[1] > k:
        candidates = np.partition(candidates, k - 1, axis=1)[:, :k]
    return np.partition(np.concatenate([kept, candidates], axis=1), k - 1, axis=1)[:, :k]


def least_rows(nearest_k: int = NEAREST_K) -> int:
    """Rows a side from which on intervals mean anything: half of them are twice as many as make a ball.

    With fewer the balls of every half are nearly alike, and the interval may leave out the value itself.
    """
    return max(6, 4 * nearest_k)


def prdc_intervals(
    real: np.ndarray,
    synthetic: np.ndarray,
    nearest_k: int = NEAREST_K,
    n_replicates: int = 200,
    seed: int = 0,
    level: float = 0.95,
    on_replicate: Callable[[], object] | None = None,
    persons: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Intervals (low, high) of the four numbers, by subsampling both sides *without* replacement.

    A bootstrap would put copies among the rows, whose nearest neighbours are one another: its balls shrink to nothing
    and recall and coverage with them. To keep the balls and resample only the rows asked about leaves half of the
    variance out. Each replicate is therefore the four numbers of a random half of both sides (at most 1,000 rows of
    the larger), and its deviations from the mean replicate, times sqrt(f / (1 - f)) for a share f (Wu 1990, "On the
    asymptotic properties of the jackknife histogram"), stand about the value of all rows. `on_replicate` is called
    after each. Where `persons` (n_real,) say whose each real row is, whole persons are drawn, until there are enough.

    Raises:
        ValueError: as `prdc`, or fewer than `least_rows(nearest_k)` rows on a side.
    """
    real, synthetic = check_features(real, synthetic, nearest_k)
    if min(len(real), len(synthetic)) < least_rows(nearest_k):
        raise ValueError(
            f"intervals need at least {least_rows(nearest_k)} rows a side, got {len(real)} and {len(synthetic)}"
        )
    share = min(0.5, MAX_SUBSET / max(len(real), len(synthetic)))
    sizes = [max(nearest_k + 1, round(share * len(x))) for x in (real, synthetic)]
    share = (sizes[0] / len(real) + sizes[1] / len(synthetic)) / 2
    generator = np.random.default_rng([seed, 3])
    replicates = np.empty((n_replicates, len(NAMES)))
    for i in range(n_replicates):
        index = [generator.permutation(len(x))[:size] for x, size in zip((real, synthetic), sizes, strict=True)]
        if persons is not None:
            index[0] = _of_persons(persons, sizes[0], generator)
        replicates[i] = list(prdc(real[index[0]], synthetic[index[1]], nearest_k).values())
        if on_replicate is not None:
            on_replicate()
    deviations = (replicates - replicates.mean(0)) * np.sqrt(share / (1 - share))
    ends = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2], axis=0)
    value, highest = prdc(real, synthetic, nearest_k), {"density": np.inf}
    return {
        name: (max(0.0, float(value[name] + low)), min(highest.get(name, 1.0), float(value[name] + high)))
        for name, low, high in zip(NAMES, *ends, strict=True)
    }


def _of_persons(persons: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Row numbers of whole persons in random order, `size` rows or the last person's more."""
    _, whose = np.unique(persons, return_inverse=True)
    turn = generator.permutation(int(whose.max()) + 1)[whose]
    return np.flatnonzero(turn <= np.sort(turn)[size - 1])


def check_features(real: np.ndarray, synthetic: np.ndarray, nearest_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64 matrices; an error where manifolds of them have no meaning."""
    if nearest_k < 1:
        raise ValueError(f"nearest_k must be 1 or more, got {nearest_k}")
    real, synthetic = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    for name, rows in (("real", real), ("synthetic", synthetic)):
        if rows.ndim != 2 or len(rows) <= nearest_k:
            raise ValueError(
                f"{name} features must be a matrix of more than nearest_k = {nearest_k} rows, got shape {rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} features hold NaN or infinity; look at the extractor and its input")
    if real.shape[1] != synthetic.shape[1]:
        raise ValueError(
            f"real features have {real.shape[1]} columns, synthetic {synthetic.shape[1]}; use one extractor for both"
        )
    return real, synthetic


class PRDC(evaluate.Metric):
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
        rows: np.ndarray, sources: np.ndarray, nearest_k: int = NEAREST_K, n_replicates: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        real, synthetic = rows[sources == "real"], rows[sources == "synthetic"]
        given = (real, synthetic, nearest_k)
        return {
            **prdc(*given),
            "intervals": prdc_intervals(*given, n_replicates, seed) if n_replicates else None,
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
