"""The record of one measurement: no number without interval, n, floor and extractor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

MIN_ROWS = 10


@dataclass(frozen=True)
class Measurement:
    """One number about a synthetic set beside a real split.

    Attributes:
        metric: "frechet", "kid", "precision", "recall", "density", "coverage", "near_duplicates", "ms_ssim_within" or
            "ssim_nearest".
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
    value: float | None
    interval: tuple[float, float] | None
    n_real: int
    n_synthetic: int
    floor: float | None
    floor_range: tuple[float, float] | None
    floor_n: int | None
    floor_held_out: float | None
    extractor: str
    dimension: int
    replicates: int
    seed: int
    biased: bool
    note: str = ""
    extrapolated: float | None = None
    spread: float | None = None
    spread_n: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)

    def with_floors(self, floors: list[float], floor_n: int) -> Measurement:
        """The record with its real-vs-real floors."""
        return replace(self, floor=float(np.mean(floors)), floor_range=(min(floors), max(floors)), floor_n=floor_n)


@dataclass(frozen=True)
class MeasurementSettings:
    """What is the same for every measurement of a run."""

    extractor: str
    replicates: int = 200
    seed: int = 0


def empty_record(
    metric: str, label: str, reference: str, sizes: tuple[int, int], dimension: int, settings: MeasurementSettings
) -> Measurement:
    """A record without a number, of `sizes` = (n_real, n_synthetic); with a note where these are too few for one."""
    return Measurement(
        metric=metric,
        label=label,
        reference=reference,
        value=None,
        interval=None,
        n_real=sizes[0],
        n_synthetic=sizes[1],
        floor=None,
        floor_range=None,
        floor_n=None,
        floor_held_out=None,
        extractor=settings.extractor,
        dimension=dimension,
        replicates=settings.replicates,
        seed=settings.seed,
        biased=False,
        note=f"not measured, n={min(sizes)}" if min(sizes) < MIN_ROWS else "",
    )


def mean_interval(values: np.ndarray, settings: MeasurementSettings) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the mean of `values` (n,); None where no replicate is asked for."""
    if settings.replicates == 0:
        return None
    generator = np.random.default_rng([settings.seed, 5])
    n = len(values)
    means = [values[generator.integers(n, size=n)].mean() for _ in range(settings.replicates)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
