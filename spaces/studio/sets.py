"""Sets of labelled images or texts: uploaded, lying in a folder, or made by a program.

Images come as .zip or .parquet, texts as .csv, .jsonl or .parquet. Nothing that was uploaded is
unpacked to disk, no path inside an upload is followed, and all that is read is bounded.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import limits
import pyarrow as pa
from PIL import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
PHANTOM_IMAGES = {"phantom eyes, seed 0": 0, "phantom eyes, seed 1": 1}
"""Built-in sets of images, and the seeds that they are drawn with."""
PHANTOM_TEXTS = {"made-up posts, seed 0": 0, "made-up posts, seed 1": 1}
"""Built-in sets of texts, and the seeds that they are written with."""
PHANTOM_ROWS = 200
PHANTOM_SIZE = 64
TEXT_SUFFIXES = {".csv", ".jsonl"}
SETTINGS_FILE = "settings.json"
"""Beside the images of a .zip that the tab Images hands out."""
HINT = "give columns text and label, in UTF-8"


@dataclass(frozen=True)
class LabelledSet:
    """A set in memory: image files as bytes, or texts, each with the name of its class."""

    name: str
    contents: list[bytes] | list[str]
    labels: list[str]

    @property
    def kind(self) -> str:
        """image or text."""
        return "text" if isinstance(self.contents[0], str) else "image"


def check_same_kind(first: LabelledSet, second: LabelledSet) -> None:
    """Raise a `ValueError` for images against texts."""
    if first.kind != second.kind:
        raise ValueError(f"{first.name} holds {first.kind}s and {second.name} {second.kind}s; give two of a kind")


def set_names() -> list[str]:
    """What can be picked: the built-in sets, and the folders that the environment variable STUDIO_SETS lists."""
    return [*PHANTOM_IMAGES, *PHANTOM_TEXTS, *given_folders()]


def given_folders() -> dict[str, Path]:
    """Folders of STUDIO_SETS (separated as in PATH) by their last part."""
    paths = [Path(text) for text in os.environ.get("STUDIO_SETS", "").split(os.pathsep) if text]
    return {path.name: path for path in paths}


def read_set(picked: str | None, uploaded: str | None, called: str) -> LabelledSet:
    """The uploaded set where there is one, else the one that was picked.

    Args:
        called: how messages call it, such as "the real set".

    Raises:
        ValueError: neither is given, or it cannot be taken; names the set, what is wrong, and a hint.
    """
    if uploaded:
        return read_upload(Path(uploaded), called)
    if picked in PHANTOM_IMAGES or picked in PHANTOM_TEXTS:
        return phantom_set(picked)
    folders = given_folders()
    if picked in folders:
        return read_folder(folders[picked], called)
    if picked:
        raise ValueError(f"{called} {picked!r} is unknown; pick one of {', '.join(set_names())}, or upload a file")
    raise ValueError(f"{called} is missing; pick one, or upload a file")


@functools.lru_cache(maxsize=len(PHANTOM_IMAGES) + len(PHANTOM_TEXTS))
def phantom_set(name: str) -> LabelledSet:
    """The test split of phantom eyes or posts; no person stands behind them."""
    from clinsynth.data.phantom_fundus import GRADES, PhantomOptions, draw_split
    from clinsynth.data.phantom_posts import LABELS, write_split

    if name in PHANTOM_TEXTS:
        rows = list(write_split("test", PHANTOM_ROWS, PHANTOM_TEXTS[name]))
        return LabelledSet(name, [row["text"] for row in rows], [LABELS[row["label"]] for row in rows])
    options = PhantomOptions(size=PHANTOM_SIZE, seed=PHANTOM_IMAGES[name], totals={"test": PHANTOM_ROWS})
    rows = list(draw_split("test", options))
    return LabelledSet(name, [row["image"]["bytes"] for row in rows], [GRADES[row["label"]] for row in rows])


def read_upload(path: Path, called: str) -> LabelledSet:
    """A .zip of images in class folders, a .csv or .jsonl of text and label, or a .parquet of either."""
    if not path.is_file():
        raise ValueError(f"{called}: the upload is no longer here (uploads are removed after use); upload it again")
    if path.suffix.lower() == ".parquet":
        return read_parquet([path], called)
    if path.suffix.lower() == ".zip":
        return read_zip(path, called)
    if path.suffix.lower() in TEXT_SUFFIXES:
        return read_text_file(path, called)
    raise ValueError(
        f"{called}: {path.name} is none of .zip, .parquet, .csv and .jsonl; pack images in class folders as a .zip"
    )


def read_zip(path: Path, called: str) -> LabelledSet:
    """Images of a .zip, read in memory; an image's class is the folder that it lies in."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not is_litter(entry.filename)]
            check_bounds(called, len(entries), sum(entry.file_size for entry in entries))
            labels = [class_of(PurePosixPath(entry.filename), called) for entry in entries]
            images = list(read_entries(archive, entries, called))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{called}: {path.name} is a damaged .zip ({error}); pack it again") from error
    return LabelledSet(called, images, labels)


