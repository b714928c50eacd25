"""Checkpoints and synthetic sets of commit f467151 go on working: they load, draw the same, go on, and are pushed."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from golden_runs import COMMANDS, flags
from helpers import WITHOUT_CLINSYNTH, run_warm
from PIL import Image
from safetensors.torch import load_file
from tiny_stable_diffusion import tiny_stable_diffusion

MADE = Path(__file__).parent / "fixtures" / "f467151"
EYES = "phantom-fundus?size=28&train=20&validation=5&test=10"
GRADES = [f"grade {grade}" for grade in range(5)]
RUN = (
    COMMANDS
    + """
import os
os.chdir(settings[0])
print(json.dumps([run(*map(str, words)) for words in json.loads(settings[1])]))
"""
)
LIMITS = flags(dict.fromkeys(("max_near_copies", "max_dcr_share", "max_plagiarism_share"), 1))
STOCK = (
    WITHOUT_CLINSYNTH
    + """
import os, sys, torch
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils as of_diffusers
from transformers import dynamic_module_utils as of_transformers, pipeline
os.chdir(sys.argv[1])
of_diffusers.HF_MODULES_CACHE = of_transformers.HF_MODULES_CACHE = sys.argv[2]  # not among today's code
for name in ("ddpm", "context", "gan"):
    pipe = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    steps = {"num_inference_steps": 2} if hasattr(pipe, "scheduler") else {}
    images = pipe(class_labels=["grade 3"], generator=[torch.Generator().manual_seed(0)], **steps).images
    print(name, images[0].size, images[0].mode)
pipe = pipeline("structured-medical-text", model="writer", trust_remote_code=True)
print("writer", len(pipe({"label": "mild"}, num_samples=2, seed=0)))
"""
)


def run_in(folder: Path, *commands: list[object]) -> list[str]:
    """What each command prints that is run in `folder`, to which the paths of a run are relative."""
    said = run_warm("-c", RUN, folder, json.dumps([[*map(str, words)] for words in commands])).stdout
    printed: list[str] = json.loads(said.splitlines()[-1])
    return printed


SAME_CODE = {"context": "ddpm", "gan-begun/checkpoint-2": "gan", "gan-begun/checkpoint-2/generator": "gan/generator"}
"""Folders of checkpoints whose code is kept once, in another one's."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which commands may write, and the base of `lora`."""
    folder = Path(shutil.copytree(MADE, tmp_path_factory.mktemp("before") / "made"))
    for name, other in SAME_CODE.items():
        for path in (folder / other).glob("*.py"):
            shutil.copy(path, folder / name)
    tiny_stable_diffusion(folder / "sd")
    return folder


def images_of(path: Path) -> np.ndarray:
    """Pixels of a shard."""
    rows = pq.read_table(path).to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), dtype=int) for row in rows])


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    """Label and seed of each row of a set."""
    return [
        (row["label"], row["seed"])
        for path in sorted(folder.glob("data/train-*"))
        for row in pq.read_table(path).to_pylist()
    ]


def test_checkpoints_draw_what_they_drew(before: Path) -> None:
    draw = ["generate", "images", "--per_class", 1, "--num_inference_steps", 2, "--model"]
    names = ("context", "gan", "lora")
    run_in(before, *([*draw, name, "--output_dir", f"by-{name}"] for name in names))
    for name in names:
        shard = before / f"by-{name}" / "data" / "train-00000-of-00001.parquet"
        assert pq.read_table(shard)["label"].to_pylist() == list(range(5))
        assert np.abs(images_of(shard) - images_of(before / f"drawn/{name}.parquet")).max() <= 2, name


def test_stock_pipelines_load_checkpoints(before: Path, tmp_path: Path) -> None:
    said = run_warm("-c", STOCK, before, tmp_path).stdout
    assert said.split("\n")[:-1] == [*(f"{name} (28, 28) L" for name in ("ddpm", "context", "gan")), "writer 2"]


