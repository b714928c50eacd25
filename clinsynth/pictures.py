"""Pictures of many pictures."""

import numpy as np
from PIL import Image


def contact_sheet(images: np.ndarray, columns: int, tile: int = 64) -> Image.Image:
    """Tile `images`, uint8 (n, channels, height, width), row by row into one picture with crisp pixels.

    Args:
        columns: pictures in a row.
        tile: pixels a tile is at least wide; images are enlarged by a whole factor.
    """
    count, channels, height, width = images.shape
    scale = max(1, -(-tile // width))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2), columns * (width + 2), channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2) + 1, i % columns * (width + 2) + 1
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
