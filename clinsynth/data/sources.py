"""Readers: one function a kind of data set spec, from files to splits with the columns they came with."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from datasets import Dataset, DatasetDict, Features, config, load_dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from clinsynth.images import to_png

logger = logging.getLogger("clinsynth")

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""What a split may be called, and what it is called here."""
Rows = list[dict[str, Any]]

EXCESS = "(cells beyond the columns)"

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def read_npz(path: Path) -> dict[str, Dataset]:
    """A MedMNIST-layout file: train_images (n, h, w[, 3]) uint8, train_labels (n,) or (n, 1), likewise val and test.

    Raises:
        ValueError: no such arrays, pickled objects, several labels an image, or images that are not uint8.
    """
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: a .npy inside
        raise ValueError(
            f"{path} is damaged, no .npz, or holds pickled objects, which could run any code and are not opened "
            f"({error}); save plain uint8 images and integer labels with numpy.savez"
        ) from error
    prefixes = {"train": "train", "validation": "val", "test": "test"}
    found = {split: prefix for split, prefix in prefixes.items() if f"{prefix}_images" in arrays}
    if "train" not in found:
        raise ValueError(
            f"{path} has no array train_images; it has {', '.join(arrays) or 'none'}; save it in MedMNIST's layout"
        )
    return {split: npz_split(path, arrays, prefix) for split, prefix in found.items()}


