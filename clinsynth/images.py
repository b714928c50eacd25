"""Pictures as arrays, as files, and many in one."""

import io

import numpy as np
from PIL import Image


def to_picture(pixels: np.ndarray) -> Image.Image:
    """A image of uint8 (channels, height, width); channels 1 or 3."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def to_png(picture: Image.Image, compress_level: int = 6) -> bytes:
    """The image as a PNG file, pixel for pixel and without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def from_png(png: bytes) -> np.ndarray:
    """A grey or colour PNG file as uint8 (channels, height, width)."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def contact_sheet(images: np.ndarray, columns: int, tile: int = 64) -> Image.Image:
    """Tile `images`, uint8 (n, channels, height, width), row by row into one image with crisp pixels.

    Args:
        columns: images in a row.
        tile: pixels a tile is at least wide; images are enlarged by a whole factor.
    """
    count, channels, height, width = images.shape
    scale = max(1, -(-tile // width))
    rows = -(-count // columns)
    sheet = np.full((channels, rows * (height + 2), columns * (width + 2)), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2) + 1, i % columns * (width + 2) + 1
        sheet[:, top : top + height, left : left + width] = image
    picture = to_picture(sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
