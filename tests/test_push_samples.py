"""What a sample says of itself, what is taken out of it, and which files and columns of a folder may leave."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, PngImagePlugin

from clinsynth.hub.data_sets import PublishedShards
from clinsynth.hub.files import content_of, metric_files, model_files, space_files
from clinsynth.hub.repository import explained, reason, status_of
from clinsynth.synthesis.provenance import Provenance, find_provenance, mark_image, read_mark
from clinsynth.synthesis.shard_files import find_shards, hash_each, hash_shards

SAYS = Provenance("me/retina", "abc").of_row(7)
PATIENT = "Jane Doe 1970"


def picture_file(kind: str) -> tuple[np.ndarray, bytes]:
    """Pixels, and a file of them that names a patient in its metadata and after its end."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = picture.getexif()
    exif[0x010E] = PATIENT
    if kind == "PNG":
        words = PngImagePlugin.PngInfo()
        words.add_text("Comment", PATIENT)
        words.add_itxt("Description", PATIENT, zip=True)
        picture.save(buffer, "PNG", pnginfo=words, exif=exif)
    else:
        picture.save(buffer, "JPEG", exif=exif, comment=PATIENT)
        pixels = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    return pixels, buffer.getvalue() + PATIENT.encode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_metadata_goes_and_pixels_and_provenance_stay(kind: str) -> None:
    pixels, before = picture_file(kind)
    assert PATIENT.encode() in before
    after = mark_image(before, SAYS)
    opened = Image.open(io.BytesIO(after))
    assert np.array_equal(np.asarray(opened), pixels)
    assert PATIENT.encode() not in after and not opened.getexif()
    assert list(opened.text) == ["clinsynth"] and json.loads(opened.text["clinsynth"]) == SAYS == read_mark(after)
    assert mark_image(after, SAYS) == after and read_mark(before) is None


def test_a_damaged_picture_is_an_error() -> None:
    _, png = picture_file("PNG")
    with pytest.raises(ValueError, match="cut short"):
        mark_image(png[:60], SAYS)
    with pytest.raises(ValueError, match="cannot be brought to PNG"):
        mark_image(b"no picture", SAYS)


def write_set(folder: Path, names: list[str]) -> Path:
    """Shards of two rows with a column that is nobody's business."""
    (folder / "data").mkdir(parents=True)
    features = Features(
        {
            "image": ImageFeature(),
            "label": ClassLabel(names=["a", "b"]),
            "seed": Value("int64"),
            "mrn": Value("string"),
        }
    )
    picture = {"bytes": picture_file("PNG")[1], "path": f"{PATIENT}.png"}
    rows = {"image": [picture] * 2, "label": [0, 1], "seed": [3, 4], "mrn": [PATIENT] * 2}
    table = Dataset.from_dict(rows, features=features).data.table
    table = table.replace_schema_metadata({**table.schema.metadata, b"note": PATIENT.encode()})
    for name in names:
        pq.write_table(table, folder / "data" / name)
    return folder


def test_a_published_shard_holds_known_columns_alone_and_is_the_same_each_time(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", ["train-00000-of-00001.parquet"])
    shards = PublishedShards(folder, Provenance("me/retina", "abc"), hash_each(folder))
    ((path, content),) = shards.files(2)
    assert isinstance(content, bytes)
    assert path == "data/train-00000-of-00001.parquet" and shards.left_out == ["mrn"] and shards.num_rows == 2
    assert PATIENT.encode() not in content
    table = pq.read_table(io.BytesIO(content))
    assert table.column_names == ["image", "label", "seed", "synthetic", "generator", "revision"]
    assert Features.from_arrow_schema(table.schema)["label"].names == ["a", "b"]
    assert [read_mark(row["image"]["bytes"])["seed"] for row in table.to_pylist()] == [3, 4]
    again = PublishedShards(folder, Provenance("me/retina", "abc"), hash_each(folder))
    assert list(again.files(2)) == [(path, content)]
    with pytest.raises(ValueError, match=r"holds 4 rows, but its generation\.json says 3"):
        list(again.files(3))


def test_a_set_lacks_no_shard_and_its_hash_is_of_all(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    folder = write_set(tmp_path / "set", names)
    assert [path.name for path in find_shards(folder)] == names
    whole = hash_shards(folder)
    path = folder / "data" / names[1]
    path.write_bytes(path.read_bytes() + b" ")
    assert hash_shards(folder) != whole
    path.unlink()
    with pytest.raises(ValueError, match=r"train-00000-of-00002\.parquet among 1 files"):
        find_shards(folder)


def test_text_shards_publish_the_fields_of_their_task_and_no_example_ids(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"schema": {"properties": {"text": {}, "mood": {}}}}))
    table = pa.table(
        {"id": ["0"], "text": ["t"], "mood": ["m"], "label": [0], "seed": [1], "example_ids": [[PATIENT]]}
    )
    shards = PublishedShards(tmp_path, Provenance("m", ""), {})
    assert shards.rewrite(table).column_names == "id text label seed mood synthetic generator revision".split()
    assert shards.left_out == ["example_ids"]


def test_a_generator_is_named_without_its_path(tmp_path: Path) -> None:
    made = {"generator": {"model": "/home/jane/runs/retina", "weights_sha256": None, "network": "UNet"}}
    assert find_provenance(made, tmp_path) == Provenance("retina", "")
    assert find_provenance({"generator": {"model": "me/retina"}}, tmp_path).generator == "me/retina"


def test_a_language_model_leaves_with_its_code_and_without_its_training(tmp_path: Path) -> None:
    config = {"custom_pipelines": {"t": {"impl": "pipe.Pipe"}}, "_name_or_path": "/home/jane/base"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pipe.py").write_text("from .words import x\nimport os\n")
    (tmp_path / "words.py").write_text("x = 1\n")
    names = ["model-00001-of-00002.safetensors", "tokenizer.json", "task.json", "chat_template.jinja"]
    for name in [
        *names,
        "training.json",
        "canaries.json",
        "optimizer.safetensors",
        "posts.csv",
        "scratch.py",
        "a.bin",
    ]:
        (tmp_path / name).write_text("{}")
    assert sorted(model_files(tmp_path)) == sorted(["config.json", "pipe.py", "words.py", *names])
    cleaned = content_of(tmp_path / "config.json")
    assert isinstance(cleaned, bytes) and b"jane" not in cleaned and b"pipe.Pipe" in cleaned
    assert content_of(tmp_path / "task.json") == tmp_path / "task.json"
    (tmp_path / "words.py").unlink()
    with pytest.raises(ValueError, match=r"lacks words\.py"):
        model_files(tmp_path)
    with pytest.raises(ValueError, match="holds no finished checkpoint"):
        model_files(tmp_path.parent)


def test_spaces_and_metrics_leave_with_code_alone(tmp_path: Path) -> None:
    for name in "app.py tabs/images.py tabs/__init__.py style.css requirements.txt checklists/eye.yaml".split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    kept = space_files(tmp_path)
    others = "tests/test_app.py __pycache__/app.py .env notes.txt eye.png config.yaml runs/a.json test_app.py"
    for name in others.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert space_files(tmp_path) == kept and len(kept) == 6
    assert metric_files(tmp_path) == ["app.py", "requirements.txt"]


def test_errors_say_the_step_the_cause_and_the_state() -> None:
    with pytest.raises(ValueError, match=r"uploading failed: the server does not answer \(ConnectionError: gone"):
        with explained("uploading"):
            raise ConnectionError("gone")
    assert status_of(RuntimeError("no answer")) is None and "RuntimeError" in reason(RuntimeError(""))
