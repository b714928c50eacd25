"""Readers: one function a kind of data set spec, from files to splits with the columns they came with."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    concatenate_datasets,
    config,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from clinsynth.data.folders import read_image_folder
from clinsynth.data.tables import image_dataset, png_cell, split_named
from clinsynth.plain_yaml import cut

logger = logging.getLogger("clinsynth")


NO_NPZ = (
    *(EOFError, MemoryError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise where a file is none; a header is read as Python is."""


def read_npz(path: Path) -> dict[str, Dataset]:
    """A MedMNIST-layout file: train_images (n, h, w[, 3]) uint8, train_labels (n,) or (n, 1), likewise val and test.

    Raises:
        ValueError: no such arrays, pickled objects, several labels an image, or images that are not uint8.
    """
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except NO_NPZ as error:
        raise ValueError(
            f"{path} is damaged, no .npz, or holds pickled objects, which could run any code and are not opened "
            f"({cut(error)}); save plain uint8 images and integer labels with numpy.savez"
        ) from error
    prefixes = [(split, name.removesuffix("_images")) for name in arrays if (split := split_named(name))]
    found = {split: prefix for split, prefix in prefixes if f"{prefix}_images" in arrays}
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
    if images.ndim in (4, 5) and images.shape[3] > 4:
        raise ValueError(
            f"{path}: {prefix}_images has shape {images.shape}, a set of 3D volumes; take a slice of each"
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


def read_folder(path: Path) -> dict[str, Dataset]:
    """Parquet files, else images in folders; see `clinsynth.data.folders`.

    Raises:
        ValueError: neither is there, or what is there cannot be read.
    """
    if not next(path.rglob("*.parquet"), None):
        return read_image_folder(path)
    try:
        return by_known_split(read_parquet(path), path)
    except (DatasetGenerationError, OSError, pa.ArrowException, ValueError) as error:
        cause = cut(error.__cause__ or error)
        raise ValueError(f"{path} holds Parquet files that cannot be read ({cause}); replace them") from error


def read_parquet(path: Path) -> dict[str, Dataset]:
    """The splits of a folder of Parquet files: those of its README, else those that files or folders are called as.

    Numbers of classes mean what each file's own names say: files may have them in another order.
    """
    readme = path / "README.md"
    if readme.is_file() and "data_files" in readme.read_text(encoding="utf-8", errors="replace"):
        builder = load_dataset_builder(str(path), cache_dir=cache_of(path))
        files = {str(name): [Path(file) for file in found] for name, found in builder.config.data_files.items()}
    else:
        files = {}
        for file in sorted(path.rglob("*.parquet")):
            files.setdefault(split_of_file(path, file), []).append(file)
        if len(files) > 1 and "" in files:
            files |= {file.stem: [file] for file in files.pop("")}
        files = {name or "train": found for name, found in files.items()}
    by_split = [files[name] for name in sorted(files, key=lambda name: name != "train")]
    features = [Features.from_arrow_schema(pq.read_schema(file)) for found in by_split for file in found]
    classes: dict[str, list[list[str]]] = {}
    for own in features:
        for column, feature in own.items():
            if isinstance(feature, ClassLabel):
                classes.setdefault(column, []).append(feature.names)
    mixed = {column: names for column, names in classes.items() if any(other != names[0] for other in names)}
    if not mixed:
        listed = {name: list(map(str, found)) for name, found in files.items()}
        return dict(load_dataset("parquet", data_files=listed, cache_dir=cache_of(path)))
    joint = {column: list(dict.fromkeys(name for own in names for name in own)) for column, names in mixed.items()}
    logger.info("%s: files have the classes in different orders; they are matched by name", path)
    return {
        name: concatenate_datasets([by_class_names(file, joint, cache_of(path)) for file in found])
        for name, found in files.items()
    }


def split_of_file(path: Path, file: Path) -> str:
    """The split that a Parquet file or a folder above it is called as; nothing where none is."""
    stem = re.sub(r"[-_.]?\d+(-of-\d+)?$", "", file.stem)
    return next((split for name in (stem, *file.relative_to(path).parts[-2::-1]) if (split := split_named(name))), "")


def by_class_names(file: Path, names: dict[str, list[str]], cache: str) -> Dataset:
    """A Parquet file whose columns of classes have `names`, each row the name it has by the file's own."""
    rows = Dataset.from_parquet(str(file), cache_dir=cache)
    for column, joint in names.items():
        own = rows.features[column].names
        numbers = [None if cell is None or cell < 0 else joint.index(own[cell]) for cell in rows[column]]
        rows = rows.remove_columns(column).add_column(column, numbers, feature=ClassLabel(names=joint))
    return rows


def load_folder(path: Path) -> DatasetDict:
    """`load_dataset` of a folder as it is now; see `cache_of`."""
    return load_dataset(str(path), cache_dir=cache_of(path))


def cache_of(path: Path) -> str:
    """The folder of datasets' cache for a folder as it is now.

    Where a folder's README lists `configs`, as of any data set of the Hub, datasets keeps what it has read under the
    folder's name and that README alone: of two folders `synthetic` with one README the second is never read. The cache
    of this one goes by path, sizes and times of its files.
    """
    found = [(str(file), file.stat()) for file in sorted(path.resolve().rglob("*")) if file.is_file()]
    state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    return str(Path(config.HF_DATASETS_CACHE) / "clinsynth" / key)


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
    known = {split: rows for name, rows in splits.items() if (split := split_named(str(name)))}
    others = [str(name) for name in splits if not split_named(str(name))]
    if "train" in known and others:
        logger.warning("%s: splits left aside: %s", source, ", ".join(others))
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
