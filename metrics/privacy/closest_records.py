"""Distance to the closest record (DCR): whether synthetic rows lie nearer to train rows than to held-out rows.

The share of the synthetic rows whose closest real row is a train row, where train and held-out rows are as many (the
larger side of each class is subsampled, anew in each replicate). A generator that has learned the distribution and not
the rows gives 50 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from clinsynth.metrics.intervals import bootstrap_interval, percentile_interval
from clinsynth.metrics.nearest import Closest, as_views, closest_rows
from clinsynth.metrics.records import MIN_ROWS, OVERALL, Features, MeasurementSettings, split_halves

DEPTH = 64  # closest real rows kept a query: the first one in a subsample is nearly always among them
FEWEST_DRAWS = 20


@dataclass(frozen=True)
class Draws:
    """For each replicate and query 1 where its closest real row is a train row, 0 held-out, 0.5 neither in reach.

    Attributes:
        observed, relabelled: float32 (replicates, n_synthetic).
        held_out: float32 (replicates, n_held_out), NaN where the row was in the half that stays held out; None where
            there are fewer than 20 held-out rows.
    """

    observed: np.ndarray
    relabelled: np.ndarray
    held_out: np.ndarray | None


def measure_shares(
    synthetic: Features, train: Features, held_out: Features, label_names: list[str], settings: MeasurementSettings
) -> list[MemorisationRecord]:
    """DCR shares overall and a class of the synthetic rows; the real rows are balanced class by class."""
    draws = draw_closest(synthetic, train, held_out, settings)
    records = []
    for label, chosen, own in selections(synthetic.labels, held_out.labels, label_names):
        count = int(chosen.sum())
        record = dict(label=label, n_synthetic=count, n_train=len(train.rows), n_held_out=len(held_out.rows))
        records.append(describe_share(record, draws, chosen, own, settings))
    return records


def draw_closest(synthetic: Features, train: Features, held_out: Features, settings: MeasurementSettings) -> Draws:
    """Whose row is the closest, in each replicate.

    The real rows are pooled in random order, so that rows at equal distance come first by chance. A replicate takes as
    many train as held-out rows of each class (`balanced`), and the closest of the rows taken is looked up among the 64
    closest of the pool.
    """
    generator = np.random.default_rng([settings.seed, 3])
    order = generator.permutation(len(train.rows) + len(held_out.rows))
    pool = Features(
        np.concatenate([train.rows, held_out.rows])[order], np.concatenate([train.labels, held_out.labels])[order]
    )
    is_train = order < len(train.rows)
    places = np.argsort(order)[len(train.rows) :]  # where the held-out rows are in the pool
    near = closest_rows(as_views(synthetic.rows), pool.rows, DEPTH).numbers
    near_held_out = closest_rows(as_views(held_out.rows), pool.rows, DEPTH, own=places).numbers
    enough = len(held_out.rows) >= 2 * MIN_ROWS
    observed, relabelled, floors = [], [], []
    for replicate in range(max(settings.replicates, FEWEST_DRAWS)):
        taken = balanced(is_train, np.ones(len(order), dtype=bool), pool.labels, generator)
        observed.append(closest_is_train(taken, near))
        relabelled.append(closest_is_train(relabel(taken, pool.labels, generator), near))
        if enough:
            moved, _ = split_halves(held_out.labels, settings.seed + replicate)
            floors.append(floor_draw(moved, places, is_train, pool.labels, near_held_out, generator))
    return Draws(np.stack(observed), np.stack(relabelled), np.stack(floors) if enough else None)


def balanced(
    is_train: np.ndarray, allowed: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Signs (n,): 1 for train and -1 for held-out rows taken, equally many of each class; 0 for the others."""
    signs = np.zeros(len(labels), dtype=np.int8)
    for label in np.unique(labels):
        sides = [np.flatnonzero((labels == label) & allowed & (is_train == side)) for side in (True, False)]
        count = min(map(len, sides))
        for sign, rows in zip((1, -1), sides, strict=True):
            signs[generator.permutation(rows)[:count]] = sign
    return signs


def relabel(signs: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The signs shuffled among the rows taken, class by class."""
    shuffled = signs.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (signs != 0))
        shuffled[rows] = generator.permutation(signs[rows])
    return shuffled


def closest_is_train(signs: np.ndarray, near: np.ndarray) -> np.ndarray:
    """1 where the first of a query's closest rows that was taken is a train row, 0 held-out, 0.5 none was taken."""
    found = signs[near]
    first = np.take_along_axis(found, (found != 0).argmax(1)[:, None], 1)[:, 0]
    return ((first + 1) / 2).astype(np.float32)


def floor_draw(
    moved: np.ndarray,
    places: np.ndarray,
    is_train: np.ndarray,
    labels: np.ndarray,
    near: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """The held-out rows `moved` as if they were synthetic, against the train and the other held-out rows."""
    allowed = np.ones(len(labels), dtype=bool)
    allowed[places[moved]] = False
    outcome = np.full(len(places), np.nan, dtype=np.float32)
    outcome[moved] = closest_is_train(balanced(is_train, allowed, labels, generator), near[moved])
    return outcome


def describe_share(
    names: dict[str, Any], draws: Draws, chosen: np.ndarray, own: np.ndarray, settings: MeasurementSettings
) -> MemorisationRecord:
    """The record of the synthetic rows `chosen`; `own` are the held-out rows of the same label."""
    observed = draws.observed[:, chosen]
    count = observed.shape[1]
    if count < MIN_ROWS:
        return empty_record(DCR_SHARE, names, settings)
    generator = np.random.default_rng([settings.seed, 4])
    resampled = [row[generator.integers(count, size=count)].mean() for row in observed]
    floors = None
    if draws.held_out is not None and own.sum() >= 2 * MIN_ROWS:
        floors = np.nanmean(draws.held_out[:, own], axis=1)
    return MemorisationRecord(
        metric=DCR_SHARE,
        value=float(observed.mean()),
        interval=percentile_interval(resampled) if settings.replicates else None,
        floor=None if floors is None else float(floors.mean()),
        floor_range=None if floors is None else percentile_interval(floors),
        chance_range=percentile_interval(draws.relabelled[:, chosen].mean(1)),
        extractor=settings.extractor,
        replicates=settings.replicates,
        seed=settings.seed,
        **names,
    )


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
    """The 95 % bootstrap interval of a quantile; None without replicates."""
    found = partial(np.quantile, q=quantile)
    return bootstrap_interval(found, [values], settings.replicates, [settings.seed, 5])
