"""The sides that are compared: a synthetic set beside a real split, overall on one label mix and class by class.

Every measure has two floors, taken between real rows alone: one half of the real split beside the other, and the rows
of another real split in the place of the synthetic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from clinsynth.metrics.records import (
    MIN_ROWS,
    OVERALL,
    Features,
    Measurement,
    MeasurementSettings,
    empty_record,
    with_means,
)

FLOOR_SPLITS = 5
Distance = Callable[[np.ndarray, np.ndarray], float]
"""From real and other rows to a number."""


@dataclass(frozen=True)
class Comparison:
    """Synthetic rows beside a real split's: those of a class, or of all in one label mix.

    Attributes:
        label: the class, or "overall".
        reference: the real split, "train" or "test".
        synthetic, real: the two sides.
        other: rows of a second real split, which stand in the synthetic ones' place for the held-out floor, or None.
    """

    label: str
    reference: str
    synthetic: Features
    real: Features
    other: Features | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows of the real and of the synthetic side."""
        return len(self.real), len(self.synthetic)

    @property
    def held_out(self) -> Features | None:
        """`other` where it has the 10 rows that a floor needs."""
        return self.other if self.other is not None and len(self.other) >= MIN_ROWS else None

    def map(self, transform: Callable[[Features], Features]) -> Comparison:
        """The comparison of what `transform` makes of each side."""
        other = None if self.other is None else transform(self.other)
        return Comparison(self.label, self.reference, transform(self.synthetic), transform(self.real), other)

    def empty_record(self, metric: str, settings: MeasurementSettings, dimension: int = 0) -> Measurement:
        """A record without a number."""
        return empty_record(metric, self.label, self.reference, self.sizes, dimension, settings)

    def with_distance_floors(self, record: Measurement, distance: Distance, seed: int) -> Measurement:
        """The record with the same distance between real rows: one half beside the other, and `other` beside all."""
        if self.held_out is not None:
            record = replace(record, floor_held_out=distance(self.real.rows, self.held_out.rows))
        halves = real_halves(self.real, seed)
        return record.with_floors([distance(a.rows, b.rows) for a, b in halves], smallest_half(halves))


def comparisons(
    sides: dict[str, Features], reference: str, other: str, label_names: list[str], seed: int
) -> Iterator[Comparison]:
    """The synthetic set beside a real split: overall on matched label mixes, then class by class.

    Args:
        sides: "synthetic" and the real splits.
        reference: the real split that it is held against.
        other: the one that makes the held-out floor.
    """
    synthetic, real, third = sides["synthetic"], sides[reference], sides.get(other)
    matched = match_labels(real.labels, synthetic.labels, seed)
    if matched is not None:
        kept = real.take(matched[0])
        mixed = None if third is None else match_labels(kept.labels, third.labels, seed)
        other_rows = None if third is None or mixed is None else third.take(mixed[1])
        yield Comparison(OVERALL, reference, synthetic.take(matched[1]), kept, other_rows)
    for number, name in enumerate(label_names):
        yield Comparison(
            name,
            reference,
            synthetic.take(synthetic.labels == number),
            real.take(real.labels == number),
            None if third is None else third.take(third.labels == number),
        )


