"""Distance to the closest record (DCR): whether synthetic rows lie nearer to train rows than to held-out rows.

The share of the synthetic rows whose closest real row is a train row, where train and held-out rows are as many (the
larger side of each class is subsampled, anew in each replicate). A generator that has learned the distribution and not
the rows gives 50 %.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from clinsynth.metrics.comparisons import selections, split_halves
from clinsynth.metrics.intervals import Interval, bootstrap_interval, percentile_interval
from clinsynth.metrics.nearest import Closest, as_views, closest_rows, loss_in_words
from clinsynth.metrics.records import MIN_ROWS, Features, MeasurementSettings

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


def measure_memorisation(
    sides: tuple[Features, Features, Features],
    near: tuple[Closest, Closest],
    label_names: list[str],
    settings: MeasurementSettings,
) -> list[MemorisationRecord]:
    """DCR shares and NNDR, overall and a class.

    Args:
        sides: synthetic, train and held-out rows.
        near: the train rows closest to each synthetic and to each held-out row.
    """
    synthetic, train, held_out = sides
    shares = measure_shares(synthetic, train, held_out, label_names, settings)
    labels = (synthetic.labels, held_out.labels)
    records = shares + measure_ratios(near, labels, label_names, len(train), settings, held_out.persons)
    loss = loss_in_words(*near)
    return [replace(record, note=f"{record.note}{loss}".strip()) for record in records] if loss else records


def measure_shares(
    synthetic: Features, train: Features, held_out: Features, label_names: list[str], settings: MeasurementSettings
) -> list[MemorisationRecord]:
    """DCR shares overall and a class of the synthetic rows; the real rows are balanced class by class."""
    draws = draw_closest(synthetic, train, held_out, settings)
    records = []
    for label, chosen, own in selections(synthetic.labels, held_out.labels, label_names):
        sizes = (int(chosen.sum()), len(train), len(held_out))
        records.append(with_share(unmeasured(DCR_SHARE, label, sizes, settings), draws, chosen, own, settings))
    return records


def draw_closest(synthetic: Features, train: Features, held_out: Features, settings: MeasurementSettings) -> Draws:
    """Whose row is the closest, in each replicate.

    The real rows are pooled in random order, so that rows at equal distance come first by chance. A replicate takes as
    many train as held-out rows of each class (`balanced`), and the closest of the rows taken is looked up among the 64
    closest of the pool.
    """
    generator = np.random.default_rng([settings.seed, 3])
    order = generator.permutation(len(train.rows) + len(held_out.rows))
    rows = np.concatenate([train.rows, held_out.rows])[order]
    labels = np.concatenate([train.labels, held_out.labels])[order]
    known = [side.persons for side in (train, held_out) if side.persons is not None]
    persons = np.concatenate(known)[order] if len(known) == 2 else None
    is_train = order < len(train.rows)
    places = np.argsort(order)[len(train.rows) :]  # where the held-out rows are in the pool
    near = closest_rows(as_views(synthetic.rows), rows, DEPTH).numbers
    near_held_out = closest_rows(as_views(held_out.rows), rows, DEPTH, own=places).numbers
    enough = len(held_out.rows) >= 2 * MIN_ROWS
    observed, relabelled, floors = [], [], []
    for replicate in range(max(settings.replicates, FEWEST_DRAWS)):
        taken = balanced(is_train, np.ones(len(order), dtype=bool), labels, generator)
        observed.append(closest_is_train(taken, near))
        relabelled.append(closest_is_train(relabel(taken, labels, generator, persons), near))
        if enough:
            moved, _ = split_halves(held_out.labels, settings.seed + replicate, held_out.persons)
            allowed = np.ones(len(order), dtype=bool)
            allowed[places[moved]] = False  # as if they were synthetic
            taken = balanced(is_train, allowed, labels, generator)
            floor = np.full(len(places), np.nan, dtype=np.float32)
            floor[moved] = closest_is_train(taken, near_held_out[moved])
            floors.append(floor)
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


def relabel(
    signs: np.ndarray, labels: np.ndarray, generator: np.random.Generator, persons: np.ndarray | None = None
) -> np.ndarray:
    """The signs shuffled among the rows taken, class by class; among `persons` (n,) where they are known, each of whom
    stands on one side."""
    shuffled = signs.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (signs != 0))
        if persons is None:
            shuffled[rows] = generator.permutation(signs[rows])
        else:
            _, first, whose = np.unique(persons[rows], return_index=True, return_inverse=True)
            shuffled[rows] = generator.permutation(signs[rows][first])[whose]
    return shuffled


def closest_is_train(signs: np.ndarray, near: np.ndarray) -> np.ndarray:
    """1 where the first of a query's closest rows that was taken is a train row, 0 held-out, 0.5 none was taken."""
    found = signs[near]
    first = np.take_along_axis(found, (found != 0).argmax(1)[:, None], 1)[:, 0]
    return ((first + 1) / 2).astype(np.float32)


