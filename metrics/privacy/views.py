"""Copies that are certain one at a time: images nearer to a train image than any two different real ones come.

An image is looked at in every view that a copy may be: turned by right angles, mirrored, inverted, shifted by up to
three pixels, zoomed from 0.9 to 1.1, turned by up to 8 degrees. A view's middle is compared with those of the train
images by the correlation of local contrast, whitened by the train images, so that what all images of a set share
counts little. Brightness, gamma and colours hardly enter. Nine squares of half its side are compared in the same way,
each with the same square of the train images, turned, mirrored and inverted: of a copy only a patch may be left. At
last the image in place, neither shifted, zoomed nor turned by less than a right angle, is compared whole and in finer
contrast: among so many fewer views chance comes less near, so that half of a blend stands out.

An image's three scores, moved, by its best patch and in place, say how far (in atanh of the correlation) the closest
train image is ahead of the next ones. The threshold of each is where a third of a real image in 10,000 is expected:
an exponential tail is fitted to the scores of the held-out images, as far as they are no duplicates. How much of which
kind is found, `find_power` measures on copies that it plants, and `benchmarks.gate` on whole sets (docs/privacy.md).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

from clinsynth.metrics.privacy.power import RATE, beyond, describe_power, tail_threshold

SIDE, BORDER = 28, 4
REACH = 3
WARPS = [(0.9, 0), (0.95, 0), (1.05, 0), (1.1, 0), (1, -8), (1, -4), (1, 4), (1, 8)]
"""Zoom, and degrees."""
FINE = 0.7
WHOLE, SQUARES = (3.0, 100.0), (1.2, 4.0)
"""Spread of what is taken for coarse, and the variance below which contrast is not raised: for the whole image gently,
so that the stronger edges of one half of a blend do not hide the other."""
SHRINKAGE = 0.03  # of the covariance, in mean eigenvalues of those that so few images can show
PATCH, PATCH_PLACES = 10, (0, 5, 10)
SCORES = 3
"""Of an image: moved, by its patches, in place."""
NEXT = 10
"""Train images that the closest is held against: by their median, so that a few of the same person do not hide it."""
LEAST, HIGHEST = 0.2, 1.8
"""Of thresholds: a mixture of many train images, as by a Gaussian of their pixels, has up to 0.16 of one of them."""
PLANTS = 8


def views_of(image: np.ndarray) -> np.ndarray:
    """The views of an image, uint8 (channels, side, side), as grey thumbnails (n, 28, 28); not yet turned."""
    grey = image.mean(0).astype(np.float32)
    side = len(grey)
    steps = np.linspace(0, 2 * REACH, int(np.ceil(2 * REACH * SIDE / side)) + 1 if side > SIDE else 2 * REACH + 1)
    places, padded = np.unique(steps.round().astype(int)), np.pad(grey, REACH, mode="edge")
    shifted = [padded[y : y + side, x : x + side] for y, x in product(places, places)]
    return np.stack([thumbnail(view) for view in [*shifted, *(warp(grey, *one) for one in WARPS)]])


def thumbnail(grey: np.ndarray) -> np.ndarray:
    if len(grey) == SIDE:
        return grey
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX))


def warp(grey: np.ndarray, zoom: float, degrees: float) -> np.ndarray:
    """An image about its middle, (side, side)."""
    middle, angle = (len(grey) - 1) / 2, np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    return affine_transform(grey, matrix, middle - matrix @ [middle, middle], order=1, mode="nearest")


def turned(views: np.ndarray) -> np.ndarray:
    """All eight turns and mirrors of square views: (8 n, side, side)."""
    return np.concatenate([np.rot90(one, turn, (1, 2)) for one in (views, views[:, :, ::-1]) for turn in range(4)])


def contrast_of(small: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """The local contrast in the middle of thumbnails (n, 28, 28): (n, 20, 20)."""
    coarse, least = scale
    blurred = [gaussian_filter(small, (0, spread, spread)) for spread in (FINE, coarse)]
    band = blurred[0] - blurred[1]
    local = band / np.sqrt(gaussian_filter(band * band, (0, coarse, coarse)) + least)
    middle: np.ndarray = local[:, BORDER:-BORDER, BORDER:-BORDER]
    return middle


def fine_of(small: np.ndarray) -> np.ndarray:
    """Fine local contrast of whole thumbnails, up to their edge: (n, 28, 28)."""
    return contrast_of(np.pad(small, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), mode="symmetric"), SQUARES)


def unit_rows(images: np.ndarray) -> np.ndarray:
    """Images or rows as rows of mean 0 and length 1."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-4)


@dataclass(frozen=True)
class Whitened:
    """Train images, or the same square of each, as whitened rows of unit length, (n, d)."""

    mean: np.ndarray
    whitening: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, contrast: np.ndarray) -> Whitened:
        """From local contrast (n, side, side)."""
        plain = unit_rows(contrast)
        mean = plain.sum(0) / (len(plain) + 20)
        values, vectors = np.linalg.eigh(np.cov((plain - mean).T))
        values = np.maximum(values, 0)
        least = SHRINKAGE * values.sum() / min(len(plain), len(values))
        whitening = (vectors / np.sqrt(values + least + 1e-9)).astype(np.float32)
        return cls(mean, whitening, unit_rows((plain - mean) @ whitening))

    def best(self, contrast: np.ndarray) -> np.ndarray:
        """The highest correlation of any of the views (m, side, side), as it is or inverted, with each row; (n,)."""
        white, mean = unit_rows(contrast) @ self.whitening, self.mean @ self.whitening
        both = np.concatenate([white - mean, -white - mean])  # the second half of an inverted image
        best: np.ndarray = (unit_rows(both) @ self.rows.T).max(0)
        return best


