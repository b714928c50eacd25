"""MAUVE of embeddings as records: do the synthetic texts fall into the same cells of the space as the real ones?

Pillutla et al. 2021 (arXiv 2102.01454, section 3): both sets are quantised together (PCA, k-means), and the area under
the divergence curve of the two histograms is taken; 1 where they are equal. Here on sentence embeddings instead of a
language model's states: compare values only with the floors beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from clinsynth.metrics.record import Measurement, MeasurementSettings, empty_record
from clinsynth.metrics.records import Features, real_halves

MAUVE = "mauve"
SCALE = 5.0
MIXTURES = 25
VARIANCE = 0.9
ROWS_A_CELL = 10
FEWEST_ROWS, MOST_ROWS = 50, 500
"""Texts a side: with fewer there would be no five cells; with more k-means takes minutes."""


Histograms = tuple[np.ndarray, np.ndarray]


def measure_mauve(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """The record "mauve" of embeddings (n, d) in `rows`, in [0, 1]; higher is nearer.

    MAUVE falls with fewer texts and rises with fewer cells: value and floors are all taken between as many texts, half
    of the real ones (at most 500) and as many others, in a tenth as many cells, mean over five draws. The interval
    resamples the histograms, cells fixed, and is centred, since resampling takes likeness away.
    """
    size = min(len(real) // 2, len(synthetic), MOST_ROWS)
    record = empty_record(MAUVE, label, reference, (len(real), len(synthetic)), real.rows.shape[1], settings)
    if record.note or size < FEWEST_ROWS:
        note = record.note or f"not measured, needs {FEWEST_ROWS} synthetic and {2 * FEWEST_ROWS} real texts"
        return [replace(record, note=note)]
    found: list[Histograms] = []
    floors, held_out = [], []
    for first, second, made, seen in draw_sets(synthetic, real, other, size, settings.seed):
        found.append(quantise(first, made, settings.seed))
        floors.append(mauve(*quantise(first, second, settings.seed)))
        if seen is not None:
            held_out.append(mauve(*quantise(first, seen, settings.seed)))
    value = float(np.mean([mauve(*counts) for counts in found]))
    record = replace(
        record,
        value=value,
        interval=mauve_interval(found, value, settings),
        floor_held_out=float(np.mean(held_out)) if held_out else None,
        note=f"between {size} and {size} texts in {count_cells(size)} cells",
    )
    return [record.with_floors(floors, size)]


Sets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def draw_sets(synthetic: Features, real: Features, other: Features | None, size: int, seed: int) -> Iterator[Sets]:
    """For each of five splits `size` rows of either real half, of the synthetic, and of `other` if it has as many."""
    for number, (first, second) in enumerate(real_halves(real, seed)):
        generator = np.random.default_rng([seed, 12, number])
        chosen = [
            side.rows[generator.permutation(len(side))[:size]] if side is not None and len(side) >= size else None
            for side in (first, second, synthetic, other)
        ]
        assert chosen[0] is not None and chosen[1] is not None and chosen[2] is not None
        yield chosen[0], chosen[1], chosen[2], chosen[3]


def count_cells(size: int) -> int:
    return size // ROWS_A_CELL


def quantise(left: np.ndarray, right: np.ndarray, seed: int) -> Histograms:
    """Counts (k,) of both sides' rows in common cells, one for ten rows of the smaller side."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    rows = np.concatenate([left, right])
    rows = PCA(VARIANCE, svd_solver="full").fit_transform(rows)
    cells = count_cells(min(len(left), len(right)))
    numbers = KMeans(cells, n_init=5, random_state=seed).fit_predict(rows)
    counts = [np.bincount(side, minlength=cells) for side in (numbers[: len(left)], numbers[len(left) :])]
    return counts[0], counts[1]


def mauve(left: np.ndarray, right: np.ndarray) -> float:
    """Area under the divergence curve of two histograms (k,); equation 2 and the curve's ends (0, 1) and (1, 0)."""
    p, q = left / left.sum(), right / right.sum()
    weights = np.linspace(1 - 1e-6, 1e-6, MIXTURES)[:, None]  # from the curve's end (0, 1) to (1, 0)
    mixtures = weights * p + (1 - weights) * q
    across = np.exp(-SCALE * np.array([divergence(q, mixture) for mixture in mixtures]))
    up = np.exp(-SCALE * np.array([divergence(p, mixture) for mixture in mixtures]))
    return float(np.trapezoid([1, *up, 0], [0, *across, 1]))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats; `q` is positive where `p` is."""
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def mauve_interval(found: list[Histograms], value: float, settings: MeasurementSettings) -> tuple[float, float] | None:
    """95 % interval of the mean over the draws in `found`: both histograms of each are resampled."""
    if settings.replicates == 0:
        return None
    generator = np.random.default_rng([settings.seed, 13])
    replicates = []
    for _ in range(settings.replicates):
        drawn = [[generator.multinomial(side.sum(), side / side.sum()) for side in counts] for counts in found]
        replicates.append(np.mean([mauve(*counts) for counts in drawn]))
    low, high = np.quantile(replicates, [0.025, 0.975]) - (np.mean(replicates) - value)
    return max(0.0, float(low)), min(1.0, float(high))
