"""Sets that say where they are from since they were generated: published as they are, or written anew if not right."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from helpers import run_python
from test_push_samples import PATIENT, picture_file

from clinsynth.hub.credentials import inspect_file
from clinsynth.hub.data_sets import PublishedShards, write_table
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
from clinsynth.synthesis.image_sources import ImageSources
from clinsynth.synthesis.provenance import Provenance, all_marked, is_marked, make_chunk, mark_image, read_mark
from clinsynth.synthesis.shard_files import HashedFile, hash_each, looked_at, marked_schema, read_columns

GENERATOR = {"model": "me/retina", "weights_sha256": "abc", "seed": 0}
MADE = Provenance("me/retina", "abc")
NAMES = ["a", "b"]
Change = Callable[[list[dict[str, Any]]], None]


def generate(
    folder: Path, reject: Any = None, side: int = 28, finish: bool = True, sources: ImageSources | None = None
) -> ImageShards:
    """Ten rows of noise in two shards."""
    labels = [0] * 6 + [1] * 4
    plan = ImageShards(folder, labels, dict(enumerate(NAMES)), seed=3, shard_size=6, sources=sources)
    folder.mkdir(exist_ok=True)
    plan.begin(GENERATOR)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        made = [np.random.default_rng(seed).integers(0, 256, (3, side, side)) for seed in seeds]
        return np.stack(made).astype(np.uint8), np.ones(len(labels), dtype=bool)

    write_image_shards(plan, sample, batch_size=4, reject=reject)
    if finish:
        plan.finish(GENERATOR)
    return plan


def shards_of(folder: Path) -> PublishedShards:
    return PublishedShards.of(json.loads((folder / "generation.json").read_text()), folder, hash_each(folder))


def forget(folder: Path) -> Path:
    """Have the shards of a set looked at when they are published, though nothing changed since it was finished."""
    path = folder / "generation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"looked_at": None}))
    return folder


def published(folder: Path) -> list[bytes | HashedFile]:
    return [content for _, content in shards_of(folder).files(10)]


@pytest.mark.parametrize("when", ["looked at when it was finished", "looked at now"])
def test_a_generated_set_is_published_as_it_is(when: str, tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    assert json.loads((folder / "generation.json").read_text())["looked_at"]["num_rows"] == 10
    shards = shards_of(folder if when.endswith("finished") else forget(folder))
    for (path, content), whole in zip(shards.files(10), hash_each(folder).values(), strict=True):
        assert content == whole == HashedFile.of(folder / path)
        rows = pq.read_table(folder / path)
        assert set(pq.ParquetFile(folder / path).metadata.metadata) == {b"ARROW:schema", b"huggingface"}
        for row in rows.to_pylist():
            assert read_mark(row["image"]["bytes"]) == MADE.of_row(row["seed"])
            assert {name: row[name] for name in MADE.columns()} == MADE.columns()
    size = sum(path.stat().st_size for path in hash_each(folder))
    assert shards.left_out == [] and shards.num_rows == 10 and shards.download_size == size
    assert shards.num_bytes == sum(pq.read_table(path).nbytes for path in hash_each(folder))
    assert [column["name"] for column in shards.columns] == rows.column_names
    says = inspect_file(folder / "data" / "train-00000-of-00002.parquet")
    assert says is not None and says["pictures"] == {"marked": 6, "agree with their row": 6}


def test_what_is_published_as_it_is_is_what_would_be_written(tmp_path: Path) -> None:
    """A shard that is fit and one that is not are one data set."""
    folder = generate(tmp_path / "set").output_dir
    shards = shards_of(folder)
    for path in hash_each(folder):
        table = pq.read_table(path)
        again = shards.rewrite(table)
        assert again.schema.equals(table.schema, check_metadata=True) and again.equals(table)
        assert write_table(again) == path.read_bytes()


def test_rejections_are_counted_in_words_that_the_set_tells(tmp_path: Path) -> None:
    drawn: Counter[int] = Counter()

    def reject(images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        drawn.update(labels)
        return ["copy" if label == 1 and drawn[1] == 4 else None for label in labels]

    folder = generate(tmp_path / "set", reject).output_dir
    path = folder / "data" / "train-00001-of-00002.parquet"
    assert json.loads(pq.read_schema(path).metadata[b"rejected"]) == {"copy": 4}
    assert all(isinstance(content, HashedFile) for content in published(forget(folder)))
    table = pq.read_table(path)
    twice = f'{{"copy": "{PATIENT}", "copy": 1}}'
    for counts in (f'{{"copy": 1, "{PATIENT}": 1}}', f'{{"copy": "{PATIENT}"}}', twice, f'["{PATIENT}"]', PATIENT):
        kept = {**table.schema.metadata, b"rejected": counts.encode()}
        pq.write_table(table.replace_schema_metadata(kept), path)
        assert PATIENT.encode() in path.read_bytes()
        _, content = published(folder)
        assert isinstance(content, bytes) and PATIENT.encode() not in content


def test_pictures_of_many_chunks_are_looked_at_too(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set", side=200).output_dir
    rows = pq.read_table(folder / "data" / "train-00000-of-00002.parquet").to_pylist()
    assert rows[0]["image"]["bytes"].count(b"IDAT") > 1
    assert all(isinstance(content, HashedFile) for content in published(forget(folder)))


def test_many_rows_are_marked_as_each_alone() -> None:
    made, seeds = Provenance('me/"seed": 0, "x é', "abc"), [0, None, 7, 2**62]
    _, png = picture_file("PNG")
    for seed, words in zip(seeds, made.chunks(seeds), strict=True):
        marked = mark_image(png, made.of_row(seed))
        assert words in marked and is_marked(marked, words) and read_mark(marked) == made.of_row(seed)
        assert not is_marked(png, words) and not is_marked(marked, next(made.chunks([8])))
        assert not is_marked(marked + b" ", words) and not is_marked(picture_file("JPEG")[1], words)
    with pytest.raises(ValueError, match="cut short"):
        is_marked(marked[:-20], words)


def test_a_row_of_files_is_looked_at_as_each_alone() -> None:
    files = [mark_image(picture_file("PNG")[1], MADE.of_row(seed)) for seed in (1, 22, 333)]
    words = list(MADE.chunks([1, 22, 333]))
    data = b"before" + b"".join(files) + b"behind"
    ends = [6, *(6 + len(b"".join(files[: number + 1])) for number in range(3))]
    assert all_marked(data, ends, words) and not all_marked(data, ends, words[::-1])
    assert not all_marked(data, [ends[0] - 1, *ends[1:]], words) and not all_marked(
        data, [*ends[:3], ends[3] + 1], words
    )
    for number in range(3):
        place = ends[number] + data[ends[number] :].index(b"clinsynth")
        assert not all_marked(data[:place] + b"C" + data[place + 1 :], ends, words)


def test_the_columns_are_those_of_datasets(tmp_path: Path) -> None:
    told = {"image": ImageFeature(), "label": ClassLabel(names=NAMES), "seed": Value("int64")}
    told |= {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
    features = Features(told)
    assert marked_schema(NAMES).equals(features.arrow_schema, check_metadata=True)
    assert read_columns(marked_schema(NAMES)) == features._to_yaml_list()
    other = Features({**told, "age": Value("int32")})
    assert read_columns(other.arrow_schema) == other._to_yaml_list()
    plain = pa.table({"id": ["0"], "ids": [["x"]], "share": [0.5]}).schema
    assert read_columns(plain) == Features.from_arrow_schema(plain)._to_yaml_list()


def test_publishing_a_generated_set_needs_neither_datasets_nor_pandas(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    code = (
        "import sys; from pathlib import Path\n"
        "from clinsynth.hub_cards.dataset_card import dataset_card\n"
        "from clinsynth.hub_cards.sets import sample_grid\n"
        "from clinsynth.synthesis.provenance import Provenance\n"
        "from clinsynth.hub.data_sets import PublishedShards\n"
        "from clinsynth.synthesis.shard_files import hash_each\n"
        "folder = Path(sys.argv[1])\n"
        "shards = PublishedShards(folder, Provenance('me/retina', 'abc'), hash_each(folder))\n"
        "assert not any(isinstance(content, bytes) for _, content in shards.files(10))\n"
        "dataset_card(folder), sample_grid(folder)\n"
        "print(sorted({'datasets', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert run_python("-c", code, folder).stdout.strip() == "[]"


def words_in(picture: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG file with one more chunk before its end."""
    return picture[:-12] + make_chunk(kind, data) + picture[-12:]


