"""Records of measures that give one value a text: their mean, overall and a class, beside real texts' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from clinsynth.metrics.privacy.closest_records import selections
from clinsynth.metrics.records import (
    MIN_ROWS,
    OVERALL,
    Features,
    Measurement,
    MeasurementSettings,
    empty_record,
    match_labels,
    mean_interval,
    real_halves,
)

Values = dict[str, np.ndarray]
"""Metric to one value a text (n,)."""


@dataclass(frozen=True)
class Sides:
    """A synthetic set, the real split that it is held against, and another real split or None."""

    synthetic: Features
    real: Features
    held_out: Features | None
    label_names: list[str]


def measure_texts(
    of: Callable[[Features, Features], Values],
    sides: Sides,
    reference: str,
    settings: MeasurementSettings,
    note: str = "",
    matched: bool = False,
) -> list[Measurement]:
    """Records of the means over texts of `of(queries, real)`, for each of its metrics, overall and a class.

    `of` sees the real texts of all classes; a class is that of the queries. The floors put real texts in the place of
    the synthetic ones: one half of `sides.real` beside the other, over five splits, and `held_out` beside all of
    `real`. The half leaves only half as many real texts to be near to. With `matched` the overall record is of queries
    in the label mix of `real`, which a value that depends on the class needs.
    """
    held_out = sides.held_out
    values = of(sides.synthetic, sides.real)
    of_held_out = {} if held_out is None else of(held_out, sides.real)
    halves = [b for _, b in real_halves(sides.real, settings.seed)]
    of_halves = [of(b, a) for a, b in real_halves(sides.real, settings.seed)]
    no_labels = np.zeros(0, dtype=int)
    rows = selections(sides.synthetic.labels, no_labels if held_out is None else held_out.labels, sides.label_names)
    if matched:
        rows[0] = (OVERALL, *(matched_rows(sides.real, side, settings.seed) for side in (sides.synthetic, held_out)))
    records = []
    for number, (label, chosen, own) in enumerate(rows, -1):  # -1: all classes
        n_real = int(of_class(sides.real, number).sum())
        for metric, found in values.items():
            record = empty_record(metric, label, reference, (n_real, int(chosen.sum())), 0, settings)
            floors = [known[metric][of_class(b, number)] for known, b in zip(of_halves, halves, strict=True)]
            seen = None if held_out is None else of_held_out[metric][own]
            records.append(describe_means(record, found[chosen], floors, seen, settings, note))
    return records


def of_class(side: Features, number: int) -> np.ndarray:
    """Mask (n,) of the rows of a class; of all where the number is -1."""
    return np.ones(len(side), dtype=bool) if number < 0 else side.labels == number


def matched_rows(real: Features, side: Features | None, seed: int) -> np.ndarray:
    """Mask (n,) of the largest part of `side` that has the label mix of `real`; none where they share no class."""
    matched = None if side is None else match_labels(real.labels, side.labels, seed)
    mask = np.zeros(0 if side is None else len(side), dtype=bool)
    if matched is not None:
        mask[matched[1]] = True
    return mask


def describe_means(
    record: Measurement,
    values: np.ndarray,
    floors: list[np.ndarray],
    held_out: np.ndarray | None,
    settings: MeasurementSettings,
    note: str = "",
) -> Measurement:
    """The record with mean and interval of `values`, and the means of real texts' values as its floors."""
    if len(values) < MIN_ROWS:
        return replace(record, note=f"not measured, n={len(values)}")
    measured = replace(
        record,
        value=float(values.mean()),
        interval=mean_interval(values, settings),
        floor_held_out=float(held_out.mean()) if held_out is not None and len(held_out) >= MIN_ROWS else None,
        note=note,
    )
    if not floors or min(map(len, floors)) < MIN_ROWS:
        return measured
    return measured.with_floors([float(known.mean()) for known in floors], min(map(len, floors)))
