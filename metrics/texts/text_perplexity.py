"""The perplexity gap as records: are the synthetic texts more, or less, surprising to a language model than real ones?

A text's loss is its mean negative log-likelihood in nats a token; perplexity is its exponential. Texts from a language
model tend to lie below real ones (they are smooth), gibberish lies above.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clinsynth.metrics.record import MIN_ROWS, Measurement, MeasurementSettings, empty_record
from clinsynth.metrics.records import Features, real_halves
from clinsynth.metrics.texts.records import describe_means

LOSS, GAP = "loss", "perplexity_gap"
MOST_TEXTS = 200
"""Texts of a set, drawn by seed: a model of 135 million parameters reads a few in a second on a processor core."""


def measure_perplexity(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records "loss" and "perplexity_gap" of losses (n, 1) in `rows`.

    "loss": mean over texts; its floors are the real texts' own. "perplexity_gap": the difference, synthetic less real,
    of these means, which is the logarithm of the ratio of perplexities; its floors are differences between real texts.
    """
    sizes = (len(real), len(synthetic))
    loss, gap = (empty_record(name, label, reference, sizes, 1, settings) for name in (LOSS, GAP))
    if loss.note:
        return [loss, gap]
    found, known = synthetic.rows[:, 0], real.rows[:, 0]
    seen = None if other is None else other.rows[:, 0]
    halves = [(a.rows[:, 0], b.rows[:, 0]) for a, b in real_halves(real, settings.seed)]
    loss = describe_means(loss, found, [half for pair in halves for half in pair], seen, settings, "nats a token")
    gap = replace(
        gap,
        value=float(found.mean() - known.mean()),
        interval=gap_interval(found, known, settings),
        floor_held_out=float(seen.mean() - known.mean()) if seen is not None and len(seen) >= MIN_ROWS else None,
        note="nats a token, synthetic less real",
    )
    if halves:
        gap = gap.with_floors([float(b.mean() - a.mean()) for a, b in halves], min(map(len, halves[0])))
    return [loss, gap]


def gap_interval(found: np.ndarray, known: np.ndarray, settings: MeasurementSettings) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the difference of means; texts of both sides are resampled."""
    if settings.replicates == 0:
        return None
    generator = np.random.default_rng([settings.seed, 14])
    gaps = [
        np.subtract(*(side[generator.integers(len(side), size=len(side))].mean() for side in (found, known)))
        for _ in range(settings.replicates)
    ]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return float(low), float(high)
