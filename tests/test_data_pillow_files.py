"""The images that Pillow tests itself with: read or refused by name, and none cut to 8 bits without a word.

They stand in Pillow's source distribution alone: `pip download --no-deps --no-binary pillow pillow`, unpack it, and
name the folder: `PILLOW_SOURCE=pillow-12.3.0 pytest tests/test_data_pillow_files.py -rP`.
"""

import os
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinsynth.data.decoding import DEEP_MODES, declared_bits, decode, open_image, to_eight_bits, without_alpha

SOURCE = os.environ.get("PILLOW_SOURCE", "")
PERCENTILE = ("percentile", 0.5, 99.5)


def opened(path: Path) -> Image.Image | None:
    """An image as Pillow decodes it; None where it cannot."""
    try:
        image: Image.Image = Image.open(path)
        image.tiles = str(image.tile)  # type: ignore[attr-defined]  # which decoding forgets
        image.load()
    except Exception:
        return None
    return image


def cut_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow itself decodes more than 8 bits a channel into 8: by the raw mode (BGR;16 is 16 bits a pixel) or
    the highest value of its decoder."""
    found = re.search(r"(?<!BGR);1[0246]|\b65535\b", image.tiles)  # type: ignore[attr-defined]
    return found is not None and image.mode not in DEEP_MODES


def full_range(image: Image.Image, bits: int) -> np.ndarray:
    return np.rint(255 * np.clip(np.asarray(image, dtype=np.float64) / (2.0**bits - 1), 0, 1))


@pytest.mark.skipif(not SOURCE, reason="needs Pillow's source distribution: PILLOW_SOURCE names its folder")
def test_pillows_own_images_are_read_by_the_rule_or_refused_by_name() -> None:
    files = [path for path in sorted(Path(SOURCE, "Tests").rglob("*")) if path.is_file()]
    counts, wrong = Counter[str](), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files:
            if (known := opened(path)) is None:
                continue
            try:
                image = open_image(str(path), None)
                decode(str(path), image)
                made = without_alpha(str(path), to_eight_bits(str(path), image, None))
            except ValueError as error:
                counts["refused"] += 1
                wrong += [f"{path}: {error}"] if str(path) not in str(error) or "\n" in str(error) else []
                continue
            counts["read"] += 1
            if cut_by_pillow(known):
                wrong.append(f"{path} was cut to 8 bits")
            if known.mode in DEEP_MODES:
                counts["of more than 8 bits, by the full range"] += 1
                expected = full_range(image, declared_bits(image, path.read_bytes()))
                wrong += [] if np.array_equal(np.asarray(made), expected) else [f"{path} is not by the rule"]
        for path in files:
            known = opened(path)
            if known is not None and (known.mode == "F" or known.mode == "I"):
                try:
                    image = open_image(str(path), None, PERCENTILE)
                    decode(str(path), image)
                    made = to_eight_bits(str(path), image, PERCENTILE)
                    counts["of 32 bits, by percentiles"] += 1
                except ValueError as error:
                    wrong += [] if str(path) in str(error) else [f"{path}: {error}"]
    print(dict(counts))
    assert not wrong, wrong
    assert counts["read"] > 500 and counts["refused"] > 100
