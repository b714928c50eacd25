"""Opening the pictures of a data set: 8 bits, one frame, upright and opaque, or an error that names the picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from datasets import Dataset

EIGHT_BIT_MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_BIT_DEPTH = 24  # byte offset in the header chunk, which always comes first
ORIENTATION = 0x0112  # the EXIF tag


def open_images(dataset: Dataset) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, picture) for every row; the name is the file's, or the row number where there is no file."""
    from datasets import Image as ImageFeature

    stored = dataset.select_columns("image").cast_column("image", ImageFeature(decode=False))
    for row, cell in enumerate(stored["image"]):
        if cell is None:
            raise ValueError(f"row {row} of the data set has no picture; remove the row")
        name = cell["path"] or f"row {row}"
        yield name, open_image(name, cell["bytes"])


def open_image(name: str, content: bytes | None) -> Image.Image:
    """Open one 8-bit picture, upright; pixels are decoded later.

    Raises:
        ValueError: not a picture, several frames, or more than 8 bits a channel.
    """
    try:
        if content is None:
            with open(name, "rb") as file:
                content = file.read()
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read as a picture (no known format); replace or remove it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as a picture ({error}); replace or remove it") from error
    check_depth(name, image, content)
    return upright(name, image)


def upright(name: str, image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; leaves all others undecoded."""
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    decode(name, image)
    return ImageOps.exif_transpose(image)


def check_depth(name: str, image: Image.Image, content: bytes) -> None:
    # Pillow cuts 16-bit colour PNGs to 8 bits without a word, so that the header must be asked.
    deep_png = content.startswith(PNG_SIGNATURE) and content[PNG_BIT_DEPTH] == 16
    if deep_png or image.mode not in EIGHT_BIT_MODES:
        depth = "16-bit PNG" if deep_png else f"mode {image.mode}"
        raise ValueError(
            f"{name} is not an 8-bit grey or colour picture ({depth}); rescale its values to 0..255 yourself, "
            "or keep it as DICOM and give a window"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{name} holds {frames} frames; save the one you mean as a picture of its own")


def decode(name: str, image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
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
