"""Bad input that no other test has: each an error that names thing, value and mend, and nothing finished is lost.

A full disk is made without root by a limit on the size of files (RLIMIT_FSIZE), which real writes run into.
"""

import json
import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import LABELS, tiny_pipeline, write_npz
from PIL import Image

from clinsynth import cli
from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_dataset
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.scripts.evaluate_images import main as evaluate
from clinsynth.scripts.generate_images import GenerateImagesArguments
from clinsynth.scripts.generate_images import main as generate
from clinsynth.scripts.summarize import SummarizeArguments
from clinsynth.scripts.summarize import main as summarize
from clinsynth.study.arguments import EvaluateImagesArguments
from clinsynth.trainers.train_image_classifier import ImageClassifierArguments
from clinsynth.trainers.train_image_classifier import main as train_classifier

NAMES = list(LABELS.values())
FULL = r"cannot be written .*File too large.*make room and start the same command again"


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Files end at `free` bytes within the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    return tmp_path


def generation(model: Path, output_dir: Path, **changes: object) -> GenerateImagesArguments:
    settings = {"per_class": 1, "num_inference_steps": 1} | changes
    return GenerateImagesArguments(model=str(model), output_dir=str(output_dir), **settings)  # type: ignore[arg-type]


def write_csv(folder: Path, labels: list[object], extra: str = "") -> str:
    rows = [f"{i % 12}.png,{label}" for i, label in enumerate(labels)]
    (folder / "table.csv").write_text("\n".join(["image,label", *rows, extra]))
    return str(folder / "table.csv")


@pytest.mark.parametrize(
    ("labels", "extra", "message"),
    [
        ([0, 1] * 6, "0.png,1,7", r"table\.csv, row 13 has more cells than there are columns; quote"),
        ([0, 1] * 6, '"0.png,1', r"table\.csv cannot be read \(unexpected end of data\); save it as \.csv"),
        ([0, -1] * 6, "", "train row 1: label -1 is out of range.*change it"),
        ([*[0, 1] * 6, 999_999_999_999], "", "train row 12: label 999999999999 is out of range.*change it"),
        ([1, 2] * 6, "", "class '0' has no train images; .*numbered from 0"),
    ],
)
def test_a_table_that_is_wrong(pictures: Path, labels: list[object], extra: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image_dataset(ImageDataArguments(write_csv(pictures, labels, extra)))


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(
        ValueError, match=r"table\.csv, line 1: byte 0 is 0x80, which is not text in UTF-8.*iconv -f WINDOWS-1252"
    ):
        load_image_dataset(ImageDataArguments(str(tmp_path / "table.csv")))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "train row 12 has no label; give it one"),
        ("x", r"table\.jsonl: a column mixes kinds of values \(label\); give each column one kind"),
        ([1], r"table\.jsonl: a column mixes kinds of values"),
    ],
)
def test_one_label_of_another_kind(pictures: Path, label: object, message: str) -> None:
    rows = [{"image": f"{i}.png", "label": i % 2} for i in range(12)] + [{"image": "0.png", "label": label}]
    (pictures / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=message):
        load_image_dataset(ImageDataArguments(str(pictures / "table.jsonl")))


def garble(path: Path) -> None:
    """Damage the compressed bytes of the first array, so that only decompression notices."""
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 200
    content = bytearray(path.read_bytes())
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)


