"""Copies of train images: pixel for pixel, or nearer than other real images come.

Two images are compared by the grey 28x28 thumbnails of `clinsynth.data.duplicates` (band-passed, of unit length,
less the train split's mean), one of them also mirrored and moved by one thumbnail pixel, since generators trained with
these augmentations copy so. The score of an image is its distance to the closest train image over the mean distance
to the ten next ones. A near copy has a lower score than nearly all real images that cannot be copies: the threshold
is an order statistic of theirs, not a constant, and comes with the number of false alarms to expect.

How this was chosen: 150 altered train images each of RetinaMNIST and PneumoniaMNIST (28 px; 1,080 and 1,200 train
images). Share found below the smallest score of the 400 and 624 test images, RetinaMNIST / PneumoniaMNIST:

                               JPEG 75      JPEG 40      brightness -5 %  moved 1 px   noise of 5   mirrored
    perceptual hash (DCT)      .54 / 1.0    .15 / .74    .76 / 1.0        .00 / .01    .29 / .73    .00 / .00
    pixels                     1.0 / 1.0    .44 / 1.0    .92 / 1.0        .01 / .41    1.0 / 1.0    .00 / .00
    thumbnails                 1.0 / 1.0    .35 / 1.0    1.0 / 1.0        .00 / .00    .99 / 1.0    .00 / .00
    thumbnails, this score     1.0 / 1.0    .89 / 1.0    1.0 / 1.0        .00 / .29    1.0 / 1.0    .00 / .00
    ... mirrored and moved     1.0 / 1.0    .85 / 1.0    1.0 / 1.0        .63 / 1.0    1.0 / 1.0    1.0 / 1.0
    and this threshold         1.0 / 1.0    .91 / 1.0    1.0 / 1.0        .48 / 1.0    1.0 / 1.0    1.0 / 1.0

Of the validation images the last line flags 0 of 120 and 5 of 524; of these five, three are train images pixel for
pixel, duplicates in the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from clinsynth.data.duplicates import MEAN_PRIOR, NEAR_THRESHOLD, SIDE, band_passed, unit_rows
from clinsynth.images import to_picture
from clinsynth.metrics.nearest import Closest, closest_rows
from clinsynth.metrics.privacy.power import RATE
from clinsynth.metrics.registry import CERTAIN, EXACT, NEAR
from clinsynth.models.image_encoders import hash_arrays

SPACE = "band-passed thumbnails, moved and mirrored"
BLOCK_PICTURES = 32
FALSE_ALARMS = 0.005
SAME_DISTANCE = (2 - 2 * NEAR_THRESHOLD) ** 0.5  # of two unit rows whose product is the duplicates' likeness


def pixel_digests(images: np.ndarray) -> list[bytes]:
    """A digest of each image's pixels; images: uint8 (n, channels, side, side)."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Grey thumbnails, float32 (n, 28, 28), of uint8 (n, channels, side, side)."""
    small = np.empty((len(images), SIDE, SIDE), dtype=np.float32)
    for row, image in enumerate(images):
        small[row] = np.asarray(to_picture(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    return small


@dataclass(frozen=True)
class ThumbnailSpace:
    """The space in which images are compared with a train split; its rows are float32 (n, 784) of unit length."""

    mean: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> ThumbnailSpace:
        """The space of train images, uint8 (n, channels, side, side)."""
        raw = band_passed(thumbnails(images))
        mean = raw.sum(0) / (len(raw) + MEAN_PRIOR)
        return cls(mean, unit_rows(raw - mean))

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Rows (n, 784) of other images, unmoved."""
        return unit_rows(band_passed(thumbnails(images)) - self.mean)

    def views(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Blocks (images, 18, 784): each image in nine positions, as it is and mirrored."""
        for start in range(0, len(images), BLOCK_PICTURES):
            small = thumbnails(images[start : start + BLOCK_PICTURES])
            both = np.stack([small, small[:, :, ::-1]], axis=1)
            padded = np.pad(both, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
            moved = [padded[:, :, y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)]
            stacked = np.stack(moved, axis=1).reshape(-1, SIDE, SIDE)
            yield unit_rows(band_passed(stacked) - self.mean).reshape(len(small), -1, SIDE * SIDE)

    def closest(self, images: np.ndarray, own: np.ndarray | None = None) -> Closest:
        """The train images closest to each of `images` in any view; `own` as in `closest_rows`."""
        return closest_rows(self.views(images), self.rows, own=own)


@dataclass(frozen=True)
class Threshold:
    """Below which score an image is a near copy.

    Attributes:
        value: the `rank`-th smallest score of the real images that were kept; None where fewer than ten were.
        rank: 1 below 400 images, above it one in 200, so that a few unknown duplicates do not decide it.
        n: real images kept.
        excluded: real images left out because the data holds the train image that they duplicate.
    """

    value: float | None
    rank: int
    n: int
    excluded: int

    @property
    def false_alarm_rate(self) -> float:
        """Share of new real images that would be flagged, expected."""
        return self.rank / (self.n + 1)

    def flags(self, scores: np.ndarray) -> np.ndarray:
        """Mask (n,) of the near copies."""
        return np.zeros(len(scores), dtype=bool) if self.value is None else scores < self.value


def duplicated(nearest: Closest) -> np.ndarray:
    """Mask of the real images that duplicate a train image by the data check's likeness of 0.97."""
    return nearest.distances[:, 0] <= SAME_DISTANCE


def fit_threshold(scores: np.ndarray, excluded: np.ndarray, smallest: int = 10) -> Threshold:
    """The threshold from scores (n,) of real images without those that `excluded`, a mask, leaves out."""
    kept = np.sort(scores[~excluded])
    rank = max(1, int(FALSE_ALARMS * (len(kept) + 1)))
    value = float(kept[rank - 1]) if len(kept) >= smallest else None
    return Threshold(value, rank, len(kept), int(excluded.sum()))


@dataclass(frozen=True, kw_only=True)
class CopyRecord:
    """How many synthetic images are copies by one detector.

    Attributes:
        metric: "exact copy", "near copy" or "single copy".
        detector: "pixels", the thumbnails, the extractor, or the views.
        count, value: copies among the synthetic images, and their share.
        interval: 95 % Clopper-Pearson interval of the share.
        floor: share of the held-out images, duplicates included, that the same detector flags.
        threshold: of the score; None for pixels and where there are fewer than ten held-out images.
        rank: the threshold is the rank-th smallest held-out score.
        expected_false_alarms: near copies to expect among as many new real images.
        p_value: chance of at least `count` of them (beta-binomial: both sides are draws from one source).
        n_synthetic, n_train, n_held_out: images, those left out of the threshold not counted.
        n_excluded: held-out images left out of the threshold as duplicates of train images.
    """

    metric: str
    detector: str
    count: int
    value: float
    interval: tuple[float, float]
    floor: float
    threshold: float | None = None
    rank: int | None = None
    expected_false_alarms: float = 0.0
    p_value: float | None = None
    n_synthetic: int
    n_train: int
    n_held_out: int
    n_excluded: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in evidence.json."""
        return asdict(self)


def count_exact(synthetic: np.ndarray, held_out: np.ndarray, n_train: int) -> CopyRecord:
    """The record of exact copies from the masks of the synthetic and of the held-out images."""
    count, total = int(synthetic.sum()), len(synthetic)
    return CopyRecord(
        metric=EXACT,
        detector="pixels",
        count=count,
        value=count / total,
        interval=share_interval(count, total),
        floor=float(held_out.mean()),
        n_synthetic=total,
        n_train=n_train,
        n_held_out=len(held_out),
    )


def count_near(
    detector: str, synthetic: np.ndarray, held_out: np.ndarray, threshold: Threshold, n_train: int
) -> CopyRecord:
    """The record of near copies from the scores of the synthetic and of all held-out images."""
    from scipy.stats import betabinom

    count, total = int(threshold.flags(synthetic).sum()), len(synthetic)
    known = threshold.value is not None
    chance = betabinom.sf(count - 1, total, threshold.rank, threshold.n - threshold.rank + 1) if known else None
    return CopyRecord(
        metric=NEAR,
        detector=detector,
        count=count,
        value=count / total,
        interval=share_interval(count, total),
        floor=float(threshold.flags(held_out).mean()),
        threshold=threshold.value,
        rank=threshold.rank,
        expected_false_alarms=total * threshold.false_alarm_rate if known else 0.0,
        p_value=None if chance is None else float(chance),
        n_synthetic=total,
        n_train=n_train,
        n_held_out=threshold.n,
        n_excluded=threshold.excluded,
    )


def count_certain(
    synthetic: np.ndarray, held_out: np.ndarray, threshold: float, sizes: tuple[int, int], detector: str = "views"
) -> CopyRecord:
    """The record of single copies from the scores of the synthetic and of all held-out samples.

    Args:
        sizes: train samples, and held-out ones left out of the threshold.
    """
    from scipy.stats import binom

    count, total = int((synthetic > threshold).sum()), len(synthetic)
    return CopyRecord(
        metric=CERTAIN,
        detector=detector,
        count=count,
        value=count / total,
        interval=share_interval(count, total),
        floor=float((held_out > threshold).mean()),
        threshold=threshold,
        expected_false_alarms=total * RATE,
        p_value=float(binom.sf(count - 1, total, RATE)),
        n_synthetic=total,
        n_train=sizes[0],
        n_held_out=len(held_out) - sizes[1],
        n_excluded=sizes[1],
    )


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % Clopper-Pearson interval of `count` in `total`."""
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(0.95, "exact")
    return float(low), float(high)


@dataclass(frozen=True)
class CopyDetector:
    """Compares images with a train split; memory is that of the train split's thumbnails.

    The threshold comes from each train image's score among the other train images: the generator may see no other
    split (a threshold from test images would have them shape what is generated).
    """

    space: ThumbnailSpace
    digests: frozenset[bytes]
    threshold: Threshold
    shape: tuple[int, ...]
    train_sha256: str

    @classmethod
    def of(cls, images: np.ndarray) -> CopyDetector:
        """The detector for train images, uint8 (n, channels, side, side).

        Raises:
            ValueError: fewer than ten images without a duplicate, which give no threshold.
        """
        space = ThumbnailSpace.of(images)
        nearest = space.closest(images, own=np.arange(len(images)))
        threshold = fit_threshold(nearest.relative().round(4), duplicated(nearest))
        if threshold.value is None:
            raise ValueError(
                f"--reject_copies needs 10 train images without a duplicate to know how near real images come, "
                f"got {threshold.n} of {len(images)}; give a larger --dataset or leave the flag out"
            )
        return cls(space, frozenset(pixel_digests(images)), threshold, images.shape[1:], hash_arrays(images))

    def reasons(self, images: np.ndarray) -> list[str | None]:
        """Why each image, uint8 (n, channels, side, side), is rejected; None where it is not."""
        near = self.threshold.flags(self.space.closest(images).relative())
        exact = [digest in self.digests for digest in pixel_digests(images)]
        return [EXACT if same else NEAR if close else None for same, close in zip(exact, near, strict=True)]

    def describe(self) -> dict[str, Any]:
        """What `generation.json` says of the detector."""
        return {
            "detector": f"pixels; {SPACE}",
            "threshold": self.threshold.value,
            "threshold_from": "each train image against the other train images",
            "rank": self.threshold.rank,
            "n": self.threshold.n,
            "duplicates_left_out": self.threshold.excluded,
            "false_alarm_rate": round(self.threshold.false_alarm_rate, 6),
            "train_sha256": self.train_sha256,
        }