def with_share(
    record: MemorisationRecord, draws: Draws, chosen: np.ndarray, own: np.ndarray, settings: MeasurementSettings
) -> MemorisationRecord:
    """The record with the share of the synthetic rows `chosen`; `own` are the held-out rows of the same label."""
    if record.note:
        return record
    observed, count = draws.observed[:, chosen], record.n_synthetic
    generator = np.random.default_rng([settings.seed, 4])
    resampled = [row[generator.integers(count, size=count)].mean() for row in observed]
    record = replace(
        record,
        value=float(observed.mean()),
        interval=percentile_interval(resampled) if settings.replicates else None,
        chance_range=percentile_interval(draws.relabelled[:, chosen].mean(1)),
    )
    if draws.held_out is None or own.sum() < 2 * MIN_ROWS:
        return record
    floors = np.nanmean(draws.held_out[:, own], axis=1)
    return replace(record, floor=float(floors.mean()), floor_range=percentile_interval(floors))


DCR_SHARE, NNDR_MEDIAN, NNDR_FIFTH = "dcr_share", "nndr_median", "nndr_fifth"


@dataclass(frozen=True, kw_only=True)
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
    value: float | None = None
    interval: Interval | None = None
    floor: float | None = None
    floor_range: Interval | None = None
    chance_range: Interval | None = None
    n_synthetic: int
    n_train: int
    n_held_out: int
    extractor: str
    replicates: int
    seed: int
    note: str = ""

    @property
    def chance(self) -> float:
        """Up to where a share is explained by which real rows are in which split, and by what held-out rows show."""
        relabelled = 0.5 if self.chance_range is None else self.chance_range[1]
        return max(relabelled, 0.5 if self.floor is None else self.floor)

    @property
    def exceeds_chance(self) -> bool:
        """Whether a share lies above one half, above the relabelled shares, and above that of held-out rows."""
        assert self.value is not None
        low = self.value if self.interval is None else self.interval[0]
        return low > 0.5 and self.value > self.chance

    @property
    def is_shifted(self) -> bool:
        """Whether held-out rows are nearer to one another than to train rows."""
        return self.floor_range is not None and self.floor_range[1] < 0.5

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)


def unmeasured(
    metric: str, label: str, sizes: tuple[int, int, int], settings: MeasurementSettings
) -> MemorisationRecord:
    """A record without a number, of `sizes` = (n_synthetic, n_train, n_held_out); with a note where the first is too
    small for one."""
    return MemorisationRecord(
        metric=metric,
        label=label,
        n_synthetic=sizes[0],
        n_train=sizes[1],
        n_held_out=sizes[2],
        extractor=settings.extractor,
        replicates=settings.replicates,
        seed=settings.seed,
        note=f"not measured, n={sizes[0]}" if sizes[0] < MIN_ROWS else "",
    )


def measure_ratios(
    near: tuple[Closest, Closest],
    labels: tuple[np.ndarray, np.ndarray],
    label_names: list[str],
    n_train: int,
    settings: MeasurementSettings,
    persons: np.ndarray | None = None,
) -> list[MemorisationRecord]:
    """Median and 5 % quantile of the NNDR to the train rows, overall and a class.

    Args:
        near: the train rows closest to each synthetic and to each held-out row.
        labels: of both sides.
        persons: whose the held-out rows are, where that is known.
    """
    ratios, floors = (side.nearest_over_second() for side in near)
    records = []
    for label, chosen, own in selections(*labels, label_names):
        sizes = (int(chosen.sum()), n_train, int(own.sum()))
        for metric, quantile in ((NNDR_MEDIAN, 0.5), (NNDR_FIFTH, 0.05)):
            record = unmeasured(metric, label, sizes, settings)
            whose = None if persons is None else persons[own]
            records.append(with_quantile(record, quantile, ratios[chosen], floors[own], settings, whose))
    return records


def with_quantile(
    record: MemorisationRecord,
    quantile: float,
    ratios: np.ndarray,
    floors: np.ndarray,
    settings: MeasurementSettings,
    persons: np.ndarray | None,
) -> MemorisationRecord:
    """The record with a quantile of the synthetic rows' ratios, beside that of the held-out rows'."""
    if record.note:
        return record
    found = partial(np.quantile, q=quantile)

    def interval(values: np.ndarray, whose: np.ndarray | None) -> Interval | None:
        return bootstrap_interval(found, [values], settings.replicates, [settings.seed, 5], [whose])

    record = replace(record, value=float(found(ratios)), interval=interval(ratios, None))
    if len(floors) < MIN_ROWS:
        return record
    return replace(record, floor=float(found(floors)), floor_range=interval(floors, persons))
