"""Generation: the data set on disk, seeds, restarts, processes and wrong flags."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from helpers import REPOSITORY, clinsynth, kill_when, run_python, tiny_pipeline, write_npz
from safetensors.torch import load_file

from clinsynth.images import from_png
from clinsynth.models.generators import load_ddpm, read_index
from clinsynth.scripts.generate_images import GenerateImagesArguments, main
from clinsynth.synthesis import shards as synthetic_shards

SCHEDULE = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(**SCHEDULE).save_pretrained(folder)
    return folder


def arguments(model: Path, output_dir: Path, **changes: Any) -> GenerateImagesArguments:
    settings: dict[str, Any] = {"num_inference_steps": 2, "shard_size": 4}
    return GenerateImagesArguments(model=str(model), output_dir=str(output_dir), **settings | changes)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "data").glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def pixels(folder: Path) -> np.ndarray:
    return np.stack([from_png(row["image"]["bytes"]) for row in read_rows(folder)]).astype(int)


def test_the_folder_is_a_data_set(model: Path, tmp_path: Path) -> None:
    main(arguments(model, tmp_path / "out", counts="severe=5,0=6"))
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.column_names == ["image", "label", "seed", "synthetic", "generator", "revision"]
    assert dataset.features["label"].names == ["healthy", "mild", "severe"]
    assert dataset["label"] == [0] * 6 + [2] * 5
    assert dataset[0]["image"].size == (28, 28) and dataset[0]["image"].mode == "L"
    assert len(set(dataset["seed"])) == 11
    description = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert description["complete"] and description["produced"] == {"healthy": 6, "mild": 0, "severe": 5}
    assert description["requested"] == description["produced"] and description["rejected"] == {"not finite": 0}
    assert description["generator"]["num_inference_steps"] == 2
    assert sorted(p.name for p in (tmp_path / "out" / "contact_sheets").iterdir()) == ["000.png", "002.png"]


def test_guidance_by_the_guide_and_its_interval_are_said(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(**SCHEDULE)
    pipeline.register_modules(guide=tiny_pipeline(**SCHEDULE).unet)
    for weight in pipeline.guide.parameters():
        weight.data *= 0.9
    pipeline.save_pretrained(tmp_path / "model")
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "auto": {"guidance_scale": 2.0, "guidance": "auto"},
        "early": {"guidance_scale": 2.0, "guidance": "auto", "guidance_interval": "0,0.5"},
        "never": {"guidance_scale": 2.0, "guidance_interval": "0,0"},
    }
    for name, changes in kinds.items():
        main(arguments(tmp_path / "model", tmp_path / name, per_class=1, **changes))
    main(arguments(tmp_path / "model", tmp_path / "early", per_class=1, **kinds["early"]))  # the same command goes on
    drawn = {name: pixels(tmp_path / name) for name in kinds}
    assert np.array_equal(drawn["never"], drawn["plain"])
    assert not np.array_equal(drawn["auto"], drawn["plain"]) and not np.array_equal(drawn["early"], drawn["auto"])
    said = json.loads((tmp_path / "early" / "generation.json").read_text())["generator"]
    assert (said["guidance"], said["guidance_interval"]) == ("auto", [0.0, 0.5]) and len(said["guide_sha256"]) == 64
    assert "guidance" not in json.loads((tmp_path / "plain" / "generation.json").read_text())["generator"]


def test_two_folders_of_one_name_are_two_data_sets(model: Path, tmp_path: Path) -> None:
    for name, per_class in (("a/out", 1), ("b/out", 2)):
        main(arguments(model, tmp_path / name, per_class=per_class))
        data = load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(data) == 3 * per_class


def test_a_row_is_made_again_from_its_seed(model: Path, tmp_path: Path) -> None:
    import torch
    from diffusers import DPMSolverMultistepScheduler

    main(arguments(model, tmp_path / "out", counts="mild=3"))
    pipe = tiny_pipeline(**SCHEDULE)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    for row, image in zip(read_rows(tmp_path / "out"), pixels(tmp_path / "out"), strict=True):
        again = pipe("mild", num_inference_steps=2, generator=torch.Generator().manual_seed(row["seed"])).images[0]
        assert np.abs(np.asarray(again).astype(int) - image[0]).max() <= 1


def test_images_do_not_depend_on_batch_or_shard_size(model: Path, tmp_path: Path) -> None:
    main(arguments(model, tmp_path / "a", per_class=4, batch_size=64, shard_size=100))
    main(arguments(model, tmp_path / "b", per_class=4, batch_size=3, shard_size=5))
    assert np.abs(pixels(tmp_path / "a") - pixels(tmp_path / "b")).max() <= 1
    assert [row["seed"] for row in read_rows(tmp_path / "a")] == [row["seed"] for row in read_rows(tmp_path / "b")]


def test_balance_to_fills_up_the_real_classes(model: Path, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz")
    names = "healthy,mild,severe"
    main(arguments(model, tmp_path / "out", balance_to=8, dataset=str(data), label_names=names))
    assert [row["label"] for row in read_rows(tmp_path / "out")] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"has the 3 classes \['0', '1', '2'\].*trained on the 3 classes"):
        main(arguments(model, tmp_path / "other", balance_to=8, dataset=str(data)))
    with pytest.raises(ValueError, match="nothing to generate"):
        main(arguments(model, tmp_path / "none", balance_to=3, dataset=str(data), label_names=names))


def test_a_killed_run_loses_and_doubles_no_row(model: Path, tmp_path: Path) -> None:
    def words(folder: str) -> list[str]:
        flags = f"--model {model} --output_dir {tmp_path / folder} --per_class 40 --shard_size 10 --batch_size 5"
        return ["generate", "images", *flags.split(), "--num_inference_steps", "8"]

    kill_when((tmp_path / "killed" / "data" / "train-00002-of-00012.parquet").exists, *words("killed"))
    assert not json.loads((tmp_path / "killed" / "generation.json").read_text())["complete"]

    clinsynth(*words("killed"))
    clinsynth(*words("whole"))
    killed, whole = read_rows(tmp_path / "killed"), read_rows(tmp_path / "whole")
    assert len(killed) == 120 and killed == whole


def test_two_processes_write_the_same_data_set(model: Path, tmp_path: Path) -> None:
    main(arguments(model, tmp_path / "one", per_class=5))
    script = REPOSITORY / "scripts" / "generate_images.py"
    flags = f"--model {model} --output_dir {tmp_path / 'two'} --per_class 5 --num_inference_steps 2 --shard_size 4"
    run_python("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", script, *flags.split())
    assert np.abs(pixels(tmp_path / "one") - pixels(tmp_path / "two")).max() <= 1
    description = json.loads((tmp_path / "two" / "generation.json").read_text())
    assert description["complete"] and description["processes"] == 2


def test_other_weights_do_not_add_to_a_data_set(model: Path, tmp_path: Path) -> None:
    main(arguments(model, tmp_path / "out", per_class=1))
    other = tiny_pipeline(**SCHEDULE)
    other.unet.conv_in.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "out" / "config.yaml").unlink()
    with pytest.raises(ValueError, match="was begun with"):
        main(arguments(tmp_path / "other", tmp_path / "out", per_class=1))
    with pytest.raises(ValueError, match="weights_sha256"):
        tiny_pipeline(**SCHEDULE).save_pretrained(tmp_path / "replaced")
        main(arguments(tmp_path / "replaced", tmp_path / "out2", per_class=1))
        other.save_pretrained(tmp_path / "replaced")
        main(arguments(tmp_path / "replaced", tmp_path / "out2", per_class=1))


def test_images_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    broken = tiny_pipeline(**SCHEDULE)
    broken.unet.class_embedding.weight.data[1] = float("nan")
    broken.save_pretrained(tmp_path / "model")
    main(arguments(tmp_path / "model", tmp_path / "out", per_class=3))
    description = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert description["produced"] == {"healthy": 3, "mild": 0, "severe": 3}
    assert description["rejected"] == {"not finite": 3}
    assert len(read_rows(tmp_path / "out")) == 6


def test_a_full_disk_keeps_the_finished_shards(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(model, tmp_path / "out", per_class=4)
    real_replace, calls = synthetic_shards.os.replace, []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        if [path.suffix for path in map(Path, calls)].count(".parquet") == 2:
            raise OSError(28, "No space left on device")
        real_replace(source, target)

    monkeypatch.setattr(synthetic_shards.os, "replace", full)
    with pytest.raises(ValueError, match=r"No space left on device.*start the same command again"):
        main(args)
    monkeypatch.undo()
    assert len(read_rows(tmp_path / "out")) >= 4 and not list((tmp_path / "out" / "data").glob(".*"))
    main(args)
    assert len(read_rows(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "exactly one of --per_class N, --counts LABEL=N,… and --balance_to N"),
        ({"per_class": 0}, "--per_class must be at least 1, got 0"),
        ({"per_class": 1, "num_inference_steps": 0}, "--num_inference_steps must be at least 1, got 0"),
        ({"per_class": 1, "guidance_scale": -0.5}, "--guidance_scale must be >= 0, got -0.5"),
        ({"per_class": 1, "guidance_scale": 2.0, "guidance": "auto"}, "--guidance auto needs a guide"),
        ({"per_class": 1, "guidance_interval": "0.5"}, "must be two numbers FIRST,LAST such as 0.2,0.8, got '0.5'"),
        ({"per_class": 1, "guidance_interval": "0.8,0.2"}, "--guidance_interval must be within 0,1 and rise"),
        ({"per_class": 1, "guidance_interval": "0,0.5"}, "do nothing without --guidance_scale"),
        ({"counts": "grade 9=3"}, "'grade 9' is unknown"),
        ({"counts": "7=3"}, "7 is unknown.*0 to 2"),
        ({"counts": "mild"}, "'mild' is not LABEL=N"),
        ({"balance_to": 5}, "--balance_to 5 needs --dataset"),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(model, tmp_path / "out", **changes))


def test_an_unfinished_training_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint-20").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no finished checkpoint.*use .*checkpoint-20"):
        main(arguments(tmp_path / "run", tmp_path / "out", per_class=1))
    with pytest.raises(ValueError, match="neither a folder nor a repository"):
        main(arguments(Path("nobody/nothing"), tmp_path / "out", per_class=1))


def test_weights_that_could_run_code_are_not_read(tmp_path: Path) -> None:
    """A checkpoint of pickles alone is refused by name, before one is opened."""
    tiny_pipeline().save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=f"--model {tmp_path} cannot be loaded .*safetensors"):
        load_ddpm(str(tmp_path), read_index(str(tmp_path)), "float32")
