"""Which generated pictures are copies of train pictures, while they are generated: without labels and extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.metrics.privacy.copies import (
    EXACT,
    NEAR,
    SPACE,
    Threshold,
    ThumbnailSpace,
    duplicated,
    fit_threshold,
    pixel_digests,
)
from clinsynth.models.image_encoders import hash_arrays


@dataclass(frozen=True)
class CopyDetector:
    """Compares pictures with a train split; memory is that of the train split's thumbnails.

    The threshold comes from each train picture's score among the other train pictures: the generator may see no other
    split (a threshold from test pictures would have them shape what is generated).
    """

    space: ThumbnailSpace
    digests: frozenset[bytes]
    threshold: Threshold
    shape: tuple[int, ...]
    train_sha256: str

    @classmethod
    def of(cls, images: np.ndarray) -> CopyDetector:
        """The detector for train pictures, uint8 (n, channels, side, side).

        Raises:
            ValueError: fewer than ten pictures without a duplicate, which give no threshold.
        """
        space = ThumbnailSpace.of(images)
        nearest = space.closest(images, own=np.arange(len(images)))
        threshold = fit_threshold(nearest.relative().round(4), duplicated(nearest))
        if threshold.value is None:
            raise ValueError(
                f"--reject_copies needs 10 train pictures without a duplicate to know how near real pictures come, "
                f"got {threshold.n} of {len(images)}; give a larger --dataset or leave the flag out"
            )
        return cls(space, frozenset(pixel_digests(images)), threshold, images.shape[1:], hash_arrays(images))

    def reasons(self, images: np.ndarray) -> list[str | None]:
        """Why each picture, uint8 (n, channels, side, side), is rejected; None where it is not."""
        near = self.threshold.flags(self.space.closest(images).relative())
        exact = [digest in self.digests for digest in pixel_digests(images)]
        return [EXACT if same else NEAR if close else None for same, close in zip(exact, near, strict=True)]

    def describe(self) -> dict[str, Any]:
        """What `generation.json` says of the detector."""
        return {
            "detector": f"pixels; {SPACE}",
            "threshold": self.threshold.value,
            "threshold_from": "each train picture against the other train pictures",
            "rank": self.threshold.rank,
            "n": self.threshold.n,
            "duplicates_left_out": self.threshold.excluded,
            "false_alarm_rate": round(self.threshold.false_alarm_rate, 6),
            "train_sha256": self.train_sha256,
        }
