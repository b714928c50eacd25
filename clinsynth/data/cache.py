"""Images once decoded: large splits as raw arrays in the user's cache, read as memory maps; the last few in memory.

A split is kept under a digest of its images' own files and of what they are brought to, so that a changed file is read
anew and the second start decodes nothing. These are real images: the folder is the user's alone. It is
`~/.cache/clinsynth`, or the folder that CLINSYNTH_CACHE names; set to nothing, no image is kept. It may be deleted at
any time. Splits below 32 MB stay in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from clinsynth.run_folder import written_aside

SMALL = 32 << 20
MOST_DECODED = 64 << 20


def cache_folder() -> Path | None:
    """Where arrays are kept, made where it is missing; None where the user wants none, or it cannot be made."""
    named = os.environ.get("CLINSYNTH_CACHE")
    if named == "":
        return None
    folder = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clinsynth") / "images"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def content_digest(files: Iterable[bytes], *told: object) -> str:
    """SHA-256 of those of the images' files in their order, and of what else makes the array, `told`."""
    whole = hashlib.sha256(repr((PIL.__version__, *told)).encode())
    for digest in files:
        whole.update(digest)
    return whole.hexdigest()[:32]


def kept_array(
    shape: tuple[int, ...], key: Callable[[], str], rows: Callable[[], Iterable[np.ndarray]], small: int = SMALL
) -> np.ndarray:
    """An array, uint8 `shape`, of the rows that `rows` yields; a large one is a memory map that is written once.

    Writing into it changes no file (copy on write).

    Args:
        key: names the file; not asked for an array below `small` bytes.
    """
    folder = cache_folder() if np.prod(shape, dtype=np.int64) >= small else None
    if folder is None:
        made = np.empty(shape, dtype=np.uint8)
        for place, row in enumerate(rows()):
            made[place] = row
        return made
    path = folder / f"{key()}.npy"
    if not is_whole(path, shape):
        with written_aside(path) as aside, open(aside, "wb") as file:
            header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call]
            for row in rows():
                file.write(np.ascontiguousarray(row, dtype=np.uint8).tobytes())
    return np.asarray(np.load(path, mmap_mode="c"))


def is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape lies there, all of it."""
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError, EOFError):
        return False


class Decoded:
    """The images that were decoded last, by their files' contents, so that none of a small set is decoded twice."""

    def __init__(self, most: int = MOST_DECODED):
        self.most, self.size = most, 0
        self.images: dict[bytes, Image.Image] = {}

    def add(self, key: bytes, image: Image.Image) -> None:
        """Keep a decoded image, if there is room: the first are asked for first again."""
        size = image.width * image.height * max(1, len(image.getbands()))
        if key not in self.images and self.size + size <= self.most:
            self.images[key] = image
            self.size += size

    def clear(self) -> None:
        """Forget them all."""
        self.images.clear()
        self.size = 0