def wrong_seed(rows: list[dict[str, Any]]) -> None:
    rows[1]["image"]["bytes"] = mark_image(rows[1]["image"]["bytes"], MADE.of_row(99))


def other_generator_in_the_chunk(rows: list[dict[str, Any]]) -> None:
    rows[1]["image"]["bytes"] = mark_image(rows[1]["image"]["bytes"], Provenance(PATIENT, "").of_row(rows[1]["seed"]))


def text_chunk(rows: list[dict[str, Any]]) -> None:
    rows[5]["image"]["bytes"] = words_in(rows[5]["image"]["bytes"], b"tEXt", b"Comment\0" + PATIENT.encode())


def exif_chunk(rows: list[dict[str, Any]]) -> None:
    rows[0]["image"]["bytes"] = words_in(rows[0]["image"]["bytes"], b"eXIf", b"MM\0*" + PATIENT.encode())


def words_after_the_end(rows: list[dict[str, Any]]) -> None:
    rows[2]["image"]["bytes"] += PATIENT.encode()


def words_after_the_end_that_look_like_one(rows: list[dict[str, Any]]) -> None:
    rows[2]["image"]["bytes"] += PATIENT.encode() + rows[2]["image"]["bytes"][-12:]


def not_marked(rows: list[dict[str, Any]]) -> None:
    rows[3]["image"]["bytes"] = picture_file("PNG")[1]


