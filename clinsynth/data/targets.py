"""What every image of a data set is brought to: one size and mode, by what is there and what was asked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageOps

from clinsynth.data.decoding import (
    DEEP_MODES,
    EIGHT_BIT_MODES,
    Limits,
    decode,
    describe_intensity,
    to_eight_bits,
    without_alpha,
)
from clinsynth.data.looks import Survey

logger = logging.getLogger("clinsynth")

RESOLUTIONS = (28, 256)
FITS = ("squash", "crop", "pad")


@dataclass(frozen=True)
class Target:
    """What every image is brought to."""

    resolution: int
    channels: int
    fit: str | None
    intensity: Limits | None = None


def choose_target(
    found: Survey, resolution: int | None, channels: int | None, fit: str | None, intensity: Limits | None = None
) -> Target:
    """Settle size and mode from what is there and what was asked; states in one line what will be changed."""
    if not found:
        raise ValueError("the data set holds no images; give one that has some in every split")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels must be 1 (grey) or 3 (colour), got {channels}")
    if fit not in (None, *FITS):
        raise ValueError(f"--fit must be one of {', '.join(FITS)}, got {fit}")
    sizes, modes = count_sizes(found), count_modes(found)
    check_square(sizes, fit)
    side = common_size(sizes) if resolution is None else resolution
    target = Target(side, channels or common_channels(modes), fit, intensity)
    lowest, highest = RESOLUTIONS
    if not lowest <= target.resolution <= highest:
        raise ValueError(
            f"--resolution must be {lowest} to {highest}, got {target.resolution}; "
            f"give --resolution to have the images resized into that range"
        )
    state_changes(found, target)
    return target


def count_modes(found: Survey) -> Counter[str]:
    return sum((Counter({mode: count}) for (mode, _), count in found.items()), Counter())


def count_sizes(found: Survey) -> Counter[tuple[int, int]]:
    return sum((Counter({size: count}) for (_, size), count in found.items()), Counter())


def check_square(sizes: Iterable[tuple[int, int]], fit: str | None) -> None:
    oblong = [size for size in sizes if size[0] != size[1]]
    if oblong and fit is None:
        raise ValueError(f"images are not square ({describe_sizes(oblong)}); give --fit squash, crop or pad")


def common_size(sizes: Counter[tuple[int, int]]) -> int:
    if len(sizes) == 1 and len(set(*sizes)) == 1:
        return next(iter(sizes))[0]
    raise ValueError(f"images have sizes {describe_sizes(sizes)}; give --resolution (28 to 256)")


def common_channels(modes: Counter[str]) -> int:
    kinds = {EIGHT_BIT_MODES[mode] for mode in modes}
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        raise ValueError(f"images have different modes ({counts}); give --channels 1 or 3")
    return {"L": 1, "RGB": 3}[kinds.pop()]


def describe_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    ordered = sorted(set(sizes))
    shown = ", ".join(f"{width}x{height}" for width, height in ordered[:4])
    return shown if len(ordered) <= 4 else f"{shown} and {len(ordered) - 4} more"


def state_changes(found: Survey, target: Target) -> None:
    side, mode = target.resolution, "L" if target.channels == 1 else "RGB"
    resized = Counter({size: n for size, n in count_sizes(found).items() if size != (side, side)})
    converted = {source: n for source, n in sorted(count_modes(found).items()) if source != mode}
    changes = []
    if resized:
        how = f" ({target.fit})" if any(width != height for width, height in resized) else ""
        changes.append(f"{resized.total()} resized from {describe_sizes(resized)} to {side}x{side}{how}, bicubic")
    rule = describe_intensity(target.intensity)
    changes += [
        f"{count} of more than 8 bits ({source}) brought to {mode} by {rule}"
        if source in DEEP_MODES
        else f"{count} converted from {source} to {mode}"
        for source, count in converted.items()
    ]
    if changes:
        logger.info("of %d images: %s", found.total(), "; ".join(changes))


def bring_to(name: str, image: Image.Image, target: Target) -> Image.Image:
    """Decode, bring to 8 bits, drop a fully opaque alpha channel, convert to the target's mode, make square, resize
    (bicubic)."""
    decode(name, image)
    image = without_alpha(name, to_eight_bits(name, image, target.intensity))
    image = image.convert("L" if target.channels == 1 else "RGB")
    size = (target.resolution, target.resolution)
    if image.size == size:
        return image
    if target.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if target.fit == "pad" and round(min(image.size) * target.resolution / max(image.size)) < 1:
        raise ValueError(
            f"{name} is {image.width}x{image.height}, too narrow to be padded at {target.resolution} pixels; leave it "
            "out, or give --fit crop or squash"
        )
    if target.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)
