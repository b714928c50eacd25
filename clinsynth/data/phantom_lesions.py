"""The lesions of phantom-fundus: where they may lie, how each kind is drawn, and the finished picture.

Units as in `phantom_anatomy`. A microaneurysm is 1.5 to 2 pixels wide at 64 pixels: it can still be counted there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clinsynth.data.phantom_anatomy import Canvas, Eye, Point, cover, draw_retina, draw_vessels, grow_vessels

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
    while True:  # ends: all the lesions of one picture and the vessels leave more than a third of the field free
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
    """An RGB picture of `size` pixels of an eye with `counts` lesions of each kind."""
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
