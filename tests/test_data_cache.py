"""Large splits are decoded once, into a raw array that is read as a memory map; a changed file is read anew."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinsynth.data import cache, decoding, images, looks, targets
from clinsynth.data.arguments import ImageDataArguments


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 images, which count as many, in a table; the cache is a folder of the test's."""
    monkeypatch.setenv("CLINSYNTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(looks, "MANY", 4)
    monkeypatch.setattr(images, "kept_array", lambda *args, small=0: cache.kept_array(*args, small=small))
    drawn = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    rows = []
    for number, pixels in enumerate(drawn):
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6 if number == 5 else 1  # lies on its side
        image.save(tmp_path / f"{number}.png", exif=exif)
        rows.append((f"{number}.png", "ab"[number % 2], ("train", "validation", "test")[number % 3]))
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "split"), *rows])
    return tmp_path / "t.csv"


def load(table: Path, **flags: object) -> dict[str, images.ImageArrays]:
    return images.load_image_arrays(ImageDataArguments(str(table), **flags))  # type: ignore[arg-type]


def test_the_second_start_decodes_nothing_and_gives_the_same(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(table, resolution=28)
    with monkeypatch.context() as patched:
        for module in (looks, targets, decoding):
            patched.setattr(module, "decode", lambda name, image: pytest.fail(f"{name} is decoded again"))
            patched.setattr(
                module, "open_image", lambda *cell: pytest.fail(f"{cell[0]} is opened again"), raising=False
            )
        again = load(table, resolution=28)
    assert all((again[name].images == split.images).all() for name, split in first.items())
    mapped = again["train"].images
    assert not mapped.flags.owndata and mapped.flags.writeable and mapped.shape == (20, 3, 28, 28)
    mapped[:] = 0  # changes no file
    assert (load(table, resolution=28)["train"].images == first["train"].images).all()
    monkeypatch.setenv("CLINSYNTH_CACHE", "")
    unkept = load(table, resolution=28)
    assert all((unkept[name].images == split.images).all() for name, split in first.items())
    kept = list((table.parent / "cache" / "images").iterdir())
    assert len(kept) == 6 and (table.parent / "cache" / "images").stat().st_mode & 0o077 == 0


def test_a_changed_file_another_size_or_a_torn_array_is_read_anew(table: Path) -> None:
    first = load(table)
    assert load(table, channels=1)["train"].images.shape == (20, 1, 32, 32)
    Image.new("RGB", (32, 32), "red").save(table.parent / "3.png")
    changed = load(table)["train"].images
    assert (changed[1] == np.array([255, 0, 0])[:, None, None]).all()
    assert (changed[2:] == first["train"].images[2:]).all()
    for path in (table.parent / "cache" / "images").iterdir():
        torn = path.read_bytes()[:200]
        path.unlink()  # the arrays above are mapped from it
        path.write_bytes(torn)
    assert (load(table)["train"].images == changed).all()


def test_small_sets_are_decoded_once_and_leave_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "MANY", 2000)
    monkeypatch.setattr(images, "kept_array", cache.kept_array)
    opened: list[object] = []
    own = Image.open
    monkeypatch.setattr(decoding.Image, "open", lambda file: opened.append(file) or own(file))
    splits = load(table)
    assert len(opened) == 60 and not (table.parent / "cache").exists() and not decoding.DECODED.images
    sideways = splits["test"].images[1]
    assert (sideways == np.rot90(np.asarray(own(table.parent / "5.png")), -1).transpose(2, 0, 1)).all()
