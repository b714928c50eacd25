"""The measuring judge: what is measured in an image, which quantity an item of a checklist is about, and which numbers
it allows.

Measured are phantoms of phantom-fundus and lesions of the skin, from pixels alone. The model learns nothing, but a
folder of it loads as any other model does. This file is copied into every checkpoint of a measuring judge: it imports
nothing from clinsynth.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from transformers import PretrainedConfig, PreTrainedModel

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
    """How many of each of QUANTITIES a phantom shows, uint8 (side, side) or (side, side, 3).

    Lengths are in units of half the image's side, as in the drawing, so that one set of limits serves every size. An
    image is first divided by its own background, a high percentile around each pixel: 1 is retina, less is darker.
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
    """The SKIN_QUANTITIES of a colour dermatoscopic photograph, uint8 (side, side, 3); all 0 where no lesion is found.

    They follow the ABCD rule of dermatoscopy (Nachbar et al. 1994): asymmetry, border, colour, diameter. The lesion is
    what Otsu's threshold sets apart from the skin, so that faint or very large ones are outlined badly: what the real
    images of a class measure, errors and all, is what its limits should be taken from.

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


Measure = Callable[[np.ndarray], dict[str, int]]
ITEM = re.compile(r"(?P<quantity>[a-z_]+?)_(?:(?P<none>none)|(?P<low>\d+)_to_(?P<high>\d+))")
ONE_DISC = "one_disc"
MEASURES: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "phantom-fundus": (count_lesions, QUANTITIES),
    "dermatoscopy-measured": (measure_skin, SKIN_QUANTITIES),
}
"""What is measured for the checklists of these names, and of those that begin so."""


@dataclass(frozen=True)
class CountRange:
    """An item that is met when the count of `quantity` lies in low .. high."""

    quantity: str
    low: int
    high: int

    def met_by(self, counts: dict[str, int]) -> bool:
        return self.low <= counts[self.quantity] <= self.high


def measure_of(checklist: dict[str, Any]) -> tuple[Measure, tuple[str, ...]]:
    """The function that measures what a checklist is about, and the names of its quantities.

    Raises:
        ValueError: nothing is measured for this checklist.
    """
    for name, measure in MEASURES.items():
        if checklist["name"] == name or checklist["name"].startswith(f"{name}-"):
            return measure
    raise ValueError(
        f"checklist {checklist['name']} has no measurements, only {', '.join(MEASURES)} have; its items take an eye: "
        "judge it by clip, vlm, classifier or expert"
    )


def measured_items(checklist: dict[str, Any]) -> dict[str, CountRange]:
    """Item id to what is measured for it, of every condition of a checklist.

    An id ends in the numbers that it allows: `haemorrhages_1_to_4`, `exudates_none`; there is one `one_disc`.

    Raises:
        ValueError: a checklist of another name, or an item of another.
    """
    _, quantities = measure_of(checklist)
    ids = (item["id"] for items in checklist["conditions"].values() for item in items)
    return {name: parse_item(name, quantities) for name in ids}


def parse_item(name: str, quantities: tuple[str, ...] = QUANTITIES) -> CountRange:
    """`haemorrhages_1_to_4` as its quantity and range."""
    if name == ONE_DISC:
        return CountRange("discs", 1, 1)
    found = ITEM.fullmatch(name)
    if not found or found["quantity"] not in quantities:
        raise ValueError(
            f"item {name} cannot be measured; call it by what it counts and how many: {', '.join(quantities)}, and "
            "_none or _1_to_4"
        )
    low, high = (0, 0) if found["none"] else (int(found["low"]), int(found["high"]))
    return CountRange(found["quantity"], low, high)


class MeasuringConfig(PretrainedConfig):
    """What is measured: `checklist_name`, the name of a checklist whose items are counts."""

    model_type = "checklist-measure"

    def __init__(self, checklist_name: str = "phantom-fundus", **kwargs: Any):
        super().__init__(**kwargs)
        self.checklist_name = checklist_name


class MeasuringModel(PreTrainedModel):
    """Measures uint8 images (side, side) or (side, side, 3)."""

    config_class = MeasuringConfig
    main_input_name = "images"

    def __init__(self, config: MeasuringConfig):
        super().__init__(config)
        self.measure, _ = measure_of({"name": config.checklist_name})
        # unused: transformers cannot tell the device of a model without a parameter
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    def forward(self, images: list[np.ndarray]) -> list[dict[str, int]]:
        """The counts, or other quantities, of each image."""
        return [self.measure(image) for image in images]
