"""phantom-fundus: procedural, fundus-like images whose five grades differ by lesions that can be counted.

No patient and no camera stands behind them, and they are no simulation of the disease: they are phantoms with a known
answer, for trying things out without data. The grades follow the order of ideas of the international clinical diabetic
retinopathy scale (nothing; microaneurysms only; more than these; many haemorrhages; new vessels) at counts that fit
into a small image. Each image comes with its true counts:

| grade   | microaneurysms | haemorrhages | exudates | new vessels |
|---------|----------------|--------------|----------|-------------|
| grade 0 | 0              | 0            | 0        | 0           |
| grade 1 | 3 to 6         | 0            | 0        | 0           |
| grade 2 | 4 to 8         | 1 to 4       | 1 to 5   | 0           |
| grade 3 | 6 to 10        | 9 to 13      | 3 to 8   | 0           |
| grade 4 | 4 to 8         | 3 to 8       | 2 to 8   | 1 to 3      |

The classes are as unequal as RetinaMNIST's. Image i of a split depends on (seed, split, i) alone.
From 64 pixels on every single lesion can be told apart; at 28 to 32 pixels neighbours run together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

from clinsynth.data.sources import parse_options, share_out
from clinsynth.data.tables import png_cell

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
        ValueError: an unknown option or a number out of range (size 28 to 256, seed from 0, at least 5 images).
    """
    size = 64 if resolution is None else min(max(resolution, 28), 256)  # a --resolution out of range is refused later
    defaults = {"size": size, "seed": 0, **{name: sum(counts) for name, counts in SPLIT_COUNTS.items()}}
    lowest = {"size": 28, "seed": 0, **dict.fromkeys(SPLIT_COUNTS, len(GRADES))}
    options = parse_options(spec, NAME, defaults, lowest, {"size": 256})
    return PhantomOptions(options["size"], options["seed"], {name: options[name] for name in SPLIT_COUNTS})


def build_splits(options: PhantomOptions) -> dict[str, Dataset]:
    """Splits with columns image, label, the four true lesion counts and laterality."""
    return dict(drawn_splits(options.size, options.seed, tuple(options.totals.items())))


@functools.lru_cache(maxsize=2)  # an eye takes 10 ms, and a command may read its data more than once
def drawn_splits(size: int, seed: int, totals: tuple[tuple[str, int], ...]) -> dict[str, Dataset]:
    options = PhantomOptions(size, seed, dict(totals))
    counts = {lesion: Value("int32") for lesion in LESIONS}
    features = Features(image=ImageFeature(), label=ClassLabel(names=GRADES), **counts, laterality=Value("string"))
    splits = {}
    for name in SPLIT_COUNTS:
        rows = list(draw_split(name, options))
        columns = {column: [row[column] for row in rows] for column in features}
        splits[name] = Dataset.from_dict(columns, features=features)
    return splits


