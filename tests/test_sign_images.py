"""`clinsynth sign images` on whole sets, and `clinsynth inspect` on what comes out."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import kill_when

pytest.importorskip("c2pa", reason="needs c2pa-python: pip install clinsynth[c2pa]")

from certificates import Authority, key_pem, new_key, write_files, write_key

from clinsynth.cli import main
from clinsynth.data.sources import load_folder
from clinsynth.hub.credentials import read_manifest, unsigned
from clinsynth.hub.data_sets import write_table
from clinsynth.images import from_png, to_picture, to_png
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
from clinsynth.synthesis.provenance import Provenance, mark_image
from clinsynth.synthesis.sets import read_finished
from clinsynth.synthesis.shard_files import hash_shards

GENERATOR = {"model": "me/retina", "weights_sha256": "abc", "seed": 0}
FIRST = "data/train-00000-of-00003.parquet"


def generate(folder: Path, rows: int = 6, shard_size: int = 2, **generator: Any) -> Path:
    """Pictures of noise, 32 px, as `clinsynth generate images` writes them."""
    plan = ImageShards(folder, [i % 2 for i in range(rows)], {0: "a", 1: "b"}, seed=3, shard_size=shard_size)
    folder.mkdir()
    plan.begin(GENERATOR | generator)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        made = [np.random.default_rng(seed).integers(0, 256, (1, 32, 32)) for seed in seeds]
        return np.stack(made).astype(np.uint8), np.ones(len(labels), dtype=bool)

    write_image_shards(plan, sample, batch_size=8)
    plan.finish(GENERATOR | generator)
    (folder / "config.yaml").write_text("per_class: 3\n")
    (folder / "notes.txt").write_text("what nobody else should read")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set`, and who signs."""
    folder = tmp_path_factory.mktemp("runs")
    generate(folder / "set")
    write_files(folder, Authority())
    return folder


def words(runs: Path, output: Path, folder: Path | None = None, **flags: object) -> list[str]:
    given = {"certificate": runs / "chain.pem", "key": runs / "key.pem", "output_dir": output} | flags
    flat = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    return ["sign", "images", str(folder or runs / "set"), *flat]


def refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """The message of a command that ends with status 2."""
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def signed(runs: Path) -> Path:
    main(words(runs, runs / "signed"))
    return runs / "signed"


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_set_is_signed_whole(runs: Path, signed: Path) -> None:
    anchors = (runs / "authority.pem").read_text()
    names = [path.name for path in sorted((runs / "set" / "data").iterdir())]
    assert [path.name for path in sorted((signed / "data").iterdir())] == names and len(names) == 3
    for name in names:
        before, after = pq.ParquetFile(runs / "set" / "data" / name), pq.ParquetFile(signed / "data" / name)
        assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
        assert set(after.metadata.metadata) == set(before.metadata.metadata)
        for old, new in zip(before.read().to_pylist(), after.read().to_pylist(), strict=True):
            png, picture = new["image"].pop("bytes"), old["image"].pop("bytes")
            assert old == new and unsigned(png) == picture and (from_png(png) == from_png(picture)).all()
            found = read_manifest(png, anchors)
            assert found is not None and found["state"] == "trusted" and found["says"]["seed"] == new["seed"]


def test_a_signed_set_is_a_set_with_shards_of_its_own(runs: Path, signed: Path) -> None:
    before = read_finished(runs / "set")
    assert read_finished(signed) == {name: value for name, value in before.items() if name != "looked_at"}
    assert hash_shards(signed) != hash_shards(runs / "set")
    assert load_folder(signed)["train"].features == load_folder(runs / "set")["train"].features
    found = sorted(str(path.relative_to(signed)) for path in signed.rglob("*") if path.is_file())
    sheets = ["contact_sheets/000.png", "contact_sheets/001.png"]
    shards = [f"data/train-0000{i}-of-00003.parquet" for i in range(3)]
    assert found == ["README.md", "config.yaml", *sheets, "content_credentials.json", *shards, "generation.json"]
    record = json.loads((signed / "content_credentials.json").read_text())
    assert record["complete"] and record["timestamp"] is None and record["signed_by"] == "CN=Radiology,O=Test Hospital"


