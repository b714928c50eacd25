"""One image, from its file's bytes to 8-bit pixels: opened upright, its depth stated, decoded, without alpha.

Every error names the image. Colour of 16 bits is cut to 8 by Pillow without a word, so that its depth is read from the
file itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageOps, UnidentifiedImageError

from clinsynth.data.cache import Decoded

Given = TypeVar("Given")
Made = TypeVar("Made")

Limits = tuple[str, float, float]
"""A rule for images of more than 8 bits; see `IntensityArguments`."""
GREYS = ("1", "L", "LA", "La")
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP_MODES = {"I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
"""Pillow's modes of more than 8 bits, all of them grey."""
EIGHT_BIT_MODES = {**dict.fromkeys((*GREYS, *DEEP_MODES), "L"), **dict.fromkeys(COLOURS, "RGB")}
"""Each mode that is read, and what it becomes."""
ORIENTATION = 0x0112  # the EXIF tag
EXIF_IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
FLOATING_DDS = (94, 95, 96)  # BC6H, by DirectX's number
BITS_PER_SAMPLE = 258  # of TIFF
BITS = "bits"
"""Where an opened image keeps its declared bits, in `info`."""
BROKEN = (
    AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow, pydicom, nibabel and numpy raise where a file is cut off or damaged, or holds too much."""
DECODED = Decoded()
AT_ONCE = 256
"""Files that are read ahead."""
KEY = "key in DECODED"
"""Where an opened image keeps it, in `info`."""


def cells(dataset: Dataset) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, content) for every row; the name is the file's, or the row number where there is no file."""
    stored = dataset.select_columns("image").cast_column("image", ImageFeature(decode=False))
    for row, cell in enumerate(stored["image"]):
        if cell is None:
            raise ValueError(f"row {row} of the data set has no image; remove the row")
        yield cell["path"] or f"row {row}", cell["bytes"]


def content_of(name: str, content: bytes | None) -> bytes:
    """The bytes of an image's file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Path(name).read_bytes() if content is None else content
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read ({error}); replace or remove it") from error


def file_digests(dataset: Dataset) -> Iterator[bytes]:
    """SHA-256 of every row's file."""
    return on_all_cores(lambda cell: hashlib.sha256(content_of(*cell)).digest(), cells(dataset))


def on_all_cores(work: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """What `work` makes of each item, in order; Pillow decodes and resizes without Python's lock."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while part := list(islice(remaining, AT_ONCE)):
            yield from pool.map(work, part)


def open_image(name: str, content: bytes | None, intensity: Limits | None = None) -> Image.Image:
    """Open one image, upright; pixels are decoded later.

    Raises:
        ValueError: not an image, several frames, or more than 8 bits a channel that no rule covers.
    """
    content = content_of(name, content)
    key = hashlib.sha256(f"{intensity} ".encode() + content).digest()
    if (kept := DECODED.images.get(key)) is not None:
        return kept
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read as an image (no known format); replace or remove it") from error
    except BROKEN as error:
        raise ValueError(f"{name} cannot be read as an image ({error}); replace or remove it") from error
    check_depth(name, image, content, intensity)
    if image.format != "PNG" or any(mark in content for mark in EXIF_IN_PNG):  # finding none would decode a PNG
        image = upright(name, image)
    image.info[KEY] = key
    return image


def upright(name: str, image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; leaves all others undecoded."""
    with named_if_damaged(name):
        orientation = image.getexif().get(ORIENTATION, 1)
    if orientation == 1:
        return image
    decode(name, image)
    return ImageOps.exif_transpose(image)


def check_depth(name: str, image: Image.Image, content: bytes, intensity: Limits | None) -> None:
    """Keep the declared bits in `info`, and refuse what no rule brings to 8 of them."""
    bits = declared_bits(image, content)
    image.info[BITS] = bits
    rule = intensity[0] if intensity else None
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"{name} is of mode {image.mode}, which is not read; save it as 8-bit grey or colour")
    if bits > 8 and image.mode not in DEEP_MODES and rule != "full":
        raise ValueError(
            f"{name} is a {bits}-bit {image.format} in colour, of which the upper 8 bits alone can be read; give "
            "--intensity full to take these, or save it with 8 bits"
        )
    if (image.mode == "F" or bits > 16) and rule in (None, "full"):
        raise ValueError(
            f"{name} is a grey {image.format} of {bits} bits ({image.mode}), whose full range says nothing; give "
            "--intensity percentile:0.5,99.5 or window:CENTRE,WIDTH"
        )
    with named_if_damaged(name):
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph with its preview
        raise ValueError(f"{name} holds {frames} frames; save the one you mean as an image of its own")


def declared_bits(image: Image.Image, content: bytes) -> int:
    """Bits a channel that the file declares; Pillow cuts those of colour to 8 without a word."""
    if image.format == "PNG":
        return max(8, content[24])  # in the header chunk, which always comes first
    if image.format == "TIFF":
        return max(8, *image.tag_v2.get(BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    if image.format == "JPEG2000":
        return (content[content.find(b"\xff\x51") + 40] & 0x7F) + 1
    if image.format == "AVIF":
        return max(8, content[content.find(b"pixi") + 9]) if b"pixi" in content[:4096] else 8
    if image.format == "DDS":
        return 16 if content[84:88] == b"DX10" and content[128] in FLOATING_DDS else 8
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "PPM" and image.mode not in ("1", "F"):
        return int(re.split(rb"\s+", re.sub(rb"#[^\n]*", b"", content[:512]))[3]).bit_length()
    return DEEP_MODES.get(image.mode, 8)


def to_eight_bits(name: str, image: Image.Image, intensity: Limits | None) -> Image.Image:
    """An image of mode L in the place of one of more bits, by the rule `intensity`; others as they are."""
    if image.mode not in DEEP_MODES:
        return image
    return grey_of(name, np.asarray(image, dtype=np.float64), intensity, (0.0, 2.0 ** image.info[BITS] - 1))


def grey_of(name: str, values: np.ndarray, intensity: Limits | None, full: tuple[float, float]) -> Image.Image:
    """Values (height, width) as an image of mode L by the rule `intensity`; `full` is the range where there is none.

    Raises:
        ValueError: some are no numbers.
    """
    kind, *limits = intensity or ("full", 0.0, 0.0)
    low, high = full
    if kind == "window":
        low, high = limits[0] - limits[1] / 2, limits[0] + limits[1] / 2
    elif kind == "percentile":
        low, high = np.percentile(values, limits)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are no numbers; replace or remove it")
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(255 * share).astype(np.uint8))


def describe_intensity(intensity: Limits | None) -> str:
    """The rule in words."""
    kind, *limits = intensity or ("full", 0.0, 0.0)
    numbers = ", ".join(f"{limit:g}" for limit in limits)
    return "the full range of the declared bits" if kind == "full" else f"{kind} {numbers}"


def decode(name: str, image: Image.Image) -> None:
    """Read an image's pixels, and remember it while a data set is read."""
    with named_if_damaged(name):
        image.load()
    if KEY in image.info:
        DECODED.add(image.info[KEY], image)


@contextmanager
def named_if_damaged(name: str) -> Iterator[None]:
    """Name the image in what Pillow raises where its data are cut off or damaged."""
    try:
        yield
    except BROKEN as error:
        raise ValueError(f"{name} is damaged ({error}); replace or remove it") from error


def without_alpha(name: str, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode == "LA" else "RGBA")
    if np.asarray(image.getchannel("A")).min() < 255:
        raise ValueError(
            f"{name} has transparent pixels; lay it over the background you want and save it without alpha"
        )
    return image.convert("L" if image.mode == "LA" else "RGB")
