"""What one visitor may ask for, in one place: counts, sizes, seconds, and how many may wait.

They are for a machine of two cores that serves one request of each tab at a time (the Hub's CPU basic).
"""

from __future__ import annotations

import time
from typing import Any

MOST_WAITING = 24
"""Requests that wait in the queue; the next one is told that it is full."""
MOST_SEED = 2**31 - 1
FILES_KEPT = (600, 3600)
"""Every ten minutes files of results older than an hour are deleted."""

MOST_IMAGES = 64
MOST_STEPS = 250
MOST_GUIDANCE = 10.0
MOST_PIXEL_STEPS = 16 * 100 * 32 * 32
"""Pixels of one image x evaluations of the network x images: 64 images of 32 px in 25 steps."""
IMAGE_SECONDS = 120

MOST_TEXTS = 32
MOST_TEMPERATURE = 2.0
TEXT_SECONDS = 300

UPLOAD_SIZE = "20mb"
MOST_ROWS = 2000
MOST_BYTES = 200 << 20
MOST_PIXELS = 1024 * 1024
"""Of a set: its samples, its bytes when unpacked, the pixels of one image."""
MOST_MEMORY = 768 << 20
PARQUET_SECONDS = 60
"""Of the process that reads a Parquet file."""

EVIDENCE_SECONDS = 900
MOST_CHARACTERS = 20_000
MOST_CHARACTERS_IN_ALL = 2_000_000
"""Of a text, and of all texts of a set that is compared."""

MOST_REVIEWED = 200
MOST_SCORE_BYTES = 16 << 20
"""Of a review: its samples, and the file of a rater's scores."""


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """`value` as a whole number from `least` to `most`.

    Raises:
        ValueError: it is none; names it, the value and the range.
    """
    number = finite_number(name, value, least, most)
    if number != int(number):
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value}")
    return int(number)


def finite_number(name: str, value: Any, least: float, most: float) -> float:
    """`value` as a number from `least` to `most`; errors as of `whole_number`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
    return float(value)


class Deadline:
    """The seconds that a request may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def is_over(self) -> bool:
        return self.spent > self.seconds