def is_litter(name: str) -> bool:
    """What file managers put into archives, and the settings that lie in one of this Space's own."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith(".") or name == SETTINGS_FILE


def class_of(path: PurePosixPath, called: str) -> str:
    if path.is_absolute() or ".." in path.parts or "\\" in str(path):
        raise ValueError(f"{called}: the path {str(path)!r} leaves the archive; pack it again with relative paths")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{called}: {str(path)!r} is no image ({', '.join(sorted(IMAGE_SUFFIXES))}); take it out")
    if len(path.parts) < 2:
        raise ValueError(f"{called}: {str(path)!r} lies in no class folder; put it into a folder named as its class")
    return path.parts[-2]


def read_entries(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], called: str) -> Iterator[bytes]:
    """Contents of the entries; what the archive's own table says of their sizes is not believed."""
    left = limits.MOST_BYTES
    for entry in entries:
        if entry.flag_bits & 1:
            raise ValueError(f"{called}: {entry.filename!r} is encrypted; pack it again without a password")
        with archive.open(entry) as file:
            content = file.read(left + 1)
        left -= len(content)
        check_bounds(called, len(entries), limits.MOST_BYTES - left)
        check_image(content, f"{called}: {entry.filename!r}")
        yield content


def check_bounds(called: str, rows: int, size: int) -> None:
    if rows == 0:
        raise ValueError(f"{called} is empty; give one with images or texts in it")
    if rows > limits.MOST_ROWS:
        raise ValueError(f"{called} has {rows} samples, more than {limits.MOST_ROWS}; draw a smaller part at random")
    if size > limits.MOST_BYTES:
        raise ValueError(
            f"{called} is larger than {limits.MOST_BYTES >> 20} MB when unpacked; give fewer or smaller images"
        )


def check_image(content: bytes, called: str) -> None:
    """Raise a `ValueError` for what is no image or has too many pixels; reads its header only."""
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{called} cannot be read as an image; save it as PNG again") from error
    if width * height > limits.MOST_PIXELS:
        raise ValueError(f"{called} is {width}x{height} pixels, more than 1024x1024; make it smaller")


def open_image(content: bytes, called: str) -> Image.Image:
    """The decoded image as L or RGB, without metadata."""
    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        decoded = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{called} holds a damaged image ({error}); save it as PNG again") from error
    decoded.info.clear()  # a colour profile would go into the PNG file that is made of it
    return decoded


def read_folder(path: Path, called: str) -> LabelledSet:
    """Parquet shards as `clinsynth generate` writes them, or images in class folders."""
    shards = sorted(path.glob("data/*.parquet")) or sorted(path.glob("*.parquet"))
    if shards:
        return read_parquet(shards, called)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    check_bounds(called, len(files), sum(file.stat().st_size for file in files))
    labels = [class_of(PurePosixPath(file.relative_to(path).as_posix()), called) for file in files]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents, strict=True):
        check_image(content, f"{called}: {file.name!r}")
    return LabelledSet(called, contents, labels)


def read_parquet(paths: list[Path], called: str) -> LabelledSet:
    """Columns image (images inside the file; no path is followed) or text, and label; by `parquet_rows.py`."""
    command = [sys.executable, str(Path(__file__).with_name("parquet_rows.py")), *map(str, paths)]
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.PIPE, env=environment, timeout=4 * limits.PARQUET_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{called} cannot be taken as Parquet: it takes too long; write it again") from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").splitlines() if done.returncode == 2 else []
            why = lines[-1] if lines else "takes too much memory or time when unpacked"
            raise ValueError(f"{called} cannot be taken as Parquet: {why}; write it again")
        file.seek(0)
        table = pa.ipc.open_stream(file).read_all()
    contents, labels = table["content"].to_pylist(), table["label"].to_pylist()
    check_bounds(called, len(contents), 0)
    if table.schema.metadata[b"column"] == b"image":
        for number, content in enumerate(contents, start=1):
            check_image(content, f"{called}: the image of row {number}")
    return LabelledSet(called, contents, labels)


def read_text_file(path: Path, called: str) -> LabelledSet:
    """Texts and labels of a .csv with a head line, or of a .jsonl with one object a line."""
    texts, labels = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            is_table = path.suffix.lower() == ".csv"
            rows: Any = csv.DictReader(file, strict=True) if is_table else map(json.loads, filter(str.strip, file))
            for number, row in enumerate(rows, start=1):
                if number > limits.MOST_ROWS:
                    raise ValueError(f"{called} has more than {limits.MOST_ROWS} rows; draw a smaller part at random")
                texts.append(text_cell(row, "text", f"{called}, row {number},"))
                labels.append(text_cell(row, "label", f"{called}, row {number},"))
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{called}: {path.name} cannot be read ({type(error).__name__}); {HINT}") from error
    if not texts:
        raise ValueError(f"{called} is empty; {HINT}")
    return LabelledSet(called, texts, labels)


def text_cell(row: Any, column: str, place: str) -> str:
    """A cell as text; a label may be a number."""
    value = row.get(column) if isinstance(row, dict) else None
    if column == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} has no {column}; {HINT}")
    return value
