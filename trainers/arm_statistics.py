"""Macro-F1, balanced accuracy and per-class F1 of an arm, and the difference of two arms, with bootstrap intervals.

The bootstrap (Efron 1979) resamples seeds, and test rows within each class, so that no class vanishes; two arms are
compared on the same resampled rows and seeds. Of S seeds S - 1 are drawn (Rao and Wu 1988): a bootstrap of S out of S
would give only (S - 1) / S of the variance between seeds, two thirds for the usual three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from clinsynth.data.arrays import ImageArrays

CONFIDENCE = 0.95
RESAMPLES = 2000
CHUNK = 100  # resamples at a time, to bound the memory


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def metric_names(label_names: list[str]) -> list[str]:
    """The columns of `scores`, in order."""
    return ["macro_f1", "balanced_accuracy", *(f"f1 {name}" for name in label_names)]


def scores(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1, balanced accuracy and each class's F1, float64 (b, 2 + classes).

    `labels` and `predicted` are ints (n,); `weights` (b, n) says how often each row counts in each of b resamples.
    Every class must have weight in every resample."""
    eye = np.eye(classes)
    true, guess = eye[labels], eye[predicted]
    hits, true_rows, guessed_rows = weights @ (true * guess), weights @ true, weights @ guess
    f1 = 2 * hits / (true_rows + guessed_rows)
    return np.column_stack([f1.mean(1), (hits / true_rows).mean(1), f1])


def resampled_rows(labels: np.ndarray, classes: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield `count` rows of weights (b, n) in chunks: how often each row is drawn, replacing, within its class."""
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        weights = np.zeros((size, len(labels)))
        for rows in members:
            weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
        yield weights


def resampled_seeds(seeds: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the seeds, float64 (count, seeds), each row of sum 1."""
    drawn = max(seeds - 1, 1)
    return rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=count) / drawn


def bootstrap(
    labels: np.ndarray, predicted: dict[str, np.ndarray], classes: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Resampled scores of every arm, float64 (1 + RESAMPLES, 2 + classes); row 0 holds the scores themselves.

    `predicted` maps an arm to ints (seeds, n), seed i of one arm belonging to seed i of the others. All arms see the
    same rows and seeds in the same resample, so that differences of their results are paired.

    Raises:
        ValueError: a class without a test row.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise ValueError(
            f"classes {np.flatnonzero(counts == 0).tolist()} have no test row; their F1 cannot be measured"
        )
    rng = np.random.default_rng(seed)
    seeds = len(next(iter(predicted.values())))
    shares = np.concatenate([np.full((1, seeds), 1 / seeds), resampled_seeds(seeds, RESAMPLES, rng)])
    parts: dict[str, list[np.ndarray]] = {arm: [] for arm in predicted}
    start = 0
    for weights in chain([np.ones((1, len(labels)))], resampled_rows(labels, classes, RESAMPLES, rng)):
        share = shares[start : start + len(weights)]
        start += len(weights)
        for arm, runs in predicted.items():
            by_seed = np.stack([scores(labels, run, weights, classes) for run in runs], axis=1)
            parts[arm].append(np.einsum("bs,bsm->bm", share, by_seed))
    return {arm: np.concatenate(chunks) for arm, chunks in parts.items()}


def interval(resampled: np.ndarray) -> Interval:
    """Value (row 0) and percentile interval (the rest) of one column of `bootstrap`, or of a difference of two."""
    low, high = np.quantile(resampled[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(resampled[0]), float(low), float(high))


def verdict(difference: Interval, seeds: int) -> str:
    """Whether the interval of (arm - control) excludes zero: helps, hurts, or no evidence.

    One seed is never evidence: its interval leaves out how much one training differs from the next."""
    if seeds < 2:
        return "no evidence"
    if difference.low > 0:
        return "helps"
    return "hurts" if difference.high < 0 else "no evidence"


def arm_records(
    resampled: dict[str, np.ndarray], test: ImageArrays, predicted: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One record for each arm and metric: value (mean of the seeds), interval, n test pictures, seeds, per_seed."""
    classes, records = len(test.label_names), []
    once = np.ones((1, len(test.labels)))
    for arm, values in resampled.items():
        per_seed = np.concatenate([scores(test.labels, run, once, classes) for run in predicted[arm]])
        for column, metric in enumerate(metric_names(test.label_names)):
            found = interval(values[:, column])
            records.append(
                {
                    "arm": arm,
                    "metric": metric,
                    "value": found.value,
                    "interval": [found.low, found.high],
                    "confidence": CONFIDENCE,
                    "n": len(test.labels),
                    "seeds": len(per_seed),
                    "per_seed": per_seed[:, column].tolist(),
                }
            )
    return records


def comparison_records(resampled: dict[str, np.ndarray], test: ImageArrays, seeds: int) -> list[dict[str, Any]]:
    """composite - real, one record a metric. Macro-F1 and balanced accuracy carry a verdict; single classes do not:
    among many intervals some exclude zero by chance."""
    records: list[dict[str, Any]] = []
    for column, metric in enumerate(metric_names(test.label_names)):
        found = interval(resampled["composite"][:, column] - resampled["real"][:, column])
        record = {
            "metric": metric,
            "arms": ["composite", "real"],
            "difference": found.value,
            "interval": [found.low, found.high],
            "confidence": CONFIDENCE,
            "n": len(test.labels),
            "seeds": seeds,
        }
        if column < 2:
            sample = f"{len(test.labels)} test pictures, {seeds} seed{'s' * (seeds > 1)}"
            record["verdict"] = verdict(found, seeds)
            record["sentence"] = (
                f"composite - real, {metric}: {found.value:+.3f} ({CONFIDENCE:.0%} interval {found.low:+.3f} to "
                f"{found.high:+.3f}; {sample}): {record['verdict']}"
            )
        records.append(record)
    return records
