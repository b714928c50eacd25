"""Images as data sets and as arrays: from a spec to splits, and from these to uint8 arrays of one size and mode."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature

from clinsynth.data import image_files, nifti, phantom_fundus, sources
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.cache import content_digest, kept_array
from clinsynth.data.columns import with_subgroups
from clinsynth.data.decoding import DECODED, Limits, cells, file_digests, on_all_cores, open_image
from clinsynth.data.folders import read_image_folder
from clinsynth.data.image_tables import rows_of_images
from clinsynth.data.labels import (
    LOOK,
    PERSON,
    LabelledSamples,
    check_column,
    check_not_empty,
    persons_of,
    subgroups,
    with_class_labels,
)
from clinsynth.data.looks import Looks, Survey, readable, survey, warn_of_shared_images
from clinsynth.data.npz import published_names, read_npz
from clinsynth.data.persons import with_persons
from clinsynth.data.splits import Loaded, choose_train, looks_of, with_all_splits
from clinsynth.data.tables import TABLES, numbers_of, rows_by_split, settle
from clinsynth.data.targets import Target, bring_to, check_square, choose_target, count_sizes, state_changes

logger = logging.getLogger("clinsynth")


@dataclass(frozen=True)
class ImageArrays(LabelledSamples):
    """One split; see `LabelledRows`.

    Attributes:
        images: uint8, (n, channels, resolution, resolution); of a large split a memory map (`clinsynth.data.cache`).
    """

    noun: ClassVar[str] = "image"
    rows_in: ClassVar[str] = "images"
    column: ClassVar[str] = "image"
    made_by: ClassVar[str] = "clinsynth generate images"

    images: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    persons: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def content(self) -> Iterator[bytes]:
        yield repr(self.images.shape).encode()
        yield from (image.tobytes() for image in self.images)

    def read_like(self, dataset: Dataset) -> ImageArrays:
        channels, side = self.images.shape[1:3]
        found = to_arrays(dataset.select_columns(["image", "label"]), side, channels, None)
        own = max(dataset[0]["image"].size)
        few = f"synthetic {self.noun}s have {own} pixels a side, the real ones that the classifier sees {side}"
        return replace(found, notes=(f"{few}: what is finer than that they cannot teach",)) if own < side else found

    def check_like(self, other: ImageArrays, name: str) -> None:
        if other.images.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"images differ: train has (channels, height, width) {self.images.shape[1:]}, "
                f"{name} has {other.images.shape[1:]}; load both with the same --resolution and --channels"
            )


@dataclass(frozen=True)
class ImageSplits:
    """The splits of a data set, undecoded, and what every image is brought to."""

    splits: DatasetDict
    target: Target

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their numbers."""
        names: list[str] = self.splits["train"].features["label"].names
        return names

    def all(self) -> dict[str, ImageArrays]:
        """The splits in memory."""
        return {str(name): render(split, self.target) for name, split in self.splits.items()}

    def batches(self, split: str, size: int) -> Iterator[ImageArrays]:
        """A split in parts of at most `size` images: thousands at 1024 pixels need not fit into memory."""
        rows = self.splits[split]
        for first in range(0, len(rows), size):
            yield render(rows.select(range(first, min(first + size, len(rows)))), self.target)


def load_image_arrays(args: ImageDataArguments, seed: int = 0) -> dict[str, ImageArrays]:
    """Splits train, validation and test of `args.dataset`, all at one resolution and number of channels.

    Raises:
        ValueError: as `to_arrays` and `clinsynth.data.images.load_image_dataset` do.
    """

    try:
        loaded = open_image_dataset(args, seed)
        looks = loaded.looks()
        found: Survey = sum((seen.survey() for seen in looks.values()), Counter())
        target = choose_target(found, args.resolution, args.channels, args.fit, args.limits())
        arrays = {str(name): render(split, target, looks[str(name)]) for name, split in loaded.splits.items()}
    finally:
        DECODED.clear()
    return {name: replace(split, notes=tuple(loaded.notes)) for name, split in arrays.items()}


def to_arrays(
    dataset: Dataset,
    resolution: int | None,
    channels: int | None,
    fit: str | None,
    intensity: Limits | None = None,
) -> ImageArrays:
    """Decode a split with columns image and label; `None` keeps the size or mode all its images share.

    Raises:
        ValueError: mixed sizes or modes without a flag that settles them, an image that is not square without
            `fit`, deeper than 8 bits, transparent or unreadable; a flag out of range.
    """
    target = choose_target(survey(dataset, intensity), resolution, channels, fit, intensity)
    return render(dataset, target)


def open_enlarged(args: ImageDataArguments, side: int, seed: int) -> ImageSplits:
    """The data set of `args`, whose images become colour and `side` x `side` pixels, smaller ones enlarged.

    Raises:
        ValueError: oblong images without --fit, or what `load_image_dataset` raises.
    """
    loaded = open_image_dataset(replace(args, resolution=None), seed)
    found: Survey = sum((seen.survey() for seen in loaded.looks().values()), Counter())
    check_square(count_sizes(found), args.fit)
    target = Target(side, 3, args.fit, args.limits())
    state_changes(found, target)
    return ImageSplits(loaded.plain(), target)


