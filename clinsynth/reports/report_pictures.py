"""The pictures of a report: chosen by seed, encoded pixel for pixel as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.images import to_picture, to_png

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays

PICTURES_PER_CLASS = 8


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class as data URIs, the same number of real and of synthetic ones."""

    name: str
    real: list[str]
    synthetic: list[str]


@dataclass(frozen=True)
class PicturePair:
    """A synthetic picture and the real train picture nearest to it as data URIs, and what was made of them."""

    synthetic: str
    real: str
    synthetic_label: str
    real_label: str
    detector: str
    verdict: str


@dataclass(frozen=True)
class Pictures:
    """All pictures of the page."""

    classes: list[ClassPictures]
    pairs: list[PicturePair]


def draw_pictures(real: ImageArrays, synthetic: ImageArrays, closest: list[dict[str, Any]], seed: int) -> Pictures:
    """Choose pictures by `seed`, at most eight a class and side, and encode them and the closest pairs."""
    generator = np.random.default_rng([seed, 2])
    classes = []
    for number, name in enumerate(real.label_names):
        rows = [np.flatnonzero(arrays.labels == number) for arrays in (real, synthetic)]
        count = min(PICTURES_PER_CLASS, *(len(side) for side in rows))
        chosen = [generator.choice(side, size=count, replace=False) for side in rows]
        classes.append(ClassPictures(name, encode(real.images[chosen[0]]), encode(synthetic.images[chosen[1]])))
    pairs = [
        PicturePair(
            synthetic=encode_png(synthetic.images[pair["synthetic_row"]]),
            real=encode_png(real.images[pair["train_row"]]),
            synthetic_label=real.label_names[synthetic.labels[pair["synthetic_row"]]],
            real_label=real.label_names[real.labels[pair["train_row"]]],
            detector=pair["detector"],
            verdict=pair["verdict"],
        )
        for pair in closest
    ]
    return Pictures(classes, pairs)


def encode(images: np.ndarray) -> list[str]:
    return [encode_png(image) for image in images]


def encode_png(image: np.ndarray) -> str:
    """A uint8 picture (channels, r, r) as a data URI, pixel for pixel."""
    return "data:image/png;base64," + base64.b64encode(to_png(to_picture(image))).decode()
