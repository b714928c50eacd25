"""Every command that writes, at tiny size: what `kills.py` kills."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from certificates import Authority, write_files
from datasets import ClassLabel, Dataset, Features, Value
from golden_runs import IMAGES, flags, write_eyes, write_posts
from PIL import Image
from safetensors.torch import load_file
from text_models import WORDS, save_small_task, save_tiny_model
from tiny_stable_diffusion import tiny_stable_diffusion

STEPS = {"train_steps": 6, "train_batch_size": 4, "log_steps": 1, "checkpointing_steps": 2}
ONE_ARM = {"arms": "real", "seeds": 1, "epochs": 2, "learning_rates": 0.01, "choose_control": False}
STUDY: dict[str, Any] = {
    **{name: IMAGES[name] for name in ("title", "underpowered", "label_names", "generate")},
    "generators": {"ddpm": IMAGES["generators"]["ddpm"]},
    "evaluate": {"bootstrap": 0, "classifier": "none"},
}


def write_sources(folder: Path) -> None:
    """What the commands read that no command makes."""
    write_eyes(folder / "eyes.npz")
    write_posts(folder / "posts.csv")
    save_tiny_model(folder / "model")
    save_small_task(folder / "task.yaml")
    tiny_stable_diffusion(folder / "base")
    write_files(folder, Authority())
    (folder / "rules.yaml").write_text("abuse: {meaning: insults, patterns: [you idiot]}\n")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"dataset": str(folder / "eyes.npz")}, sort_keys=False))
    texts = [f"{WORDS[row % 7]} {'you idiot' if row % 3 == 0 else 'lamps'} {row}" for row in range(24)]
    rows = {"text": texts, "label": [row % 2 for row in range(24)]}
    features = Features(text=Value("string"), label=ClassLabel(names=["mild", "severe"]))
    Dataset.from_dict(rows, features=features).to_parquet(folder / "insults" / "train-00000-of-00001.parquet")


def commands(folder: Path, run: Path) -> dict[str, list[str]]:
    """Words of each command that writes into `run`, from the sources in `folder` and what `MADE_FIRST` left there."""
    named = {"label_names": IMAGES["label_names"]}
    eyes, eyes_as_real = ({flag: folder / "eyes.npz"} | named for flag in ("dataset", "real"))
    posts = {"dataset": folder / "posts.csv"}
    model, task = {"model": folder / "model"}, {"task": folder / "task.yaml"}
    ddpm, made, texts, evidence = (folder / f"made-{name}" for name in ("ddpm", "images", "texts", "evidence"))
    drawn = {"per_class": 4, "num_inference_steps": 2, "shard_size": 4}
    compare = eyes_as_real | {"synthetic": made, "bootstrap": 4, "classifier": "none"}
    settings: dict[str, dict[str, Any]] = {
        "train ddpm": eyes | STEPS | {"width": 8, "validation_steps": 0},
        "train gan": eyes | STEPS | {"width": 4, "latent_dim": 8, "validation_steps": 0},
        "train autoencoder": eyes | STEPS | {"width": 8, "factor": 2, "validation_steps": 0},
        "train image-classifier": eyes | ONE_ARM | {"model": "small-resnet"},
        "train text-classifier": posts | ONE_ARM | {"model": "small-bert"},
        "train preference": eyes | PREFERENCE | {"model": ddpm, "held_out_model": folder / "made-judge/best-real"},
        "train text-lora": posts | model | task | {"train_steps": 4, "batch_size": 2, "checkpointing_steps": 2},
        "train text-align": posts
        | model
        | task
        | ALIGN
        | {"synthetic": folder / "insults", "encoder": folder / "model"},
        "train text-to-image-lora": eyes | STEPS | {"model": folder / "base", "rank": 2, "textual_inversion_steps": 2},
        "generate images": {"model": ddpm} | drawn,
        "generate text": model | task | {"per_class": 8, "shard_size": 4},
        "evaluate images": compare,
        "evaluate text": {
            **{"real": folder / "posts.csv", "synthetic": texts, "encoder": folder / "model", "bootstrap": 4},
            "language_model": folder / "model",
        },
        "judge": {"images": made, "calibration_pictures": 5, "least_kappa": -1, "shard_size": 8},
        "sign images": {"folder": made, "certificate": folder / "chain.pem", "key": folder / "key.pem"},
        "audit membership": eyes | {"model": ddpm, "noises": 1},
        "audit text-model": posts | model | task | {"prefix": 2, "length": 2},
        "audit text": {"synthetic": texts},
        "pack": {"folder": f"{evidence},{made}"},
        "summarize": eyes,
        "study": {},
        "push dataset": {"folder": made, "evidence": evidence, "repo_id": "tester/set", **TERMS},
        "push model": {"folder": ddpm, "repo_id": "tester/model", "data_name": "Noise", "data_license": "mit"},
    }
    settings["train text-align"] |= {"rules": folder / "rules.yaml", "encoder": folder / "model"}
    words = {name: [*name.split(), *flags(own)] for name, own in settings.items()}
    words["study"].insert(1, str(folder / "study.yaml"))
    return {name: own if name.startswith("push") else [*own, f"--output_dir={run}"] for name, own in words.items()}


ALIGN = {"epochs": 2, "harm_weight": 1, "checkpointing_steps": 2, "lora_rank": 4}
LIMITS = "exact_copies near_copies dcr_share entity_leakage plagiarism_share".split()
TERMS = {**{f"max_{limit}": 1 for limit in LIMITS}, "data_name": "Noise", "data_license": "mit"}
PREFERENCE = {
    **{"judge": "measure", "held_out": "classifier", "least_kappa": -1},
    **{"held_out_least_kappa": -1, "calibration_pictures": 5, "train_steps": 4, "train_batch_size": 4, "prompts": 1},
    **{"candidates": 3, "pair_rule": "margin", "num_inference_steps": 2, "guard_steps": 2, "guard_images": 2},
    **{"fidelity_tolerance": 10, "frechet_tolerance": 10, "checkpointing_steps": 2},
}
MADE_FIRST = {
    "ddpm": "train ddpm",
    "judge": "train image-classifier",
    "images": "generate images",
    "texts": "generate text",
    "evidence": "evaluate images",
}
"""Folders `made-…` that other commands read, and the commands that make them."""
MEASURED = frozenset(
    "seconds cpu_seconds resumed num_tokens eval_num_tokens "
    "eval_runtime eval_steps_per_second eval_samples_per_second".split()
)
"""Keys of times, of whether a step of a study was started again, and of tokens, which TRL counts from each start."""


def without_times(value: Any) -> Any:
    """What was read from JSON, without times."""
    if isinstance(value, dict):
        return {name: without_times(own) for name, own in value.items() if name not in MEASURED}
    return [without_times(own) for own in value] if isinstance(value, list) else value


def content_of(path: Path) -> Any:
    """What a file holds, without times."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return [without_signature(row) for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".safetensors":  # the order of the tensors within the file is free
        return {
            name: (str(own.dtype), own.shape, own.float().numpy().tobytes()) for name, own in load_file(path).items()
        }
    if path.suffix == ".html":
        return TOOK.sub(b"", path.read_bytes())
    if path.name == "training_args.bin":
        return None  # settings of the Trainer's last start: only the first one validates the base model
    if path.suffix == ".pdf":
        return path.read_bytes()[:5]  # it holds the time when it was made
    return path.read_bytes()


TOOK = re.compile(
    rb"""[\d.,]+\ (s|min|h|CPU\ s)\b | (?<=[Mm]inutes">)[\d.]+(\ \(last\ start\))?
    | (?<=CPU\ minutes\ of\ training</th>).*""",
    re.VERBOSE,
)
"""Times in a report."""


def without_signature(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its image decoded: a signature of the file is another one each time."""
    if "image" not in row:
        return row
    return row | {"image": Image.open(io.BytesIO(row["image"]["bytes"])).tobytes()}
