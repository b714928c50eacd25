"""One look at every image of a data set: which can be read, what each measures, and which are equal or nearly so.

All images are decoded once, by all cores; what was seen is kept for large splits (`clinsynth.data.cache`), so that a
second start reads the files' bytes alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from datasets import Dataset

from clinsynth.data.cache import content_digest, kept_array
from clinsynth.data.decoding import (
    DEEP_MODES,
    EIGHT_BIT_MODES,
    Limits,
    cells,
    content_of,
    decode,
    file_digests,
    on_all_cores,
    open_image,
    to_eight_bits,
)
from clinsynth.data.duplicates import NEAR_MOST, SIDE, alike_rows, fingerprint
from clinsynth.data.labels import LOOK, check_not_empty
from clinsynth.data.persons import shared_splits, warn
from clinsynth.data.tables import settle

Survey = Counter[tuple[str, tuple[int, int]]]
"""How many images have each (PIL mode, (width, height))."""

MANY = 2000
"""Images of a split from which what was seen is kept."""
MODES = sorted(EIGHT_BIT_MODES)
FILE, PIXELS, MEASURES, THUMBNAIL = slice(0, 32), slice(32, 64), slice(64, 76), slice(76, 76 + SIDE * SIDE)
"""Where a record has the SHA-256 of the file and of the pixels, mode, width and height (4 bytes each), and a thumbnail
of 8 bits."""
DARK = 32
"""Grey levels of 255 below which a set of deep images is dark by the range that its files declare."""


@dataclass(frozen=True)
class Looks:
    """What was seen of the images of a split, or of some rows of it.

    Attributes:
        records: uint8 (m, bytes); a memory map where it is large.
        rows: int64 (n,), which of them belong to the images, in order.
    """

    records: np.ndarray
    rows: np.ndarray

    @property
    def files(self) -> list[bytes]:
        """SHA-256 of each image's file."""
        return [record[FILE].tobytes() for record in self.records[self.rows, FILE]]

    @property
    def digests(self) -> np.ndarray:
        """Hexadecimal SHA-256 of each image's pixels, (n,)."""
        return np.array([record.tobytes().hex() for record in self.records[self.rows, PIXELS]], dtype="U64")

    @property
    def thumbnails(self) -> np.ndarray:
        """uint8 (n, 28, 28)."""
        return self.records[self.rows, THUMBNAIL].reshape(-1, SIDE, SIDE)

    def survey(self) -> Survey:
        """How many images have each mode and size."""
        measures = np.ascontiguousarray(self.records[self.rows, MEASURES]).view("<u4")
        found, counts = np.unique(measures, axis=0, return_counts=True)
        return Counter(
            {(MODES[mode], (w, h)): n for (mode, w, h), n in zip(found.tolist(), counts.tolist(), strict=True)}
        )

    def groups(self) -> np.ndarray:
        """Numbers (n,) of the groups of equal images, and in a set that is not large of nearly equal ones."""
        return alike_rows(self.digests, self.thumbnails if len(self.rows) <= NEAR_MOST else None)


def joined(looks: list[Looks]) -> Looks:
    """Those of several splits, one after the other."""
    starts = np.cumsum([0, *(len(each.records) for each in looks)])
    records = looks[0].records if len(looks) == 1 else np.concatenate([each.records for each in looks])
    return Looks(records, np.concatenate([each.rows + start for each, start in zip(looks, starts, strict=False)]))


def survey(dataset: Dataset, limits: Limits | None = None) -> Survey:
    """Count the modes and sizes of all images; reads headers only, so that it costs no decoding."""
    opened = on_all_cores(lambda cell: open_image(*cell, limits), cells(dataset))
    return Counter((image.mode, image.size) for image in opened)


