"""A MedMNIST-layout .npz, and the names of the classes of published ones."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from clinsynth.data.decoding import BROKEN
from clinsynth.data.tables import image_dataset, png_cell, split_named
from clinsynth.plain_yaml import cut


def read_npz(path: Path) -> dict[str, Dataset]:
    """A MedMNIST-layout file: train_images (n, h, w[, 3]) uint8, train_labels (n,) or (n, 1), likewise val and test.

    Raises:
        ValueError: no such arrays, pickled objects, several labels an image, or images that are not uint8.
    """
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (*BROKEN, tokenize.TokenError) as error:  # a header is read as Python is
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
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim in (4, 5) and images.shape[3] > 4:
        raise ValueError(
            f"{path}: {prefix}_images has shape {images.shape}, a set of 3D volumes; take a slice of each"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(
            f"{path}: {prefix}_images has shape {images.shape}; save it as (n, height, width) or (n, height, width, 3)"
        )
    cells = [png_cell(Image.fromarray(image)) for image in images]
    return image_dataset(cells, label_columns_of(path, prefix, labels, len(images)))


def label_columns_of(path: Path, prefix: str, labels: np.ndarray, count: int) -> dict[str, list[Any]]:
    """The column label, or one of 0 and 1 for each of several findings."""
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) != count or labels.ndim not in (1, 2):
        raise ValueError(
            f"{path}: {prefix}_labels is {labels.dtype} of shape {labels.shape} for {count} images; one whole number "
            "an image is needed"
        )
    if labels.size == count:
        return {"label": labels.ravel().tolist()}
    names = of_published(path, FINDINGS) or [f"finding {number}" for number in range(labels.shape[1])]
    if len(names) != labels.shape[1] or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{path}: {prefix}_labels of shape {labels.shape} are not 0 and 1, a column a finding")
    return {name: labels[:, number].tolist() for number, name in enumerate(names)}


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


FINDINGS = {
    "chestmnist": """
        atelectasis; cardiomegaly; effusion; infiltration; mass; nodule; pneumonia; pneumothorax; consolidation; edema;
        emphysema; fibrosis; pleural; hernia
    """
}
"""Findings of published sets that have several labels an image, in the order of their columns."""


def published_names(spec: str) -> list[str] | None:
    """Names for an .npz called like a published one, with or without a suffix: `retinamnist`, `retinamnist_64`."""
    return of_published(Path(spec), NAMES)


def of_published(path: Path, known: dict[str, str]) -> list[str] | None:
    names = known.get(path.stem.split("_")[0].lower()) if path.suffix.lower() == ".npz" else None
    return " ".join(names.split()).split("; ") if names else None
