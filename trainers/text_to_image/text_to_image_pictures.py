"""Real pictures in the form that a text-to-image model draws: colour, square, of its side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clinsynth.data.images import ImageArrays, Survey, Target, check_square, count_sizes, render, state_changes, survey

if TYPE_CHECKING:
    from clinsynth.data.arguments import ImageDataArguments


@dataclass(frozen=True)
class Pictures:
    """The splits of a data set, undecoded, and what every picture is brought to."""

    splits: Any
    target: Target

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their numbers."""
        names: list[str] = self.splits["train"].features["label"].names
        return names

    def all(self) -> dict[str, ImageArrays]:
        """The splits in memory."""
        return {name: render(split, self.target) for name, split in self.splits.items()}

    def batches(self, split: str, size: int) -> Iterator[ImageArrays]:
        """A split in parts of at most `size` pictures: thousands at 1024 pixels need not fit into memory."""
        rows = self.splits[split]
        for first in range(0, len(rows), size):
            yield render(rows.select(range(first, min(first + size, len(rows)))), self.target)


def open_pictures(args: ImageDataArguments, side: int, seed: int) -> Pictures:
    """The data set of `args`, whose pictures become colour and `side` x `side` pixels, smaller ones enlarged.

    Raises:
        ValueError: oblong pictures without --fit, or what `clinsynth.data.load.load_image_dataset` raises.
    """
    from clinsynth.data.load import load_image_dataset

    splits = load_image_dataset(replace(args, resolution=None), seed)
    found: Survey = sum((survey(split) for split in splits.values()), Counter())
    check_square(count_sizes(found), args.fit)
    target = Target(side, 3, args.fit)
    state_changes(found, target)
    return Pictures(splits, target)
