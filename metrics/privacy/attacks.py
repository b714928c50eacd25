"""Attacks by the three criteria of the Article 29 Working Party (opinion 05/2014), in the manner of Anonymeter.

Giomi et al., A Unified Framework for Quantifying Privacy Risk in Synthetic Data, 2023 (arXiv 2211.10459): an attack
is run on train rows (main), on held-out rows that the generator has not seen (control), and by an attacker who does
not look at the synthetic set (baseline). What the main attack reaches beyond the control is a leak; what both reach is
what the set teaches about everybody. An attack that is no better than its baseline was too weak to say anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clinsynth.metrics.intervals import no_narrower
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.records import MIN_ROWS, Features

MOST = 1000
"""Rows of each side, at most."""
REACH = 0.05
"""Share of held-out rows that lie as near to a train row as an attacker of singling out looks."""
Hits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Which tries of the main, baseline and control attack succeed, masks (n,)."""
Whose = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]
"""Whose row each of these tries is on; None where each is on its own."""
NOT_RUN = [
    "linking with outside sources",
    "inference of attributes that the synthetic set does not hold (age, sex, …)",
    "attacks by who knows the generator's weights (`clinsynth audit membership` runs one)",
]


def attack_table(synthetic: Features, train: Features, held_out: Features, seed: int) -> dict[str, Any]:
    """The attacks on rows of features with labels.

    Returns:
        "attacks": for each of singling out, linkability and inference what is tried, and for "main", "baseline" and
        "control" their share of successes with its 95 % interval (`share`); "risk", what of the rest the main attack
        reaches beyond the control, with the interval of Newcombe (1998); whether it is a "leak" (that interval above
        0) and whether it was "strong" enough to say something (main above baseline). "not_run", attacks that were not
        run. "note", where there are fewer than ten rows a side.
    """
    generator = np.random.default_rng([seed, 17])
    count = min(MOST, len(train.rows), len(held_out.rows))
    if min(count, len(synthetic.rows)) < MIN_ROWS:
        return {"attacks": [], "not_run": NOT_RUN, "note": f"not measured: needs {MIN_ROWS} rows a side"}
    known, unseen = (some(side, count, generator) for side in (train, held_out))
    made = some(synthetic, MOST, generator)
    tried = {
        "singling out": (single_out, "a synthetic row has exactly one real row in its closest neighbourhood"),
        "linkability": (link, "both halves of a real row's features lead to the same synthetic row"),
        "inference": (infer, "the closest synthetic row has the real row's label"),
    }
    attacks = [
        {"criterion": name, "what": what, **describe(*attack(made, known, unseen, generator))}
        for name, (attack, what) in tried.items()
    ]
    return {"attacks": attacks, "not_run": NOT_RUN, "note": ""}


def some(side: Features, most: int, generator: np.random.Generator) -> Features:
    """At most so many rows, drawn without replacement."""
    return side.take(np.sort(generator.permutation(len(side.rows))[:most]))


def single_out(
    made: Features, known: Features, unseen: Features, generator: np.random.Generator
) -> tuple[Hits, Whose]:
    """The neighbourhood is as wide as 5 % of held-out rows are near to a train row; a guess is a point between two
    real rows that neither side holds."""
    width = float(np.quantile(nearest(unseen.rows, known.rows)[0], REACH))
    pairs = generator.integers(len(unseen.rows), size=(2, len(made.rows)))
    guesses = (unseen.rows[pairs[0]] + unseen.rows[pairs[1]]) / 2

    def alone(centres: np.ndarray, rows: np.ndarray) -> np.ndarray:
        distances = np.stack([np.linalg.norm(rows - centre, axis=1) for centre in centres])
        single: np.ndarray = (distances <= width).sum(1) == 1
        return single

    hits = alone(made.rows, known.rows), alone(guesses, known.rows), alone(made.rows, unseen.rows)
    return hits, (None, None, None)


def link(made: Features, known: Features, unseen: Features, generator: np.random.Generator) -> tuple[Hits, Whose]:
    """The features are parted by chance; a guess is any synthetic row."""
    order = generator.permutation(made.rows.shape[1])
    halves = order[: len(order) // 2], order[len(order) // 2 :]

    def linked(rows: np.ndarray) -> np.ndarray:
        first, second = (nearest(rows[:, half], made.rows[:, half])[1] for half in halves)
        same: np.ndarray = first == second
        return same

    guessed = generator.random(len(known.rows)) < 1 / len(made.rows)
    return (linked(known.rows), guessed, linked(unseen.rows)), (known.persons, None, unseen.persons)


def infer(made: Features, known: Features, unseen: Features, generator: np.random.Generator) -> tuple[Hits, Whose]:
    """A guess is drawn from the labels of the held-out rows."""

    def right(side: Features) -> np.ndarray:
        same: np.ndarray = made.labels[nearest(side.rows, made.rows)[1]] == side.labels
        return same

    guessed = generator.choice(unseen.labels, len(known.labels)) == known.labels
    return (right(known), guessed, right(unseen)), (known.persons, known.persons, unseen.persons)


def describe(hits: Hits, persons: Whose = (None, None, None)) -> dict[str, Any]:
    """Shares and intervals, and what they mean."""
    main, baseline, control = ({"n": len(own), **share(own, whose)} for own, whose in zip(hits, persons, strict=True))
    left = 1 - control["value"]
    low, high = difference(main, control)
    risk = (main["value"] - control["value"]) / left if left else 0.0
    interval = [low / left, high / left] if left else [0.0, 0.0]
    strong = difference(main, baseline)[0] > 0
    attacks = {"main": main, "baseline": baseline, "control": control}
    return {**attacks, "risk": risk, "interval": interval, "leak": interval[0] > 0, "strong": strong}


def share(hits: np.ndarray, persons: np.ndarray | None = None) -> dict[str, Any]:
    """The share of True (n,) and its 95 % interval: Wilson's, no narrower than that of a bootstrap of persons."""
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    interval = no_narrower((float(found.low), float(found.high)), np.mean, [hits], [persons])
    return {"value": float(hits.mean()), "interval": list(interval)}


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    """95 % interval of the difference of two shares: Newcombe (1998), method 10."""
    (low, high), (other_low, other_high) = first["interval"], second["interval"]
    value = first["value"] - second["value"]
    down = ((first["value"] - low) ** 2 + (other_high - second["value"]) ** 2) ** 0.5
    up = ((high - first["value"]) ** 2 + (second["value"] - other_low) ** 2) ** 0.5
    return value - down, value + up
