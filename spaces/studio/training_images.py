"""The images that a model was trained on, where they are here: how near what it draws comes to them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.plain_yaml import read_yaml

MOST_COMPARED = 500
"""Training images whose own distance to the nearest other one is taken, evenly chosen."""


@dataclass(frozen=True)
class TrainingImages:
    """The train split of a model, as band-passed thumbnails of unit length (`clinsynth.metrics.privacy.copies`).

    Attributes:
        space: in which images are compared.
        threshold: of the relative distance, below which an image is a near copy.
        usual: distances that one in twenty and a half of the training images stay below among themselves.
    """

    space: Any
    threshold: Any
    usual: tuple[float, float]

    @classmethod
    def of(cls, images: np.ndarray) -> TrainingImages:
        """Of uint8 (n, channels, side, side)."""
        from clinsynth.metrics.privacy.copies import ThumbnailSpace, duplicated, fit_threshold

        space = ThumbnailSpace.of(images)
        chosen = np.unique(np.linspace(0, len(images) - 1, MOST_COMPARED).round().astype(int))
        nearest = space.closest(images[chosen], own=chosen)
        low, middle = np.quantile(nearest.distances[:, 0], (0.05, 0.5))
        return cls(space, fit_threshold(nearest.relative(), duplicated(nearest)), (float(low), float(middle)))

    def compare(self, images: np.ndarray) -> tuple[list[float], list[bool]]:
        """Distance of each image to the nearest training image, and whether it is a near copy of it."""
        nearest = self.space.closest(images)
        return nearest.distances[:, 0].tolist(), self.threshold.flags(nearest.relative()).tolist()

    def explain(self, near: Sequence[bool]) -> str:
        """What the distances mean."""
        low, middle = self.usual
        verdict = (
            f"{sum(near)} of {len(near)} are near copies of a training image." if any(near) else "None is a copy."
        )
        return (
            "Distance: to the nearest training image, also mirrored or moved by a pixel; 0 is the same image and "
            f"1.41 an unrelated one. Half of the training images have another one within {middle:.2f}, one in "
            f"twenty within {low:.2f}. {verdict}"
        )


@functools.lru_cache(maxsize=2)
def find_training_images(source: str) -> TrainingImages | None:
    """Those of the run folder `source`, by its config.yaml; None where there is no such file or they are not here."""
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.images import load_image_arrays

    config = Path(source) / "config.yaml"
    if not config.is_file():
        return None
    values: dict[str, Any] = read_yaml(config) or {}
    known = [field.name for field in dataclasses.fields(ImageDataArguments) if field.name in values]
    try:
        data = load_image_arrays(ImageDataArguments(**{name: values[name] for name in known}), values.get("seed", 0))
    except (ValueError, OSError):
        return None
    return TrainingImages.of(data["train"].images)