def test_an_npz_that_is_damaged_inside_or_an_npy(tmp_path: Path) -> None:
    with np.load(write_npz(tmp_path / "whole.npz")) as arrays:
        np.savez_compressed(tmp_path / "garbled.npz", **arrays)
        np.save(tmp_path / "one.npy", arrays["train_images"])
    garble(tmp_path / "garbled.npz")
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "empty.npz").touch()
    for name in ("garbled", "one", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is damaged, no \.npz.*save plain uint8 images"):
            load_image_dataset(ImageDataArguments(str(tmp_path / f"{name}.npz")))


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("PAR1, but no more")
    with pytest.raises(ValueError, match=f"{tmp_path} holds Parquet files that cannot be read .*replace them"):
        load_image_dataset(ImageDataArguments(str(tmp_path)))


def test_names_and_seeds_out_of_range(tmp_path: Path, model: Path) -> None:
    data = ImageDataArguments(str(write_npz(tmp_path / "a.npz")), label_names="a,,c")
    with pytest.raises(ValueError, match="--label_names must differ from each other and not be empty, got a, , c"):
        load_image_dataset(data)
    with pytest.raises(ValueError, match="--seed must be at least 0, got -1"):
        load_image_dataset(ImageDataArguments(data.dataset), seed=-1)
    with pytest.raises(ValueError, match="--seed must be at least 0, got -1"):
        generation(model, tmp_path, seed=-1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("mild=0", "nothing to generate: --counts mild=0 asks for none; raise"),
        ("mild=1,1=2", r"names the label '1' twice; give one number"),
        ("mild=-1", "'mild=-1' is not LABEL=N with a whole number N; write"),
    ],
)
def test_counts_that_are_wrong(counts: str, message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        generate(generation(model, tmp_path / "out", per_class=None, counts=counts))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate_weights(model: Path) -> None:
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_weights, "cannot be loaded .*copy it anew"),
        (lambda model: shutil.rmtree(model / "scheduler"), "cannot be loaded .*copy it anew"),
        (lambda model: (model / "model_index.json").write_text("{"), r"model_index\.json is damaged .*copy it anew"),
        (lambda model: (model / "model_index.json").write_text("[1, 2]"), r"index\.json is damaged .*a list, no"),
        (lambda model: edit_json(model / "model_index.json", unet=[]), "holds a network None, not one of"),
        (lambda model: edit_json(model / "model_index.json", unet=None), "holds a network None, not one of"),
        (lambda model: edit_json(model / "model_index.json", id2label=[1, 2, 3]), "cannot be loaded .*copy it anew"),
        (lambda model: edit_json(model / "model_index.json", image_mean={"a": 1}), "cannot be loaded .*copy it anew"),
        (
            lambda model: edit_json(model / "model_index.json", id2label=dict.fromkeys("0123", "x")),
            r"names the classes \[0, 1, 2, 3\], but the network was trained on 3 .*use the id2label of the training",
        ),
        (lambda model: edit_json(model / "unet" / "config.json", num_class_embeds=9), "cannot be loaded .*copy it"),
        (lambda model: edit_json(model / "unet" / "config.json", num_class_embeds=None), "knows no classes; give a"),
    ],
)
def test_a_checkpoint_that_is_damaged_or_another(
    damage: Callable[[Path], object], message: str, model: Path, tmp_path: Path
) -> None:
    damage(model)
    with pytest.raises(ValueError, match=message):
        generate(generation(model, tmp_path / "out"))


def test_a_run_folder_that_cannot_be_written_to_is_named_by_every_command(model: Path, tmp_path: Path) -> None:
    real, folder = str(write_npz(tmp_path / "a.npz", per_class=12)), str(tmp_path / "a.npz" / "run")
    generate(generation(model, tmp_path / "synthetic", per_class=3))
    message = r"--output_dir .*a\.npz/run cannot be written to .*; name another folder"
    with pytest.raises(ValueError, match=message):
        summarize(SummarizeArguments(real, output_dir=folder))
    with pytest.raises(ValueError, match=message):
        generate(generation(model, Path(folder)))
    with pytest.raises(ValueError, match=message):
        train_classifier(ImageClassifierArguments(real, output_dir=folder))
    with pytest.raises(ValueError, match=message):
        evaluate(
            EvaluateImagesArguments(real, str(tmp_path / "synthetic"), folder, classifier="none", label_names=NAMES)
        )


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    atomic_write(tmp_path / "state.json", "old")
    with complete_folder(tmp_path / "checkpoint") as folder:
        save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    with full_disk(4096), pytest.raises(ValueError, match=rf"state\.json {FULL}"):
        atomic_write(tmp_path / "state.json", "new" * 4096)
    with (
        full_disk(4096),
        pytest.raises(ValueError, match=f"checkpoint {FULL}"),
        complete_folder(tmp_path / "checkpoint") as folder,
    ):
        save_file({"weight": torch.ones(9999)}, folder / "model.safetensors")
    with full_disk(100), pytest.raises(ValueError, match=rf"metrics\.jsonl {FULL}"):
        append_metrics(tmp_path, {"text": "x" * 100})
    assert (tmp_path / "state.json").read_text() == "old"
    assert (tmp_path / "checkpoint" / "model.safetensors").stat().st_size < 1000


