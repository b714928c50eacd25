"""Likeness of images as records: within a class, to the nearest real image, and of each output to the next output.

Near-duplicates are counted on pixels, not on a network's features: images that are blurred, or drawn with another
texture than the network knows, crowd together in its features however different they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from clinsynth.metrics.comparisons import FLOOR_SPLITS, Comparison
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings, mean_interval
from clinsynth.metrics.ssim import ssim

MIN_PAIRS = 5
THUMBNAIL = 16
DUPLICATE_SHARE = 0.5
MOST = 10_000
"""Images of a side."""


@dataclass(frozen=True)
class ImageRows:
    """Rows `numbers` (n,) of images (m, channels, r, r) that may lie on disk: a slice of them is read, others are
    chosen from without reading any."""

    images: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> np.ndarray:
        """All rows, for whatever takes images a slice at a time."""
        rows: Any = cls(images, np.arange(len(images)))
        return rows  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.numbers), *self.images.shape[1:]

    @property
    def ndim(self) -> int:
        return self.images.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.images.dtype

    def __getitem__(self, rows: slice | np.ndarray) -> Any:
        chosen = self.numbers[rows]
        return self.images[chosen] if isinstance(rows, slice) else ImageRows(self.images, chosen)


def measure_images(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records "ms_ssim_within", "ssim_nearest" and "near_duplicates" of uint8 images (n, channels, r, r) in `rows`.

    "ms_ssim_within": mean MS-SSIM of random disjoint pairs of one class among the synthetic images; its floor is the
    real images' own value, its held-out floor that of `other`, a second real split. Above the floor: less diverse.
    "ssim_nearest": mean SSIM of the synthetic images to the real one nearest in pixels; its held-out floor is that
    of `other` to the same real images, the one to compare with. Above that: nearer to copies than new patients are.
    Pairs of pixels grow with the square: of a side of more than 10,000 images as many are drawn.
    "near_duplicates": share of the synthetic images that `near_duplicates` marks. Above the floors: repetition.
    """
    comparison = comparison.map(at_most)
    shape = comparison.real.rows.shape[1:]
    settings = replace(settings, extractor="pixels")
    records = [
        comparison.empty_record(metric, settings, int(np.prod(shape)))
        for metric in ("ms_ssim_within", "ssim_nearest", "near_duplicates")
    ]
    if records[0].note:
        return records
    if min(shape[1:]) < ssim.WINDOW:
        note = f"not measured, SSIM needs {ssim.WINDOW} x {ssim.WINDOW} pixels, these have {shape[1]} x {shape[2]}"
        return [replace(record, note=note) for record in records]
    measured = [_within(records[0], comparison, settings)]
    for record, of, note in (
        (records[1], ssim.ssim_to_nearest, "nearest in pixels"),
        (records[2], partial(near_duplicates, seed=settings.seed), "thumbnails, in pixels"),
    ):
        values = of(comparison.synthetic.rows, comparison.real.rows)
        record = replace(record, value=float(values.mean()), interval=mean_interval(values, settings), note=note)
        mean = partial(_mean_beside, of)
        measured.append(comparison.with_distance_floors(record, mean, settings.seed))
    return measured


def at_most(side: Features) -> Features:
    """MOST rows of a side, the same in every run, in their order."""
    if len(side) <= MOST:
        return side
    return side.take(np.sort(np.random.default_rng(MOST).permutation(len(side))[:MOST]))


def _mean_beside(of: Callable[[np.ndarray, np.ndarray], np.ndarray], real: np.ndarray, made: np.ndarray) -> float:
    return float(of(made, real).mean())


def near_duplicates(synthetic: np.ndarray, real: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which synthetic images have another one within half the usual distance of real neighbours: bool (n,).

    Distances are Euclidean, between `thumbnails` of uint8 images (.., channels, r, r), which overlooks grain and
    shifts by a pixel. The usual distance is the median over the real images of that to the nearest other one, once
    they are `smooth_like` the synthetic ones: blur alone brings images nearer to one another.

    Nearest neighbours come nearer the more images there are, so the larger side is cut, by `seed`, to the size of
    the smaller: n is the smaller number of images.
    """
    size = min(len(synthetic), len(real))
    generator = np.random.default_rng([seed, 6])
    outputs, known = (thumbnails(x[np.sort(generator.permutation(len(x))[:size])]) for x in (synthetic, real))
    distances = [
        nearest(x.reshape(size, -1), x.reshape(size, -1), skip_self=True)[0]
        for x in (outputs, smooth_like(known, outputs))
    ]
    return distances[0] <= DUPLICATE_SHARE * np.median(distances[1])


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Images (n, channels, r, r) halved, by means of 2 x 2 pixels, until r is 16 or less; float64."""
    parts = []
    for i in range(0, len(images), ssim.BATCH):
        part = images[i : i + ssim.BATCH].astype(np.float64)
        while max(part.shape[2:]) > THUMBNAIL:
            part = ssim.halve(part)
        parts.append(part)
    return np.concatenate(parts)


def smooth_like(images: np.ndarray, models: np.ndarray) -> np.ndarray:
    """`images` with no more power at any spatial frequency than `models` have on average; both (n, channels, r, r).

    One factor, at most 1, for all frequencies of one (rounded) radius; from the cosine transform, whose mirrored
    borders add no edges.
    """
    from scipy.fft import dctn, idctn

    radius = np.round(np.hypot(*np.ogrid[: images.shape[2], : images.shape[3]])).astype(int)
    spectra = [dctn(x, axes=(2, 3), norm="ortho") for x in (images, models)]
    powers = [np.bincount(radius.ravel(), (spectrum**2).mean((0, 1)).ravel()) for spectrum in spectra]
    factors = np.sqrt(np.minimum(1, powers[1] / np.maximum(powers[0], np.finfo(float).tiny)))
    smoothed: np.ndarray = idctn(spectra[0] * factors[radius], axes=(2, 3), norm="ortho")
    return smoothed


def _within(record: Measurement, comparison: Comparison, settings: MeasurementSettings) -> Measurement:
    synthetic, real, other = comparison.synthetic, comparison.real, comparison.held_out
    values = ssim.within_class(synthetic.rows, synthetic.labels, settings.seed)
    if len(values) < MIN_PAIRS:
        return replace(record, note=f"not measured, {len(values)} pairs of one class")
    floors = [_mean_within_class(real, settings.seed + i) for i in range(FLOOR_SPLITS)]
    known = [floor for floor in floors if floor is not None]
    return replace(
        record,
        value=float(values.mean()),
        interval=mean_interval(values, settings),
        floor_held_out=None if other is None else _mean_within_class(other, settings.seed),
        note=describe_scales(*real.rows.shape[2:]),
    ).with_floors(known if len(known) == FLOOR_SPLITS else [], len(real))


def _mean_within_class(side: Features, seed: int) -> float | None:
    """Mean MS-SSIM over the pairs of one class, None where there are fewer than five."""
    values = ssim.within_class(side.rows, side.labels, seed)
    return float(values.mean()) if len(values) >= MIN_PAIRS else None


def describe_scales(height: int, width: int) -> str:
    """What the record says of MS-SSIM on images too small for all five scales; empty for the others."""
    scales, all_scales = ssim.count_scales(height, width), len(ssim.SCALE_WEIGHTS)
    if scales == all_scales:
        return ""
    return (
        f"MS-SSIM on {scales} of {all_scales} scales ({height} x {width} pixels), weights divided by their sum; "
        "not comparable with values on five"
    )
