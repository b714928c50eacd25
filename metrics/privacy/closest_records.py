"""Distance to the closest record (DCR): whether synthetic rows lie nearer to train rows than to held-out rows.

The share of the synthetic rows whose closest real row is a train row, where train and held-out rows are as many (the
larger side of each class is subsampled, anew in each replicate). A generator that has learned the distribution and not
the rows gives 50 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.metrics.closest import as_views, closest_rows
from clinsynth.metrics.privacy.memorisation import DCR_SHARE, MemorisationRecord, empty_record, middle, selections
from clinsynth.metrics.records import MIN_ROWS, Features, MeasurementSettings, split_halves

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
        interval=middle(resampled) if settings.replicates else None,
        floor=None if floors is None else float(floors.mean()),
        floor_range=None if floors is None else middle(floors),
        chance_range=middle(draws.relabelled[:, chosen].mean(1)),
        extractor=settings.extractor,
        replicates=settings.replicates,
        seed=settings.seed,
        **names,
    )
