"""What can be counted in a drawn eye of phantom-fundus, from its pixels alone.

Lengths are in units of half the image's side, as in the drawing, so that one set of limits serves every size. An
image is first divided by its own background, a high percentile around each pixel: 1 is retina, less is darker.

This file is copied into every checkpoint of a measuring judge: it imports nothing from clinsynth.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

QUANTITIES = ("microaneurysms", "haemorrhages", "exudates", "new_vessels", "discs")
TOUCHING = np.ones((3, 3), dtype=bool)
BACKGROUND_WINDOW, BACKGROUND_PERCENTILE = 0.35, 60
LEAST_BACKGROUND = 30  # of 255: what is darker has no ratio worth the name
OUTSIDE_THE_EYE = 12  # of 255
DISC_RADIUS, DISC_REACH = 0.14, 0.2
DISC_BRIGHT = 1.15
DISC_SHARE = 0.4  # of a disc's area that is so bright: spots are smaller, vessels cross it
TANGLE_RADIUS = 0.13
HAEMORRHAGE_RED = 122  # of 255: a haemorrhage's red is below, whatever the light; that of new vessels is above
MASS_OF_A_BLOT = 0.005  # depth times area from which a dark spot is a haemorrhage


@dataclass(frozen=True)
class Limits:
    """What tells lesions from vessels; they depend on whether there is colour.

    Attributes:
        dark: ratio to the background below which only lesions lie.
        least_dot: least depth times area of a microaneurysm.
        bright: ratio above which exudates and disc lie.
        least_spot: least brightness times area of an exudate.
        tangle: what a place must have to be a tangle: in colour the area of red dark pixels, in grey the mean depth of
            what is no compact lesion.
    """

    dark: float
    least_dot: float
    bright: float
    least_spot: float
    tangle: float


COLOUR = Limits(dark=0.38, least_dot=0.0008, bright=1.25, least_spot=0.0015, tangle=0.006)
GREY = Limits(dark=0.5, least_dot=0.0008, bright=1.15, least_spot=0.0012, tangle=0.19)
SMALL_GREY = Limits(dark=0.6, least_dot=0.0008, bright=1.15, least_spot=0.0012, tangle=0.19)
LEAST_SIDE_OF_GREY = 48  # below it a dot covers no pixel wholly, and is less dark


def count_lesions(image: np.ndarray) -> dict[str, int]:
    """How many of each of QUANTITIES an image shows, uint8 (side, side) or (side, side, 3).

    At 64 pixels single lesions stand apart; at 32 microaneurysms are less than a pixel wide and are mostly missed.
    """
    pixels = image.astype(np.float32)
    plane, limits = (pixels[..., 1], COLOUR) if pixels.ndim == 3 else (pixels, grey_limits(len(pixels)))
    unit = plane.shape[0] / 2
    field = field_of(plane)
    ratio = against_background(plane, unit)
    depth = np.clip(1 - ratio, 0, 1) * field
    spots, spot_count = ndimage.label((ratio < limits.dark) & field)
    red = pixels[..., 0] if pixels.ndim == 3 else None
    tangles = tangle_places(spots > 0, depth, red, field, unit, limits)
    masses = masses_apart_from(tangles, spots, spot_count, depth, unit)
    discs, bright = bright_parts(ratio, field, unit, limits)
    return {
        "microaneurysms": int(((masses >= limits.least_dot) & (masses < MASS_OF_A_BLOT)).sum()),
        "haemorrhages": int((masses >= MASS_OF_A_BLOT).sum()),
        "exudates": int((bright >= limits.least_spot).sum()),
        "new_vessels": len(tangles),
        "discs": discs,
    }


def grey_limits(side: int) -> Limits:
    """The limits for a grey image."""
    return GREY if side >= LEAST_SIDE_OF_GREY else SMALL_GREY


def field_of(plane: np.ndarray) -> np.ndarray:
    """The eye without its rim, bool (side, side)."""
    rim = max(1, plane.shape[0] // 32)
    return ndimage.binary_erosion(ndimage.binary_fill_holes(plane > OUTSIDE_THE_EYE), iterations=rim)


def against_background(plane: np.ndarray, unit: float) -> np.ndarray:
    """The plane over its background: 1 is retina."""
    window = round(BACKGROUND_WINDOW * unit) | 1
    background = ndimage.percentile_filter(plane, BACKGROUND_PERCENTILE, size=window)
    return plane / np.maximum(background, LEAST_BACKGROUND)


def disk(radius: float, unit: float) -> np.ndarray:
    """A round window, float32, 1 within `radius`."""
    reach = int(np.ceil(radius * unit))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return (x**2 + y**2 <= (radius * unit) ** 2).astype(np.float32)


def tangle_places(
    spots: np.ndarray, depth: np.ndarray, red: np.ndarray | None, field: np.ndarray, unit: float, limits: Limits
) -> np.ndarray:
    """Centres of tangles of new vessels, (n, 2) rows and columns."""
    window = disk(TANGLE_RADIUS, unit)
    if red is not None:
        rims = ndimage.binary_dilation(spots & (red < HAEMORRHAGE_RED), TOUCHING)
        density = ndimage.convolve((spots & ~rims).astype(np.float32), window) / unit**2
    else:
        compact = ndimage.binary_dilation(spots, TOUCHING)
        seen = ndimage.convolve((~compact & field).astype(np.float32), window)
        density = ndimage.convolve(np.where(compact, 0, depth), window) / np.maximum(seen, window.sum() / 2)
    return peaks(density, limits.tangle, 2 * TANGLE_RADIUS * unit)


def peaks(values: np.ndarray, least: float, apart: float) -> np.ndarray:
    """Places of the highest values from `least` on, each farther than `apart` pixels from a higher one, (n, 2)."""
    places = np.argwhere(values >= least)
    found: list[np.ndarray] = []
    for place in places[np.argsort(-values[tuple(places.T)], kind="stable")]:
        if all(np.hypot(*(place - other)) > apart for other in found):
            found.append(place)
    return np.array(found).reshape(-1, 2)


def masses_apart_from(
    tangles: np.ndarray, spots: np.ndarray, count: int, depth: np.ndarray, unit: float
) -> np.ndarray:
    """Depth times area of each dark spot, with the pixel around it, that does not lie in a tangle."""
    if not count:
        return np.zeros(0)
    numbers = np.arange(1, count + 1)
    masses = ndimage.sum_labels(depth, ndimage.grey_dilation(spots, footprint=TOUCHING), numbers) / unit**2
    centres = np.array(ndimage.center_of_mass(spots > 0, spots, numbers))
    apart = np.ones(count, dtype=bool)
    for tangle in tangles:
        apart &= np.hypot(*(centres - tangle).T) > TANGLE_RADIUS * unit
    return masses[apart]


def bright_parts(ratio: np.ndarray, field: np.ndarray, unit: float, limits: Limits) -> tuple[int, np.ndarray]:
    """How many discs there are, and the brightness times area of each bright spot outside them."""
    excess = np.clip(ratio - 1, 0, None) * field
    window = disk(DISC_RADIUS, unit)
    share = ndimage.convolve(((ratio > DISC_BRIGHT) & field).astype(np.float32), window) / window.sum()
    discs = peaks(share, DISC_SHARE, 2 * DISC_REACH * unit)
    rows, columns = np.indices(ratio.shape)
    outside = field.copy()
    for row, column in discs:
        outside &= np.hypot(rows - row, columns - column) > DISC_REACH * unit
    spots, count = ndimage.label((ratio > limits.bright) & outside)
    if not count:
        return len(discs), np.zeros(0)
    return len(discs), ndimage.sum_labels(excess, spots, np.arange(1, count + 1)) / unit**2
