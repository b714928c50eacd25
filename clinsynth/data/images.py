"""From a `datasets.Dataset` of images to uint8 arrays of one size and mode, every change of an image stated."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image, ImageOps, UnidentifiedImageError

from clinsynth.data import dicom, phantom_fundus, sources, tables
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.cache import Decoded, content_digest, kept_array
from clinsynth.data.columns import with_subgroups
from clinsynth.data.duplicates import alike_rows, fingerprint
from clinsynth.data.labels import (
    PERSON,
    LabelledSamples,
    check_column,
    check_not_empty,
    persons_of,
    subgroups,
    with_class_labels,
)
from clinsynth.data.persons import shared_splits, warn, with_persons
from clinsynth.data.sources import published_names
from clinsynth.data.splits import Loaded, choose_train, with_all_splits
from clinsynth.data.tables import settle

logger = logging.getLogger("clinsynth")

RESOLUTIONS = (28, 256)
FITS = ("squash", "crop", "pad")

Limits = tuple[str, float, float]
"""A rule for images of more than 8 bits; see `IntensityArguments`."""
Survey = Counter[tuple[str, tuple[int, int]]]
"""How many images have each (PIL mode, (width, height))."""


@dataclass(frozen=True)
class ImageArrays(LabelledSamples):
    """One split; see `LabelledRows`.

    Attributes:
        images: uint8, (n, channels, resolution, resolution); of a large split a memory map (`clinsynth.data.cache`).
    """

    noun: ClassVar[str] = "picture"
    rows_in: ClassVar[str] = "images"
    column: ClassVar[str] = "image"
    made_by: ClassVar[str] = "clinsynth generate images"

    images: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    persons: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def content(self) -> bytes:
        return repr(self.images.shape).encode() + self.images.tobytes()

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
class Target:
    """What every image is brought to."""

    resolution: int
    channels: int
    fit: str | None
    intensity: Limits | None = None


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


def load_image_arrays(args: ImageDataArguments, seed: int = 0) -> dict[str, ImageArrays]:
    """Splits train, validation and test of `args.dataset`, all at one resolution and number of channels.

    Raises:
        ValueError: as `to_arrays` and `clinsynth.data.images.load_image_dataset` do.
    """

    try:
        loaded = open_image_dataset(args, seed)
        found: Survey = sum((survey(split, args.limits()) for split in loaded.splits.values()), Counter())
        target = choose_target(found, args.resolution, args.channels, args.fit, args.limits())
        arrays = {str(name): render(split, target) for name, split in loaded.splits.items()}
    finally:
        DECODED.clear()
    return {name: replace(split, notes=tuple(loaded.notes)) for name, split in arrays.items()}


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


def open_enlarged(args: ImageDataArguments, side: int, seed: int) -> ImageSplits:
    """The data set of `args`, whose images become colour and `side` x `side` pixels, smaller ones enlarged.

    Raises:
        ValueError: oblong images without --fit, or what `load_image_dataset` raises.
    """
    splits = load_image_dataset(replace(args, resolution=None), seed)
    found: Survey = sum((survey(split, args.limits()) for split in splits.values()), Counter())
    check_square(count_sizes(found), args.fit)
    target = Target(side, 3, args.fit, args.limits())
    state_changes(found, target)
    return ImageSplits(splits, target)


def survey(dataset: Dataset, intensity: Limits | None = None) -> Survey:
    """Count the modes and sizes of all images; reads headers only, so that it costs no decoding."""
    return Counter((image.mode, image.size) for _, image in open_images(dataset, intensity))


def choose_target(
    found: Survey, resolution: int | None, channels: int | None, fit: str | None, intensity: Limits | None = None
) -> Target:
    """Settle size and mode from what is there and what was asked; states in one line what will be changed."""
    if not found:
        raise ValueError("the data set holds no images; give one that has some in every split")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels must be 1 (grey) or 3 (colour), got {channels}")
    if fit not in (None, *FITS):
        raise ValueError(f"--fit must be one of {', '.join(FITS)}, got {fit}")
    sizes, modes = count_sizes(found), count_modes(found)
    check_square(sizes, fit)
    side = common_size(sizes) if resolution is None else resolution
    target = Target(side, channels or common_channels(modes), fit, intensity)
    lowest, highest = RESOLUTIONS
    if not lowest <= target.resolution <= highest:
        raise ValueError(
            f"--resolution must be {lowest} to {highest}, got {target.resolution}; "
            f"give --resolution to have the images resized into that range"
        )
    state_changes(found, target)
    return target


def count_modes(found: Survey) -> Counter[str]:
    return sum((Counter({mode: count}) for (mode, _), count in found.items()), Counter())


def count_sizes(found: Survey) -> Counter[tuple[int, int]]:
    return sum((Counter({size: count}) for (_, size), count in found.items()), Counter())


def check_square(sizes: Iterable[tuple[int, int]], fit: str | None) -> None:
    oblong = [size for size in sizes if size[0] != size[1]]
    if oblong and fit is None:
        raise ValueError(f"images are not square ({describe_sizes(oblong)}); give --fit squash, crop or pad")


def common_size(sizes: Counter[tuple[int, int]]) -> int:
    if len(sizes) == 1 and len(set(*sizes)) == 1:
        return next(iter(sizes))[0]
    raise ValueError(f"images have sizes {describe_sizes(sizes)}; give --resolution (28 to 256)")


def common_channels(modes: Counter[str]) -> int:
    kinds = {EIGHT_BIT_MODES[mode] for mode in modes}
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        raise ValueError(f"images have different modes ({counts}); give --channels 1 or 3")
    return {"L": 1, "RGB": 3}[kinds.pop()]


def describe_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    ordered = sorted(set(sizes))
    shown = ", ".join(f"{width}x{height}" for width, height in ordered[:4])
    return shown if len(ordered) <= 4 else f"{shown} and {len(ordered) - 4} more"


def state_changes(found: Survey, target: Target) -> None:
    side, mode = target.resolution, "L" if target.channels == 1 else "RGB"
    resized = Counter({size: n for size, n in count_sizes(found).items() if size != (side, side)})
    converted = {source: n for source, n in sorted(count_modes(found).items()) if source != mode}
    changes = []
    if resized:
        how = f" ({target.fit})" if any(width != height for width, height in resized) else ""
        changes.append(f"{resized.total()} resized from {describe_sizes(resized)} to {side}x{side}{how}, bicubic")
    rule = describe_intensity(target.intensity)
    changes += [
        f"{count} of more than 8 bits ({source}) brought to {mode} by {rule}"
        if source in DEEP_MODES
        else f"{count} converted from {source} to {mode}"
        for source, count in converted.items()
    ]
    if changes:
        logger.info("of %d images: %s", found.total(), "; ".join(changes))


def render(dataset: Dataset, target: Target) -> ImageArrays:
    """A split at one size and mode, decoded once and for all where it is large."""
    shape = (len(dataset), target.channels, target.resolution, target.resolution)
    images = kept_array(shape, lambda: content_digest(contents(dataset), target), partial(rendered, dataset, target))
    labels = np.asarray(dataset["label"][:], dtype=np.int64)
    names = list(dataset.features["label"].names)
    return ImageArrays(images, labels, names, subgroups(dataset), persons_of(dataset))


def rendered(dataset: Dataset, target: Target) -> Iterator[np.ndarray]:
    """The pixels of each image, uint8 (channels, resolution, resolution)."""
    for name, image in open_images(dataset, target.intensity):
        pixels = np.asarray(bring_to(name, image, target))
        yield pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1)


def bring_to(name: str, image: Image.Image, target: Target) -> Image.Image:
    """Decode, bring to 8 bits, drop a fully opaque alpha channel, convert to the target's mode, make square, resize
    (bicubic)."""
    decode(name, image)
    image = without_alpha(name, to_eight_bits(name, image, target.intensity))
    image = image.convert("L" if target.channels == 1 else "RGB")
    size = (target.resolution, target.resolution)
    if image.size == size:
        return image
    if target.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if target.fit == "pad" and round(min(image.size) * target.resolution / max(image.size)) < 1:
        raise ValueError(
            f"{name} is {image.width}x{image.height}, too narrow to be padded at {target.resolution} pixels; leave it "
            "out, or give --fit crop or squash"
        )
    if target.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)


def load_image_dataset(args: ImageDataArguments, seed: int = 0) -> DatasetDict:
    """Splits train, validation and test: `image` (Image), `label` (ClassLabel) and the data set's subgroup columns.

    Missing splits are cut off train (20 % test, 10 % validation), always in the same way. `--train_fraction` and
    `--few_shot` choose from train by `seed`.

    Raises:
        ValueError: whatever is wrong with the data set or a flag, with its name, value and a hint.
    """
    return open_image_dataset(args, seed).without_persons()


def open_image_dataset(args: ImageDataArguments, seed: int = 0) -> Loaded:
    """`load_image_dataset`, with whose the rows are and what is to be said of them; errors are the same."""
    notes: list[str] = []
    splits = read_splits(args, notes)
    check_not_empty(splits)
    names = args.class_names or published_names(args.dataset)
    splits = with_class_labels(splits, args.label_column, names, args.merge_alike_labels)
    splits, thumbnails = readable(splits, args, notes)
    splits = with_persons(splits, args, notes)
    own = ["image", "label", *(name for name in (PERSON, DIGEST) if name in splits["train"].column_names)]
    splits, kept, left_out = with_subgroups(splits, declared_columns(args, splits), own)
    if thumbnails:
        splits = with_all_splits(splits, args.noun, partial(rows_alike, thumbnails))
        warn_of_shared_images(splits, thumbnails, notes)
        splits = {name: split.remove_columns(DIGEST) for name, split in splits.items()}
    else:
        splits = with_all_splits(splits, args.noun)
    splits["train"] = choose_train(splits["train"], args, seed)
    return Loaded(DatasetDict(splits), kept, left_out, notes)


def rows_alike(thumbnails: Thumbnails, dataset: Dataset) -> np.ndarray:
    """Numbers (n,) of the groups of equal and near-equal images of a split."""
    digests = dataset[DIGEST][:]
    return alike_rows(np.array(digests), np.stack([thumbnails[digest] for digest in digests]))


def declared_columns(args: ImageDataArguments, splits: dict[str, Dataset]) -> list[str] | None:
    """`--subgroups`; where it is not given, all columns of phantoms."""
    if args.declared is None and args.dataset.partition("?")[0] == phantom_fundus.NAME:
        return [column for column in splits["train"].column_names if column not in ("image", "label")]
    return args.declared


Thumbnails = dict[str, np.ndarray]
"""Digest of an image's pixels to its thumbnail, uint8 (28, 28)."""
DIGEST = "digest of pixels"
"""The column of digests, while a data set is read."""