def jpeg(rows: list[dict[str, Any]]) -> None:
    rows[3]["image"]["bytes"] = picture_file("JPEG")[1]


def file_name(rows: list[dict[str, Any]]) -> None:
    rows[4]["image"]["path"] = f"{PATIENT}.png"


def not_synthetic(rows: list[dict[str, Any]]) -> None:
    rows[5]["synthetic"] = False


def no_word_on_it(rows: list[dict[str, Any]]) -> None:
    rows[0]["synthetic"] = None


def other_generator(rows: list[dict[str, Any]]) -> None:
    rows[3]["generator"] = PATIENT


def other_revision(rows: list[dict[str, Any]]) -> None:
    rows[0]["revision"] = PATIENT


CHANGES = [
    wrong_seed,
    other_generator_in_the_chunk,
    text_chunk,
    exif_chunk,
    words_after_the_end,
    words_after_the_end_that_look_like_one,
    not_marked,
    jpeg,
    file_name,
    not_synthetic,
    no_word_on_it,
    other_generator,
    other_revision,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_with_one_wrong_row_is_written_anew(change: Change, tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    path = folder / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    content, other = published(folder)
    assert isinstance(content, bytes) and isinstance(other, HashedFile)
    assert PATIENT.encode() not in content
    for row in pq.read_table(io.BytesIO(content)).to_pylist():
        assert read_mark(row["image"]["bytes"]) == MADE.of_row(row["seed"]) and row["image"]["path"] is None
        assert {name: row[name] for name in MADE.columns()} == MADE.columns()


def test_a_shard_with_words_beside_its_rows_is_written_anew(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    path = folder / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    said = json.loads(table.schema.metadata[b"huggingface"])
    described = json.dumps({"info": {**said["info"], "description": PATIENT}}).encode()
    field = table.schema.field("seed").with_metadata({"note": PATIENT})
    altered = {
        "metadata": table.replace_schema_metadata({**table.schema.metadata, b"note": PATIENT.encode()}),
        "description": table.replace_schema_metadata({b"huggingface": described}),
        "column": table.append_column("patient", pa.array([PATIENT] * 6)),
        "field": table.cast(table.schema.set(2, field)),
    }
    for name, changed in altered.items():
        pq.write_table(changed, path)
        shards = shards_of(folder)
        (_, content), _ = shards.files(10)
        assert isinstance(content, bytes) and PATIENT.encode() not in content, name
        assert shards.left_out == (["patient"] if name == "column" else [])
        assert pq.read_table(io.BytesIO(content)).equals(table)


def test_pictures_made_from_real_ones_leave_without_their_sources(tmp_path: Path) -> None:
    pictures, of_class = np.zeros((2, 3, 28, 28), np.uint8), {0: np.array([0]), 1: np.array([1])}
    sources = ImageSources(pictures, [PATIENT, PATIENT], NAMES[::-1], of_class, {0: 0.5, 1: 0.5}, {})
    folder = generate(tmp_path / "set", sources=sources).output_dir
    assert inspect_file(folder / "data" / "train-00000-of-00002.parquet") is not None
    assert json.loads((folder / "generation.json").read_text())["looked_at"] is None
    shards = shards_of(folder)
    contents = [content for _, content in shards.files(10)]
    assert shards.left_out == ["source_id", "source_label", "strength"]
    plain = generate(tmp_path / "plain").output_dir
    assert contents == [path.read_bytes() for path in hash_each(plain)]


def test_what_was_found_when_a_set_was_finished_holds_for_these_shards_and_words_alone(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    path = folder / "generation.json"
    generation = json.loads(path.read_text())
    (tmp_path / "other").mkdir()
    other = generate(tmp_path / "other", side=30).output_dir / "generation.json"
    for change in ({"provenance": {"generator": PATIENT, "revision": "abc"}}, {"looked_at": {"num_rows": 10}}):
        if "looked_at" in change:
            change["looked_at"] |= json.loads(other.read_text())["looked_at"]
        path.write_text(json.dumps(generation | change))
        shards = shards_of(folder)
        assert shards.known != looked_at(shards.hashed, shards.provenance, 10, shards.known["num_bytes"])
        assert [isinstance(content, bytes) for _, content in shards.files(10)] == ["provenance" in change] * 2


def test_a_damaged_picture_stops_a_set(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set").output_dir
    path = folder / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[2]["image"]["bytes"] = rows[2]["image"]["bytes"][:-30]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ValueError, match="cut short"):
        published(folder)


def test_what_made_a_set_does_not_change_with_the_folder_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path like owner/name is no id on the Hub where it lies here, whoever pushes the set from elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "retina").mkdir(parents=True)
    folder = generate(Path("set")).output_dir
    moved = tmp_path / "elsewhere"
    (tmp_path / "me" / "retina").rmdir()
    folder.rename(moved)
    forget(moved)
    assert shards_of(moved).provenance == replace(MADE, generator="retina")
    assert all(isinstance(content, HashedFile) for content in published(moved))


def test_a_set_that_was_begun_without_it_goes_on_without_it(tmp_path: Path) -> None:
    folder = generate(tmp_path / "set", finish=False).output_dir
    begun = json.loads((folder / "generation.json").read_text())
    assert begun.pop("provenance") == {"generator": "me/retina", "revision": "abc"}
    (folder / "generation.json").write_text(json.dumps(begun))
    for path in (folder / "data").iterdir():
        path.unlink()
    generate(folder)
    assert "provenance" not in json.loads((folder / "generation.json").read_text())
    for path, content in zip(hash_each(folder), published(folder), strict=True):
        rows = pq.read_table(path)
        assert rows.column_names == ["image", "label", "seed"] and isinstance(content, bytes)
        assert [read_mark(row["image"]["bytes"]) for row in rows.to_pylist()] == [None] * rows.num_rows
    new = generate(tmp_path / "new").output_dir
    assert published(folder) == [path.read_bytes() for path in hash_each(new)]
