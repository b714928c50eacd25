"""A folder of images as splits, by the names of its folders alone: what a file's name holds decides nothing.

    set/benign/1.png                          classes
    set/Training/benign/1.png                 splits (train, val, test, … in any case) and classes
    set/benign/patient_7/1.png                classes and persons
    set/patient_7/benign/1.png                persons and classes
    set/metadata.csv, set/1.png               a table with the column file_name, at the top or in each split

Every image is used, or said to be left out; what can be read in two ways is refused with both.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset

from clinsynth.data.tables import Rows, checked_columns, image_dataset, read_file, split_named

logger = logging.getLogger("clinsynth")

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
METADATA = ("metadata.csv", "metadata.jsonl")
FOLDER_OF_PERSON = "patient_id"
"""The column that tells persons by their folders."""


def read_image_folder(path: Path) -> dict[str, Dataset]:
    """Splits with image, label (the class folder's name), and what a metadata table or a person's folder adds.

    Raises:
        ValueError: no image, an image in no class folder, folders that may be read in two ways, or no split train.
    """
    files, others = list_images(path)
    if not files:
        raise ValueError(
            f"{path} holds no Parquet files, no DICOM labels.csv and no images in class folders; "
            "put each image into a folder named as its class"
        )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        logger.info("%s: %d files that are no images are left out: %s", path, others.total(), kinds)
    root = below_wrappers(path, files)
    splits = {name: rows_of(path, folder, found) for name, (folder, found) in by_split(root, files).items()}
    return {name: to_dataset(path, rows) for name, rows in splits.items()}


def list_images(path: Path) -> tuple[list[Path], Counter[str]]:
    """The images of a folder, hidden ones left out, in order; how many other files there are of each kind."""
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name not in METADATA]
    hidden = [file for file in found if any(p[0] == "." or p == "__MACOSX" for p in file.relative_to(path).parts)]
    shown = set(found) - set(hidden)
    images = [file for file in found if file in shown and file.suffix.lower() in IMAGE_SUFFIXES]
    rest = shown - set(images)
    others = Counter(file.suffix.lower() or file.name for file in rest if file.name.lower() != "readme.md")
    return images, others + Counter({"hidden": len(hidden)} if hidden else {})


def below_wrappers(path: Path, files: list[Path]) -> Path:
    """The folder in which the splits stand, where a folder holds nothing but one that holds them."""
    root = path
    while True:
        tops = {file.relative_to(root).parts[0] for file in files if len(file.relative_to(root).parts) > 1}
        if len(tops) != 1 or any(file.parent == root for file in files):
            return path
        root = root / tops.pop()
        inner = {file.relative_to(root).parts[0] for file in files}
        if any(split_named(name) for name in inner):
            return root
        if split_named(root.name):
            return path


def by_split(root: Path, files: list[Path]) -> dict[str, tuple[Path, list[Path]]]:
    """The files of each split and its folder; all of them train where no folder is called as a split."""
    tops: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        parts = file.relative_to(root).parts
        tops[parts[0] if len(parts) > 1 else ""].append(file)
    named = {top: split for top in tops if (split := split_named(top))}
    if not named:
        return {"train": (root, files)}
    if len(set(named.values())) < len(named):
        raise ValueError(f"{root}: the folders {', '.join(sorted(named))} name a split twice; put them together")
    if "train" not in named.values():
        raise ValueError(f"{root} has no split train; it has {', '.join(sorted(tops))}; name one of them train")
    rest = {top: len(found) for top, found in tops.items() if top not in named}
    if rest:
        counts = ", ".join(f"{top or 'beside them'}: {count} images" for top, count in rest.items())
        logger.warning("%s: left out, since they lie in no split (%s): %s", root, ", ".join(sorted(named)), counts)
    return {split: (root / top, tops[top]) for top, split in named.items()}


def rows_of(path: Path, folder: Path, files: list[Path]) -> Rows:
    """Rows of image and label of the files of a split, or those of its metadata table."""
    tables = [table for place in dict.fromkeys((folder, path)) for table in (place / name for name in METADATA)]
    table = next((table for table in tables if table.is_file()), None)
    if table is not None:
        return rows_of_table(table, files)
    loose = [file for file in files if file.parent == folder]
    if loose:
        raise ValueError(
            f"{loose[0]} lies in no class folder ({len(loose)} images do); move it to a folder named as its class, or "
            "use a .csv"
        )
    levels = {len(file.relative_to(folder).parts) - 1 for file in files}
    if levels == {1}:
        return [{"image": file, "label": file.parent.name} for file in files]
    if levels != {2}:
        example = ", ".join(str(next(f for f in files if len(f.relative_to(folder).parts) - 1 == n)) for n in levels)
        raise ValueError(
            f"{folder}: images lie {' and '.join(map(str, sorted(levels)))} folders deep ({example}), so that it is "
            "not clear which folder is the class; give a .csv of image, label[, patient_id, split]"
        )
    return rows_of_persons(folder, [(file, file.parent.parent.name, file.parent.name) for file in files])


def rows_of_persons(folder: Path, places: list[tuple[Path, str, str]]) -> Rows:
    """Rows of class/person/image or person/class/image, whichever the names of the folders allow.

    The persons' folders have numbers in their names and the classes' have none; a class has several persons.
    """
    outer, inner = {place[1] for place in places}, {place[2] for place in places}
    pairs = {place[1:] for place in places}
    repeated = sum(count > 1 for count in Counter(pair[1] for pair in pairs).values())
    if numbered(inner) and repeated <= len(inner) / 2 and (not numbered(outer) or len(inner) >= 2 * len(outer)):
        label, person = 1, 2
    elif numbered(outer) and not numbered(inner) and repeated and len(outer) > len(inner):
        label, person = 2, 1
    else:
        raise ValueError(
            f"{folder} may be read in two ways: classes {shown(outer)} with folders {shown(inner)} of persons in "
            f"them, or persons {shown(outer)} with classes {shown(inner)} in them; give a .csv of image, label, "
            "patient_id"
        )
    classes, people = ({str(place[level]) for place in places} for level in (label, person))
    logger.info("%s: classes %s; %d folders of persons in them", folder, shown(classes), len(people))
    return [{"image": place[0], "label": place[label], FOLDER_OF_PERSON: place[person]} for place in places]


def numbered(names: Iterable[str]) -> bool:
    """Whether nine of ten names hold a number."""
    names = list(names)
    return sum(bool(re.search(r"\d", name)) for name in names) >= 0.9 * len(names)


def shown(names: Iterable[str]) -> str:
    """Up to four names."""
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (", …" if len(ordered) > 4 else "")


def rows_of_table(table: Path, files: list[Path]) -> Rows:
    """The rows of a metadata table whose files are among `files`; without a label the class is the folder's name."""
    rows = {}
    for number, row in enumerate(read_file(table), start=1):
        if "file_name" not in row:
            raise ValueError(f"{table} has no column file_name; it has {', '.join(row)}; call the column of paths so")
        file = table.parent / str(row.pop("file_name") or "")
        if not file.is_file():
            raise ValueError(f"{table}, row {number}: there is no file {file}; paths are relative to the table")
        rows[file] = row
    missing = [file for file in files if file not in rows]
    if missing:
        logger.warning("%d images that %s does not name are left out: %s, …", len(missing), table, missing[0])
    return [{"image": file, **with_label(file, rows[file], table)} for file in files if file in rows]


def with_label(file: Path, row: dict[str, Any], table: Path) -> dict[str, Any]:
    """A row with the name of its file's folder as label, where it has no other columns that could be one."""
    return row if len(row) and ("label" in row or file.parent == table.parent) else {**row, "label": file.parent.name}


def to_dataset(path: Path, rows: Rows) -> Dataset:
    """Rows of an image's path and other values."""
    columns = checked_columns(path, [{**row, "image": str(row["image"])} for row in rows])
    return image_dataset([{"bytes": None, "path": file} for file in columns.pop("image")], columns)
