"""A folder of images as rows of splits, by its tables or by the names of its folders: what a file's name holds decides
nothing.

    set/benign/1.png                          classes
    set/Training/benign/1.png                 splits (train, val, test, … in any case) and classes
    set/benign/patient_7/1.png                classes and persons
    set/patient_7/benign/1.png                persons and classes
    set/metadata.csv, set/1.png               a table that names the images, at the top or in each split
    set/train.csv, set/test.csv, set/…/1.png  a table a split

Every image is used, or said to be left out; what can be read in two ways is refused with both.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from clinsynth.data.image_tables import (
    METADATA,
    ending,
    files_below,
    is_hidden,
    naming_tables,
    rows_of_images,
    rows_of_split_tables,
)
from clinsynth.data.persons import rank_of
from clinsynth.data.tables import Rows, rows_by_split, split_column, split_named

logger = logging.getLogger("clinsynth")

FOLDER_OF_PERSON = "patient_id"
"""The column that tells persons by their folders."""


def read_image_folder(path: Path, label: str, skip: bool = False) -> dict[str, Rows]:
    """Rows of each split: the path of an image, its label (the class folder's name, or what a table says), and what a
    table or a person's folder adds.

    Args:
        label: the column of classes that was asked for, of tables.
        skip: files that a table names and that are not there are left for later.

    Raises:
        ValueError: no image, an image in no class folder, folders that may be read in two ways, or no split train.
    """
    files, others = list_images(path)
    splits = rows_of_tables(path, files, label, skip)
    if splits is not None:
        return splits
    if not files:
        raise ValueError(
            f"{path} holds no Parquet files, no table that names images and no images in class folders; "
            "put each image into a folder named as its class"
        )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        logger.info("%s: %d files that are no images are left out: %s", path, others.total(), kinds)
    root = below_wrappers(path, files)
    return {name: rows_of(folder, found, label) for name, (folder, found) in by_split(root, files).items()}


def list_images(path: Path) -> tuple[list[Path], Counter[str]]:
    """The images of a folder, hidden ones left out, in order; how many other files there are of each kind."""
    found = [file for file in files_below(path) if file.name not in METADATA]
    hidden = {file for file in found if is_hidden(file.relative_to(path))}
    images = [file for file in found if file not in hidden and ending(file.name)]
    rest = set(found) - hidden - set(images)
    others = Counter(file.suffix.lower() or file.name for file in rest if file.name.lower() != "readme.md")
    return images, others + Counter({"hidden": len(hidden)} if hidden else {})


def rows_of_tables(path: Path, files: list[Path], label: str, skip: bool) -> dict[str, Rows] | None:
    """The rows of the tables at the top of a folder that name its images; None where there are none.

    Raises:
        ValueError: several do, and are not called as splits.
    """
    tables = naming_tables(path)
    if not tables:
        return None
    of_splits = [table for table in tables if split_named(table.stem)]
    if "train" in {split_named(table.stem) for table in of_splits}:
        if other := [table.name for table in tables if table not in of_splits]:
            logger.warning("%s: left out, since they are not called as a split: %s", path, ", ".join(other))
        splits = rows_of_split_tables(of_splits, label, skip)
    elif len(tables) > 1:
        raise ValueError(
            f"{path}: several tables name the images ({', '.join(table.name for table in tables)}); give the one that "
            "has their classes as --dataset"
        )
    else:
        splits = rows_of_one_table(path, tables[0], label, skip)
    missing = set(files) - {row["image"] for rows in splits.values() for row in rows}
    if missing:
        named = ", ".join(table.name for table in tables)
        logger.warning("%d images that %s does not name are left out: %s, …", len(missing), named, min(missing))
    return splits


def rows_of_one_table(path: Path, table: Path, label: str, skip: bool) -> dict[str, Rows]:
    """The rows of a table by its column split, else by the folders of its images that are called as splits."""
    rows = rows_of_images(table, label, skip, folders=True)
    if table.name in METADATA[:2]:  # in the order in which earlier versions took them, whose sets name its rows
        rows.sort(key=lambda row: row["image"])
    if split_column(rows) is not None:
        return rows_by_split(table, rows)
    inside = {row["image"]: row for row in rows if row["image"].is_relative_to(path)}
    if len(inside) < len(rows):
        return {"train": rows}
    found = by_split(below_wrappers(path, list(inside)), list(inside))
    return {split: [inside[file] for file in own] for split, (_, own) in found.items()}


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


def rows_of(folder: Path, files: list[Path], label: str) -> Rows:
    """Rows of image and label of the files of a split, or those of its metadata table."""
    table = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if table is not None:
        rows = sorted(rows_of_images(table, label, folders=True), key=lambda row: row["image"])
        if missing := set(files) - {row["image"] for row in rows}:
            logger.warning("%d images that %s does not name are left out: %s, …", len(missing), table, min(missing))
        return rows
    loose = [file for file in files if file.parent == folder]
    if loose:
        raise ValueError(
            f"{loose[0]} lies in no class folder ({len(loose)} images do); move it to a folder named as its class, or "
            "write a .csv of image, label"
        )
    levels = {len(file.relative_to(folder).parts) - 1 for file in files}
    if levels == {1} and all(rank_of(file.parent.name) is not None for file in files):
        raise ValueError(
            f"{folder}: its folders are called as persons ({shown({file.parent.name for file in files})}), and none "
            "as a class; give a .csv of image, label, patient_id"
        )
    if levels == {1}:
        return [{"image": file, "label": file.parent.name} for file in files]
    tops, inner = ({file.relative_to(folder).parts[level] for file in files} for level in (0, 1))
    if len(tops) == 1 and not numbered(inner):  # all lies in one folder, which is no class
        logger.info("%s: all images lie in %s, which is taken for no class", folder, *tops)
        return rows_of(folder / tops.pop(), files, label)
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
