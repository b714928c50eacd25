"""The bootstrap of test rows and trainings, and the intervals that it gives.

It resamples (Efron 1979) seeds, and test rows within each class, so that no class vanishes, or where it is known whose
a row is, persons; two arms are compared on the same resampled rows and seeds. Of S seeds S - 1 are drawn (Rao and Wu
1988): a bootstrap of S out of S would give only (S - 1) / S of the variance between seeds, two thirds for the usual
three. Several trainings or draws of a generator are a level above the seeds, drawn in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clinsynth.data.labels import LabelledRows
from clinsynth.data.summary import VISIBLE, visible
from clinsynth.metrics.intervals import percentile_interval
from clinsynth.trainers.classifiers.scores import class_scores, scores

CONFIDENCE = 0.95
RESAMPLES = 2000
VISIBLE_RESAMPLES = 500
MOST_DRAWS = 100
CHUNK = 100  # resamples at a time, to bound the memory


def resampled_rows(
    labels: np.ndarray, classes: int, count: int, rng: np.random.Generator, persons: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield weights (b, n) in chunks: ones, then `count` rows of how often each row is drawn, replacing, within its
    class.

    Where it is known whose a row is, `persons` (n,), persons are drawn with all their rows (Field and Welsh 2007),
    each within the rarest of their classes; a draw that lacks a class is made again.
    """
    who = np.arange(len(labels)) if persons is None else np.unique(persons, return_inverse=True)[1]
    home = labels if persons is None else rarest_class(labels, who, classes)
    strata = [found for c in range(classes) if len(found := np.flatnonzero(home == c))]
    present = [labels == c for c in np.unique(labels)]
    yield np.ones((1, len(labels)))
    for start in range(0, count, CHUNK):
        weights = np.zeros((min(CHUNK, count - start), len(labels)))
        left = np.arange(len(weights))
        for _ in range(MOST_DRAWS):
            weights[left] = drawn(strata, len(home), len(left), rng)[:, who]
            left = np.flatnonzero(~np.all([weights[:, rows].any(1) for rows in present], axis=0))
            if not len(left):
                break
        weights[left] = 1  # classes that so few persons share are not resampled
        yield weights


def rarest_class(labels: np.ndarray, who: np.ndarray, classes: int) -> np.ndarray:
    """For each person the one of their classes that the fewest persons have: ints (persons,)."""
    has = np.zeros((who.max() + 1, classes), dtype=bool)
    has[who, labels] = True
    return np.where(has, has.sum(0), len(who) + 1).argmin(1)


def drawn(strata: list[np.ndarray], units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit is drawn within its stratum, (count, units)."""
    weights = np.zeros((count, units))
    for members in strata:
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
    return weights


def persons_in(test: LabelledRows, rows: np.ndarray) -> np.ndarray | None:
    """Whose the test rows in the mask `rows` are; None where that is not known."""
    return None if test.persons is None else test.persons[rows]


def resampled_seeds(
    seeds: int, count: int, rng: np.random.Generator, generators: Sequence[int] | None = None
) -> np.ndarray:
    """Weights of the seeds, float64 (1 + count, seeds), each row of sum 1, the first of equal ones.

    Where seeds saw the sets of several trainings or draws of a generator, `generators` (seeds,) numbers them: then
    generators are drawn, and of each its own seeds. Two generators say little of a third one: their intervals are wide
    where the two differ, and no wider than the seeds' where they happen to agree."""
    equal = np.full((1, seeds), 1 / seeds)
    whose = np.zeros(seeds, dtype=np.int64) if generators is None else np.unique(generators, return_inverse=True)[1]
    members = [np.flatnonzero(whose == number) for number in range(whose.max() + 1)]
    shares = np.zeros((count, seeds))
    for own in members:
        draws = max(len(own) - 1, 1)
        shares[:, own] = rng.multinomial(draws, np.full(len(own), 1 / len(own)), size=count) / draws
    if len(members) > 1:
        sizes = np.array([len(own) for own in members])
        shares *= (rng.multinomial(len(members) - 1, sizes / seeds, size=count) / (len(members) - 1))[:, whose]
    return np.concatenate([equal, shares])


def bootstrap(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    classes: int,
    seed: int = 0,
    minority: Sequence[int] = (),
    persons: np.ndarray | None = None,
    generators: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Resampled scores of every arm, float64 (1 + RESAMPLES, columns of `scores`); row 0 holds the scores themselves.

    `probabilities` maps an arm to (seeds, n, classes), seed i of one arm belonging to seed i of the others. All arms
    see the same rows and seeds in the same resample, so that differences of their results are paired. `generators` is
    that of `resampled_seeds`.

    Raises:
        ValueError: a class without a test row.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise ValueError(
            f"classes {np.flatnonzero(counts == 0).tolist()} have no test row; their F1 cannot be measured"
        )
    rng = np.random.default_rng(seed)
    seeds = len(next(iter(probabilities.values())))
    shares = resampled_seeds(seeds, RESAMPLES, rng, generators)
    parts: dict[str, list[np.ndarray]] = {arm: [] for arm in probabilities}
    start = 0
    for weights in resampled_rows(labels, classes, RESAMPLES, rng, persons):
        share = shares[start : start + len(weights)]
        start += len(weights)
        for arm, runs in probabilities.items():
            by_seed = np.stack([scores(labels, run, weights, classes, minority) for run in runs], axis=1)
            parts[arm].append(np.einsum("bs,bsm->bm", share, by_seed))
    return {arm: np.concatenate(chunks) for arm, chunks in parts.items()}


def visible_gain(
    labels: np.ndarray, probabilities: np.ndarray, test_labels: np.ndarray, classes: int
) -> dict[str, Any]:
    """The smallest gain in macro-F1 over an arm that the test split can show with as many seeds, told before test is
    scored: from how far the arm's trainings differ on validation rows, drawn as many a class as test has.

    `labels` (n,) and `probabilities` (seeds, n, classes) are of the real validation rows; of the test labels only the
    number of each class is used.

    Returns:
        `value` (5 % two-sided, 80 % power), `enough`: whether that is at most VISIBLE, `n` test rows, `seeds`.
    """
    rng, wanted = np.random.default_rng(0), np.bincount(test_labels, minlength=classes)
    weights = np.zeros((1 + VISIBLE_RESAMPLES, len(labels)))
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        weights[0, own] = wanted[number] / len(own)
        weights[1:, own] = rng.multinomial(wanted[number], np.full(len(own), 1 / len(own)), size=VISIBLE_RESAMPLES)
    by_seed = [class_scores(labels, run.argmax(1), weights, classes)[0].mean(1) for run in probabilities]
    value = visible(np.stack(by_seed, axis=1), len(probabilities), wanted)
    return {"value": value, "enough": value <= VISIBLE, "n": len(test_labels), "seeds": len(probabilities)}


def measured(resampled: np.ndarray, name: str = "value") -> dict[str, Any]:
    """One column of `bootstrap`, or a difference of two, as it stands in results: the value itself (row 0), called
    `name`, and its percentile interval (the rest)."""
    low, high = percentile_interval(resampled[1:], CONFIDENCE)
    return {name: float(resampled[0]), "interval": [low, high], "confidence": CONFIDENCE}
