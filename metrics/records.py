"""Records of what was measured of a synthetic set beside a real one, and the features that it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from clinsynth.metrics.intervals import Interval, bootstrap_interval

MIN_ROWS = 10
OVERALL = "overall"


@dataclass(frozen=True)
class Features:
    """Feature vectors float64 (n, d), or whatever else is measured row by row (n, …), labels int64 (n,), and whose a
    row is, int64 (n,), where that is known: persons are resampled, not their rows."""

    rows: np.ndarray
    labels: np.ndarray
    persons: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> Features:
        """The rows at `index` (numbers or a mask)."""
        return Features(self.rows[index], self.labels[index], None if self.persons is None else self.persons[index])

    def of(self, rows: np.ndarray) -> Features:
        """Other values (n, …) of the same rows."""
        return replace(self, rows=rows)


@dataclass(frozen=True)
class MeasurementSettings:
    """What is the same for every measurement of a run."""

    extractor: str
    replicates: int = 200
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number about a synthetic set beside a real split.

    Attributes:
        metric: one of `clinsynth.metrics.registry`.
        label: a class name, or "overall" (label mix matched to the real split's).
        reference: the real split, "train" or "test".
        value: None where a side has fewer than 10 rows; `note` says so.
        interval: 95 % interval, None where value is.
        n_real, n_synthetic: rows compared.
        floor: mean of the same number between two stratified halves of the real rows over five splits, None below 20
            rows. For "ms_ssim_within" the real rows' own value, mean over five draws of pairs.
        floor_range: smallest and largest of the five.
        floor_n: rows in the smaller half (for "ms_ssim_within" all).
        floor_held_out: the number with the rows of the other real split, label mix matched, for the synthetic ones.
        extractor, dimension: name of the network and length of its features; "pixels" and their count.
        replicates, seed: of the interval.
        biased: a Fréchet distance from fewer rows than twice the dimension, which reads too high.
        note: what a reader must know, may be empty.
        extrapolated: a biased Fréchet distance extrapolated to infinitely many rows, else None.
        spread, spread_n: standard deviation of KID over 100 random subsets, and the rows a side of each.
    """

    metric: str
    label: str
    reference: str
    value: float | None = None
    interval: Interval | None = None
    n_real: int
    n_synthetic: int
    floor: float | None = None
    floor_range: Interval | None = None
    floor_n: int | None = None
    floor_held_out: float | None = None
    extractor: str
    dimension: int
    replicates: int
    seed: int
    biased: bool = False
    note: str = ""
    extrapolated: float | None = None
    spread: float | None = None
    spread_n: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)

    def with_floors(self, floors: list[float], floor_n: int) -> Measurement:
        """The record with its real-vs-real floors; as it is where there are none."""
        if not floors:
            return self
        ends = float(min(floors)), float(max(floors))
        return replace(self, floor=float(np.mean(floors)), floor_range=ends, floor_n=floor_n)


class Record(Protocol):
    """What stands in evidence.json."""

    def to_dict(self) -> dict[str, Any]: ...


def as_dicts(measure: Callable[[], Iterable[Record]]) -> list[dict[str, Any]]:
    """What `measure` finds, as it stands in evidence.json."""
    return [record.to_dict() for record in measure()]


def count_classes(labels: np.ndarray, label_names: list[str]) -> dict[str, int]:
    """Rows of each class, from labels (n,)."""
    return dict(zip(label_names, np.bincount(labels, minlength=len(label_names)).tolist(), strict=True))


def empty_record(
    metric: str, label: str, reference: str, sizes: tuple[int, int], dimension: int, settings: MeasurementSettings
) -> Measurement:
    """A record without a number, of `sizes` = (n_real, n_synthetic); with a note where these are too few for one."""
    return Measurement(
        metric=metric,
        label=label,
        reference=reference,
        n_real=sizes[0],
        n_synthetic=sizes[1],
        extractor=settings.extractor,
        dimension=dimension,
        replicates=settings.replicates,
        seed=settings.seed,
        note=f"not measured, n={min(sizes)}" if min(sizes) < MIN_ROWS else "",
    )


def mean_interval(values: np.ndarray, settings: MeasurementSettings) -> Interval | None:
    """Percentile bootstrap interval (95 %) of the mean of `values` (n,); None where no replicate is asked for."""
    return bootstrap_interval(np.mean, [values], settings.replicates, [settings.seed, 5])


def with_means(
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
