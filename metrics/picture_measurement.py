"""SSIM and MS-SSIM as records: how alike the pictures of a class are, and how like the nearest real picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clinsynth.metrics.measurement import FLOOR_SPLITS, Features, real_halves
from clinsynth.metrics.record import MIN_ROWS, Measurement, MeasurementSettings, empty_record, mean_interval
from clinsynth.metrics.ssim.ssim import SCALE_WEIGHTS, WINDOW, count_scales, ssim_to_nearest, within_class

MIN_PAIRS = 5


def measure_pictures(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records "ms_ssim_within" and "ssim_nearest" of uint8 pictures (n, channels, r, r) in `rows`.

    "ms_ssim_within": mean MS-SSIM of random disjoint pairs of one class among the synthetic pictures; its floor is the
    real pictures' own value, its held-out floor that of `other`, a second real split. Above the floor: less diverse.
    "ssim_nearest": mean SSIM of the synthetic pictures to the real one nearest in pixels; its held-out floor is that
    of `other` to the same real pictures, the one to compare with. Above that: nearer to copies than new patients are.
    """
    shape = real.rows.shape[1:]
    settings = replace(settings, extractor="pixels")
    records = [
        empty_record(metric, label, reference, (len(real), len(synthetic)), int(np.prod(shape)), settings)
        for metric in ("ms_ssim_within", "ssim_nearest")
    ]
    if records[0].note:
        return records
    if min(shape[1:]) < WINDOW:
        note = f"not measured, SSIM needs {WINDOW} x {WINDOW} pixels, these have {shape[1]} x {shape[2]}"
        return [replace(record, note=note) for record in records]
    held_out = other if other is not None and len(other) >= MIN_ROWS else None
    return [
        _within(records[0], synthetic, real, held_out, settings),
        _to_nearest(records[1], synthetic, real, held_out, settings),
    ]


def _within(
    record: Measurement, synthetic: Features, real: Features, other: Features | None, settings: MeasurementSettings
) -> Measurement:
    values = within_class(synthetic.rows, synthetic.labels, settings.seed)
    floors = [_mean(within_class, real, settings.seed + i) for i in range(FLOOR_SPLITS)]
    if len(values) < MIN_PAIRS:
        return replace(record, note=f"not measured, {len(values)} pairs of one class")
    measured = replace(
        record,
        value=float(values.mean()),
        interval=mean_interval(values, settings),
        floor_held_out=None if other is None else _mean(within_class, other, settings.seed),
        note=describe_scales(*real.rows.shape[2:]),
    )
    known = [floor for floor in floors if floor is not None]
    return measured.with_floors(known, len(real)) if len(known) == FLOOR_SPLITS else measured


def _to_nearest(
    record: Measurement, synthetic: Features, real: Features, other: Features | None, settings: MeasurementSettings
) -> Measurement:
    values = ssim_to_nearest(synthetic.rows, real.rows)
    measured = replace(
        record,
        value=float(values.mean()),
        interval=mean_interval(values, settings),
        floor_held_out=None if other is None else float(ssim_to_nearest(other.rows, real.rows).mean()),
        note="nearest in pixels",
    )
    halves = real_halves(real, settings.seed)
    if not halves:
        return measured
    floors = [float(ssim_to_nearest(b.rows, a.rows).mean()) for a, b in halves]
    return measured.with_floors(floors, min(map(len, halves[0])))


def _mean(pairs: Callable[[np.ndarray, np.ndarray, int], np.ndarray], side: Features, seed: int) -> float | None:
    """Mean over the pairs of one class, None where there are fewer than five."""
    values = pairs(side.rows, side.labels, seed)
    return float(values.mean()) if len(values) >= MIN_PAIRS else None


def describe_scales(height: int, width: int) -> str:
    """What the record says of MS-SSIM on pictures too small for all five scales; empty for the others."""
    scales, all_scales = count_scales(height, width), len(SCALE_WEIGHTS)
    if scales == all_scales:
        return ""
    return (
        f"MS-SSIM on {scales} of {all_scales} scales ({height} x {width} pixels), weights divided by their sum; "
        "not comparable with values on five"
    )
