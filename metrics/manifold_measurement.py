"""Precision, recall, density, coverage and near-duplicates as records: is the whole variety there, and only once?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clinsynth.metrics.measurement import Features, real_halves
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.prdc.prdc import NAMES, NEAREST_K, prdc, prdc_intervals
from clinsynth.metrics.record import MIN_ROWS, Measurement, MeasurementSettings, empty_record, mean_interval

DUPLICATE_QUANTILE = 0.01


def measure_manifold(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
    progress: bool = False,
) -> list[Measurement]:
    """Records "precision", "recall", "density", "coverage" and "near_duplicates" of `synthetic` beside `real`.

    Floors put real rows in the synthetic ones' place: one half beside the other, and `other`, a second real split,
    beside `real`. All of these depend on n: the records say which n they have.
    """
    sizes, dimension = (len(real), len(synthetic)), real.rows.shape[1]
    records = {
        name: empty_record(name, label, reference, sizes, dimension, settings) for name in (*NAMES, "near_duplicates")
    }
    if min(sizes) < MIN_ROWS:
        return list(records.values())
    values = _five_numbers(real, synthetic, settings.seed)
    held_out = _five_numbers(real, other, settings.seed) if other and len(other) >= MIN_ROWS else {}
    intervals = _intervals(label, real, synthetic, settings, progress)
    halves = real_halves(real, settings.seed)
    floors = [_five_numbers(a, b, settings.seed) for a, b in halves]
    for name, record in records.items():
        measured = replace(
            record,
            value=values[name],
            interval=intervals.get(name),
            floor_held_out=held_out.get(name),
            note="" if name == "near_duplicates" else f"k = {NEAREST_K}",
        )
        floor_n = min(map(len, halves[0])) if halves else 0
        records[name] = measured.with_floors([floor[name] for floor in floors], floor_n) if floors else measured
    return list(records.values())


def near_duplicates(synthetic: np.ndarray, real: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which synthetic rows have another synthetic row as near as only 1 % of the real rows have a real one: bool (n,).

    Nearest neighbours come nearer the more rows there are, so the larger side is cut, by `seed`, to the size of the
    smaller: n is the smaller number of rows.
    """
    size = min(len(synthetic), len(real))
    generator = np.random.default_rng([seed, 6])
    sides = [x[np.sort(generator.permutation(len(x))[:size])] for x in (synthetic, real)]
    distances = [nearest(rows, rows, skip_self=True)[0] for rows in sides]
    return distances[0] <= np.quantile(distances[1], DUPLICATE_QUANTILE)


def _five_numbers(real: Features, synthetic: Features, seed: int) -> dict[str, float]:
    duplicates = near_duplicates(synthetic.rows, real.rows, seed)
    return {**prdc(real.rows, synthetic.rows), "near_duplicates": float(duplicates.mean())}


def _intervals(
    label: str, real: Features, synthetic: Features, settings: MeasurementSettings, progress: bool
) -> dict[str, tuple[float, float] | None]:
    """The five 95 % intervals by name; empty where no replicate is asked for."""
    from tqdm.auto import tqdm

    if settings.replicates == 0:
        return {}
    description = f"precision to coverage, {label}"
    with tqdm(total=settings.replicates, unit="replicate", desc=description, leave=False, disable=not progress) as bar:
        intervals = prdc_intervals(
            real.rows, synthetic.rows, NEAREST_K, settings.replicates, settings.seed, on_replicate=bar.update
        )
    duplicates = near_duplicates(synthetic.rows, real.rows, settings.seed)
    return {**intervals, "near_duplicates": mean_interval(duplicates, settings)}
