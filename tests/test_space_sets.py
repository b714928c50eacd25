"""Sets that the Space takes: what may be uploaded or lie in a folder, and what is refused, within bounds."""

import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from studio_sets import GRADES, LabelledSet, images, limits, noise, png, sets, write_zip


def read(path: Path) -> LabelledSet:
    return sets.read_set(None, str(path), "the set")


def test_a_zip_of_class_folders(tmp_path: Path) -> None:
    chosen = images(1)
    path = write_zip(tmp_path / "a.zip", chosen, "some/where/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._x.png", b"")
        archive.writestr("some/.DS_Store", b"")
    found = read(path)
    assert (found.contents, found.labels, found.kind) == (chosen.contents, chosen.labels, "image")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("../out/a.png", b"", "leaves the archive"),
        ("/etc/a/b.png", b"", "leaves the archive"),
        ("a/run.sh", b"", "is no image"),
        ("a.png", b"", "lies in no class folder"),
        ("a/b.png", b"not an image", "cannot be read as an image"),
        ("a/b.png", png(Image.new("L", (2000, 2000))), "is 2000x2000 pixels"),
    ],
)
def test_what_a_zip_may_not_hold(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=told):
        read(tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", images(1))
    monkeypatch.setattr(limits, "MOST_ROWS", 5)
    with pytest.raises(ValueError, match="has 12 samples, more than 5"):
        read(path)
    monkeypatch.setattr(limits, "MOST_ROWS", 50)
    monkeypatch.setattr(limits, "MOST_BYTES", 4000)
    with pytest.raises(ValueError, match="is larger than"):
        read(path)


def test_a_zip_that_lies_about_its_sizes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(Image.new("L", (1000, 1000))) + bytes(100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.png", content)
    packed = (tmp_path / "a.zip").read_bytes().replace(len(content).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(packed)
    monkeypatch.setattr(limits, "MOST_BYTES", 50_000)
    with pytest.raises(ValueError, match=r"is larger than|damaged|cannot be read"):
        read(tmp_path / "a.zip")


def test_damaged_encrypted_and_other_uploads(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", images(1, per_class=1))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"damaged \.zip .*pack it again"):
        read(path)
    locked = bytearray(whole)
    for sign in (b"PK\x03\x04", b"PK\x01\x02"):
        at = locked.index(sign) + (6 if sign.endswith(b"\x04") else 8)
        locked[at] |= 1
    path.write_bytes(locked)
    with pytest.raises(ValueError, match="is encrypted"):
        read(path)
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"none of \.zip, \.parquet"):
        read(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="upload it again"):
        read(tmp_path / "gone.zip")
    with pytest.raises(ValueError, match="the set is missing; pick one"):
        sets.read_set(None, None, "the set")


def test_parquet_of_images_and_of_texts(tmp_path: Path) -> None:
    chosen = images(2)
    features = Features(image=ImageFeature(), label=ClassLabel(names=list(GRADES)))
    cells = [{"bytes": content, "path": None} for content in chosen.contents]
    labels = [GRADES.index(label) for label in chosen.labels]
    Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == LabelledSet("the set", chosen.contents, chosen.labels)
    Dataset.from_dict({"text": ["one", "two"], "label": ["a", "b"]}).to_parquet(tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet").kind == "text"
    Dataset.from_dict({"photo": ["one"]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="needs columns image or text, and label; it has photo"):
        read(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="cannot be taken as Parquet"):
        read(tmp_path / "d.parquet")


def bombs(folder: Path) -> dict[str, tuple[Path, str]]:
    """Small files that stand for much more, each with what it is refused for."""
    label = pa.array(["a"] * 2000)

    def write(name: str, content: pa.Array, column: str = "text", **settings: Any) -> Path:
        table = pa.table({column: content, "label": label[: len(content)]})
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", **settings)
        return folder / f"{name}.parquet"

    def repeated(size: int, rows: int, kind: pa.DataType) -> pa.Array:
        value = pa.array([b"x" * size]).cast(kind)
        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), value)

    return {
        "a dictionary": (
            write("dictionary", repeated(10 << 20, 2000, pa.string())),
            "more than 200 MB|too much memory",
        ),
        "a large dictionary": (write("large", repeated(120 << 20, 1000, pa.binary()), "image"), "too much memory"),
        "one long text": (write("long", pa.array(["a" * (210 << 20)])), "more than 200 MB|too much memory"),
        "many rows": (write("rows", pa.array(["a"] * 2000)[:1999]).rename(folder / "fits.parquet"), ""),
    }


def test_parquet_is_bounded_while_it_is_read(tmp_path: Path) -> None:
    for name, (path, told) in bombs(tmp_path).items():
        assert path.stat().st_size < 200_000, name
        if not told:
            assert len(read(path).contents) == 1999
            continue
        with pytest.raises(ValueError, match=told):
            read(path)
    pq.write_table(pa.table({"text": ["a"] * 9000, "label": ["b"] * 9000}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="more than 2000 samples"):
        read(tmp_path / "rows.parquet")


def test_a_path_inside_parquet_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(noise(1)))
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "label": ["grade 0"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 1 has no image inside the file"):
        read(tmp_path / "a.parquet")


def test_folders_that_the_app_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine" / "grade 1"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(png(noise(1)))
    monkeypatch.setenv("STUDIO_SETS", str(tmp_path / "mine"))
    assert "mine" in sets.set_names()
    assert sets.read_set("mine", None, "the set").labels == ["grade 1"]
    with pytest.raises(ValueError, match="'yours' is unknown; pick one of phantom eyes"):
        sets.read_set("yours", None, "the set")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "text,label\nrain,mild\n,severe\n", "the set, row 2, has no text; give columns text and label"),
        ("a.csv", "post,label\nrain,mild\n", "row 1, has no text"),
        ("a.csv", 'text,label\n"rain,mild\n', r"a\.csv cannot be read \(Error\)"),
        ("a.csv", "text,label\n", "the set is empty"),
        ("a.jsonl", '{"text": "rain", "label": "a"}\n{"text": ', r"a\.jsonl cannot be read \(JSONDecodeError\)"),
        ("a.jsonl", '["rain"]\n', "row 1, has no text"),
        ("a.jsonl", '{"text": "rain", "label": null}\n', "row 1, has no label"),
        ("a.jsonl", '{"text": "rain", "label": 1}\n' * 2001, "has more than 2000 rows"),
        ("a.txt", "rain", r"a\.txt is none of \.zip, \.parquet, \.csv and \.jsonl"),
    ],
)
def test_what_a_file_of_texts_may_not_hold(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        read(tmp_path / name)


def test_files_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('\ufefftext,label,more\n"rain, rain",mild,x\nsun,severe,y\n'.encode())
    assert read(tmp_path / "a.csv") == LabelledSet("the set", ["rain, rain", "sun"], ["mild", "severe"])
    (tmp_path / "a.jsonl").write_text('{"text": "rain", "label": 1}\n\n{"text": "sun", "label": "0"}\n')
    assert read(tmp_path / "a.jsonl") == LabelledSet("the set", ["rain", "sun"], ["1", "0"])
    (tmp_path / "b.csv").write_bytes("text,label\nr\xe4in,mild\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.csv cannot be read \(UnicodeDecodeError\)"):
        read(tmp_path / "b.csv")
    posts = [sets.read_set(f"made-up posts, seed {seed}", None, "the set") for seed in (0, 1)]
    assert posts[0].kind == "text" and len(set(posts[0].contents)) > 190 and posts[0].contents != posts[1].contents
