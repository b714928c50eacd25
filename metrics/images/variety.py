"""Mode collapse, read from the records: does a generator repeat itself, and does it leave out what the real data hold?

The sign of a collapsed generator is few pictures drawn again and again: near-duplicates among the outputs, in the
whole set, in a class, or in a part of either. Nothing else is a sign: recall and coverage fall for noise and blur too,
and MS-SSIM of different pictures rises with blur, while ten pictures drawn by turns barely raise it. Recall and
coverage tell what is missing besides.

Each reading is placed on the way from its real-vs-real floor (0) to total collapse (1: nothing covered, or every
output repeated), so that no class is blamed for being as uniform as its real pictures are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from clinsynth.metrics.prdc.prdc import NAMES, NEAREST_K, prdc, prdc_intervals
from clinsynth.metrics.records import (
    MIN_ROWS,
    OVERALL,
    Features,
    Measurement,
    MeasurementSettings,
    empty_record,
    real_halves,
)

# metric: value at total collapse, share of the way there that makes a sign, words
READINGS = {
    "recall": (0.0, 0.5, "recall"),
    "coverage": (0.0, 0.5, "coverage"),
    "near_duplicates": (1.0, 0.1, "near-duplicates among the outputs"),
}
MISSING, REPEATED = {"recall", "coverage"}, "near_duplicates"


def read_collapse(records: Iterable[dict[str, Any]], reference: str = "train") -> dict[str, Any]:
    """Read mode collapse from records as `Measurement.to_dict` gives them; others than the three readings are skipped.

    Args:
        records: of any metrics, labels and references.
        reference: the real split whose records are read.

    Returns:
        flag: whether the set as a whole or a class of it is collapsed.
        labels: the classes (or "overall") that are.
        sentence: the finding in plain words, with the numbers it rests on.
        readings: label, metric, value, interval, floor (the more lenient of the two floors), severity (0 as the real
            data, 1 total collapse), and sign (severity large enough, and the interval wholly beyond the floor).
    """
    readings = [
        reading
        for record in records
        if record["reference"] == reference and record["metric"] in READINGS
        if (reading := read_record(record)) is not None
    ]
    signs: dict[str, set[str]] = {reading["label"]: set() for reading in readings}
    for reading in readings:
        if reading["sign"]:
            signs[reading["label"]].add(reading["metric"])
    collapsed = [label for label, found in signs.items() if REPEATED in found]
    return {
        "flag": bool(collapsed),
        "labels": collapsed,
        "sentence": describe(readings, signs, collapsed),
        "reference": reference,
        "readings": readings,
    }


def read_record(record: dict[str, Any]) -> dict[str, Any] | None:
    """One reading; None where the record has no value or no floor, or the floor is total collapse itself."""
    end, threshold, _ = READINGS[record["metric"]]
    floors = [record[name] for name in ("floor", "floor_held_out") if record[name] is not None]
    if record["value"] is None or not floors:
        return None
    floor = min(floors) if end == 0 else max(floors)
    if floor == end:
        return None
    low, high = record["interval"] or (record["value"], record["value"])
    severity = (record["value"] - floor) / (end - floor)
    beyond = high < floor if end == 0 else low > floor
    kept = {name: record[name] for name in ("label", "metric", "value", "interval")}
    return {**kept, "floor": floor, "severity": severity, "sign": beyond and severity >= threshold}


def describe(readings: list[dict[str, Any]], signs: dict[str, set[str]], collapsed: list[str]) -> str:
    """The finding in one or two sentences."""
    if not readings:
        return "Mode collapse was not judged: too few real or synthetic pictures for a real-vs-real floor."
    if collapsed:
        shown = OVERALL if OVERALL in collapsed else collapsed[0]
        where = ", ".join("the set as a whole" if label == OVERALL else f"class {label}" for label in collapsed)
        missing = " and leaves out much of the real variety" if signs[shown] & MISSING else ""
        found = numbers(readings, shown, signs[shown])
        return f"Mode collapse in {where}: the generator repeats itself{missing}. {found}"
    labels = [label for label, found in signs.items() if found & MISSING]
    if labels:
        return (
            "No mode collapse, but part of the real variety is missing, or drawn unlike it "
            f"({', '.join(labels)}). {numbers(readings, labels[0], signs[labels[0]])}"
        )
    shown = OVERALL if OVERALL in signs else next(iter(signs))
    return f"No sign of mode collapse. {numbers(readings, shown, set(READINGS))}"


def numbers(readings: list[dict[str, Any]], label: str, metrics: set[str]) -> str:
    """The readings of one label as text: "Recall 0.08 (real pictures 0.71), …, in class x." """
    shown = {reading["metric"]: reading for reading in readings if reading["label"] == label}
    parts = [
        f"{words} {shown[metric]['value']:.2f} (real pictures {shown[metric]['floor']:.2f})"
        for metric, (_, _, words) in READINGS.items()
        if metric in metrics and metric in shown
    ]
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}, {'overall' if label == OVERALL else f'in class {label}'}."


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
