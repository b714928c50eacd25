"""Readers: one function a kind of data set spec, from files to splits with the columns they came with."""

from __future__ import annotations

import hashlib
import json
import logging
import re
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
    Image,
    concatenate_datasets,
    config,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError
from datasets.features.nifti import Nifti

from clinsynth.data.image_tables import KINDS, files_below, is_hidden
from clinsynth.data.tables import split_named
from clinsynth.plain_yaml import cut

logger = logging.getLogger("clinsynth")


ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
OTHERS = {
    **dict.fromkeys(ARCHIVES, "is an archive; unpack it and give what is in it"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet; save it as .csv"),
    **dict.fromkeys((".txt", ".md", ".docx", ".pdf"), "has no labels; write a .csv of text, label"),
    **dict.fromkeys(KINDS, "is a single file; give its folder, or a .csv of image, label that names it"),
    ".json": "is not read; write one object a line into a .jsonl",
}
"""How the name of a file ends that is no data set, and what to do."""
FILES = (".csv", ".tsv", ".jsonl", ".parquet", ".npz")

UNPACKED, TIMES = 256 << 20, 100
"""Bytes that a Parquet file may hold, and how many times its own size where that is more."""
COLUMNS = 1000


def read_file_or_hub(spec: str, path: Path) -> dict[str, Dataset]:
    """A Parquet file, or a data set of the Hugging Face Hub.

    Raises:
        ValueError: another file, none at a path of this machine, or no such data set on the Hub.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix == ".parquet":
        return read_folder(path)
    if path.is_file():
        raise ValueError(f"--dataset {spec} {OTHERS.get(suffix, 'is not read; give a folder, ' + ', '.join(FILES))}")
    if suffix in (*FILES, *OTHERS) or spec.count("/") > 1 or spec[:1] in ("/", ".", "~"):
        raise ValueError(f"--dataset {spec}: there is no such file or folder; check the path")
    return read_hub(spec)


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, hidden ones left out; a file is its own."""
    found = [path] if path.is_file() else [file for file in files_below(path) if file.suffix.lower() == ".parquet"]
    return [file for file in found if not is_hidden(file.relative_to(path))]


def is_parquet_of_images(path: Path) -> bool:
    """Whether the first of some Parquet files has a column of images, or of volumes.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        features = Features.from_arrow_schema(pq.read_schema(parquet_files(path)[0]))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} holds Parquet files that cannot be read ({error}); replace them") from error
    return "image" in features or any(isinstance(feature, Image | Nifti) for feature in features.values())


def read_folder(path: Path) -> dict[str, Dataset]:
    """A folder of Parquet files, or one such file.

    Raises:
        ValueError: they cannot be read.
    """
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
        for file in parquet_files(path):
            files.setdefault(split_of_file(path, file), []).append(file)
        if len(files) > 1 and "" in files:
            files |= {file.stem: [file] for file in files.pop("")}
        files = {name or "train": found for name, found in files.items()}
    by_split = [files[name] for name in sorted(files, key=lambda name: name != "train")]
    if not Path(cache_of(path)).exists():  # else it has been read before
        for file in (file for found in by_split for file in found):
            check_unpacked(file)
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


def check_unpacked(file: Path) -> None:
    """Read a Parquet file a few rows at a time, and keep nothing: dictionaries and compression can hold a thousand
    times its size, which `datasets` would read whole and write to the disk.

    Raises:
        ValueError: it holds more than `UNPACKED` bytes and `TIMES` its size, or more than `COLUMNS` columns.
    """
    most = max(UNPACKED, TIMES * file.stat().st_size)
    with pq.ParquetFile(file, pre_buffer=False) as rows:
        foot = rows.metadata
        if foot.num_columns > COLUMNS:
            raise ValueError(f"{foot.num_columns} columns, where {COLUMNS} are read; keep what is needed")
        groups = [foot.row_group(number) for number in range(foot.num_row_groups)]
        packed = [group.column(place).total_uncompressed_size for group in groups for place in range(foot.num_columns)]
        size = sum(packed)  # without what dictionaries stand for
        at_once = min(256, max(1, UNPACKED // max(packed, default=1)))
        batches = rows.iter_batches(at_once, use_threads=False) if size <= most else iter(())
        for batch in batches:
            size += sum(map(unpacked, batch.columns))
            if size > most:
                break
    if size > most:
        raise ValueError(f"they unpack to more than {most >> 20} MB, over {TIMES} times their size; write them anew")


def unpacked(column: pa.Array) -> int:
    """Bytes of a column, with those that a dictionary stands for."""
    if pa.types.is_struct(column.type):
        return sum(map(unpacked, column.flatten()))
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return unpacked(column.dictionary) // max(1, len(column.dictionary)) * len(column)


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
    path = path.resolve()
    files = [path] if path.is_file() else [file for file in files_below(path) if file.is_file()]
    found = [(str(file), file.stat()) for file in files]
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
    if len(splits) == 1 and (divided := by_split_column(next(iter(splits.values())), source)):
        return divided
    known = {split: rows for name, rows in splits.items() if (split := split_named(str(name)))}
    others = [str(name) for name in splits if not split_named(str(name))]
    if "train" in known and others:
        logger.warning("%s: splits left aside: %s", source, ", ".join(others))
    if "train" not in known:
        raise ValueError(f"{source} has no split train; it has {', '.join(map(str, splits))}; name one of them train")
    return known


def by_split_column(rows: Dataset, source: object) -> dict[str, Dataset]:
    """The splits that a column called split names; nothing where there is none.

    Raises:
        ValueError: an unknown split, or no row of train.
    """
    column = next((name for name in rows.column_names if name.strip().casefold() == "split"), None)
    if column is None:
        return {}
    names = np.array([str(cell or "train").strip() for cell in rows[column]])
    unknown = sorted({name for name in set(names.tolist()) if not split_named(name)})
    if unknown:
        raise ValueError(f"{source}: split is {unknown[0][:40]!r}; it may be train, validation or test")
    found = np.array([split_named(name) for name in names])
    if "train" not in found:
        raise ValueError(f"{source} has no row of split train; it has {', '.join(sorted(set(names.tolist())))}")
    rows = rows.remove_columns(column)
    return {split: rows.select(np.flatnonzero(found == split)) for split in dict.fromkeys(found.tolist())}


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
