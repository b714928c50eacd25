"""The statistics of a membership attack on scores: choose on one half, report the other, with intervals and floor.

Where it is known whose a row is, persons are parted into the halves and resampled, not rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clinsynth.metrics.comparisons import split_halves
from clinsynth.metrics.intervals import Interval, Persons, bootstrap, no_narrower, percentile_interval
from clinsynth.seeds import derive_seed

MIN_ROWS = 16


@dataclass(frozen=True)
class Attack:
    """The scores of both sides on the evaluation half, by the candidate that was best on the calibration half, and
    whose each row of both is."""

    candidate: int
    members: np.ndarray
    others: np.ndarray
    by_candidate: list[float]
    persons: Persons = (None, None)


def run_attack(
    scores: list[np.ndarray], labels: list[np.ndarray], seed: int, persons: Persons = (None, None)
) -> Attack:
    """Choose the candidate on one stratified half of members and others, score the other half by it."""
    halves = [split_halves(side, seed, whose) for side, whose in zip(labels, persons, strict=True)]
    calibration, evaluation = ([side[half[i]] for side, half in zip(scores, halves, strict=True)] for i in (0, 1))
    best = int(np.argmax([area(*columns) for columns in zip(*(side.T for side in calibration), strict=True)]))
    areas = [area(*columns) for columns in zip(*(side.T for side in evaluation), strict=True)]
    kept = [None if whose is None else whose[half[1]] for whose, half in zip(persons, halves, strict=True)]
    return Attack(best, evaluation[0][:, best], evaluation[1][:, best], areas, kept)


def area(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs in which the member scores higher, ties half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def found_at(members: np.ndarray, others: np.ndarray, rate: float) -> float:
    """Share of members above the lowest threshold that at most `rate` of the others pass."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[len(others) - 1 - allowed]).mean())


def held_out_floor(
    scores: np.ndarray, labels: np.ndarray, seed: int, persons: np.ndarray | None = None
) -> dict[str, Any] | None:
    """The attack with one half of the held-out rows in the members' place; None below 2 x 16 rows."""
    halves = split_halves(labels, derive_seed(seed, 0), persons)
    if min(map(len, halves)) < MIN_ROWS:
        return None
    whose = [None if persons is None else persons[half] for half in halves]
    own, kinds = ([array[half] for half in halves] for array in (scores, labels))
    return describe_attack(run_attack(own, kinds, seed, whose))


def describe_attack(attack: Attack) -> dict[str, Any]:
    """Area, its interval (no narrower than `area_interval`'s) and the rows it is from."""
    value = area(attack.members, attack.others)
    plain = area_interval(value, len(attack.members), len(attack.others))
    sides = [attack.members, attack.others]
    return {
        "value": value,
        "interval": no_narrower(plain, area, sides, attack.persons),
        "n_members": len(attack.members),
        "n_non_members": len(attack.others),
    }


def describe_tpr(attack: Attack, rate: float, seed: int, replicates: int) -> dict[str, Any]:
    """Share of members found at a false-positive rate; not measured on fewer than 1/rate others."""
    count = len(attack.others)
    record: dict[str, Any] = {"fpr": rate, "value": None, "interval": None, "n_non_members": count}
    if count * rate < 1:
        return record | {"note": f"not measured: needs {1 / rate:.0f} held-out rows in the evaluation half"}
    found = found_at(attack.members, attack.others, rate)
    return record | {"value": found, "interval": found_interval(attack, rate, seed, replicates), "note": ""}


EPSILON_RATES = (0.01, 0.05, 0.1, 0.25, 0.5)
DELTA = 1e-5


def epsilon_bound(attack: Attack) -> dict[str, Any]:
    """The least epsilon at delta 1e-5 that the attack is compatible with, at 95 % confidence; 0 where it says nothing.

    The first row of each person counts alone, since these intervals are of independent rows.

    Differential privacy bounds the share of members found by e^epsilon times the false-positive rate, plus delta
    (Kairouz et al. 2015); both are taken at the end of their Clopper-Pearson intervals that favours privacy, as of
    Jagielski et al. 2020 (arXiv 2006.07709). Five thresholds are tried in both directions, and the confidence is
    Bonferroni's over all twenty intervals.

    Returns:
        "value", "delta", "confidence"; "fpr", the false-positive rate that gave it; "estimate", the same without
        intervals, None where no other row passes the threshold.
    """
    from scipy.stats import beta

    tail = 0.05 / (4 * len(EPSILON_RATES))

    def low(count: int, total: int) -> float:
        return float(beta.ppf(tail, count, total - count + 1)) if count else 0.0

    best: dict[str, Any] = {"value": 0.0, "delta": DELTA, "confidence": 0.95, "fpr": None, "estimate": None}
    members, others = map(first_rows, (attack.members, attack.others), attack.persons)
    sizes = len(members), len(others)
    for rate in EPSILON_RATES:
        limit = np.sort(others)[sizes[1] - 1 - int(rate * sizes[1])]
        found, false = int((members > limit).sum()), int((others > limit).sum())
        for hits, misses, totals in (
            (found, false, sizes),
            (sizes[1] - false, sizes[0] - found, sizes[::-1]),
        ):
            above, below = low(hits, totals[0]) - DELTA, 1 - low(totals[1] - misses, totals[1])
            bound = float(np.log(above / below)) if above > 0 else 0.0
            if bound > best["value"]:
                shares = hits / totals[0], misses / totals[1]
                estimate = float(np.log(shares[0] / shares[1])) if misses else None
                best |= {"value": bound, "fpr": rate, "estimate": estimate}
    return best


def first_rows(scores: np.ndarray, persons: np.ndarray | None) -> np.ndarray:
    """The score of each person's first row; all scores (n,) where persons are not known."""
    return scores if persons is None else scores[np.sort(np.unique(persons, return_index=True)[1])]


def area_interval(value: float, members: int, others: int) -> Interval:
    """95 % interval of an area from that many rows: the areas that lie within 1.96 of their own standard errors.

    Newcombe (2006), method 5, on the variance of Hanley & McNeil (1982); honest also for few rows and near 0 and 1.
    """
    from scipy.optimize import brentq

    def excess(truth: float, sign: int) -> float:
        pairs = 1 + ((members + others) / 2 - 1) * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        return sign * (value - truth) - 1.96 * (truth * (1 - truth) * pairs / (members * others)) ** 0.5

    tiny = 1e-9  # keeps off the ends, where the variance is 0
    low = brentq(excess, 0.0, min(value, 1 - tiny), args=(1,)) if value > 0 else 0.0
    high = brentq(excess, max(value, tiny), 1.0, args=(-1,)) if value < 1 else 1.0
    return float(low), float(high)


def found_interval(attack: Attack, rate: float, seed: int, replicates: int) -> Interval:
    """95 % interval of `found_at`: the bootstrap's (both sides drawn anew), no narrower than Wilson's (1927)."""
    from scipy.stats import binomtest

    members, others = attack.members, attack.others
    found = partial(found_at, rate=rate)
    low, high = percentile_interval(bootstrap(found, [members, others], replicates, [seed, 3], attack.persons))
    count = round(found_at(members, others, rate) * len(members))
    wilson = binomtest(count, len(members)).proportion_ci(method="wilson")
    return float(min(low, wilson.low)), float(max(high, wilson.high))