def check_unpacked(path: Path) -> None:
    """Raise a `ValueError` for arrays beyond half of this machine's memory, or beyond what the file holds of them."""
    with zipfile.ZipFile(path) as archive:
        total, most = sum(entry.file_size for entry in archive.infolist()), memory() // 2
        if total > most:
            raise ValueError(f"its arrays take {total:,} bytes when unpacked, more than {most:,}")
        for entry in archive.infolist():
            with archive.open(entry) as file:
                magic = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if magic < (2, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > entry.file_size and not dtype.hasobject:
                raise ValueError(f"{entry.filename} holds less than its shape {shape} says")


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def npz_split(path: Path, arrays: dict[str, np.ndarray], prefix: str) -> Dataset:
    images, labels = arrays[f"{prefix}_images"], arrays.get(f"{prefix}_labels")
    if labels is None:
        raise ValueError(f"{path} has {prefix}_images but no {prefix}_labels; add them, one whole number an image")
    if images.dtype != np.uint8:
        raise ValueError(
            f"{path}: {prefix}_images is {images.dtype}, not uint8; rescale its values to 0..255 yourself"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(
            f"{path}: {prefix}_images has shape {images.shape}; save it as (n, height, width) or (n, height, width, 3)"
        )
    if labels.size != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: {prefix}_labels is {labels.dtype} of shape {labels.shape} for {len(images)} images; "
            "one whole number an image is needed (several labels an image are not supported)"
        )
    cells = [png_cell(Image.fromarray(image)) for image in images]
    return image_dataset(cells, {"label": labels.ravel().tolist()})


def png_cell(image: Image.Image) -> dict[str, Any]:
    """An image as a cell of an Image column, kept without loss."""
    return {"bytes": to_png(image, compress_level=1), "path": None}


def image_dataset(cells: list[dict[str, Any]], columns: dict[str, list[Any]]) -> Dataset:
    """A data set of an undecoded Image column and plain columns."""
    features = Features(image=ImageFeature(), **Dataset.from_dict(columns).features)
    return Dataset.from_dict({"image": cells, **columns}, features=features)


def read_table(path: Path) -> dict[str, Dataset]:
    """A .csv or .jsonl with columns image (path relative to the file), a label, optionally split, and subgroups.

    Raises:
        ValueError: no rows, no column image, a file that is not there, or an unknown split; names the row.
    """
    rows = read_file(path)
    if "image" not in rows[0]:
        raise ValueError(f"{path} has no column image; it has {', '.join(rows[0])}; call the column of paths so")
    for number, row in enumerate(rows, start=1):
        file = path.parent / str(row.get("image") or "")
        if not file.is_file():
            raise ValueError(f"{path}, row {number}: there is no file {file}; paths are relative to the table")
        row["image"] = {"bytes": None, "path": str(file)}
    splits = {split: to_columns(members) for split, members in rows_by_split(path, rows).items()}
    with one_kind_a_column(path):
        return {split: image_dataset(columns.pop("image"), columns) for split, columns in splits.items()}


def rows_by_split(path: Path, rows: Rows) -> dict[str, Rows]:
    """Rows by the column split, all of them train without it.

    Raises:
        ValueError: an unknown split, or no train row.
    """
    splits: dict[str, Rows] = {}
    for number, row in enumerate(rows, start=1):
        split = row.get("split") or "train"
        if split not in SPLIT_NAMES:
            raise ValueError(f"{path}, row {number}: split is {split!r}; it may be train, validation or test")
        splits.setdefault(SPLIT_NAMES[split], []).append(row)
    if "train" not in splits:
        raise ValueError(f"{path} has no row of split train; it has {', '.join(splits)}")
    return splits


def to_columns(rows: Rows) -> dict[str, list[Any]]:
    """All columns but split; None where a row has no such cell."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "split"))
    return {name: [row.get(name) for row in rows] for name in names}


@contextmanager
def one_kind_a_column(path: Path) -> Iterator[None]:
    """Values that do not go into one column, within the block, become a ValueError that names `path`."""
    try:
        yield
    except (TypeError, ValueError) as error:  # pyarrow's own are kinds of these, and may show a patient's words
        raise ValueError(f"{path}: a column mixes kinds of values; give each column one kind") from error


def read_file(path: Path) -> Rows:
    """Rows of a .csv or .jsonl.

    Raises:
        ValueError: not in UTF-8, no such format, or no rows.
    """
    check_encoding(path)
    rows = list(read_rows(path))
    if not rows:
        raise ValueError(f"{path} has no rows; write them below the names of the columns")
    return rows


def check_encoding(path: Path) -> None:
    """Raise a `ValueError` that names the first byte that is not UTF-8, its line, and how to convert the file."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            guess = "UTF-16" if b"\0" in line or line[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
            at = line.find(b"\0")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                at = error.start
            if at >= 0:
                raise ValueError(
                    f"{path}, line {number}: byte {start + at} is 0x{line[at]:02x}, which is not text in UTF-8; if it "
                    f"is {guess}, convert it: iconv -f {guess} -t UTF-8 {path.name} > utf8{path.suffix}"
                )
            start += len(line)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .csv or .jsonl; numbers in a .csv stay text.

    Raises:
        ValueError: no UTF-8 text, no such format, or a .csv row with more cells than the table has columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from read_csv(path, file) if path.suffix == ".csv" else read_jsonl(path, file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); save it as {path.suffix} text in UTF-8") from error


def read_csv(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(csv.DictReader(lines, restkey=EXCESS, strict=True), start=1):
        if EXCESS in row:
            raise ValueError(f"{path}, row {number} has more cells than there are columns; quote texts with commas")
        yield row


def read_jsonl(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects of the lines of a file; an empty line is an error too."""
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object; write one a line")
        yield row


def read_folder(path: Path) -> dict[str, Dataset]:
    """Class folders, with or without train/validation/test above them, or Parquet files.

    Raises:
        ValueError: neither is there, or images that lie in no class folder.
    """
    if next(path.rglob("*.parquet"), None):
        try:
            return by_known_split(dict(load_folder(path)), path)
        except (DatasetGenerationError, ValueError) as error:
            cause = error.__cause__ or error
            raise ValueError(f"{path} holds Parquet files that cannot be read ({cause}); replace them") from error
    files = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(
            f"{path} holds no Parquet files, no DICOM labels.csv and no images in class folders; "
            "put each image into a folder named as its class"
        )
    loose = [p for p in files if p.parent == path or (p.parent.parent == path and p.parent.name in SPLIT_NAMES)]
    if loose:
        raise ValueError(f"{loose[0]} lies in no class folder; move it to a folder named as its class, or use a .csv")
    return by_known_split(dict(load_dataset("imagefolder", data_dir=str(path), drop_labels=False)), path)


def load_folder(path: Path) -> DatasetDict:
    """`load_dataset` of a folder as it is now.

    Where a folder's README lists `configs`, as of any data set of the Hub, datasets keeps what it has read under the
    folder's name and that README alone: of two folders `synthetic` with one README the second is never read. The cache
    of this one goes by path, sizes and times of its files.
    """
    found = [(str(file), file.stat()) for file in sorted(path.resolve().rglob("*")) if file.is_file()]
    state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    return load_dataset(str(path), cache_dir=str(Path(config.HF_DATASETS_CACHE) / "clinsynth" / key))


def read_hub(spec: str) -> dict[str, Dataset]:
    """A data set of the Hugging Face Hub.

    Raises:
        ValueError: no such file or folder here, and none such that could be reached on the Hub.
    """
    try:
        splits = dict(load_dataset(spec))
    except (DatasetGenerationError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"--dataset {spec} is no file or folder here, and could not be had from the Hub ({error}); "
            "check the path or the id, and for the Hub the connection and HF_HUB_OFFLINE"
        ) from error
    return by_known_split(splits, spec)


def by_known_split(splits: dict[Any, Dataset], source: object) -> dict[str, Dataset]:
    known = {SPLIT_NAMES[str(name)]: split for name, split in splits.items() if str(name) in SPLIT_NAMES}
    others = [str(name) for name in splits if str(name) not in SPLIT_NAMES]
    if "train" in known and others:
        logger.info("%s: splits left aside: %s", source, ", ".join(others))
    if "train" not in known:
        raise ValueError(f"{source} has no split train; it has {', '.join(map(str, splits))}; name one of them train")
    return known


ORGANS = """
    bladder; femur-left; femur-right; heart; kidney-left; kidney-right; liver; lung-left; lung-right; pancreas; spleen
"""
NAMES = {
    "bloodmnist": """
        basophil; eosinophil; erythroblast; immature granulocytes(myelocytes, metamyelocytes and promyelocytes);
        lymphocyte; monocyte; neutrophil; platelet
    """,
    "breastmnist": "malignant; normal, benign",
    "dermamnist": """
        actinic keratoses and intraepithelial carcinoma; basal cell carcinoma; benign keratosis-like lesions;
        dermatofibroma; melanoma; melanocytic nevi; vascular lesions
    """,
    "octmnist": "choroidal neovascularization; diabetic macular edema; drusen; normal",
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
    "pathmnist": """
        adipose; background; debris; lymphocytes; mucus; smooth muscle; normal colon mucosa; cancer-associated
        stroma; colorectal adenocarcinoma epithelium
    """,
    "pneumoniamnist": "normal; pneumonia",
    # Published as bare numbers; they are grades of diabetic retinopathy.
    "retinamnist": "grade 0; grade 1; grade 2; grade 3; grade 4",
    "tissuemnist": """
        Collecting Duct, Connecting Tubule; Distal Convoluted Tubule; Glomerular endothelial cells; Interstitial
        endothelial cells; Leukocytes; Podocytes; Proximal Tubule Segments; Thick Ascending Limb
    """,
}
"""Class names of published sets in the order of their numbers, between semicolons."""


def published_names(spec: str) -> list[str] | None:
    """Names for an .npz called like a published one, with or without a suffix: `retinamnist`, `retinamnist_64`."""
    path = Path(spec)
    names = NAMES.get(path.stem.split("_")[0].lower()) if path.suffix == ".npz" else None
    return " ".join(names.split()).split("; ") if names else None


def parse_options(
    spec: str, name: str, defaults: dict[str, int], lowest: dict[str, int], highest: dict[str, int] | None = None
) -> dict[str, int]:
    """`name?key=number&…` as numbers by key, the others at their defaults.

    Raises:
        ValueError: an unknown option, or a number below its lowest or above its highest.
    """
    highest = highest or {}
    options = dict(defaults)
    for key, value in parse_qsl(spec.partition("?")[2], keep_blank_values=True):
        if key not in options:
            raise ValueError(f"{name} has no option {key!r}; it takes {', '.join(options)}")
        if not value.isdecimal() or not lowest[key] <= int(value) <= highest.get(key, int(value)):
            end = f" to {highest[key]}" if key in highest else ""
            raise ValueError(f"{name}: {key} must be a whole number from {lowest[key]}{end}, got {value!r}")
        options[key] = int(value)
    return options


def share_out(total: int, proportions: tuple[int, ...]) -> list[int]:
    """Whole numbers that add up to `total`, none zero, as close to the proportions as these allow."""
    exact = np.array(proportions) * total / sum(proportions)
    shares = np.maximum(np.floor(exact), 1).astype(int)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        error = step * (exact - shares) - 1e9 * (shares + step < 1)
        shares[int(np.argmax(error))] += step
    return shares.tolist()
