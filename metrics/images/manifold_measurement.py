"""Precision, recall, density and coverage as records: are the outputs realistic, and is the whole variety there?"""

from __future__ import annotations

from dataclasses import replace

from clinsynth.metrics.prdc.prdc import NAMES, NEAREST_K, prdc, prdc_intervals
from clinsynth.metrics.record import MIN_ROWS, Measurement, MeasurementSettings, empty_record
from clinsynth.metrics.records import Features, real_halves


def measure_manifold(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
    progress: bool = False,
) -> list[Measurement]:
    """Records "precision", "recall", "density" and "coverage" of `synthetic` beside `real`.

    Floors put real rows in the synthetic ones' place: one half beside the other, and `other`, a second real split,
    beside `real`. All of these depend on n: the records say which n they have.
    """
    sizes, dimension = (len(real), len(synthetic)), real.rows.shape[1]
    records = {name: empty_record(name, label, reference, sizes, dimension, settings) for name in NAMES}
    if min(sizes) < MIN_ROWS:
        return list(records.values())
    values = prdc(real.rows, synthetic.rows)
    held_out = prdc(real.rows, other.rows) if other and len(other) >= MIN_ROWS else {}
    intervals = _intervals(label, real, synthetic, settings, progress)
    halves = real_halves(real, settings.seed)
    floors = [prdc(a.rows, b.rows) for a, b in halves]
    for name, record in records.items():
        measured = replace(
            record,
            value=values[name],
            interval=intervals.get(name),
            floor_held_out=held_out.get(name),
            note=f"k = {NEAREST_K}",
        )
        floor_n = min(map(len, halves[0])) if halves else 0
        records[name] = measured.with_floors([floor[name] for floor in floors], floor_n) if floors else measured
    return list(records.values())


def _intervals(
    label: str, real: Features, synthetic: Features, settings: MeasurementSettings, progress: bool
) -> dict[str, tuple[float, float]]:
    """The four 95 % intervals by name; empty where no replicate is asked for."""
    from tqdm.auto import tqdm

    if settings.replicates == 0:
        return {}
    description = f"precision to coverage, {label}"
    with tqdm(total=settings.replicates, unit="replicate", desc=description, leave=False, disable=not progress) as bar:
        return prdc_intervals(
            real.rows, synthetic.rows, NEAREST_K, settings.replicates, settings.seed, on_replicate=bar.update
        )
