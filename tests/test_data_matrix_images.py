"""Every source of images with every oddity of a file, a row or a folder: all images are read, or one message names
what is wrong; nothing else is raised, and none is lost without a word."""

import csv
import io
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_arrays

COUNT = 24


@dataclass(frozen=True)
class Item:
    """A row: the file's name, its content, what the table says beside, and how a table calls the file."""

    name: str
    content: bytes
    row: dict[str, Any] = field(default_factory=dict)
    called: Any = "as the file"


Items = list[Item]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(number: int, mode: str = "L") -> Image.Image:
    shape = (28, 28, 3) if mode == "RGB" else (28, 28)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


def plain() -> Items:
    return [Item(f"{n}.png", encoded(noise(n)), {"label": "ab"[n % 2]}) for n in range(COUNT)]


def file(content: bytes | Callable[[], bytes], name: str | None = None) -> Callable[[Items], Items]:
    """Another content, and name, of the first image."""

    def alter(items: Items) -> Items:
        made = content() if callable(content) else content
        return [replace(items[0], content=made, name=name or items[0].name), *items[1:]]

    return alter


def named(name: str) -> Callable[[Items], Items]:
    return lambda items: [replace(items[0], name=name), *items[1:]]


def row(**cells: Any) -> Callable[[Items], Items]:
    return lambda items: [replace(items[0], row=items[0].row | cells), *items[1:]]


def called(cell: Any) -> Callable[[Items], Items]:
    return lambda items: [replace(items[0], called=cell), *items[1:]]