def render(dataset: Dataset, target: Target, looks: Looks | None = None) -> ImageArrays:
    """A split at one size and mode, decoded once and for all where it is large; `looks` were seen of its images."""
    shape = (len(dataset), target.channels, target.resolution, target.resolution)
    images = kept_array(
        shape,
        lambda: content_digest(looks.files if looks else file_digests(dataset), target),
        lambda: on_all_cores(partial(pixels_of, target=target), cells(dataset)),
    )
    labels = numbers_of(dataset, "label")
    names = list(dataset.features["label"].names)
    return ImageArrays(images, labels, names, subgroups(dataset), persons_of(dataset))


def pixels_of(cell: tuple[str, bytes | None], target: Target) -> np.ndarray:
    """The pixels of an image, uint8 (channels, resolution, resolution)."""
    pixels = np.asarray(bring_to(cell[0], open_image(*cell, target.intensity), target))
    return pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1)


def load_image_dataset(args: ImageDataArguments, seed: int = 0) -> DatasetDict:
    """Splits train, validation and test: `image` (Image), `label` (ClassLabel) and the data set's subgroup columns.

    Missing splits are cut off train (20 % test, 10 % validation), always in the same way. `--train_fraction` and
    `--few_shot` choose from train by `seed`.

    Raises:
        ValueError: whatever is wrong with the data set or a flag, with its name, value and a hint.
    """
    return open_image_dataset(args, seed).plain()


def open_image_dataset(args: ImageDataArguments, seed: int = 0) -> Loaded:
    """`load_image_dataset`, with whose the rows are and what is to be said of them; errors are the same."""
    notes: list[str] = []
    splits = read_splits(args, notes)
    check_not_empty(splits)
    names = args.class_names or published_names(args.dataset)
    splits = with_class_labels(splits, args.label_column, names, args.merge_alike_labels)
    splits = {name: without_repeats(split, name, notes) for name, split in splits.items()}
    splits, seen = readable(splits, args.limits(), args.on_bad_file == "skip", notes)
    splits = with_persons(splits, args, notes)
    own = ["image", "label", LOOK, *({PERSON} & set(splits["train"].column_names))]
    splits, kept, left_out = with_subgroups(splits, declared_columns(args, splits), own)
    splits = with_all_splits(splits, args.noun, lambda split: Looks(seen.records, numbers_of(split, LOOK)).groups())
    if not of_phantoms(args):  # which are drawn apart, and alike
        warn_of_shared_images(looks_of(splits, seen), notes)
    splits["train"] = choose_train(splits["train"], args, seed)
    return Loaded(DatasetDict(splits), kept, left_out, notes, seen)


def without_repeats(rows: Dataset, split: str, notes: list[str]) -> Dataset:
    """A split in which each file stands once: a row a finding, or a box, may name its image again.

    Raises:
        ValueError: rows of one file have different labels; names the first ten.
    """
    stored = rows.select_columns("image").cast_column("image", ImageFeature(decode=False))
    labels, first, wrong = rows["label"][:], dict[str, int](), []
    for row, cell in enumerate(stored["image"]):
        name = cell["path"] if cell and cell["bytes"] is None else f"row {row}"
        if labels[first.setdefault(name, row)] != labels[row]:
            wrong.append(f"{name} stands in rows of different labels; write one label for it")
    settle(wrong, len(rows), "image", False, notes)
    if len(first) == len(rows):
        return rows
    notes.append(f"{len(rows) - len(first)} of {len(rows)} {split} rows name an image again, and are left out")
    logger.info("%s", notes[-1])
    return rows.select(list(first.values()))


def declared_columns(args: ImageDataArguments, splits: dict[str, Dataset]) -> list[str] | None:
    """`--subgroups`; where it is not given, all columns of phantoms."""
    if args.declared is None and of_phantoms(args):
        return [column for column in splits["train"].column_names if column not in ("image", "label", LOOK)]
    return args.declared


def of_phantoms(args: ImageDataArguments) -> bool:
    """Whether the data set is the built-in one."""
    return args.dataset.partition("?")[0] == phantom_fundus.NAME


def read_splits(args: ImageDataArguments, notes: list[str] | None = None) -> dict[str, Dataset]:
    """The splits that are there, with the columns they came with, among these image."""
    splits = read_source(args, [] if notes is None else notes)
    check_column(splits, "image", "call the one of the images so")
    return splits


def read_source(args: ImageDataArguments, notes: list[str]) -> dict[str, Dataset]:
    """The splits of a spec."""
    name, _, options = args.dataset.partition("?")
    path, skip = Path(name), args.on_bad_file == "skip"
    if name == phantom_fundus.NAME:
        return phantom_fundus.build_splits(phantom_fundus.parse_spec(args.dataset, args.resolution))
    if path.is_dir() and not sources.parquet_files(path):
        rows = read_image_folder(path, args.label_column, skip)
    elif path.suffix.lower() in TABLES and path.is_file():
        rows = rows_by_split(path, rows_of_images(path, args.label_column, skip))
    else:
        splits = read_dataset(path, name)
        if nifti.nifti_column(splits) is None:
            image_files.refuse_options(name, options)
        return nifti.of_feature(splits, options, args, notes)
    return image_files.to_datasets(path, rows, options, args, notes)


def read_dataset(path: Path, spec: str) -> dict[str, Dataset]:
    """The splits of a source that is a data set already: Parquet, arrays, or one on the Hub."""
    if path.is_dir():
        return sources.read_folder(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return read_npz(path)
    return sources.read_file_or_hub(spec, path)
