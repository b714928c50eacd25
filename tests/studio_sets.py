"""Small sets of made-up images for the tests of the Space's tabs Review and Evidence."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, str(Path(__file__).parent.parent / "spaces" / "studio"))

import limits
import sets
from sets import LabelledSet

__all__ = ["GRADES", "LabelledSet", "images", "limits", "noise", "png", "sets", "write_zip"]

GRADES = ("grade 0", "grade 1", "grade 2")


def noise(seed: int, side: int = 28, mode: str = "RGB") -> Image.Image:
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8))


def png(image: Image.Image, **texts: str) -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def images(seed: int, per_class: int = 4, **form: Any) -> LabelledSet:
    labels = [grade for grade in GRADES for _ in range(per_class)]
    return LabelledSet("set", [png(noise(1000 * seed + i, **form)) for i in range(len(labels))], labels)


def write_zip(path: Path, chosen: LabelledSet, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (content, label) in enumerate(zip(chosen.contents, chosen.labels, strict=True)):
            archive.writestr(f"{prefix}{label}/{number}.png", content)
    return path