def deep(mode: str = "I;16") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 60_000, (28, 28))
    return Image.fromarray(values.astype({"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]))


def png(width: int, depth: int, kind: int, pixels: bytes) -> bytes:
    """A square PNG file of a header that Pillow does not write."""
    head = width.to_bytes(4, "big") * 2 + bytes([depth, kind, 0, 0, 0])
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    chunks = [len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(0), "JPEG", exif=exif)


def transparent(mode: str) -> bytes:
    image = noise(0).convert(mode)
    image.putalpha(100)
    return encoded(image)


PAGES = [noise(1), noise(2)]
# what is altered, and how many images are read or what the message holds beside the file's name
FILES: dict[str, tuple[Callable[[Items], Items], int | str]] = {
    "plain": (lambda items: items, COUNT),
    "16-bit grey PNG": (file(encoded(deep())), COUNT),
    "16-bit grey TIFF": (file(encoded(deep(), "TIFF"), "0.tif"), COUNT),
    "16-bit colour PNG": (file(png(28, 16, 2, bytes(28 * (1 + 28 * 6)))), "16-bit PNG in colour"),
    "32-bit grey TIFF": (file(encoded(deep("I"), "TIFF"), "0.tiff"), "whose full range says nothing"),
    "floating point": (file(encoded(deep("F"), "TIFF"), "0.tif"), "whose full range says nothing"),
    "CMYK": (file(encoded(noise(0, "RGB").convert("CMYK"), "JPEG"), "0.jpg"), COUNT),
    "YCbCr": (file(encoded(noise(0, "RGB"), "JPEG"), "0.jpeg"), COUNT),
    "a palette": (file(encoded(noise(0).convert("P"))), COUNT),
    "a transparent palette": (file(encoded(noise(0).convert("P"), transparency=3)), "has transparent pixels"),
    "LA, opaque": (file(encoded(noise(0).convert("LA"))), COUNT),
    "LA, transparent": (file(transparent("LA")), "has transparent pixels"),
    "RGBA, opaque": (file(encoded(noise(0).convert("RGBA"))), COUNT),
    "RGBA, transparent": (file(transparent("RGBA")), "has transparent pixels"),
    "1 bit": (file(encoded(noise(0).convert("1"))), COUNT),
    "EXIF orientation": (file(turned(6), "0.jpg"), COUNT),
    "several pages": (file(encoded(PAGES[0], "TIFF", save_all=True, append_images=PAGES[1:]), "0.tif"), "2 frames"),
    "an animation": (file(encoded(PAGES[0], "GIF", save_all=True, append_images=PAGES[1:]), "0.gif"), "2 frames"),
    "a single GIF": (file(encoded(noise(0), "GIF"), "0.gif"), COUNT),
    "WebP": (file(encoded(noise(0, "RGB"), "WEBP"), "0.webp"), COUNT),
    "BMP": (file(encoded(noise(0), "BMP"), "0.bmp"), COUNT),
    "PNG cut off": (lambda items: file(items[0].content[:300])(items), "is damaged"),
    "JPEG cut off": (file(encoded(noise(0), "JPEG")[:600], "0.jpg"), "is damaged"),
    "TIFF cut off": (file(encoded(noise(0), "TIFF")[:100], "0.tif"), "(cannot be read|damaged)"),
    "a header alone": (lambda items: file(items[0].content[:30])(items), "(cannot be read|damaged)"),
    "nothing": (file(b""), "cannot be read as an image"),
    "zeros": (file(bytes(2000)), "cannot be read as an image"),
    "a page of HTML": (file(b"<html>not found</html>"), "cannot be read as an image"),
    "a bomb": (file(png(30_000, 8, 0, b"")), "cannot be read as an image .*exceeds limit"),
    "JPEG called PNG": (file(encoded(noise(0), "JPEG")), COUNT),
    "an ending in capitals": (named("0.PNG"), COUNT),
    "a name in Unicode": (named("ä 😀 漢.png"), COUNT),
    "a name of 250 bytes": (named("x" * 246 + ".png"), COUNT),
    "a name with a comma": (named("a,b;c.png"), COUNT),
    "a name with a word": (named("test_of_train.png"), COUNT),
    "a name with blanks": (named("a b .png"), COUNT),
    "one pixel": (file(encoded(Image.new("L", (1, 1)))), COUNT),
    "a strip": (file(encoded(Image.new("L", (900, 2)))), COUNT),
    "twice the same": (lambda items: file(items[2].content)(items), COUNT),
}
SPLITS = ("TRAIN", "Val", "Test")
ROWS: dict[str, tuple[Callable[[Items], Items], int | str]] = {
    "a row twice": (lambda items: [*items, items[0]], COUNT),
    "a file of two classes": (
        lambda items: [*items, replace(items[0], row={"label": "b"})], "rows of different labels",
    ),
    "a file that is not there": (called("nosuch.png"), "row 1: there is no file"),
    "an empty name": (called(""), "row 1 names no image"),
    "a name of 300 bytes": (called("x" * 300 + ".png"), "row 1: there is no file"),
    "a URL": (called("https://example.org/x.png"), "row 1: there is no file"),
    "backslashes": (called("images\\0.png"), COUNT),
    "another machine's path": (called("/data/somebody/images/0.png"), COUNT),
    "a path of Windows": (called("C:\\data\\images\\0.png"), COUNT),
    "no ending": (called("images/0"), COUNT),
    "a blank behind the name": (called("images/0.png "), COUNT),
    "a blank behind a label": (row(label="a "), "differ by blanks, case"),
    "another case of a label": (row(label="A"), "differ by blanks, case"),
    "no label": (row(label=""), "has no label"),
    "a long label": (row(label="x" * 300), "not classes"),
    "persons": (lambda items: [replace(i, row=i.row | {"Patient ID": n // 3}) for n, i in enumerate(items)], COUNT),
    "persons that miss": (
        lambda items: [replace(i, row=i.row | {"pid": f"p{n}" if n % 2 else ""}) for n, i in enumerate(items)], COUNT,
    ),
    "splits in capitals": (
        lambda items: [replace(i, row=i.row | {"Split": SPLITS[n % 3]}) for n, i in enumerate(items)], COUNT,
    ),
    "an unknown split": (row(split="holdout"), "row 1: split is 'holdout'"),
    "notes": (lambda items: [replace(i, row=i.row | {"note": f"seen on day {i.name}"}) for i in items], COUNT),
}  # fmt: skip
FOLDERS: dict[str, tuple[Callable[[Path], Any], int | str]] = {
    "hidden files": (lambda root: (root / "a" / ".0.png").write_bytes(b"") and None, COUNT),
    "a Mac's": (lambda root: place(root / "__MACOSX" / "a" / "._0.png") or place(root / ".DS_Store"), COUNT),
    "Windows' own": (lambda root: place(root / "a" / "Thumbs.db") or place(root / "desktop.ini"), COUNT),
    "a note beside": (lambda root: place(root / "a" / "note.txt"), COUNT),
    "an empty class": (lambda root: (root / "c").mkdir(), COUNT),
    "a link": (lambda root: (root / "a" / "link.png").symlink_to(root / "b" / "1.png"), COUNT + 1),
    "a broken link": (lambda root: (root / "a" / "link.png").symlink_to(root / "nosuch.png"), r"link\.png"),
    "a class that is a link": (lambda root: move_away(root / "a"), COUNT),
    "a link to itself": (lambda root: (root / "a" / "again").symlink_to(root / "a"), COUNT),
    "a folder called .png": (lambda root: (root / "a" / "x.png").mkdir(), COUNT),
    "loose images": (lambda root: place(root / "x.png", encoded(noise(99))), "lies in no class folder"),
    "another level": (lambda root: place(root / "a" / "more" / "x.png", encoded(noise(99))), "1 and 2 folders deep"),
    "splits twice": (
        lambda root: place(root / "train" / "a" / "x.png") or place(root / "Training" / "x.png"),
        "twice",
    ),
}


def place(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def move_away(folder: Path) -> None:
    away = folder.parent.parent / f"away-{folder.name}"
    folder.rename(away)
    folder.symlink_to(away)


def write_files(folder: Path, items: Items) -> list[dict[str, Any]]:
    """The images in a folder `images`, and the rows of a table of them."""
    for item in items:
        place(folder / "images" / item.name, item.content)
    shown = [f"images/{item.name}" if item.called == "as the file" else item.called for item in items]
    return [{"image": name, **item.row} for name, item in zip(shown, items, strict=True)]


def write_folder(folder: Path, items: Items) -> Path:
    for item in items:
        place(folder / str(item.row["label"]) / item.name, item.content)
    return folder


def write_csv(folder: Path, items: Items, by: str = ",", name: str = "t.csv", encoding: str = "utf-8") -> Path:
    rows = write_files(folder, items)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / name).open("w", newline="", encoding=encoding) as table:
        writer = csv.DictWriter(table, names, delimiter=by)
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def write_tsv(folder: Path, items: Items) -> Path:
    return write_csv(folder, items, "\t", "t.TSV")


def write_jsonl(folder: Path, items: Items) -> Path:
    rows = write_files(folder, items)
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "t.jsonl"


def write_parquet(folder: Path, items: Items) -> Path:
    rows = [{"image": {"bytes": item.content, "path": item.name}, **item.row} for item in items]
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return folder / "t.parquet"


TABLES = {"csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl}
SOURCES: dict[str, Callable[[Path, Items], Path]] = {"folder": write_folder, **TABLES, "parquet": write_parquet}


def outcome(path: Path, **flags: Any) -> int | str:
    """How many images are read, or what refuses them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            splits = load_image_arrays(ImageDataArguments(str(path), resolution=28, channels=3, fit="squash", **flags))
    except ValueError as error:
        said = str(error)
        assert 20 < len(said) < 3000 and said.count("\n") <= 11, said
        return said
    return sum(len(split.labels) for split in splits.values())


def check(found: int | str, expected: int | str, *names: str) -> None:
    """A count as expected, or a message that holds what is expected and one of the names."""
    if isinstance(expected, int):
        assert found == expected, found
        return
    assert isinstance(found, str), found
    assert re.search(expected, found) and any(name in found for name in names), (expected, names, found)


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_with_each_file(source: str, tmp_path: Path) -> None:
    combinations = len(SOURCES) * len(FILES) + len(TABLES) * (len(ROWS) + 5) + len(FOLDERS) + len(OTHERS)
    assert combinations >= 150
    for number, (alter, expected) in enumerate(FILES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        items = alter(plain())
        check(outcome(SOURCES[source](folder, items)), expected, items[0].name)


@pytest.mark.parametrize("source", TABLES)
def test_each_table_with_each_row(source: str, tmp_path: Path) -> None:
    for number, (alter, expected) in enumerate(ROWS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        items = alter(plain())
        table = TABLES[source](folder, items)
        check(outcome(table), expected, items[0].name, table.name, "train row 0", "label")


@pytest.mark.parametrize("source", TABLES)
def test_each_table_with_each_encoding(source: str, tmp_path: Path) -> None:
    table = TABLES[source](tmp_path, plain())
    own = table.read_bytes()
    kinds: dict[str, tuple[bytes, int | str]] = {
        "a byte order mark": (b"\xef\xbb\xbf" + own, COUNT),
        "UTF-16": (own.decode().encode("utf-16"), "is not text in UTF-8; if it is UTF-16, convert it"),
        "a NUL": (own.replace(b"images/0.png", b"images/0\0.png"), "0x00"),
        "Latin-1": (own.replace(b"images/0.png", b"images/\xe4.png"), "WINDOWS-1252"),
        "an empty line at its end": (own + b"\n", COUNT if source != "jsonl" else "is not JSON"),
    }
    for content, expected in kinds.values():
        table.write_bytes(content)
        check(outcome(table), expected, table.name)


@pytest.mark.parametrize("oddity", FOLDERS)
def test_a_folder_with_what_lies_in_folders(oddity: str, tmp_path: Path) -> None:
    alter, expected = FOLDERS[oddity]
    (tmp_path / "set").mkdir()
    root = write_folder(tmp_path / "set", plain())
    alter(root)
    check(outcome(root), expected, str(root))


def semicolons(folder: Path) -> Path:
    return write_csv(folder, plain(), ";")


def npz_of(folder: Path, alter: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    arrays = {
        "train_images": np.stack([np.asarray(noise(n)) for n in range(COUNT)]),
        "train_labels": np.arange(COUNT) % 2,
    }
    alter(arrays)
    np.savez(folder / "t.npz", **arrays)
    return folder / "t.npz"


def cut_npz(folder: Path) -> Path:
    path = npz_of(folder, lambda arrays: None)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def as_file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        place(folder / name, content)
        return folder / name

    return write


OTHERS: dict[str, tuple[Callable[[Path], Path], int | str]] = {
    "semicolons": (semicolons, COUNT),
    "npz": (lambda folder: npz_of(folder, lambda arrays: None), COUNT),
    "npz of one channel": (
        lambda folder: npz_of(folder, lambda a: a.update(train_images=a["train_images"][..., None])), COUNT,
    ),
    "npz of volumes": (
        lambda folder: npz_of(folder, lambda a: a.update(train_images=np.zeros((COUNT, 9, 9, 9), np.uint8))),
        "3D volumes",
    ),
    "npz of 16 bits": (
        lambda folder: npz_of(folder, lambda a: a.update(train_images=a["train_images"].astype(np.uint16))),
        "not uint8",
    ),
    "npz without labels": (lambda folder: npz_of(folder, lambda a: a.pop("train_labels")), "no train_labels"),
    "npz cut off": (cut_npz, "is damaged"),
    "an archive": (as_file("t.zip", b"PK\3\4"), "is an archive; unpack it"),
    "a packed table": (as_file("t.csv.gz", b"\x1f\x8b"), "is an archive; unpack it"),
    "a spreadsheet": (as_file("t.xlsx", b"PK"), "is a spreadsheet; save it as .csv"),
    "a single image": (as_file("x.png", encoded(noise(0))), "is a single file; give its folder"),
    "a list in JSON": (as_file("t.json", b"[]"), "one object a line into a .jsonl"),
    "an unknown kind": (as_file("t.h5", b"\x89HDF"), "is not read; give a folder, .csv"),
    "Parquet of garbage": (as_file("t.parquet", b"PAR1 no"), "Parquet files that cannot be read"),
    "a file that is not there": (lambda folder: folder / "nosuch.csv", "there is no such file"),
    "a folder that is not there": (lambda folder: folder / "nosuch", "there is no such file or folder"),
    "an empty folder": (lambda folder: folder, "no images in class folders"),
}  # fmt: skip


@pytest.mark.parametrize("oddity", OTHERS)
def test_other_files(oddity: str, tmp_path: Path) -> None:
    write, expected = OTHERS[oddity]
    path = write(tmp_path)
    check(outcome(path), expected, path.name, os.fspath(path))


def test_forty_files_that_cannot_be_read_are_one_message(tmp_path: Path) -> None:
    items = [replace(item, content=b"no image") for item in plain()] + [
        replace(item, name=f"good{item.name}") for item in plain()
    ]
    said = outcome(write_folder(tmp_path, items))
    assert isinstance(said, str) and said.startswith("24 of 48 images cannot be read:") and "and 14 more" in said
    assert outcome(tmp_path, on_bad_file="skip") == COUNT