def readable(
    splits: dict[str, Dataset], limits: Limits | None, skip: bool, notes: list[str]
) -> tuple[dict[str, Dataset], Looks]:
    """The splits without the images that cannot be read, if these are to be skipped, with the column LOOK, the number
    of an image's record; and all records. Decodes every image.

    Raises:
        ValueError: some cannot be read; names the first ten.
    """
    wrong: list[str] = []
    result, looks, start = {}, [], 0
    for split, dataset in splits.items():
        seen, rows, bad = look_at(dataset, limits)
        wrong += bad
        kept = dataset if len(rows) == len(dataset) else dataset.select(rows)
        result[split] = kept.add_column(LOOK, list(range(start, start + len(rows)))) if rows else kept
        looks.append(seen)
        start += len(rows)
    settle(wrong, sum(map(len, splits.values())), "image", skip, notes)
    check_not_empty(result)
    found = joined(looks)
    warn_of_darkness(found, limits, notes)
    return result, found


def look_at(dataset: Dataset, limits: Limits | None) -> tuple[Looks, list[int], list[str]]:
    """What is seen of the images that can be read, their rows, and what is wrong with the others."""
    if len(dataset) >= MANY:
        with suppress(ValueError):  # one cannot be read: which ones, the loop below tells
            key = partial(content_digest, file_digests(dataset), "looks", MODES, limits)
            records = kept_array((len(dataset), THUMBNAIL.stop), key, partial(whole, dataset, limits), small=0)
            return Looks(records, np.arange(len(records))), list(range(len(records))), []
    found = list(on_all_cores(partial(record_of, limits=limits), cells(dataset)))
    rows = [row for row, record in enumerate(found) if not isinstance(record, str)]
    records = np.array([found[row] for row in rows], dtype=np.uint8).reshape(len(rows), THUMBNAIL.stop)
    return Looks(records, np.arange(len(rows))), rows, [record for record in found if isinstance(record, str)]


def whole(dataset: Dataset, limits: Limits | None) -> Iterator[np.ndarray]:
    """The record of each image.

    Raises:
        ValueError: one cannot be read.
    """
    for record in on_all_cores(partial(record_of, limits=limits), cells(dataset)):
        if isinstance(record, str):
            raise ValueError(record)
        yield record


def record_of(cell: tuple[str, bytes | None], limits: Limits | None) -> np.ndarray | str:
    """What is seen of one image, uint8 (bytes,); or why it cannot be read."""
    name, content = cell
    try:
        content = content_of(name, content)
        image = open_image(name, content, limits)
        decode(name, image)
        digest, thumbnail = fingerprint(image, to_eight_bits(name, image, limits))
    except ValueError as error:
        return str(error)
    measures = np.array([MODES.index(image.mode), *image.size], dtype="<u4")
    parts = hashlib.sha256(content).digest() + bytes.fromhex(digest) + measures.tobytes() + thumbnail.tobytes()
    return np.frombuffer(parts, dtype=np.uint8)


def warn_of_darkness(found: Looks, limits: Limits | None, notes: list[str]) -> None:
    """Warn where images of more than 8 bits hold small values alone, as of 12 bits in files of 16."""
    if limits not in (None, ("full", 0.0, 0.0)):
        return
    modes = np.ascontiguousarray(found.records[found.rows, MEASURES]).view("<u4")[:, 0]
    deep = np.isin(modes, [MODES.index(mode) for mode in DEEP_MODES])
    brightest = int(replace(found, rows=found.rows[deep]).thumbnails.max(initial=0)) if deep.any() else DARK
    if brightest < DARK:
        warn(
            notes,
            f"{int(deep.sum())} images of more than 8 bits reach {brightest} of 255 by the full range that their "
            "files declare, and are nearly black; --intensity percentile:0.5,99.5 or window:CENTRE,WIDTH brings out "
            "what they hold",
        )


def warn_of_shared_images(looks: dict[str, Looks], notes: list[str]) -> None:
    """Note how many images of a split are, or are nearly, those of an earlier one."""
    ends = np.cumsum([len(each.rows) for each in looks.values()])[:-1]
    every = joined(list(looks.values()))
    digests = dict(zip(looks, np.split(every.digests, ends), strict=True))
    alike = dict(zip(looks, np.split(every.groups(), ends), strict=True))
    for first, other in shared_splits(list(looks)):
        same = int(np.isin(digests[other], digests[first]).sum())
        near = int(np.isin(alike[other], alike[first]).sum()) - same
        if same or near:
            total = f"{same} of {len(digests[other])} {other} images also stand in {first}"
            warn(notes, f"{total}, and {near} nearly do: results on {other} flatter")