def test_its_shards_are_what_publishing_would_send(signed: Path, runs: Path) -> None:
    """Without their manifests they are, byte for byte, the shards that were generated."""
    for path in sorted((signed / "data").iterdir()):
        table = pq.read_table(path)
        bare = [{"bytes": unsigned(row["image"]["bytes"]), "path": None} for row in table.to_pylist()]
        plain = table.set_column(0, table.schema.field(0), pa.array(bare, table.schema.field(0).type))
        assert write_table(plain) == (runs / "set" / "data" / path.name).read_bytes()


def test_the_same_command_changes_nothing(
    runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hash_shards(signed)
    main(words(runs, signed))
    assert hash_shards(signed) == before and "6 images signed by CN=Radiology" in capsys.readouterr().out
    write_files(tmp_path, Authority())
    for flags in (
        {"certificate": tmp_path / "chain.pem", "key": tmp_path / "key.pem"},
        {"timestamp": "http://127.0.0.1:9/"},
        {"folder": generate(tmp_path / "other", rows=5)},
    ):
        assert "was begun with" in refused(capsys, words(runs, signed, **flags))


def test_a_killed_run_goes_on(runs: Path, tmp_path: Path) -> None:
    folder, output = generate(tmp_path / "set", rows=200, shard_size=20), tmp_path / "signed"
    kill_when(lambda: list(output.glob("data/train-*")), *words(runs, output, folder))
    done = {path: path.read_bytes() for path in output.glob("data/train-*")}
    assert 1 <= len(done) < 10
    with pytest.raises(ValueError, match="is not finished"):
        read_finished(output)
    (output / "data" / ".train-left.tmp").write_text("half a shard")
    main(words(runs, output, folder))
    assert len(list((output / "data").iterdir())) == 10 and read_finished(output)["complete"]
    assert all(path.read_bytes() == content for path, content in done.items())
    states = [read_manifest(row["image"]["bytes"]) for path in output.glob("data/*") for row in rows_of(path)]
    assert len(states) == 200 and all(found is not None and found["state"] == "valid" for found in states)


def test_a_folder_of_png_files_is_signed(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(runs / "set" / FIRST)
    (tmp_path / "eyes" / "left").mkdir(parents=True)
    for name, row in zip(("a.png", "left/b.png"), rows, strict=True):
        (tmp_path / "eyes" / name).write_bytes(row["image"]["bytes"])
    main(words(runs, tmp_path / "signed", tmp_path / "eyes"))
    for name, row in zip(("a.png", "left/b.png"), rows, strict=True):
        assert unsigned((tmp_path / "signed" / name).read_bytes()) == row["image"]["bytes"]
    (tmp_path / "eyes" / "real.png").write_bytes(to_png(to_picture(np.zeros((1, 32, 32), np.uint8))))
    message = refused(capsys, words(runs, tmp_path / "again", tmp_path / "eyes"))
    assert "real.png: an image does not say that clinsynth made it" in message


def test_sets_that_are_not_signed(
    runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = generate(tmp_path / "changed")
    table = pq.read_table(changed / FIRST)
    other = mark_image(rows_of(changed / FIRST)[1]["image"]["bytes"], Provenance("me/other", "abc").of_row(1))
    pictures = [table["image"][0].as_py(), {"bytes": other, "path": None}]
    swapped = table.set_column(0, table.schema.field(0), pa.array(pictures, table.schema.field(0).type))
    tables = {
        "row 1: the image tells another origin": swapped,
        "does not say what made its rows": table.drop_columns(["revision"]),
        "was made from real images": table.append_column("source_id", pa.array(["17", "18"])),
        "texts cannot be signed": table.drop_columns(["image"]),
    }
    for message, wrong in tables.items():
        pq.write_table(wrong, changed / FIRST)
        assert message in refused(capsys, words(runs, tmp_path / message, changed))
    real = generate(tmp_path / "real", from_images="ham10000")
    assert "was made from real images" in refused(capsys, words(runs, tmp_path / "no", real))
    assert "is signed already" in refused(capsys, words(runs, tmp_path / "no", signed))
    (tmp_path / "empty").mkdir()
    assert "neither a synthetic set nor PNG" in refused(capsys, words(runs, tmp_path / "none", tmp_path / "empty"))
    assert "holds other files" in refused(capsys, words(runs, changed))
    assert "must lie outside" in refused(capsys, words(runs, runs / "set" / "signed"))
    assert "--key is missing" in refused(capsys, words(runs, tmp_path / "none", key=""))
    assert "--timestamp must be" in refused(capsys, words(runs, tmp_path / "none", timestamp="clock"))


def test_the_wrong_key_is_named_before_anything_is_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_key(tmp_path / "other.pem", key_pem(new_key()))
    assert "other.pem is not the key" in refused(capsys, words(runs, tmp_path / "out", key=tmp_path / "other.pem"))
    assert not (tmp_path / "out").exists()


def test_the_key_is_nowhere_in_what_is_written_or_said(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key.pem").write_bytes((runs / "key.pem").read_bytes())
    (tmp_path / "key.pem").chmod(0o644)
    main(words(runs, tmp_path / "signed", key=tmp_path / "key.pem"))
    assert "open to others than its owner (mode 644); chmod 600 it" in caplog.text
    secret = (runs / "key.pem").read_text().splitlines()[1]
    assert secret not in caplog.text + "".join(capfd.readouterr())
    written = [path.read_bytes() for path in (tmp_path / "signed").rglob("*") if path.is_file()]
    assert len(written) > 6 and not any(secret.encode() in content for content in written)


def inspected(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    main(["inspect", *map(str, flags)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_inspect_reads_it_back(runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows_of(signed / FIRST)[0]
    (tmp_path / "eye.png").write_bytes(row["image"]["bytes"])
    found = inspected(capsys, tmp_path / "eye.png")
    assert found["seed"] == row["seed"] and found["content_credentials"]["state"] == "valid"
    found = inspected(capsys, tmp_path / "eye.png", "--anchors", runs / "authority.pem")
    credentials = found["content_credentials"]
    assert credentials["state"] == "trusted" and credentials["source_types"] == [found["digital_source_type"]]
    found = inspected(capsys, signed / FIRST, "--anchors", runs / "authority.pem")
    assert found["content_credentials"] == {"states": {"trusted": 2}, "signed_by": {"Radiology, Test Hospital": 2}}
    assert found["pictures"] == {"marked": 2, "agree with their row": 2}
    assert "content_credentials" not in inspected(capsys, runs / "set" / FIRST)


def test_inspect_says_what_does_not_hold(
    runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(signed / FIRST)
    rows = table.to_pylist()
    picture = bytearray(rows[1]["image"]["bytes"])
    picture[picture.rindex(b"IDAT") + 40] ^= 1
    rows[1]["image"]["bytes"] = bytes(picture)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "set.parquet")
    (tmp_path / "eye.png").write_bytes(picture)
    for name in ("eye.png", "set.parquet"):
        with pytest.raises(SystemExit) as end:
            main(["inspect", str(tmp_path / name)])
        said = capsys.readouterr()
        assert end.value.code == 2 and "INVALID: the file was changed after it was signed" in said.err
        credentials = json.loads(said.out)["content_credentials"]
        assert "dataHash.mismatch" in json.dumps(credentials)
        if name == "set.parquet":
            assert credentials["states"] == {"valid": 1, "INVALID": 1} and credentials["broken"][0]["row"] == 1


def test_inspect_with_anchors_wants_everything_signed_by_them(
    runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, Authority("Another Authority"))
    for file, anchors in ((signed, tmp_path), (runs / "set", runs)):
        command = ["inspect", str(file / FIRST), "--anchors", str(anchors / "authority.pem")]
        assert "not every image is signed by one whom" in refused(capsys, command)
    for anchors in (tmp_path / "none.pem", runs / "set" / "config.yaml", runs / "set" / FIRST):
        message = refused(capsys, ["inspect", str(signed / FIRST), "--anchors", str(anchors)])
        assert f"--anchors {anchors}" in message and "PEM file" in message


def test_without_the_extra_a_mend_is_named(
    runs: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)  # as if it were not installed
    assert "pip install clinsynth[c2pa]" in refused(capsys, words(runs, tmp_path / "out"))
    assert inspected(capsys, signed / FIRST)["content_credentials"]["states"] == {"not read": 2}
    (tmp_path / "eye.png").write_bytes(rows_of(signed / FIRST)[0]["image"]["bytes"])
    found = inspected(capsys, tmp_path / "eye.png")["content_credentials"]
    assert found["state"] == "not read" and "pip install clinsynth[c2pa]" in found["why"][0]
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    assert "pip install clinsynth[c2pa]" in refused(capsys, words(runs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