def test_generation_goes_on_after_a_full_disk(model: Path, tmp_path: Path) -> None:
    args = generation(model, tmp_path / "out", per_class=None, counts="mild=2,severe=40", shard_size=2)
    large = generation(model, tmp_path / "large", per_class=40, shard_size=120)
    with full_disk(12_000), pytest.raises(ValueError, match=r"could not be written \(.*start the same command again"):
        generate(large)
    assert not list((tmp_path / "large" / "data").iterdir())
    generate(args)
    generate(large)
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "large" / "data").iterdir()) == 120


def test_a_classifier_command_that_failed_can_be_mended_in_the_same_folder(tmp_path: Path) -> None:
    """Wrong settings that never trained anything bind nobody."""
    settings = {"dataset": str(write_npz(tmp_path / "a.npz")), "output_dir": str(tmp_path / "run"), "seeds": 1}
    with pytest.raises(ValueError, match="--channels must be 1"):
        train_classifier(ImageClassifierArguments(**settings, epochs=1, channels=2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is nan at step .*give smaller --learning_rates"):
        train_classifier(ImageClassifierArguments(**settings, epochs=9, learning_rates="1e30"))  # type: ignore[arg-type]
    train_classifier(ImageClassifierArguments(**settings, epochs=1))  # type: ignore[arg-type]
    assert (tmp_path / "run" / "results.json").exists()


def test_a_synthetic_set_with_a_damaged_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation\.json is damaged .*start its `clinsynth generate images`"):
        evaluate(EvaluateImagesArguments(synthetic=str(tmp_path)))


def test_a_real_set_without_a_test_split_is_cut_and_label_names_must_fit(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(write_npz(tmp_path / "a.npz", per_class=12)) as arrays:
        np.savez(tmp_path / "train.npz", **{name: arrays[name] for name in arrays if "test" not in name})
    generate(generation(model, tmp_path / "synthetic", per_class=3))
    words = f"evaluate images --real {tmp_path / 'train.npz'} --synthetic {tmp_path / 'synthetic'} --classifier none"
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    assert "classes that the real one has not: healthy, mild, severe (real: 0, 1, 2); give" in capsys.readouterr().err
    more = ["--output_dir", str(tmp_path / "out"), "--bootstrap", "0", "--label_names", ",".join(NAMES)]
    cli.main([*words.split(), *more])
    counts = json.loads((tmp_path / "out" / "evidence.json").read_text())["data"]["counts"]
    assert counts["test"] == {"healthy": 2, "mild": 2, "severe": 2}
    noise = capsys.readouterr().err
    assert "features, synthetic" in noise
    assert "Writing model shards" not in noise and "Loading weights" not in noise


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def needs_more(args: ImageDataArguments) -> None:
        raise ImportError("DICOM needs pydicom; install clinsynth[dicom]")

    with pytest.raises(SystemExit, match="2"):
        run(ImageDataArguments, needs_more, [], prog="clinsynth x")
    assert "clinsynth x: error: DICOM needs pydicom; install clinsynth[dicom]" in capsys.readouterr().err