def draw_split(split: str, options: PhantomOptions) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, images as PNG bytes."""
    number = list(SPLIT_COUNTS).index(split)
    grades = np.repeat(np.arange(len(GRADES)), share_out(options.totals[split], SPLIT_COUNTS[split]))
    np.random.default_rng([options.seed, number]).shuffle(grades)
    for index, grade in enumerate(grades):
        generator = np.random.default_rng([options.seed, number, index])
        image, truth = draw_fundus(int(grade), options.size, generator)
        yield {"image": png_cell(image), "label": int(grade), **truth}


def draw_fundus(grade: int, size: int, generator: np.random.Generator) -> tuple[Image.Image, dict[str, int | str]]:
    """One RGB image of `size` pixels and its truth: the four lesion counts and laterality (left or right)."""
    ranges = LESION_RANGES[grade]
    counts = {lesion: int(generator.integers(*ranges[lesion], endpoint=True)) for lesion in LESIONS}
    eye = sample_eye(generator)
    image = draw_eye(eye, counts, size, generator)
    return image, {**counts, "laterality": "right" if eye.side == 1 else "left"}


SUPERSAMPLING = 4

Point = tuple[float, float]


@dataclass(frozen=True)
class Eye:
    """Where the parts of one eye lie, and the colours of its retina."""

    side: int  # 1: the disc lies to the right of the macula (a right eye), -1: to the left
    field_radius: float
    disc: Point
    disc_radius: float
    macula: Point
    retina: np.ndarray  # (3,), 0 .. 255
    light: np.ndarray  # (2,), slope of the brightness over x and y


def sample_eye(generator: np.random.Generator) -> Eye:
    side = 1 if generator.random() < 0.5 else -1
    disc = (side * generator.uniform(0.38, 0.52), generator.uniform(-0.12, 0.12))
    macula = (disc[0] - side * generator.uniform(0.56, 0.66), disc[1] + generator.uniform(0.0, 0.12))
    redness, pallor = generator.uniform(-14, 14), generator.uniform(-28, 26)
    retina = np.array([206 + pallor + redness, 104 + pallor - redness, 52 + 0.6 * pallor - redness])
    return Eye(
        side,
        generator.uniform(0.92, 0.99),
        disc,
        generator.uniform(0.125, 0.155),
        macula,
        retina,
        generator.uniform(-0.1, 0.1, 2),
    )


class Canvas:
    """One coverage mask, drawn large in the units above."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.large = size * SUPERSAMPLING
        self.image = Image.new("L", (self.large, self.large))
        self.pen = ImageDraw.Draw(self.image)

    def pixel(self, point: Point) -> Point:
        return (point[0] + 1) * self.large / 2, (point[1] + 1) * self.large / 2

    def line(self, points: Sequence[Point], width: float) -> None:
        pixels = max(1, round(width * self.large / 2))
        self.pen.line([self.pixel(point) for point in points], fill=255, width=pixels, joint="curve")

    def polygon(self, points: Sequence[Point]) -> None:
        self.pen.polygon([self.pixel(point) for point in points], fill=255)

    def coverage(self) -> np.ndarray:
        """float32, (size, size), 0 .. 1."""
        return np.asarray(self.image.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def bezier(start: np.ndarray, control: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Quadratic curves, (n, steps, 2), from n starts, control points and ends, each (n, 2)."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * control[:, None] + t**2 * end[:, None]


def grow_vessels(eye: Eye, generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three generations of vessels, the trunks first: paths (n, steps, 2) and widths (n,)."""
    generations = [grow_trunks(eye, generator)]
    for sprouts in (4, 2):
        generations.append(grow_branches(*generations[-1], sprouts, generator))
    return generations


def grow_trunks(eye: Eye, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four arcades of a vein and a thinner artery leave the disc; those on the macula's side bend around it."""
    (x, y), macula_x = eye.disc, eye.macula[0]
    controls, ends, widths = [], [], []
    for up in (-1, 1):
        for width, apart in ((0.036, -0.05), (0.024, 0.05)):
            shift = generator.uniform(-0.07, 0.07) + apart
            controls.append(((x + macula_x) / 2 + eye.side * shift, y + up * generator.uniform(0.72, 0.86) + shift))
            reach = generator.uniform(0.3, 0.5)
            ends.append((macula_x - eye.side * reach, y + up * generator.uniform(0.3, 0.6) + shift))
            controls.append((x + eye.side * 0.05 + shift, y + up * generator.uniform(0.3, 0.5)))
            ends.append((x + eye.side * generator.uniform(0.2, 0.5), y + up * generator.uniform(0.65, 0.95)))
            widths += [width, width * 0.8]
    starts = np.repeat([eye.disc], len(ends), axis=0)
    return wind(bezier(starts, np.array(controls), np.array(ends), 21), generator), np.array(widths)


def grow_branches(
    paths: np.ndarray, widths: np.ndarray, sprouts: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Every path puts out `sprouts` thinner vessels, at 25 to 60 degrees to either side, bending back along it."""
    places = np.rint(np.linspace(0.2, 0.85, sprouts) * (paths.shape[1] - 1)).astype(int)
    starts, before = paths[:, places].reshape(-1, 2), paths[:, places - 1].reshape(-1, 2)
    widths = np.repeat(widths * 0.55, sprouts)
    along = starts - before
    turn = np.radians(generator.uniform(25, 60, len(starts))) * generator.choice([-1, 1], len(starts))
    heading = np.arctan2(along[:, 1], along[:, 0]) + turn
    half = (generator.uniform(8, 16, len(starts)) * widths + 0.14) / 2
    controls = starts + half[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    heading -= 0.6 * turn
    ends = controls + half[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    return wind(bezier(starts, controls, ends, 8), generator), widths


def wind(paths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return paths + np.cumsum(generator.normal(0, 0.006, paths.shape), axis=1)


def draw_vessels(canvas: Canvas, generations: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Trunks taper in five pieces; branches are too thin to show it."""
    for number, (paths, widths) in enumerate(generations):
        stretch = 4 if number == 0 else paths.shape[1]
        for path, width in zip(paths.tolist(), widths.tolist(), strict=True):
            for first in range(0, len(path) - 1, stretch):
                canvas.line(path[first : first + stretch + 1], width * (1 - 0.6 * first / len(path)))


def cover(pixels: np.ndarray, coverage: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    return pixels + coverage[..., None] * (np.asarray(colour, dtype=np.float32) - pixels)


def draw_retina(eye: Eye, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The bare retina with disc and macula, float32 (size, size, 3), and its field, (size, size, 1), 0 .. 1."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = axis[None, :], axis[:, None]
    from_centre = np.hypot(x, y)
    mottle = Image.fromarray(generator.normal(0, 1, (9, 9)).astype(np.float32))
    mottled = np.asarray(mottle.resize((size, size), Image.Resampling.BICUBIC))
    shade = 1.06 - 0.34 * from_centre**2 + eye.light[0] * x + eye.light[1] * y + 0.025 * mottled
    from_macula = np.hypot(x - eye.macula[0], y - eye.macula[1])
    shade = shade - 0.3 * np.exp(-((from_macula / 0.16) ** 2)) - 0.12 * np.exp(-((from_macula / 0.05) ** 2))
    pixels = (shade[..., None] * eye.retina).astype(np.float32)
    from_disc = np.hypot(x - eye.disc[0], (y - eye.disc[1]) * 0.9)
    edge = 2 / size
    pixels = cover(pixels, step_down(from_disc, eye.disc_radius, 2 * edge) * 0.9, (250, 214, 140))
    pixels = cover(pixels, step_down(from_disc, eye.disc_radius * 0.45, 2 * edge) * 0.8, (255, 246, 205))
    return pixels, step_down(from_centre, eye.field_radius, edge)[..., None]


def step_down(distance: np.ndarray, radius: float, softness: float) -> np.ndarray:
    """1 inside `radius`, 0 outside, falling evenly over `softness`."""
    return np.clip((radius - distance) / softness + 0.5, 0, 1)


LESIONS = ("microaneurysms", "haemorrhages", "exudates", "new_vessels")
RADII = {
    "microaneurysms": (0.025, 0.031),
    "haemorrhages": (0.055, 0.085),
    "exudates": (0.034, 0.048),
    "new_vessels": (0.13, 0.17),
}
GAP = 0.06  # clear retina between two lesions: two pixels of 64
FIELD_FOR_LESIONS = 0.86  # share of the field's radius
VESSEL_COLOUR = (118, 26, 20)
LESION_COLOURS = {
    "microaneurysms": (88, 4, 8),
    "haemorrhages": (98, 8, 10),
    "exudates": (255, 238, 120),
    "new_vessels": (148, 8, 24),
}


def place_lesions(
    counts: dict[str, int], eye: Eye, larger_vessels: np.ndarray, generator: np.random.Generator
) -> list[tuple[str, Point, float]]:
    """(kind, centre, radius) for every lesion, apart from each other and off the disc, fovea and `larger_vessels`.

    A lesion on a dark fovea or vessel could not be counted; new vessels are drawn over others, as they grow there.
    """
    placed: list[tuple[str, Point, float]] = []
    for kind in reversed(LESIONS):  # the largest first, while there is room
        vessels = larger_vessels[:0] if kind == "new_vessels" else larger_vessels
        for _ in range(counts[kind]):
            radius = generator.uniform(*RADII[kind])
            taken = [
                (eye.disc, eye.disc_radius),
                (eye.macula, 0.06),
                *((centre, other) for _, centre, other in placed),
            ]
            placed.append((kind, find_place(radius, eye, taken, vessels, generator), radius))
    return placed


def find_place(
    radius: float,
    eye: Eye,
    taken: Sequence[tuple[Point, float]],
    vessels: np.ndarray,
    generator: np.random.Generator,
) -> Point:
    while True:  # ends: all the lesions of one image and the vessels leave more than a third of the field free
        distance = eye.field_radius * FIELD_FOR_LESIONS * math.sqrt(generator.random())
        angle = 2 * math.pi * generator.random()
        centre = (distance * math.cos(angle), distance * math.sin(angle))
        if any(math.dist(centre, point) < radius + other + GAP for point, other in taken):
            continue
        if not len(vessels) or np.hypot(*(vessels - centre).T).min() > radius + 0.02:
            return centre


def draw_lesion(canvas: Canvas, kind: str, centre: Point, radius: float, generator: np.random.Generator) -> None:
    """A dot, an uneven blot, a spot, or a tangle of fine winding vessels."""
    if kind == "new_vessels":
        draw_tangle(canvas, centre, radius, generator)
        return
    unevenness = {"microaneurysms": 0.0, "haemorrhages": 0.28, "exudates": 0.12}[kind]
    angles = np.linspace(0, 2 * np.pi, 13)[:-1]
    reach = radius * (1 + unevenness * generator.uniform(-1, 0.6, angles.shape))
    canvas.polygon(
        [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for a, r in zip(angles, reach, strict=True)]
    )


def draw_tangle(canvas: Canvas, centre: Point, radius: float, generator: np.random.Generator) -> None:
    t = np.linspace(0, 1, 22)
    for turn in generator.uniform(0, 2 * np.pi, 5):
        angle = turn + generator.uniform(2.5, 5.0) * t
        reach = radius * (0.25 + 0.75 * t) * (0.8 + 0.2 * np.sin(generator.uniform(10, 18) * t + turn))
        points = zip(centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle), strict=True)
        canvas.line([(float(x), float(y)) for x, y in points], 0.021)


def draw_eye(eye: Eye, counts: dict[str, int], size: int, generator: np.random.Generator) -> Image.Image:
    """An RGB image of `size` pixels of an eye with `counts` lesions of each kind."""
    pixels, field = draw_retina(eye, size, generator)
    vessels = Canvas(size)
    generations = grow_vessels(eye, generator)
    draw_vessels(vessels, generations)
    larger = generations[0][0].reshape(-1, 2)
    layers = {kind: Canvas(size) for kind in LESIONS if counts[kind]}
    for kind, centre, radius in place_lesions(counts, eye, larger, generator):
        draw_lesion(layers[kind], kind, centre, radius, generator)
    pixels = cover(pixels, vessels.coverage() * 0.72, VESSEL_COLOUR)
    for kind, layer in layers.items():
        pixels = cover(pixels, layer.coverage() * 0.95, LESION_COLOURS[kind])
    pixels = (pixels + generator.normal(0, 1.5, pixels.shape)) * field
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
