"""Reading a synthetic set: its generation.json, and its rows a shard at a time, labels by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.images import to_picture
from clinsynth.run_folder import read_json
from clinsynth.synthesis.shard_files import class_names, open_shard, read_shard, shard_paths

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from clinsynth.data.images import ImageArrays

WROTE_IMAGES, WROTE_TEXTS = "clinsynth generate images", "clinsynth generate text"


def read_generation(folder: Path) -> dict[str, Any] | None:
    """How a synthetic set was made: its generation.json, None where it has none.

    Raises:
        ValueError: the generation was stopped and has not finished, or the file is damaged.
    """
    generation = read_json(folder / "generation.json")
    if not generation.get("complete", True):
        raise ValueError(f"{folder} is not finished; start its `clinsynth generate` command again")
    return generation or None


def read_finished(folder: Path) -> dict[str, Any]:
    """generation.json of the synthetic set in `folder`.

    Raises:
        ValueError: there is no set, or it is not finished.
    """
    generation = read_generation(folder)
    if generation is None or not any(folder.glob("data/*.parquet")):
        raise ValueError(
            f"{folder} holds no synthetic data set (generation.json and data/*.parquet); give the --output_dir of "
            f"`{WROTE_IMAGES}` or `{WROTE_TEXTS}`"
        )
    return generation


@dataclass(frozen=True)
class SetReader:
    """The rows of a synthetic set, of which no more than one shard is in memory at a time.

    Attributes:
        name: what the user gave, for messages.
        shards: the files, in the order of their rows.
    """

    name: str
    shards: list[Path]

    @classmethod
    def open(cls, folder: Path, wrote: str, flag: str = "--synthetic") -> SetReader:
        """The set in a folder.

        Args:
            wrote: the command that writes such sets.
            flag: that named the folder.

        Raises:
            ValueError: there is no folder, or no shard in it.
        """
        name, hint = f"{flag} {folder}", f"give the folder that `{wrote}` wrote"
        if not folder.is_dir():
            raise ValueError(f"{name} is not a folder; {hint}")
        shards = shard_paths(folder)
        if not shards:
            raise ValueError(f"{name} holds no .parquet file; {hint}")
        return cls(name, shards)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(open_shard(self.shards[0]).schema_arrow.names) if self.shards else []

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The shards one by one; of `columns` alone, where these are given."""
        return (read_shard(path, columns) for path in self.shards)

    def values(self, column: str) -> list[Any]:
        """What all rows have in a column."""
        return [value for table in self.tables([column]) for value in table[column].to_pylist()]

    def pick(self, column: str, rows: Collection[int]) -> Iterator[tuple[int, Any]]:
        """Number and value of the named rows; a shard without one of them is not read."""
        first = 0
        for path in self.shards:
            count = open_shard(path).metadata.num_rows
            inside = sorted(row for row in rows if first <= row < first + count)
            if inside:
                values = read_shard(path, [column])[column]
                yield from ((row, values[row - first].as_py()) for row in inside)
            first += count

    def label_names(self) -> list[str]:
        """The name of each row's label.

        Raises:
            ValueError: labels are numbers without names, or missing.
        """
        found: list[str] = []
        for table in self.tables(["label"]):
            names, values = class_names(table.schema), table["label"].to_pylist()
            if names is not None and all(value is not None and 0 <= value < len(names) for value in values):
                found += [names[value] for value in values]
            elif names is None and all(isinstance(value, str) for value in values):
                found += values
            else:
                raise ValueError(f"{self.name}: labels need names, in each row; generate the set again")
        return found

    def dataset(self) -> Dataset:
        """All rows, with the features that `datasets` wrote into the files; no copy is made in a cache."""
        from datasets import Dataset, concatenate_datasets

        return concatenate_datasets([Dataset(table) for table in self.tables()])


def load_labelled(spec: str, column: str, wrote: str) -> Dataset:
    """The rows of the synthetic set in a folder or on the Hub (all splits), with columns `column` and label.

    Args:
        spec: the value of --synthetic.
        column: image or text.
        wrote: the command that writes such sets.

    Raises:
        ValueError: it cannot be read, has no row, or lacks a column; labels need class names.
    """
    from datasets import ClassLabel, concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetGenerationError

    from clinsynth.data.sources import load_folder

    path, hint = Path(spec), f"give a folder that `{wrote}` wrote"
    try:
        if path.is_dir() and shard_paths(path):
            data = SetReader.open(path, wrote).dataset()
        else:
            data = concatenate_datasets(list((load_folder(path) if path.is_dir() else load_dataset(spec)).values()))
    except (DatasetGenerationError, OSError, ValueError) as error:
        if "corresponds to no data" in str(error):
            raise ValueError(f"--synthetic {spec} holds no {column}; give at least one a class") from error
        raise ValueError(f"--synthetic {spec} cannot be read ({error}); {hint}") from error
    if column not in data.features or not isinstance(data.features.get("label"), ClassLabel):
        columns = ", ".join(data.column_names)
        raise ValueError(
            f"--synthetic {spec} needs columns {column} and label (with class names), has {columns}; {hint}"
        )
    if len(data) == 0:
        raise ValueError(f"--synthetic {spec} holds no {column}; give at least one a class")
    return data


def load_synthetic_images(folder: Path) -> ImageArrays:
    """The images that `clinsynth generate images` wrote, at their own resolution and channels.

    Raises:
        ValueError: no folder, no shard, as of `load_labelled`, or an image that cannot be read.
    """
    from clinsynth.data.images import to_arrays

    SetReader.open(folder, WROTE_IMAGES)  # which refuses what is no folder of shards here
    rows = load_labelled(str(folder), "image", WROTE_IMAGES).select_columns(["image", "label"])
    try:
        return to_arrays(rows, None, None, None)
    except ValueError as error:
        raise ValueError(f"--synthetic {folder}: {error}") from error


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


def check_sources(folder: Path, held_out: np.ndarray) -> None:
    """Raise a `ValueError` where a row of the synthetic set in `folder` was made from a held-out image.

    Args:
        held_out: the test split, uint8 (n, channels, side, side), at the synthetic set's size and channels.
    """
    from clinsynth.judges.checklists import sample_id

    reader = SetReader.open(folder, WROTE_IMAGES)
    used = reader.values("source_id") if "source_id" in reader.columns else []
    if not used:
        return
    known = {sample_id(to_picture(image)) for image in held_out}
    count = sum(i in known for i in used)
    if count:
        raise ValueError(
            f"{reader.name}: {count} of {len(used)} images were made from test images of --real, so that nothing "
            "measured with these would count; generate the set anew with the --from_images that --real names"
        )
