"""The two sides of an image evaluation, brought to one size, mode and numbering of classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays, to_arrays
from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.images import ImageArrays
    from clinsynth.scripts.evaluate_images import EvaluateImagesArguments


def read_generation(folder: Path) -> dict[str, Any] | None:
    """How the synthetic set was made: its generation.json, None where it has none.

    Raises:
        ValueError: the generation was stopped and has not finished, or the file is damaged.
    """
    path = folder / "generation.json"
    if not path.exists():
        return None
    mend = "start its `clinsynth generate images` command again"
    try:
        generation: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--synthetic {folder}: generation.json is damaged ({error}); {mend}") from error
    if not generation.get("complete", True):
        raise ValueError(f"--synthetic {folder} is not finished; {mend}")
    return generation


def load_synthetic(folder: Path) -> ImageArrays:
    """Read the Parquet shards that `clinsynth generate images` wrote, at their own resolution and channels.

    Raises:
        ValueError: no folder, no shard, no row, no image or named label column, or a picture that cannot be read.
    """
    from datasets import ClassLabel, concatenate_datasets

    mend = "give the folder that `clinsynth generate images` wrote"
    if not folder.is_dir():
        raise ValueError(f"--synthetic {folder} is not a folder; {mend}")
    shards = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))
    if not shards:
        raise ValueError(f"--synthetic {folder} holds no .parquet file; {mend}")
    dataset = concatenate_datasets([read_shard(path) for path in shards])
    if len(dataset) == 0:
        raise ValueError(f"--synthetic {folder} holds no picture; {mend}")
    if "image" not in dataset.features or not isinstance(dataset.features.get("label"), ClassLabel):
        raise ValueError(
            f"--synthetic {folder} needs columns image and label (with class names), got "
            f"{', '.join(dataset.column_names)}; {mend}"
        )
    try:
        return to_arrays(dataset.select_columns(["image", "label"]), None, None, None)
    except ValueError as error:
        raise ValueError(f"--synthetic {folder}: {error}") from error


def read_shard(path: Path) -> Dataset:
    """One Parquet file with the features that `datasets` wrote into it; no copy is made in a cache."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        return Dataset(pq.read_table(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); remove it and generate it again") from error


def load_real(args: EvaluateImagesArguments, like: ImageArrays) -> dict[str, ImageArrays]:
    """Splits train, validation and test of `--real` at the resolution and channels of `like`."""
    shared = ("fit", "label_column", "label_names", "train_fraction", "few_shot", "min_class_size")
    data_args = ImageDataArguments(
        dataset=args.real,
        resolution=like.images.shape[-1],
        channels=like.images.shape[1],
        **{name: getattr(args, name) for name in shared},
    )
    return load_image_arrays(data_args, args.seed)


def with_labels_of(real: ImageArrays, synthetic: ImageArrays) -> ImageArrays:
    """`synthetic` with its labels numbered as in `real`, by name; it may lack classes.

    Raises:
        ValueError: it has a class that the real data set has not.
    """
    unknown = [name for name in synthetic.label_names if name not in real.label_names]
    if unknown:
        raise ValueError(
            f"the synthetic set has classes that the real one has not: {', '.join(unknown)} (real: "
            f"{', '.join(real.label_names)}); give the --real that the generator was trained on, or its --label_names"
        )
    numbers = np.array([real.label_names.index(name) for name in synthetic.label_names])
    return replace(synthetic, labels=numbers[synthetic.labels], label_names=real.label_names)


def describe_data(
    args: EvaluateImagesArguments, real: dict[str, ImageArrays], synthetic: ImageArrays
) -> dict[str, Any]:
    """What was compared: specs, counts a class and split, size."""
    names = synthetic.label_names
    sets = {**real, "synthetic": synthetic}
    counts = {
        split: dict(zip(names, np.bincount(arrays.labels, minlength=len(names)).tolist(), strict=True))
        for split, arrays in sets.items()
    }
    return {
        "real": args.real,
        "synthetic": args.synthetic,
        "label_names": names,
        "counts": counts,
        "resolution": synthetic.images.shape[-1],
        "channels": synthetic.images.shape[1],
    }


def check_sources(folder: Path, real: dict[str, ImageArrays]) -> None:
    """Raise a `ValueError` where a row of the synthetic set was made from a held-out (test) picture.

    Ids are those of the pictures at the synthetic set's size and channels, which `real` has been brought to.
    """
    used = source_ids(folder)
    if not used:
        return
    held_out = {sample_id(to_picture(image)) for image in real["test"].images}
    count = sum(i in held_out for i in used)
    if count:
        raise ValueError(
            f"--synthetic {folder}: {count} of {len(used)} pictures were made from test pictures of --real, so that "
            "nothing measured with these would count; generate the set anew with the --from_images that --real names"
        )


def source_ids(folder: Path) -> list[str]:
    """The column source_id of a synthetic set; empty where it has none."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet")):
        if "source_id" in pq.read_schema(path).names:
            found += pq.read_table(path, columns=["source_id"])["source_id"].to_pylist()
    return found
