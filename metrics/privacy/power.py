"""What share of copies a check would have found: known copies are planted, altered in each way that it should see.

One mechanism for images and texts. A check that nobody has tried on copies says nothing by finding none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

RATE = 1e-4
"""New real rows above the threshold of single copies, expected."""
TAIL, FEWEST = 0.1, 10
SHARES = (0.01, 0.02, 0.05)
SPOKEN = 0.02
IMAGE_CHECK, TEXT_CHECK = "the check of single images", "the check of single texts"


def tail_threshold(scores: np.ndarray, rate: float = RATE) -> float | None:
    """Above which a share `rate` of new real rows comes, the tail of `scores` (n,) being exponential; None below ten.

    The tail is the largest tenth, at least five; its mean is the upper end of its 95 % interval, since one row above
    the threshold refuses a set and a few scores say little of so rare ones.
    """
    if len(scores) < FEWEST:
        return None
    ordered = np.sort(scores)
    above = max(5, int(TAIL * len(ordered)))
    start = ordered[-above - 1]
    excess = float((ordered[-above:] - start).sum()) / (chi2.ppf(0.05, 2 * above) / 2)
    return float(start + excess * np.log(above / len(ordered) / rate))


def beyond(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The scores (n, k) in thresholds (k,), the highest of them: above 1 a row is a copy; (n,)."""
    found: np.ndarray = (scores / thresholds).max(1)
    return found


def describe_power(kind: str, planted: int, found: int, n_synthetic: int) -> dict[str, Any]:
    """A record: how many of the planted copies were found, and what that means in a set of this size.

    Returns:
        "kind", "planted", "found"; "share" found, with its 95 % Clopper-Pearson "interval"; "expected", for 1, 2 and
        5 % of the set's rows, how many copies that would be ("copies"), and how many of them would be found ("found").
    """
    from scipy.stats import binomtest

    share = found / planted
    interval = binomtest(found, planted).proportion_ci(0.95, "exact")
    counts = {f"{part:.0%}": max(1, round(part * n_synthetic)) for part in SHARES}
    return {
        "kind": kind,
        "planted": planted,
        "found": found,
        "share": share,
        "interval": [float(interval.low), float(interval.high)],
        "expected": {part: {"copies": count, "found": count * share} for part, count in counts.items()},
    }


def power_in_words(power: list[dict[str, Any]], n_synthetic: int, check: str) -> str:
    """As "Of 4 copies planted in 200, single images by their views would find: mirrored 4, blended to 50 % 0.5."

    Args:
        check: what the copies were planted for, as "the check of single images".
    """
    if not power:
        return f"Too few held-out samples to say which copies {check} would have found."
    part = f"{SPOKEN:.0%}"
    told = ", ".join(f"{one['kind']} {one['expected'][part]['found']:.2g}" for one in power)
    return f"Of {power[0]['expected'][part]['copies']} copies planted in {n_synthetic:,}, {check} would find: {told}."