def readable(
    splits: dict[str, Dataset], args: ImageDataArguments, notes: list[str]
) -> tuple[dict[str, Dataset], Thumbnails]:
    """The splits without the images that cannot be read, if these are to be skipped, with the column `digest`; decodes
    every image. Phantoms are as they are.

    Raises:
        ValueError: some cannot be read; names the first ten.
    """
    if args.dataset.partition("?")[0] == phantom_fundus.NAME:
        return splits, {}
    wrong: list[str] = []
    result: dict[str, Dataset] = {}
    thumbnails: Thumbnails = {}
    for split, dataset in splits.items():
        found, bad = look_at(dataset, args.limits())
        wrong += bad
        digests = {row: digest for row, (digest, _) in found.items()}
        thumbnails |= dict(found.values())
        kept = dataset if len(digests) == len(dataset) else dataset.select(list(digests))
        result[split] = kept.add_column(DIGEST, list(digests.values())) if digests else kept
    settle(wrong, sum(map(len, splits.values())), "image", args.on_bad_file == "skip", notes)
    check_not_empty(result)
    return result, thumbnails


MANY = 2000
"""Images of a split from which their fingerprints are kept, too."""
PRINT = 64 + 28 * 28  # bytes: a digest and a thumbnail


def look_at(dataset: Dataset, limits: Limits | None) -> tuple[dict[int, tuple[str, np.ndarray]], list[str]]:
    """`fingerprint` of each row that can be read, and what is wrong with the others; of many images those kept."""
    if len(dataset) >= MANY:
        with suppress(ValueError):  # one cannot be read: which ones, the loop below tells
            shape, key = (len(dataset), PRINT), partial(content_digest, contents(dataset), "fingerprints", limits)
            packed = kept_array(shape, key, partial(packed_prints, dataset, limits), small=0)
            rows = enumerate(packed)
            return {row: (own[:64].tobytes().decode(), own[64:].reshape(28, 28)) for row, own in rows}, []
    found, wrong = {}, []
    for row, (name, content) in enumerate(cells(dataset)):
        try:
            found[row] = print_of(name, content, limits)
        except ValueError as error:
            wrong.append(str(error))
    return found, wrong


