"""Whether the labels of synthetic samples are those that classifiers of real samples give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from clinsynth.data.labels import LabelledRows
from clinsynth.trainers.classifiers.resampling import CONFIDENCE, measured, persons_in, resampled_rows, resampled_seeds

AGREEMENT_RESAMPLES = 1000
MIN_ROWS = 10
OVERALL, MIXED_UP = "overall", "mixed up"


def label_agreement(
    source: str, synthetic: LabelledRows, predicted: np.ndarray, test: LabelledRows, on_test: np.ndarray
) -> list[dict[str, Any]]:
    """One record a class and one of the mean of the measured classes ("overall").

    `predicted` and `on_test` are ints (seeds, n): what classifiers that were trained on real samples alone say of the
    synthetic set named `source` and of the real test split, one row a seed.

    Returns:
        Records: `value`, the share of the class's synthetic samples that the classifiers give its label; `floor`,
        that of the real test samples; `chance`, that of all synthetic samples, whatever their label; `interval`, and
        `difference` and `difference_interval` of value - floor (bootstrap over samples and seeds); `n`, `n_real`,
        `seeds`; `flag`:

        - "mixed up": the interval lies below the middle between chance and floor;
        - "below real": the difference's interval lies below zero;
        - "agrees": neither;
        - "cannot tell": the classifiers know the real class no better than chance, or fewer than 10 samples.
    """
    rng, seeds, noun = np.random.default_rng(0), len(predicted), test.noun
    shares = resampled_seeds(seeds, AGREEMENT_RESAMPLES, rng)
    records: list[dict[str, Any]] = []
    parts, chances = [], []

    def record(label: str, n: int, n_real: int, found: dict[str, Any]) -> dict[str, Any]:
        return {"source": source, "label": label, "n": n, "n_real": n_real, "seeds": seeds, **found}

    for number, name in enumerate(test.label_names):
        mine, real = synthetic.labels == number, test.labels == number
        n, n_real = int(mine.sum()), int(real.sum())
        if min(n, n_real) < MIN_ROWS:
            records.append(record(name, n, n_real, no_agreement(f"fewer than {MIN_ROWS} {noun}s")))
            continue
        found = resampled_share((predicted == number)[:, mine], shares, rng)
        floor = resampled_share((on_test == number)[:, real], shares, rng, persons_in(test, real))
        parts.append((found, floor))
        chances.append(float((predicted == number).mean()))
        records.append(record(name, n, n_real, agreement_of(found, floor, chances[-1], noun)))
    sizes = len(synthetic.labels), len(test.labels)
    if not parts:
        return [*records, record(OVERALL, *sizes, no_agreement("no class could be measured"))]
    found, floor = np.mean(parts, axis=0)
    return [record(OVERALL, *sizes, agreement_of(found, floor, float(np.mean(chances)), noun)), *records]


def resampled_share(
    agrees: np.ndarray, shares: np.ndarray, rng: np.random.Generator, persons: np.ndarray | None = None
) -> np.ndarray:
    """Share of True in (seeds, n), mean of the seeds, for resampled samples (or persons) and seeds: (1 + RESAMPLES,),
    first the share itself; `shares` are the weights of the seeds, (1 + RESAMPLES, seeds)."""
    one_class = np.zeros(agrees.shape[1], dtype=np.int64)
    weights = np.concatenate(list(resampled_rows(one_class, 1, AGREEMENT_RESAMPLES, rng, persons)))
    weights /= weights.sum(1, keepdims=True)
    return (shares * (weights @ agrees.T)).sum(1)


def agreement_of(found: np.ndarray, floor: np.ndarray, chance: float, noun: str) -> dict[str, Any]:
    """Value, floor, chance, difference and flag from resampled agreements (1 + RESAMPLES,)."""
    value, real, gap = measured(found), measured(floor), measured(found - floor)
    if real["interval"][0] <= chance:
        flag, note = "cannot tell", f"the classifiers know this class of real {noun}s no better than chance"
    elif value["interval"][1] < (chance + real["value"]) / 2:
        flag, note = MIXED_UP, f"nearer to shuffled labels than to real {noun}s"
    elif gap["interval"][1] < 0:
        flag, note = "below real", f"clearly less often than with real {noun}s"
    else:
        flag, note = "agrees", ""
    return {
        **value,
        "floor": real["value"],
        "floor_interval": real["interval"],
        "chance": chance,
        "difference": gap["value"],
        "difference_interval": gap["interval"],
        "flag": flag,
        "note": note,
    }


def no_agreement(why: str) -> dict[str, Any]:
    names = ("value", "interval", "floor", "floor_interval", "chance", "difference", "difference_interval")
    return {**dict.fromkeys(names), "confidence": CONFIDENCE, "flag": "cannot tell", "note": why}
