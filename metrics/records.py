"""Distances between real and synthetic features as records, and the sets that are compared: overall and by class.

The records of a comparison that `comparisons` yields are `measure` for each of METRICS here, the list that
`manifold_measurement.measure_manifold` returns, and, where `Features.rows` are uint8 pictures, the list of
`picture_measurement.measure_pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clinsynth.metrics.intervals import bootstrap_interval

METRICS = ("frechet", "kid")
FLOOR_SPLITS = 5
OVERALL = "overall"


@dataclass(frozen=True)
class Features:
    """Feature vectors float64 (n, d), or the uint8 pictures (n, channels, r, r) themselves, and labels int64 (n,)."""

    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> Features:
        """The rows at `index` (numbers or a mask)."""
        return Features(self.rows[index], self.labels[index])


Distance = Callable[[np.ndarray, np.ndarray], float]


def comparisons(
    synthetic: Features, real: Features, other: Features | None, label_names: list[str], seed: int
) -> Iterator[tuple[str, Features, Features, Features | None]]:
    """Yield (label, synthetic, real, other real split): overall on matched label mixes, then class by class."""
    matched = match_labels(real.labels, synthetic.labels, seed)
    if matched is not None:
        real_index, synthetic_index = matched
        kept = real.take(real_index)
        yield OVERALL, synthetic.take(synthetic_index), kept, other and take_matched(other, kept.labels, seed)
    for number, name in enumerate(label_names):
        yield (
            name,
            synthetic.take(synthetic.labels == number),
            real.take(real.labels == number),
            other and other.take(other.labels == number),
        )


def match_labels(real: np.ndarray, synthetic: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Row numbers (real, synthetic) that give both sides one label mix; None where they share no class.

    Real rows: all of the classes that both have; where some class has at least 10 synthetic rows, those with fewer
    are left out, since one nearly empty class would leave next to nothing. Synthetic rows: the largest subset, drawn
    by `seed`, with the real proportions of those classes (rounded, at least one row a class).
    """
    shared = np.intersect1d(real, synthetic)
    enough = np.array([label for label in shared if (synthetic == label).sum() >= MIN_ROWS], dtype=shared.dtype)
    shared = enough if len(enough) else shared
    if len(shared) == 0:
        return None
    real_index = np.flatnonzero(np.isin(real, shared))
    available = np.array([(synthetic == label).sum() for label in shared])
    proportions = np.array([(real == label).sum() for label in shared]) / len(real_index)
    wanted = np.maximum(1, np.floor((available / proportions).min() * proportions + 1e-9)).astype(int)
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice(np.flatnonzero(synthetic == label), size=count, replace=False)
        for label, count in zip(shared, wanted, strict=True)
    ]
    return real_index, np.sort(np.concatenate(chosen))


def take_matched(other: Features, labels: np.ndarray, seed: int) -> Features | None:
    """The largest subset of `other` with the label mix of `labels`."""
    matched = match_labels(labels, other.labels, seed)
    return None if matched is None else other.take(matched[1])


def measure(
    metric: str,
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
    progress: bool = False,
) -> Measurement:
    """One record: distance, bootstrap interval and floors of `synthetic` from `real`, `other` a second real split."""
    sizes, dimension = (len(real.rows), len(synthetic.rows)), real.rows.shape[1]
    record = empty_record(metric, label, reference, sizes, dimension, settings)
    if record.note:
        return record
    distance = find_distance(metric)
    record = replace(
        record,
        value=distance(real.rows, synthetic.rows),
        interval=bootstrap(metric, label, real.rows, synthetic.rows, settings, progress),
    )
    if metric == "frechet" and min(sizes) < 2 * dimension:
        from clinsynth.metrics.frechet.frechet import frechet_extrapolated

        extrapolated = frechet_extrapolated(real.rows, synthetic.rows, settings.seed)
        record = replace(record, biased=True, extrapolated=extrapolated)
    if metric == "kid":
        from clinsynth.metrics.kid.kid import kernel_spread

        _, spread, spread_n = kernel_spread(real.rows, synthetic.rows, seed=settings.seed)
        record = replace(record, spread=spread, spread_n=spread_n)
    if other is not None and len(other.rows) >= MIN_ROWS:
        record = replace(record, floor_held_out=distance(real.rows, other.rows))
    halves = real_halves(real, settings.seed)
    if not halves:
        return record
    return record.with_floors([distance(a.rows, b.rows) for a, b in halves], min(map(len, halves[0])))


def find_distance(metric: str) -> Distance:
    """The function of one of METRICS; imported here, as a metric's file brings `evaluate` and with it transformers."""
    from clinsynth.metrics.frechet.frechet import frechet_distance
    from clinsynth.metrics.kid.kid import kernel_distance

    return frechet_distance if metric == "frechet" else kernel_distance


def real_halves(real: Features, seed: int) -> list[tuple[Features, Features]]:
    """Five splits of the real rows into stratified halves; none where a half would have fewer than 10 rows."""
    halves = [split_halves(real.labels, seed + i) for i in range(FLOOR_SPLITS)]
    if min(map(len, halves[0])) < MIN_ROWS:
        return []
    return [(real.take(a), real.take(b)) for a, b in halves]


def bootstrap(
    metric: str, label: str, real: np.ndarray, synthetic: np.ndarray, settings: MeasurementSettings, progress: bool
) -> tuple[float, float] | None:
    """The metric's 95 % interval with a progress bar; None where no replicate is asked for."""
    from tqdm.auto import tqdm

    from clinsynth.metrics.frechet.frechet import frechet_interval
    from clinsynth.metrics.kid.kid import count_blocks, kernel_interval

    if settings.replicates == 0:
        return None
    blocks = count_blocks(len(real), len(synthetic))
    total, unit = (settings.replicates, "replicate") if metric == "frechet" else (blocks, "block")
    with tqdm(total=total, unit=unit, desc=f"{metric}, {label}", leave=False, disable=not progress) as bar:
        interval = frechet_interval if metric == "frechet" else kernel_interval
        return interval(real, synthetic, settings.replicates, settings.seed, 0.95, bar.update)


def split_halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two halves, each class divided evenly (its odd row to one half by turns), drawn by `seed`."""
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[0::2]), np.sort(by_class[1::2])


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
    return bootstrap_interval(np.mean, [values], settings.replicates, [settings.seed, 5])
