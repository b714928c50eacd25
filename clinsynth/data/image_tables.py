"""A table of images: which of its columns names them, where each lies, and which tables a folder holds.

The column may be called image, file or file_name. Else it is the one whose cells name the most files below the table,
as published sets have it: by path or name, with or without an ending, with another machine's folders before it.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from clinsynth.data.labels import MARKS, label_columns
from clinsynth.data.persons import rank_of
from clinsynth.data.tables import TABLES, Rows, read_file, settle, split_named

logger = logging.getLogger("clinsynth")

KINDS = {
    **dict.fromkeys(".png .jpg .jpeg .jpe .jfif .jp2 .bmp .gif .tif .tiff .webp .ppm .pgm".split(), "image"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".nii", ".nii.gz"), "NIfTI"),
}
"""How the name of a file ends that is read, and what it is."""
NAMED = ("image", "file", "file_name")
"""What the column may be called, in any case."""
METADATA = ("metadata.csv", "metadata.jsonl", "labels.csv")
"""Tables that count whatever the folders are called."""
LOOKED_AT = 200
"""Rows that tell which column names the images."""


def ending(name: str) -> str:
    """How the name of a file that is read ends, in lower case; nothing of another file."""
    return next((end for end in KINDS if name.lower().endswith(end)), "")


def files_below(folder: Path) -> list[Path]:
    """All files of a folder in order, links among them and those in folders that are links; each folder once."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (own := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(own)
        found += [Path(place, name) for name in names]
    return sorted(found)


def is_hidden(path: Path) -> bool:
    """Whether a file or a folder above it, of a path below a set, is of the system's own."""
    return any(part[0] == "." or part == "__MACOSX" for part in path.parts)


def is_there(path: Path) -> bool:
    """Whether there is such a file; none of a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class Places:
    """The files below a folder, by what a table calls them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.searched = 0
        """Cells whose file does not lie where they say, but below the folder."""

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        """Paths below the folder by the file's name, with and without its ending."""
        found = defaultdict(list)
        for file in files_below(self.folder):
            place = file.relative_to(self.folder)
            if (end := ending(file.name)) and not is_hidden(place):
                found[file.name].append(place)
                found[file.name[: -len(end)]].append(place)
        return found

    def find(self, cell: Any) -> Path | None:
        """The file that a cell names; None where there is none, or where several may be meant."""
        text = "" if cell is None else str(cell).strip()
        if text and is_there(self.folder / text):
            return self.folder / text
        parts = PurePosixPath(text.replace("\\", "/")).parts
        places = self.by_name.get(parts[-1], []) if parts else []
        for depth in range(2, len(parts) + 1):  # of files called alike the one below folders called so
            if len(places) > 1:
                places = [place for place in places if place.parts[-depth:-1] == parts[-depth:-1]] or places
        if len(places) != 1:
            return None
        self.searched += 1
        return self.folder / places[0]


def image_column(table: Path, rows: Rows, places: Places) -> str:
    """The column that names the images.

    Raises:
        ValueError: none does, or several do.
    """
    named = [column for name in NAMED for column in rows[0] if column.strip().casefold() == name]
    if named:
        return named[0]
    looked = rows[:: max(1, len(rows) // LOOKED_AT)][:LOOKED_AT]
    found = {column: [place for row in looked if (place := places.find(row.get(column)))] for column in rows[0]}
    distinct = {column: len(set(own)) for column, own in found.items() if len(own) >= len(looked) / 2}
    best = [column for column, count in distinct.items() if count == max(distinct.values())]
    if len(best) == 1:
        logger.info("%s: images by column %s", table, best[0])
        return best[0]
    if best:
        raise ValueError(f"{table}: several columns name the images ({', '.join(best)}); call the one you mean image")
    raise ValueError(
        f"{table} has no column image; it has {', '.join(rows[0])}, none of which names files below "
        f"{places.folder}; call the column of paths so"
    )


def rows_of_images(table: Path, label: str, skip: bool = False, folders: bool = False) -> Rows:
    """The rows of a table, each with the path of its file as `image`.

    Files that are not there are left for later where they are to be skipped.

    Args:
        label: the column of classes that was asked for.
        folders: a row without a class has the name of its file's folder.

    Raises:
        ValueError: no rows, no column of images, or files that are not there; names the rows.
    """
    rows, places, missing = read_file(table), Places(table.parent), []
    column = image_column(table, rows, places)
    places.searched = 0
    for number, row in enumerate(rows, start=1):
        cell = row.get(column) if rank_of(column) is not None else row.pop(column, None)  # whose it is, too
        file = places.find(cell)
        if file is None:
            missing.append(why_missing(table, number, cell, places))
        row["image"] = file or table.parent / str(cell or "")
    settle([] if skip else missing, len(rows), "image", False, [])
    if places.searched:
        logger.info("%s: %d images found by their names below %s", table, places.searched, places.folder)
    if folders and label not in rows[0] and not label_columns(rows[0]) and not has_marks(rows):
        for row in (row for row in rows if row["image"].parent != table.parent):
            row["label"] = row["image"].parent.name
    return rows


def has_marks(rows: Rows) -> bool:
    """Whether several columns hold 0 and 1 alone, which may be the classes."""
    return sum(all(str(row.get(column)) in MARKS for row in rows) for column in rows[0]) > 1


def why_missing(table: Path, number: int, cell: Any, places: Places) -> str:
    """Why a row has no image."""
    if not str(cell or "").strip():
        return f"{table}, row {number} names no image; write its path or remove the row"
    several = places.by_name.get(PurePosixPath(str(cell).strip()).name, [])
    if len(several) > 1:
        shown = ", ".join(map(str, several[:3]))
        return f"{table}, row {number}: {cell} may be any of {len(several)} files ({shown}); write its path"
    return f"{table}, row {number}: there is no file {table.parent / str(cell)}; paths are relative to the table"


def rows_of_split_tables(tables: list[Path], label: str, skip: bool) -> dict[str, Rows]:
    """Rows of tables that are called as splits; one without the classes that others have is left out."""
    splits = {str(split_named(table.stem)): rows_of_images(table, label, skip) for table in tables}
    for table in tables:
        split = str(split_named(table.stem))
        if split != "train" and (lacking := classes_in(splits["train"], label) - splits[split][0].keys()):
            logger.warning("%s: left out, %d rows: it has no column %s", table, len(splits.pop(split)), min(lacking))
    return splits


def classes_in(rows: Rows, label: str) -> set[str]:
    """The columns of a table that may hold the class."""
    return {label} if label in rows[0] else set(label_columns(rows[0]))


def naming_tables(folder: Path) -> list[Path]:
    """The tables at the top of a folder that name images in it: those of METADATA, else any of whose columns does."""
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES and file.name[0] != "."]
    certain = [table for table in tables if table.name in METADATA]
    if certain:
        return certain[:1]
    places = Places(folder)
    return [table for table in tables if names_images(table, places)]


def names_images(table: Path, places: Places) -> bool:
    """Whether a column of a table names images in a folder."""
    try:
        rows = read_file(table)
        column = image_column(table, rows, places)
    except ValueError:
        return False
    return any(places.find(row.get(column)) for row in rows[:LOOKED_AT])
