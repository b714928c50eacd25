"""phantom-fundus: procedural, fundus-like pictures whose five grades differ by lesions that can be counted.

No patient and no camera stands behind them, and they are no simulation of the disease: they are a drawing with a known
answer, for trying things out without data. The grades follow the order of ideas of the international clinical diabetic
retinopathy scale (nothing; microaneurysms only; more than these; many haemorrhages; new vessels) at counts that fit
into a small picture. Each picture comes with its true counts:

| grade   | microaneurysms | haemorrhages | exudates | new vessels |
|---------|----------------|--------------|----------|-------------|
| grade 0 | 0              | 0            | 0        | 0           |
| grade 1 | 3 to 6         | 0            | 0        | 0           |
| grade 2 | 4 to 8         | 1 to 4       | 1 to 5   | 0           |
| grade 3 | 6 to 10        | 9 to 13      | 3 to 8   | 0           |
| grade 4 | 4 to 8         | 3 to 8       | 2 to 8   | 1 to 3      |

The classes are as unequal as RetinaMNIST's. Picture i of a split depends on (seed, split, i) alone.
From 64 pixels on every single lesion can be told apart; at 28 to 32 pixels neighbours run together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clinsynth.data.phantom_anatomy import sample_eye
from clinsynth.data.phantom_lesions import LESIONS, draw_eye
from clinsynth.data.phantom_options import parse_options, share_out

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "phantom-fundus"
GRADES = ["grade 0", "grade 1", "grade 2", "grade 3", "grade 4"]
SPLIT_COUNTS = {
    "train": (486, 128, 206, 194, 66),
    "validation": (54, 12, 28, 20, 6),
    "test": (174, 46, 92, 68, 20),
}
LESION_RANGES: list[dict[str, tuple[int, int]]] = [  # the table above: lowest and highest count
    {"microaneurysms": (0, 0), "haemorrhages": (0, 0), "exudates": (0, 0), "new_vessels": (0, 0)},
    {"microaneurysms": (3, 6), "haemorrhages": (0, 0), "exudates": (0, 0), "new_vessels": (0, 0)},
    {"microaneurysms": (4, 8), "haemorrhages": (1, 4), "exudates": (1, 5), "new_vessels": (0, 0)},
    {"microaneurysms": (6, 10), "haemorrhages": (9, 13), "exudates": (3, 8), "new_vessels": (0, 0)},
    {"microaneurysms": (4, 8), "haemorrhages": (3, 8), "exudates": (2, 8), "new_vessels": (1, 3)},
]


@dataclass(frozen=True)
class PhantomOptions:
    """What `phantom-fundus?size=…&seed=…&train=…&validation=…&test=…` asks for."""

    size: int = 64
    seed: int = 0
    totals: dict[str, int] = field(default_factory=lambda: {name: sum(n) for name, n in SPLIT_COUNTS.items()})


def parse_spec(spec: str, resolution: int | None) -> PhantomOptions:
    """Options of a spec; without `size` it draws at `resolution`, or at 64 pixels.

    Raises:
        ValueError: an unknown option or a number out of range (size 28 to 256, seed from 0, at least 5 pictures).
    """
    size = 64 if resolution is None else min(max(resolution, 28), 256)  # a --resolution out of range is refused later
    defaults = {"size": size, "seed": 0, **{name: sum(counts) for name, counts in SPLIT_COUNTS.items()}}
    lowest = {"size": 28, "seed": 0, **dict.fromkeys(SPLIT_COUNTS, len(GRADES))}
    options = parse_options(spec, NAME, defaults, lowest, {"size": 256})
    return PhantomOptions(options["size"], options["seed"], {name: options[name] for name in SPLIT_COUNTS})


def build_splits(options: PhantomOptions) -> dict[str, Dataset]:
    """Splits with columns image, label, the four true lesion counts and laterality."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    counts = {lesion: Value("int32") for lesion in LESIONS}
    features = Features(image=ImageFeature(), label=ClassLabel(names=GRADES), **counts, laterality=Value("string"))
    splits = {}
    for name in SPLIT_COUNTS:
        rows = list(draw_split(name, options))
        columns = {column: [row[column] for row in rows] for column in features}
        splits[name] = Dataset.from_dict(columns, features=features)
    return splits


def draw_split(split: str, options: PhantomOptions) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, pictures as PNG bytes."""
    from clinsynth.data.sources import png_cell

    number = list(SPLIT_COUNTS).index(split)
    grades = np.repeat(np.arange(len(GRADES)), share_out(options.totals[split], SPLIT_COUNTS[split]))
    np.random.default_rng([options.seed, number]).shuffle(grades)
    for index, grade in enumerate(grades):
        generator = np.random.default_rng([options.seed, number, index])
        image, truth = draw_fundus(int(grade), options.size, generator)
        yield {"image": png_cell(image), "label": int(grade), **truth}


def draw_fundus(grade: int, size: int, generator: np.random.Generator) -> tuple[Image.Image, dict[str, int | str]]:
    """One RGB picture of `size` pixels and its truth: the four lesion counts and laterality (left or right)."""
    ranges = LESION_RANGES[grade]
    counts = {lesion: int(generator.integers(*ranges[lesion], endpoint=True)) for lesion in LESIONS}
    eye = sample_eye(generator)
    image = draw_eye(eye, counts, size, generator)
    return image, {**counts, "laterality": "right" if eye.side == 1 else "left"}


def grade_of(counts: dict[str, int]) -> int:
    """The grade that the true counts of a picture stand for; the rule behind the table at the head of this file."""
    if counts["new_vessels"]:
        return 4
    if counts["haemorrhages"] >= LESION_RANGES[3]["haemorrhages"][0]:
        return 3
    if counts["haemorrhages"] or counts["exudates"]:
        return 2
    return 1 if counts["microaneurysms"] else 0
