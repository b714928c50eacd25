"""The healthy part of phantom-fundus: one eye's layout, its retina and its vessels.

Positions and lengths are in units of half the picture's side: x to the right and y downwards, both in -1 .. 1, so that
one generator gives the same eye at every size. Masks are drawn at `SUPERSAMPLING` times the size and averaged down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

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
