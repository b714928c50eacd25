"""Distances between real and synthetic features as records: Fréchet, KID, MMD, and how their manifolds overlap.

A metric's own file is imported where it is called, as it brings `evaluate` and with it transformers.
"""

from __future__ import annotations

from dataclasses import replace

from tqdm.auto import tqdm

from clinsynth.metrics.comparisons import Comparison, real_halves, smallest_half
from clinsynth.metrics.records import MIN_ROWS, Measurement, MeasurementSettings

LEVEL = 0.95


def measure_features(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """The records of features of images (n, d) in `rows`: "frechet", "kid" and "precision" to "coverage"."""
    return [
        measure_frechet(comparison, settings),
        measure_kid(comparison, settings),
        *measure_manifold(comparison, settings),
    ]


def measure_embeddings(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """The records of embeddings of texts (n, d) in `rows`: "mmd_squared", "frechet" and "precision" to "coverage"."""
    return [
        measure_mmd(comparison, settings),
        measure_frechet(comparison, settings),
        *measure_manifold(comparison, settings),
    ]


def measure_frechet(comparison: Comparison, settings: MeasurementSettings) -> Measurement:
    """The record "frechet"; extrapolated too where there are fewer rows than twice the dimension."""
    from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_extrapolated, frechet_interval

    real, synthetic = comparison.real.rows, comparison.synthetic.rows
    record = comparison.empty_record("frechet", settings, real.shape[1])
    if record.note:
        return record
    record = replace(record, value=frechet_distance(real, synthetic))
    if settings.replicates:
        with progress_bar("frechet", comparison, settings.replicates, "replicate") as bar:
            interval = frechet_interval(
                real, synthetic, settings.replicates, settings.seed, LEVEL, bar.update, comparison.real.persons
            )
        record = replace(record, interval=interval)
    if min(comparison.sizes) < 2 * record.dimension:
        extrapolated = frechet_extrapolated(real, synthetic, settings.seed)
        record = replace(record, biased=True, extrapolated=extrapolated)
    return comparison.with_distance_floors(record, frechet_distance, settings.seed)


def measure_kid(comparison: Comparison, settings: MeasurementSettings) -> Measurement:
    """The record "kid", with the spread over random subsets that is usually reported."""
    from clinsynth.metrics.kid.kid import count_blocks, kernel_distance, kernel_interval, kernel_spread

    real, synthetic = comparison.real.rows, comparison.synthetic.rows
    record = comparison.empty_record("kid", settings, real.shape[1])
    if record.note:
        return record
    _, spread, spread_n = kernel_spread(real, synthetic, seed=settings.seed)
    record = replace(record, value=kernel_distance(real, synthetic), spread=spread, spread_n=spread_n)
    if settings.replicates:
        with progress_bar("kid", comparison, count_blocks(*comparison.sizes), "block") as bar:
            interval = kernel_interval(
                real, synthetic, settings.replicates, settings.seed, LEVEL, bar.update, comparison.real.persons
            )
        record = replace(record, interval=interval)
    return comparison.with_distance_floors(record, kernel_distance, settings.seed)


def measure_mmd(comparison: Comparison, settings: MeasurementSettings) -> Measurement:
    """The record "mmd_squared"; value and floors have one bandwidth, the median distance between the real rows."""
    from clinsynth.metrics.mmd.mmd import count_blocks, median_bandwidth, mmd_interval, mmd_squared

    real, synthetic = comparison.real.rows, comparison.synthetic.rows
    record = comparison.empty_record("mmd_squared", settings, real.shape[1])
    if record.note:
        return record
    try:
        width = median_bandwidth(real)
    except ValueError:
        return replace(record, note="not measured, more than half of the pairs of real texts are equal")
    note = f"Gaussian kernel, bandwidth {width:.3g}"
    record = replace(record, value=mmd_squared(real, synthetic, width), note=note)
    if settings.replicates:
        with progress_bar("mmd_squared", comparison, count_blocks(*comparison.sizes), "block") as bar:
            interval = mmd_interval(
                real, synthetic, width, settings.replicates, settings.seed, LEVEL, bar.update, comparison.real.persons
            )
        record = replace(record, interval=interval)
    return comparison.with_distance_floors(record, lambda a, b: mmd_squared(a, b, width), settings.seed)


def measure_manifold(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records "precision", "recall", "density" and "coverage". All depend on n: the records say which they have."""
    from clinsynth.metrics.prdc.prdc import NAMES, NEAREST_K, least_rows, prdc, prdc_intervals

    real, synthetic, held_out = comparison.real, comparison.synthetic, comparison.held_out
    records = {name: comparison.empty_record(name, settings, real.rows.shape[1]) for name in NAMES}
    if min(comparison.sizes) < MIN_ROWS:
        return list(records.values())
    values = prdc(real.rows, synthetic.rows)
    of_held_out = {} if held_out is None else prdc(real.rows, held_out.rows)
    intervals: dict[str, tuple[float, float]] = {}
    note = f"k = {NEAREST_K}"
    if settings.replicates and min(comparison.sizes) < least_rows():
        note += f"; no interval, fewer than {least_rows()} a side"
    elif settings.replicates:
        with progress_bar("precision to coverage", comparison, settings.replicates, "replicate") as bar:
            intervals = prdc_intervals(
                real.rows,
                synthetic.rows,
                NEAREST_K,
                settings.replicates,
                settings.seed,
                on_replicate=bar.update,
                persons=real.persons,
            )
    halves = real_halves(real, settings.seed)
    floors = [prdc(a.rows, b.rows) for a, b in halves]
    return [
        replace(
            record,
            value=values[name],
            interval=intervals.get(name),
            floor_held_out=of_held_out.get(name),
            note=note,
        ).with_floors([floor[name] for floor in floors], smallest_half(halves))
        for name, record in records.items()
    ]


def progress_bar(metric: str, comparison: Comparison, total: int, unit: str) -> tqdm:
    """A bar that goes when it is full."""
    return tqdm(total=total, unit=unit, desc=f"{metric}, {comparison.label}", leave=False)