def match_labels(real: np.ndarray, synthetic: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Row numbers (real, synthetic) that give both sides one label mix; None where they share no class.

    Real rows: all of the classes that both have; where some class has at least 10 synthetic rows, those with fewer
    are left out, since one nearly empty class would leave next to nothing. Synthetic rows: the largest subset, drawn
    by `seed`, with the real proportions of those classes (rounded, at least one row a class).
    """
    shared = np.intersect1d(real, synthetic)
    enough = np.array([label for label in shared if (synthetic == label).sum() >= MIN_ROWS], dtype=shared.dtype)
    shared = enough if len(enough) else shared
    if len(shared) == 0:
        return None
    real_index = np.flatnonzero(np.isin(real, shared))
    available = np.array([(synthetic == label).sum() for label in shared])
    proportions = np.array([(real == label).sum() for label in shared]) / len(real_index)
    wanted = np.maximum(1, np.floor((available / proportions).min() * proportions + 1e-9)).astype(int)
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice(np.flatnonzero(synthetic == label), size=count, replace=False)
        for label, count in zip(shared, wanted, strict=True)
    ]
    return real_index, np.sort(np.concatenate(chosen))


def real_halves(real: Features, seed: int) -> list[tuple[Features, Features]]:
    """Five splits of the real rows into stratified halves; none where a half would have fewer than 10 rows."""
    halves = [split_halves(real.labels, seed + i, real.persons) for i in range(FLOOR_SPLITS)]
    if min(len(half) for pair in halves for half in pair) < MIN_ROWS:
        return []
    return [(real.take(a), real.take(b)) for a, b in halves]


def smallest_half(halves: list[tuple[Features, Features]]) -> int:
    """Rows in the smaller half of a split; 0 without any."""
    return min(map(len, halves[0])) if halves else 0


def split_halves(labels: np.ndarray, seed: int, persons: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two halves, each class divided evenly (its odd row to one half by turns), drawn by `seed`; with
    `persons` (n,) the persons are divided, each as of the class of their first row."""
    if persons is not None:
        _, first, whose = np.unique(persons, return_index=True, return_inverse=True)
        one, _ = split_halves(labels[first], seed)
        inside = np.isin(whose, one)
        return np.flatnonzero(inside), np.flatnonzero(~inside)
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[0::2]), np.sort(by_class[1::2])


Values = dict[str, np.ndarray]
"""Metric to one value a row (n,)."""


@dataclass(frozen=True)
class Sides:
    """A synthetic set, the real split that it is held against, and another real split or None."""

    synthetic: Features
    real: Features
    held_out: Features | None
    label_names: list[str]


def measure_values(
    of: Callable[[Features, Features], Values],
    sides: Sides,
    reference: str,
    settings: MeasurementSettings,
    note: str = "",
    matched: bool = False,
) -> list[Measurement]:
    """Records of the means over rows of `of(queries, real)`, for each of its metrics, overall and a class.

    `of` sees the real rows of all classes; a class is that of the queries. The floors put real rows in the place of
    the synthetic ones: one half of `sides.real` beside the other, over five splits, and `held_out` beside all of
    `real`. The half leaves only half as many real rows to be near to. With `matched` the overall record is of queries
    in the label mix of `real`, which a value that depends on the class needs.
    """
    held_out = sides.held_out
    values = of(sides.synthetic, sides.real)
    of_held_out = {} if held_out is None else of(held_out, sides.real)
    of_halves = [(b, of(b, a)) for a, b in real_halves(sides.real, settings.seed)]
    no_labels = np.zeros(0, dtype=int)
    rows = selections(sides.synthetic.labels, no_labels if held_out is None else held_out.labels, sides.label_names)
    if matched:
        seed = settings.seed
        rows[0] = (OVERALL, matched_mask(sides.real, sides.synthetic, seed), matched_mask(sides.real, held_out, seed))
    records = []
    for number, (label, chosen, own) in enumerate(rows, -1):  # -1: all classes
        n_real = int(of_class(sides.real, number).sum())
        for metric, found in values.items():
            record = empty_record(metric, label, reference, (n_real, int(chosen.sum())), 0, settings)
            floors = [known[metric][of_class(b, number)] for b, known in of_halves]
            seen = None if held_out is None else of_held_out[metric][own]
            records.append(with_means(record, found[chosen], floors, seen, settings, note))
    return records


def of_class(side: Features, number: int) -> np.ndarray:
    """Mask (n,) of the rows of a class; of all where the number is -1."""
    return np.ones(len(side), dtype=bool) if number < 0 else side.labels == number


def matched_mask(real: Features, side: Features | None, seed: int) -> np.ndarray:
    """Mask (n,) of the largest part of `side` that has the label mix of `real`; none where they share no class."""
    matched = None if side is None else match_labels(real.labels, side.labels, seed)
    mask = np.zeros(0 if side is None else len(side), dtype=bool)
    if matched is not None:
        mask[matched[1]] = True
    return mask


def selections(
    synthetic: np.ndarray, held_out: np.ndarray, label_names: list[str]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(label, mask of synthetic rows, mask of held-out rows): overall, then class by class, from the labels (n,)."""
    rows = [(OVERALL, np.ones(len(synthetic), dtype=bool), np.ones(len(held_out), dtype=bool))]
    return rows + [(name, synthetic == number, held_out == number) for number, name in enumerate(label_names)]