def packed_prints(dataset: Dataset, limits: Limits | None) -> Iterator[np.ndarray]:
    for name, content in cells(dataset):
        digest, thumbnail = print_of(name, content, limits)
        yield np.concatenate([np.frombuffer(digest.encode(), np.uint8), thumbnail.ravel()])


def print_of(name: str, content: bytes | None, limits: Limits | None) -> tuple[str, np.ndarray]:
    """The fingerprint of one image, which is decoded."""
    image = open_image(name, content, limits)
    decode(name, image)
    return fingerprint(image, to_eight_bits(name, image, limits))


def warn_of_shared_images(splits: dict[str, Dataset], thumbnails: Thumbnails, notes: list[str]) -> None:
    """Note how many images of a split are, or are nearly, those of an earlier one."""
    digests = {name: np.array(split[DIGEST][:]) for name, split in splits.items()}
    every = np.concatenate(list(digests.values()))
    groups = np.split(
        alike_rows(every, np.stack([thumbnails[digest] for digest in every])),
        np.cumsum([len(found) for found in digests.values()])[:-1],
    )
    alike = dict(zip(digests, groups, strict=True))
    for first, other in shared_splits(list(digests)):
        same = int(np.isin(digests[other], digests[first]).sum())
        near = int(np.isin(alike[other], alike[first]).sum()) - same
        if same or near:
            total = f"{same} of {len(digests[other])} {other} images also stand in {first}"
            warn(notes, f"{total}, and {near} nearly do: results on {other} flatter")


