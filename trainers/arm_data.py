"""The pictures of a comparison's arms: checked against each other, read, put together and told apart."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from clinsynth.data.arrays import ImageArrays, to_arrays


def check_data(real: dict[str, ImageArrays], synthetic: ImageArrays | None) -> None:
    train = real["train"]
    others = {**real, "synthetic": synthetic} if synthetic is not None else dict(real)
    for name, data in others.items():
        if len(data.labels) == 0:
            raise ValueError(f"the {name} set holds no picture; give at least one a class")
        if data.label_names != train.label_names:
            raise ValueError(
                f"label names differ: train has {train.label_names}, {name} has {data.label_names}; "
                "make names and order the same in both"
            )
        if data.images.shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"pictures differ: train has (channels, height, width) {train.images.shape[1:]}, "
                f"{name} has {data.images.shape[1:]}; load both with the same --resolution and --channels"
            )
    counts = np.bincount(real["test"].labels, minlength=len(train.label_names))
    missing = [name for name, count in zip(train.label_names, counts, strict=True) if count == 0]
    if missing:
        raise ValueError(
            f"the test split holds no picture of {', '.join(missing)}: no classifier can be judged on it; move some "
            "there or leave the class out"
        )


def load_synthetic(spec: str, like: ImageArrays) -> ImageArrays:
    """The synthetic pictures of a folder or Hub id (all splits), at the size and mode of `like`.

    Raises:
        ValueError: not readable, or without the columns image and label (a `ClassLabel`).
    """
    from datasets import ClassLabel, concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        splits = load_dataset(spec)
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"--synthetic {spec} cannot be read ({error}); give a folder that `clinsynth generate images` wrote"
        ) from error
    data = concatenate_datasets(list(splits.values()))
    if "image" not in data.features or not isinstance(data.features.get("label"), ClassLabel):
        raise ValueError(
            f"--synthetic {spec} must have columns image and label (with class names), has "
            f"{', '.join(data.column_names)}; give a folder that `clinsynth generate images` wrote"
        )
    channels, side = like.images.shape[1:3]
    return to_arrays(data, side, channels, None)


def arm_rows(
    real: ImageArrays, synthetic: ImageArrays | None, arm: str, ratio: float | None, seed: int
) -> ImageArrays:
    """The train pictures of an arm: the real ones, and in `composite` the synthetic ones after them, of which at most
    `ratio` per real picture, drawn by `seed` without replacement."""
    if arm == "real" or synthetic is None:
        return real
    rows = np.arange(len(synthetic.labels))
    if ratio is not None:
        rows = np.random.default_rng(seed).permutation(rows)[: round(ratio * len(real.labels))]
    return replace(
        real,
        images=np.concatenate([real.images, synthetic.images[rows]]),
        labels=np.concatenate([real.labels, synthetic.labels[rows]]),
    )


def fingerprint(real: dict[str, ImageArrays], train: ImageArrays) -> str:
    digest = hashlib.sha256("\n".join(train.label_names).encode())
    for data in (train, real["validation"], real["test"]):
        digest.update(repr(data.images.shape).encode() + data.images.tobytes() + data.labels.tobytes())
    return digest.hexdigest()[:16]