def square(contrast: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    y, x = place
    return contrast[:, y : y + PATCH, x : x + PATCH]


def lead(best: np.ndarray) -> float:
    """How far the highest of correlations (n,) is ahead of the median of the ten next ones, in atanh."""
    first, *others = np.sort(np.arctanh(np.clip(best, -0.9999, 0.9999)))[::-1][: NEXT + 1]
    return float(first - np.median(others))


@dataclass(frozen=True)
class ViewSpace:
    """The train images: their middles, for moved ones; their squares of half the side; and all of them, in place."""

    moved: Whitened
    patches: dict[tuple[int, int], Whitened]
    in_place: Whitened

    @classmethod
    def of(cls, images: np.ndarray) -> ViewSpace:
        """The space of train images, uint8 (n, channels, side, side); two at least."""
        small = np.stack([thumbnail(image.mean(0).astype(np.float32)) for image in images])
        fine = contrast_of(small, SQUARES)
        patches = {place: Whitened.of(square(fine, place)) for place in product(PATCH_PLACES, PATCH_PLACES)}
        return cls(Whitened.of(contrast_of(small, WHOLE)), patches, Whitened.of(fine_of(small)))

    def closest(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of `images` its `SCORES` (n, 3), and the number of the train image that is furthest ahead."""
        found = [self.closest_of(image) for image in images]
        return np.array([scores for scores, _ in found]).reshape(-1, SCORES), np.array([number for _, number in found])

    def closest_of(self, image: np.ndarray) -> tuple[list[float], int]:
        """As `closest`, of one image."""
        small = thumbnail(image.mean(0).astype(np.float32))[None]
        fine = turned(contrast_of(small, SQUARES))
        best = [
            self.moved.best(turned(contrast_of(views_of(image), WHOLE))),
            np.max([space.best(square(fine, place)) for place, space in self.patches.items()], axis=0),
            self.in_place.best(turned(fine_of(small))),
        ]
        scores = [lead(own) for own in best]
        return scores, int(best[int(np.argmax(scores))].argmax())


def certain_thresholds(scores: np.ndarray) -> np.ndarray | None:
    """Above which a third of a new real image in 10,000 comes, (3,), by `tail_threshold`; None of under 10 (n, 3)."""
    reached = [tail_threshold(own, RATE / SCORES) for own in scores.T]
    if None in reached:
        return None
    return np.maximum(np.clip(np.array(reached, dtype=float), LEAST, HIGHEST), scores.max(0))


def as_jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(file, "JPEG", quality=75)
    return np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1)


def warped(image: np.ndarray, zoom: float, degrees: float) -> np.ndarray:
    return np.stack([warp(one.astype(np.float32), zoom, degrees) for one in image]).round().astype(np.uint8)


def patched(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The other image, with a patch of half the side out of the middle of the first."""
    quarter, copy = image.shape[1] // 4, other.copy()
    copy[:, quarter:-quarter, quarter:-quarter] = image[:, quarter:-quarter, quarter:-quarter]
    return copy


def redrawn(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    """As a generator that has learned the image by heart draws it: a little soft, a little noisy, a little darker."""
    soft = gaussian_filter(image.astype(np.float32), (0, 0.5, 0.5))
    noise = np.random.default_rng(int(image.sum())).normal(0, 4, image.shape)
    return np.clip(0.95 * soft + noise, 0, 255).round().astype(np.uint8)


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "turned by 90 degrees": lambda image, _: np.rot90(image, 1, (1, 2)),
    "mirrored": lambda image, _: image[:, :, ::-1],
    "inverted": lambda image, _: 255 - image,
    "shifted by 3 pixels": lambda image, _: np.roll(image, (3, -3), (1, 2)),
    "zoomed by 0.93": lambda image, _: warped(image, 0.93, 0),
    "turned by 6 degrees": lambda image, _: warped(image, 1, 6),
    "gamma 0.6": lambda image, _: (255 * (image / 255) ** 0.6).round().astype(np.uint8),
    "saved as JPEG 75": lambda image, _: as_jpeg(image),
    "redrawn by heart": redrawn,
    "blended to 70 %": lambda image, other: (0.7 * image + 0.3 * other).round().astype(np.uint8),
    "blended to 50 %": lambda image, other: (0.5 * image + 0.5 * other).round().astype(np.uint8),
    "a patch of half the side": patched,
}
"""How copies are altered: of a train image, and of a held-out one that it is mixed with."""


def find_power(
    space: ViewSpace,
    thresholds: np.ndarray | None,
    train: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    n_synthetic: int,
) -> list[dict[str, Any]]:
    """How many of eight planted copies of each kind are found, a record of `describe_power` each.

    Args:
        train, held_out: uint8 (n, channels, side, side).
        n_synthetic: images in the set that is judged.
    """
    if thresholds is None:
        return []
    generator, records = np.random.default_rng([seed, 11]), []
    for kind, alter in KINDS.items():
        rows = generator.permutation(len(train))[:PLANTS]
        others = generator.integers(len(held_out), size=len(rows))
        made = np.stack([alter(train[row], held_out[other]) for row, other in zip(rows, others, strict=True)])
        found = int((beyond(space.closest(made)[0], thresholds) > 1).sum())
        records.append(describe_power(kind, len(rows), found, n_synthetic))
    return records
