"""Whether synthetic samples show the class that their label says: how often a classifier of real samples agrees.

A generator that mixes classes up can have a perfect Fréchet distance. Its labels then agree with the classifier no
more often than shuffled ones would (chance), while those of real held-out pictures do (floor).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clinsynth.trainers.classifiers.statistics import CONFIDENCE, interval, resampled_seeds

RESAMPLES = 1000
MIN_ROWS = 10
OVERALL = "overall"
MIXED_UP = "mixed up"


def label_agreement(
    source: str,
    synthetic_labels: np.ndarray,
    synthetic_predicted: np.ndarray,
    test_labels: np.ndarray,
    test_predicted: np.ndarray,
    label_names: list[str],
    noun: str = "picture",
) -> list[dict[str, Any]]:
    """One record a class and one of the mean of the measured classes ("overall").

    `synthetic_predicted` and `test_predicted` are ints (seeds, n): what classifiers that were trained on real samples
    alone say of the synthetic set named `source` and of the real test split, one row a seed. `noun` is what the notes
    call a sample.

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
    rng = np.random.default_rng(0)
    seeds = len(synthetic_predicted)
    shares = np.concatenate([np.full((1, seeds), 1 / seeds), resampled_seeds(seeds, RESAMPLES, rng)])
    records: list[dict[str, Any]] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    chances: list[float] = []
    for number, name in enumerate(label_names):
        mine, real = synthetic_labels == number, test_labels == number
        chance = float((synthetic_predicted == number).mean())
        record = {"source": source, "label": name, "n": int(mine.sum()), "n_real": int(real.sum()), "seeds": seeds}
        if min(mine.sum(), real.sum()) < MIN_ROWS:
            records.append({**record, **unmeasured(f"fewer than {MIN_ROWS} {noun}s")})
            continue
        found = resampled_share((synthetic_predicted == number)[:, mine], shares, rng)
        floor = resampled_share((test_predicted == number)[:, real], shares, rng)
        parts.append((found, floor))
        chances.append(chance)
        records.append({**record, **judge(found, floor, chance, noun)})
    whole = {
        "source": source,
        "label": OVERALL,
        "n": len(synthetic_labels),
        "n_real": len(test_labels),
        "seeds": seeds,
    }
    if not parts:
        return [*records, {**whole, **unmeasured("no class could be measured")}]
    found, floor = np.mean(parts, axis=0)
    return [{**whole, **judge(found, floor, float(np.mean(chances)), noun)}, *records]


def resampled_share(agrees: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of True in (seeds, n), mean of the seeds, for resampled samples and seeds: (1 + RESAMPLES,), first the
    share itself; `shares` are the weights of the seeds, (1 + RESAMPLES, seeds)."""
    n = agrees.shape[1]
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), drawn]) / n
    return (shares * (weights @ agrees.T)).sum(1)


def judge(found: np.ndarray, floor: np.ndarray, chance: float, noun: str) -> dict[str, Any]:
    """Value, floor, chance, difference and flag from resampled agreements (1 + RESAMPLES,)."""
    value, real, gap = interval(found), interval(floor), interval(found - floor)
    if real.low <= chance:
        flag, note = "cannot tell", f"the classifiers know this class of real {noun}s no better than chance"
    elif value.high < (chance + real.value) / 2:
        flag, note = MIXED_UP, f"nearer to shuffled labels than to real {noun}s"
    elif gap.high < 0:
        flag, note = "below real", f"clearly less often than with real {noun}s"
    else:
        flag, note = "agrees", ""
    return {
        "value": value.value,
        "interval": [value.low, value.high],
        "confidence": CONFIDENCE,
        "floor": real.value,
        "floor_interval": [real.low, real.high],
        "chance": chance,
        "difference": gap.value,
        "difference_interval": [gap.low, gap.high],
        "flag": flag,
        "note": note,
    }


def unmeasured(why: str) -> dict[str, Any]:
    names = ("value", "interval", "floor", "floor_interval", "chance", "difference", "difference_interval")
    return {**dict.fromkeys(names), "confidence": CONFIDENCE, "flag": "cannot tell", "note": why}
