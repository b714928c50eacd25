"""Records of memorisation, and the nearest-neighbour distance ratio (NNDR).

The ratio is the distance to the closest over that to the second closest train row. Copies of single rows have small
ratios; the same of held-out rows says what is small.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clinsynth.metrics.closest import Closest
from clinsynth.metrics.records import MIN_ROWS, OVERALL, MeasurementSettings

DCR_SHARE, NNDR_MEDIAN, NNDR_FIFTH = "dcr_share", "nndr_median", "nndr_fifth"


@dataclass(frozen=True)
class MemorisationRecord:
    """One reading of the synthetic rows of a class, or of all.

    Attributes:
        metric: "dcr_share" (in [0, 1], 0.5 is ideal), "nndr_median" or "nndr_fifth" (the 5 % quantile; in [0, 1]).
        label: class of the synthetic rows, or "overall"; the real rows are those of all classes.
        value: None where there are fewer than 10 rows; `note` says so.
        interval: 95 %, percentiles of the bootstrap over synthetic rows, for the share also over the subsamples: as
            each replicate has one subsample and the value is the mean of all, it is rather too wide than too narrow.
        floor: the same with held-out rows in the place of the synthetic ones. For the share one half of the held-out
            rows takes that place and the other half stays held out, by turns.
        floor_range: 95 % of the floor's replicates.
        chance_range: 95 % of the shares after train and held-out have been relabelled at random: a share above it is
            not explained by which real rows happen to be in which split. None for the ratios.
        n_synthetic, n_train, n_held_out: rows; those of a class for n_synthetic.
        extractor: name of the features.
        replicates, seed: of the bootstrap.
        note: what a reader must know, may be empty.
    """

    metric: str
    label: str
    value: float | None
    interval: tuple[float, float] | None
    floor: float | None
    floor_range: tuple[float, float] | None
    chance_range: tuple[float, float] | None
    n_synthetic: int
    n_train: int
    n_held_out: int
    extractor: str
    replicates: int
    seed: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)


def selections(synthetic: np.ndarray, held_out: np.ndarray, label_names: list[str]) -> list[tuple[Any, ...]]:
    """(label, mask of synthetic rows, mask of held-out rows): overall, then class by class."""
    rows = [(OVERALL, np.ones(len(synthetic), dtype=bool), np.ones(len(held_out), dtype=bool))]
    return rows + [(name, synthetic == number, held_out == number) for number, name in enumerate(label_names)]


def empty_record(metric: str, names: dict[str, Any], settings: MeasurementSettings) -> MemorisationRecord:
    return MemorisationRecord(
        metric=metric,
        value=None,
        interval=None,
        floor=None,
        floor_range=None,
        chance_range=None,
        extractor=settings.extractor,
        replicates=settings.replicates,
        seed=settings.seed,
        note=f"not measured, n={names['n_synthetic']}",
        **names,
    )


def middle(values: Any) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def measure_ratios(
    synthetic: Closest,
    held_out: Closest,
    synthetic_labels: np.ndarray,
    held_out_labels: np.ndarray,
    label_names: list[str],
    n_train: int,
    settings: MeasurementSettings,
) -> list[MemorisationRecord]:
    """Median and 5 % quantile of the NNDR to the train rows, overall and a class, from the closest train rows."""
    ratios, floors = synthetic.nearest_over_second(), held_out.nearest_over_second()
    records = []
    for label, chosen, own in selections(synthetic_labels, held_out_labels, label_names):
        names = dict(label=label, n_synthetic=int(chosen.sum()), n_train=n_train, n_held_out=int(own.sum()))
        for metric, quantile in ((NNDR_MEDIAN, 0.5), (NNDR_FIFTH, 0.05)):
            records.append(describe_ratio(metric, quantile, names, ratios[chosen], floors[own], settings))
    return records


def describe_ratio(
    metric: str,
    quantile: float,
    names: dict[str, Any],
    ratios: np.ndarray,
    floors: np.ndarray,
    settings: MeasurementSettings,
) -> MemorisationRecord:
    """The record of one quantile of the synthetic rows' ratios beside that of the held-out rows'."""
    if len(ratios) < MIN_ROWS:
        return empty_record(metric, names, settings)
    known = len(floors) >= MIN_ROWS
    return MemorisationRecord(
        metric=metric,
        value=float(np.quantile(ratios, quantile)),
        interval=quantile_interval(ratios, quantile, settings),
        floor=float(np.quantile(floors, quantile)) if known else None,
        floor_range=quantile_interval(floors, quantile, settings) if known else None,
        chance_range=None,
        extractor=settings.extractor,
        replicates=settings.replicates,
        seed=settings.seed,
        **names,
    )


def quantile_interval(
    values: np.ndarray, quantile: float, settings: MeasurementSettings
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of a quantile, one replicate at a time; None without replicates."""
    generator = np.random.default_rng([settings.seed, 5])
    count, replicates = len(values), settings.replicates
    drawn = [np.quantile(values[generator.integers(count, size=count)], quantile) for _ in range(replicates)]
    return middle(drawn) if drawn else None
