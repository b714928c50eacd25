"""What can be measured of one lesion in a colour dermatoscopic photograph, from its pixels alone.

The quantities follow the ABCD rule of dermatoscopy (Nachbar et al. 1994): asymmetry, border, colour, diameter. The
lesion is what Otsu's threshold sets apart from the skin, so that faint or very large ones are outlined badly: what the
real images of a class measure, errors and all, is what its limits should be taken from.

This file is copied into every checkpoint of a measuring judge: it imports nothing from clinsynth.
"""

import numpy as np
from scipy import ndimage

SKIN_QUANTITIES = ("area", "asymmetry", "border", "colours", "darkness", "red", "blue")
VIGNETTE = 40  # of 255: corners that are darker are the instrument's rim
LEAST_AREA, LEAST_COLOUR = 0.005, 0.05  # shares of the image and of the lesion
SMOOTHING = 1 / 48  # of the side, in which hairs vanish
SIX_COLOURS = np.array(
    [
        (235, 225, 225),  # white
        (190, 70, 80),  # red
        (170, 115, 80),  # light brown
        (95, 55, 40),  # dark brown
        (95, 110, 125),  # blue-grey
        (30, 25, 25),  # black
    ],
    dtype=np.float32,
)
"""The six colours of the rule as RGB, points of our own choice."""


def measure_skin(image: np.ndarray) -> dict[str, int]:
    """The SKIN_QUANTITIES of an image, uint8 (side, side, 3); all 0 where no lesion is found.

    area: of the image, in per cent. asymmetry: share of the lesion that does not cover itself when it is mirrored at
    its principal axes, the mean of both, in per cent. border: perimeter² / (4π area) in tenths; 10 is a disc. colours:
    how many of six take up a twentieth of the lesion. darkness: by how many per cent it is darker than the skin. red,
    blue: that channel's share of its mean colour, in per cent; 33 is grey.

    Raises:
        ValueError: a grey image.
    """
    if image.ndim != 3:
        raise ValueError(
            "the colours of a lesion cannot be measured in grey images; judge colour ones (--channels 3), or take "
            "another judge"
        )
    pixels = image.astype(np.float32)
    smooth = ndimage.gaussian_filter(pixels, (SMOOTHING * len(pixels),) * 2 + (0,))
    seen = ~instrument_rim(smooth)
    lesion = outline(smooth, seen)
    if lesion.mean() < LEAST_AREA:
        return dict.fromkeys(SKIN_QUANTITIES, 0)
    colour, skin = smooth[lesion].mean(0), smooth[seen & ~lesion]
    lightness = skin.mean() if len(skin) else colour.mean()
    measured = {
        "area": 100 * lesion.mean(),
        "asymmetry": 100 * asymmetry_of(lesion),
        "border": 10 * perimeter_of(lesion) ** 2 / (4 * np.pi * lesion.sum()),
        "colours": count_colours(pixels[lesion]),
        "darkness": 100 * max(0.0, 1 - colour.mean() / max(lightness, 1)),
        "red": 100 * colour[0] / max(colour.sum(), 1),
        "blue": 100 * colour[2] / max(colour.sum(), 1),
    }
    return {name: round(float(value)) for name, value in measured.items()}


def instrument_rim(smooth: np.ndarray) -> np.ndarray:
    """Dark parts that reach a corner, bool (side, side)."""
    parts, _ = ndimage.label(smooth.max(2) < VIGNETTE)
    corners = np.unique(parts[[0, 0, -1, -1], [0, -1, 0, -1]])
    return np.isin(parts, corners[corners > 0])


def outline(smooth: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The lesion, bool (side, side): of the parts below Otsu's threshold the one with most mass in the middle."""
    plane = smooth[..., 1:].mean(2)  # green and blue: pigment and blood are dark in both
    if not seen.any() or np.ptp(plane[seen]) < 1:
        return np.zeros_like(seen)
    parts, count = ndimage.label((plane < otsu_threshold(plane[seen])) & seen)
    if not count:
        return np.zeros_like(seen)
    y, x = np.indices(plane.shape) / len(plane) - 0.5
    masses = ndimage.sum_labels(np.exp(-(x**2 + y**2) / 0.08), parts, np.arange(1, count + 1))
    return ndimage.binary_fill_holes(parts == np.argmax(masses) + 1)


def otsu_threshold(values: np.ndarray) -> float:
    """The threshold between two groups of values with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(apart[:-1]))])


def asymmetry_of(lesion: np.ndarray) -> float:
    """Share in [0, 1] that is not covered by the mirror image, the mean over both principal axes."""
    points = np.argwhere(lesion).astype(np.float64)
    points -= (centre := points.mean(0))
    _, axes = np.linalg.eigh(np.cov(points.T) if len(points) > 1 else np.eye(2))
    missed = []
    for axis in axes.T:
        mirrored = np.rint(points - 2 * np.outer(points @ axis, axis) + centre).astype(int)
        inside = ((mirrored >= 0) & (mirrored < lesion.shape)).all(1)
        missed.append(1 - lesion[tuple(mirrored[inside].T)].sum() / len(points))
    return float(np.mean(missed))


def perimeter_of(lesion: np.ndarray) -> float:
    """Length of the outline in pixels by Cauchy and Crofton: π/4 times the crossings along rows and columns."""
    framed = np.pad(lesion, 1).astype(np.int8)
    return float(np.pi / 4 * (np.abs(np.diff(framed, axis=0)).sum() + np.abs(np.diff(framed, axis=1)).sum()))


def count_colours(colours: np.ndarray) -> int:
    """How many of SIX_COLOURS are the nearest one of at least a twentieth of the pixels, float32 (n, 3)."""
    nearest = np.square(colours[:, None] - SIX_COLOURS).sum(2).argmin(1)
    return int((np.bincount(nearest, minlength=len(SIX_COLOURS)) >= LEAST_COLOUR * len(colours)).sum())