def read_splits(args: ImageDataArguments, notes: list[str] | None = None) -> dict[str, Dataset]:
    """The splits that are there, with the columns they came with, among these image."""
    splits = read_source(args, [] if notes is None else notes)
    check_column(splits, "image", "call the one of the images so")
    return splits


def read_source(args: ImageDataArguments, notes: list[str]) -> dict[str, Dataset]:
    """The splits of a spec."""
    spec, (name, _, options) = args.dataset, args.dataset.partition("?")
    path = Path(name)
    if name == phantom_fundus.NAME:
        return phantom_fundus.build_splits(phantom_fundus.parse_spec(spec, args.resolution))
    if path.is_dir() and dicom.is_dicom_folder(path):
        return dicom.read_dicom_folder(path, dicom.parse_options(options), args, notes)
    if options:
        raise ValueError(
            f"--dataset {spec}: only {phantom_fundus.NAME} and DICOM folders take options after a ?; "
            f"leave ?{options} out"
        )
    if path.is_dir():
        return sources.read_folder(path)
    suffix = path.suffix.lower()
    if suffix not in (".npz", *tables.TABLES):
        return sources.read_hub(spec)
    if not path.is_file():
        raise ValueError(f"--dataset {spec}: there is no such file; check the path")
    return sources.read_npz(path) if suffix == ".npz" else tables.read_table(path, args.on_bad_file == "skip")


