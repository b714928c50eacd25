"""Exact copies of real rows, of whichever split: by digests of an image's decoded pixels, or of a text's words.

An image turned by a right angle, mirrored, inverted or with its channels in another order is the same image; a text in
another case, with look-alike letters or other punctuation is the same text. One row is a copy, however many there are.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clinsynth.metrics.texts.words import words_of
from clinsynth.run_folder import atomic_write

SPLITS = ("train", "validation", "test")
TRAINED_ON = "training_data.json"
DIGITS = 32
ROWS_NAMED = 20


def picture_digests(images: Iterable[np.ndarray]) -> list[str]:
    """A digest of each image, uint8 (channels, height, width), the same for all its turns, mirrors and inversions."""
    return [digest(canonical(image)) for image in images]


def canonical(image: np.ndarray) -> bytes:
    """The pixels of an image in an order and sign of their own."""
    if int(image.sum(dtype=np.int64)) * 2 > 255 * image.size:
        image = 255 - image
    image = image[np.argsort([int(channel.sum(dtype=np.int64)) for channel in image], kind="stable")]
    views = (np.rot90(one, turn, (1, 2)) for one in (image, image[:, :, ::-1]) for turn in range(4))
    return min(f"{view.shape}".encode() + view.tobytes() for view in views)


def text_digests(texts: Iterable[str]) -> list[str]:
    """A digest of the words of each text, or of its own signs where it has none."""
    return [digest((" ".join(words_of(text)) or text.strip()).encode()) for text in texts]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def split_digest(digests: Iterable[str]) -> str:
    """SHA-256 of a split by its rows' contents, whatever their order."""
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()


def count_exact(synthetic: Iterable[str], real: dict[str, list[str]]) -> dict[str, Any]:
    """How many synthetic rows are exact copies of real ones.

    Args:
        synthetic, real: digests of the rows, of the real ones by split.

    Returns:
        "n_synthetic"; "count", of any split; "splits", by split; "rows", the numbers of the first of them.
    """
    known = {split: set(digests) for split, digests in real.items()}
    anywhere = set(chain.from_iterable(known.values()))
    own = list(synthetic)
    rows = [row for row, one in enumerate(own) if one in anywhere]
    splits = {split: sum(one in digests for one in own) for split, digests in known.items()}
    return {"n_synthetic": len(own), "count": len(rows), "splits": splits, "rows": rows[:ROWS_NAMED]}


def keep_training_digest(output_dir: Path, digests: list[str], shape: tuple[int, ...] | None = None) -> None:
    """Leave in a trainer's run folder which rows it saw: `TRAINED_ON`, by which a push knows another set's evidence.

    Args:
        shape: of its images, as the digests are of these.
    """
    told = {"sha256": split_digest(digests), "n": len(digests), "shape": shape and list(shape)}
    atomic_write(output_dir / TRAINED_ON, json.dumps(told, indent=1) + "\n")


def where_found(exact: dict[str, Any]) -> str:
    """As "train 1, test 2"."""
    return ", ".join(f"{split} {count}" for split, count in exact["splits"].items() if count)


def exact_of(evidence: dict[str, Any]) -> dict[str, Any] | None:
    """The counts in an evidence.json of images or of texts; None where they were not measured."""
    privacy = evidence.get("privacy")
    found = privacy.get("exact") if isinstance(privacy, dict) else evidence.get("exact")
    return found if isinstance(found, dict) and {"n_synthetic", "count", "splits"} <= set(found) else None


def digests_of_shards(tables: Iterable[Any]) -> Iterator[str]:
    """The digests of the rows of a synthetic set, from its Arrow tables: of the images, or of the column text."""
    for table in tables:
        if "image" not in table.column_names:
            yield from text_digests(table["text"].to_pylist())
            continue
        for cell in table["image"].combine_chunks().field("bytes"):
            image = Image.open(io.BytesIO(cell.as_py()))
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            yield from picture_digests([np.atleast_3d(pixels).transpose(2, 0, 1)])