def test_what_was_begun_goes_on(before: Path) -> None:
    draw = ["generate", "images", "--model", "ddpm", "--per_class", 2, "--num_inference_steps", 2, "--shard_size", 5]
    gan = ["train", "gan", "--dataset", EYES, "--channels", 1, "--min_class_size", 1, "--width", 2, "--latent_dim", 4]
    gan += ["--train_steps", 4, "--train_batch_size", 4, "--validation_steps", 0, "--checkpointing_steps", 2]
    first, second = (f"data/train-0000{number}-of-00002.parquet" for number in (0, 1))
    run_in(before, [*draw, "--output_dir", "eyes-begun"], [*gan, "--log_steps", 1, "--output_dir", "gan-begun"])
    begun, whole = before / "eyes-begun", before / "eyes"
    assert json.loads((begun / "generation.json").read_text())["complete"]
    assert (begun / first).read_bytes() == (MADE / "eyes-begun" / first).read_bytes()
    assert rows_of(begun) == rows_of(whole)
    assert np.abs(images_of(begun / second) - images_of(whole / second)).max() <= 2
    weights, expected = (
        load_file(before / name / "generator/diffusion_pytorch_model.safetensors") for name in ("gan-begun", "gan")
    )
    for name, values in expected.items():
        assert np.allclose(weights[name], values, atol=1e-3), name


def test_sets_are_read(before: Path, tmp_path: Path) -> None:
    eyes = load_dataset(str(before / "eyes"), split="train", cache_dir=str(tmp_path))
    assert eyes.features["label"].names == GRADES and eyes["label"][:] == [label for label in range(5) for _ in "ab"]
    assert {"image", "label", "seed"} <= set(eyes.column_names) and eyes[0]["image"].size == (28, 28)
    posts = load_dataset(str(before / "posts"), split="train", cache_dir=str(tmp_path))
    assert posts.features["label"].names == ["mild", "severe"] and posts["label"][:] == [0] * 6 + [1] * 6
    assert {"id", "text", "label", "seed", "attempts"} <= set(posts.column_names)
    assert all(12 <= len(text) <= 30 for text in posts["text"])


def test_sets_are_measured(before: Path) -> None:
    real = ["--real", EYES, "--min_class_size", 1, "--bootstrap", 0, "--classifier", "none"]
    run_in(before, ["evaluate", "images", *real, "--synthetic", "eyes", "--output_dir", "eyes-measured"])
    old, new = (
        json.loads((before / name / "evidence.json").read_text()) for name in ("eyes-evidence", "eyes-measured")
    )
    assert (
        new["data"]["counts"] == old["data"]["counts"] and new["data"]["shards_sha256"] == old["data"]["shards_sha256"]
    )
    same = [(row["metric"], row["label"], row["reference"]) for row in old["measurements"]]
    assert [(row["metric"], row["label"], row["reference"]) for row in new["measurements"]] == same


def test_texts_are_written_and_measured(before: Path) -> None:
    pytest.importorskip("datasketch", reason="needs the packages of `pip install clinsynth[text]`")
    source = ["--task", "task.yaml", "--dataset", "posts.csv", "--k_shot", 1, "--per_class", 2]
    write = ["generate", "text", "--model", "writer", *source, "--output_dir", "posts-more"]
    measure = ["evaluate", "text", "--real", "posts.csv", "--synthetic", "posts", "--encoder", "writer"]
    push = ["push", "dataset", "posts", "--evidence", "posts-evidence", "--repo_id", "me/posts", "--dry_run"]
    audit = ["audit", "text", "posts"]
    measured = [*measure, "--bootstrap", 0, "--output_dir", "posts-evidence"]
    said = run_in(before, write, measured, audit, [*push, *LIMITS])
    assert json.loads((before / "posts-more/generation.json").read_text())["produced"] == {"mild": 2, "severe": 2}
    assert json.loads((before / "posts-evidence/evidence.json").read_text())["data"]["counts"]["synthetic"] == {
        "mild": 6,
        "severe": 6,
    }
    assert "data/train-00001-of-00002.parquet" in said[-1]


def test_all_of_it_may_be_pushed(before: Path) -> None:
    models = [
        ["push", "model", name, "--repo_id", f"me/{name}", "--dry_run"]
        for name in ("ddpm", "context", "gan", "lora", "writer")
    ]
    real = ["--real", EYES, "--min_class_size", 1, "--bootstrap", 0, "--classifier", "none"]
    measure = [
        "evaluate",
        "images",
        *real,
        "--synthetic",
        "eyes",
        "--output_dir",
        "eyes-evidence",
    ]
    data = ["push", "dataset", "eyes", "--evidence", "eyes-evidence", "--repo_id", "me/eyes", "--dry_run", *LIMITS]
    *said, _, of_eyes = run_in(before, *models, measure, data)
    weights = ["unet/diffusion_pytorch_model"] * 2 + [
        "generator/diffusion_pytorch_model",
        "pytorch_lora_weights",
        "model",
    ]
    for name, found in zip(weights, said, strict=True):
        assert f"{name}.safetensors" in found and "README.md" in found, found
    assert "data/train-00001-of-00002.parquet" in of_eyes and "evidence.json" in of_eyes