GREYS = ("1", "L", "LA", "La")
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP_MODES = {"I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
"""Pillow's modes of more than 8 bits, all of them grey."""
EIGHT_BIT_MODES = {**dict.fromkeys((*GREYS, *DEEP_MODES), "L"), **dict.fromkeys(COLOURS, "RGB")}
"""Each mode that is read, and what it becomes."""
ORIENTATION = 0x0112  # the EXIF tag
BITS_PER_SAMPLE = 258  # of TIFF
BITS = "bits"
"""Where an opened image keeps its declared bits, in `info`."""
BROKEN = (*dicom.BROKEN, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises where the data of an image are cut off or damaged, or too many."""


def cells(dataset: Dataset) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, content) for every row; the name is the file's, or the row number where there is no file."""
    stored = dataset.select_columns("image").cast_column("image", ImageFeature(decode=False))
    for row, cell in enumerate(stored["image"]):
        if cell is None:
            raise ValueError(f"row {row} of the data set has no image; remove the row")
        yield cell["path"] or f"row {row}", cell["bytes"]


def contents(dataset: Dataset) -> Iterator[bytes]:
    """The file of every row."""
    yield from (Path(name).read_bytes() if content is None else content for name, content in cells(dataset))


DECODED = Decoded()
KEY = "key in DECODED"
"""Where an opened image keeps it, in `info`."""


def open_images(dataset: Dataset, intensity: Limits | None = None) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, image) for every row."""
    for name, content in cells(dataset):
        yield name, open_image(name, content, intensity)


def open_image(name: str, content: bytes | None, intensity: Limits | None = None) -> Image.Image:
    """Open one image, upright; pixels are decoded later.

    Raises:
        ValueError: not an image, several frames, or more than 8 bits a channel that no rule covers.
    """
    try:
        if content is None:
            with open(name, "rb") as file:
                content = file.read()
        key = hashlib.sha256(f"{intensity} ".encode() + content).digest()
        if key in DECODED.images:
            return DECODED.images[key]
        image: Image.Image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read as an image (no known format); replace or remove it") from error
    except BROKEN as error:
        raise ValueError(f"{name} cannot be read as an image ({error}); replace or remove it") from error
    check_depth(name, image, content, intensity)
    image = upright(name, image)
    image.info[KEY] = key
    return image


def upright(name: str, image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; leaves all others undecoded."""
    with named_if_damaged(name):  # a PNG is decoded to find its EXIF data
        orientation = image.getexif().get(ORIENTATION, 1)
    if orientation == 1:
        return image
    decode(name, image)
    return ImageOps.exif_transpose(image)


def check_depth(name: str, image: Image.Image, content: bytes, intensity: Limits | None) -> None:
    """Keep the declared bits in `info`, and refuse what no rule brings to 8 of them."""
    bits = declared_bits(image, content)
    image.info[BITS] = bits
    rule = intensity[0] if intensity else None
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"{name} is of mode {image.mode}, which is not read; save it as 8-bit grey or colour")
    if bits > 8 and image.mode not in DEEP_MODES and rule != "full":
        raise ValueError(
            f"{name} is a {bits}-bit {image.format} in colour, of which the upper 8 bits alone can be read; give "
            "--intensity full to take these, or save it with 8 bits"
        )
    if (image.mode == "F" or bits > 16) and rule in (None, "full"):
        raise ValueError(
            f"{name} is a grey {image.format} of {bits} bits ({image.mode}), whose full range says nothing; give "
            "--intensity percentile:0.5,99.5 or window:CENTRE,WIDTH"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph with its preview
        raise ValueError(f"{name} holds {frames} frames; save the one you mean as an image of its own")


def declared_bits(image: Image.Image, content: bytes) -> int:
    """Bits a channel that the file declares; Pillow cuts those of colour to 8 without a word."""
    if image.format == "PNG":
        return max(8, content[24])  # in the header chunk, which always comes first
    if image.format == "TIFF":
        return max(8, *image.tag_v2.get(BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    if image.format == "JPEG2000":
        return (content[content.find(b"\xff\x51") + 40] & 0x7F) + 1
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "PPM" and image.mode not in ("1", "F"):
        return int(re.split(rb"\s+", re.sub(rb"#[^\n]*", b"", content[:512]))[3]).bit_length()
    return DEEP_MODES.get(image.mode, 8)


def to_eight_bits(name: str, image: Image.Image, intensity: Limits | None) -> Image.Image:
    """An image of mode L in the place of one of more bits, by the rule `intensity`; others as they are."""
    if image.mode not in DEEP_MODES:
        return image
    values = np.asarray(image, dtype=np.float64)
    kind, *limits = intensity or ("full", 0.0, 0.0)
    low, high = 0.0, 2.0 ** image.info[BITS] - 1
    if kind == "window":
        low, high = limits[0] - limits[1] / 2, limits[0] + limits[1] / 2
    elif kind == "percentile":
        low, high = np.percentile(values, limits)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are no numbers; replace or remove it")
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(255 * share).astype(np.uint8))


def describe_intensity(intensity: Limits | None) -> str:
    """The rule in words."""
    kind, *limits = intensity or ("full", 0.0, 0.0)
    numbers = ", ".join(f"{limit:g}" for limit in limits)
    return "the full range of the declared bits" if kind == "full" else f"{kind} {numbers}"


def decode(name: str, image: Image.Image) -> None:
    """Read an image's pixels, and remember it while a data set is read."""
    with named_if_damaged(name):
        image.load()
    if KEY in image.info:
        DECODED.add(image.info[KEY], image)


@contextmanager
def named_if_damaged(name: str) -> Iterator[None]:
    """Name the image in what Pillow raises where its data are cut off or damaged."""
    try:
        yield
    except BROKEN as error:
        raise ValueError(f"{name} is damaged ({error}); replace or remove it") from error


def without_alpha(name: str, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode == "LA" else "RGBA")
    if np.asarray(image.getchannel("A")).min() < 255:
        raise ValueError(
            f"{name} has transparent pixels; lay it over the background you want and save it without alpha"
        )
    return image.convert("L" if image.mode == "LA" else "RGB")
