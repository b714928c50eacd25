"""Tiny runs of every kind through the command line alone: what `test_golden` holds against its files.

Whatever these commands read is made here, so that no module of the package has a say in it: phantoms by the name of
the built-in set, and a few words for the texts.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from text_models import WORDS, save_small_task, save_tiny_model

REPOSITORY = Path(__file__).parent.parent
STUDY = Path(__file__).with_name("forking_study.py")
GRADES = "grade 0,grade 1,grade 2,grade 3,grade 4"
"""The classes of the checklist phantom-fundus."""
IMAGES: dict[str, Any] = {
    "title": "Tiny eyes",
    "underpowered": True,
    "label_names": GRADES,
    "generators": {
        "ddpm": {"trainer": "ddpm", "train": {"width": 8, "train_steps": 3, "train_batch_size": 4}},
        "gan": {
            "trainer": "gan",
            "train": {"width": 8, "latent_dim": 8, "train_steps": 3, "train_batch_size": 4, "validation_steps": 0},
        },
    },
    "generate": {"per_class": 3, "num_inference_steps": 2, "shard_size": 8},
    "evaluate": {"bootstrap": 4, "classifier": "small-resnet", "classifier_seeds": 1, "classifier_epochs": 1},
    "audit": {"max_rows": 34, "noises": 1},
    "classifiers": {
        "small": {
            "generators": ["ddpm"],
            "arms": "real,real_strong,composite",
            "choose_control": False,  # by so few images another processor might choose another one
            "seeds": 2,
            "epochs": 1,
            "batch_size": 8,
            "learning_rates": 0.01,
        }
    },
}
PREFERENCE = {
    "label_names": GRADES,
    "judge": "measure",
    "held_out": "classifier",
    "least_kappa": -1,
    "held_out_least_kappa": -1,
    "calibration_pictures": 5,
    "train_steps": 2,
    "train_batch_size": 4,
    "prompts": 1,
    "candidates": 3,
    "pair_rule": "margin",
    "num_inference_steps": 2,
    "guard_steps": 1,
    "guard_images": 2,
    "fidelity_tolerance": 10,
    "frechet_tolerance": 10,
}
TEXTS: dict[str, Any] = {
    "title": "Tiny posts",
    "underpowered": True,
    "generators": {"tuned": {"trainer": "text-lora", "train": {"train_steps": 2, "batch_size": 2}}},
    "generate": {"k_shot": 2, "per_class": 8, "shard_size": 6, "near_duplicate": 1.0},
    "evaluate": {"bootstrap": 4},
    "classifiers": {
        "small": {
            "model": "small-bert",
            "arms": "real_weighted,composite",
            "seeds": 2,
            "epochs": 1,
            "learning_rates": 0.01,
        }
    },
}
COMMANDS = """
import contextlib, io, json, runpy, sys
settings = sys.argv[1:]
sys.argv = ["clinsynth"]
def run(*words):
    sys.argv[1:], said = words, io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module("clinsynth", run_name="__main__")
        except SystemExit as end:
            assert not end.code, said.getvalue()
    return said.getvalue()
"""
"""`run`: commands one after the other in one process."""
FLAGS = (
    COMMANDS
    + """
usage = run("--help")
for line in usage[usage.index("commands:") :].splitlines()[1:]:
    if not line.strip():
        break
    command = line[2:28].strip()
    print(f"clinsynth {command}")
    print("".join(f"    {flag}\\n" for flag in run(*command.split(), "--print_config").splitlines()))
"""
)
"""Prints every command with its flags and their defaults."""
PUSHES = (
    COMMANDS
    + """
for words in json.loads(settings[0]):
    run("push", *words)
"""
)

Run = Callable[..., object]


def make_images(folder: Path, run: Run) -> None:
    """`study` of two generators and one trained further, `evidence` of the first one's set, `judged` eyes."""
    write_eyes(folder / "eyes.npz")
    recipe = folder / "images.yaml"
    recipe.write_text(yaml.safe_dump(IMAGES | {"dataset": str(folder / "eyes.npz")}, sort_keys=False))
    run(STUDY, "study", recipe, "--output_dir", folder / "study")
    ddpm, judge = only(folder, "study/train-ddpm-*"), folder / "study/classify-small/best-real"
    settings = {**PREFERENCE, "dataset": folder / "eyes.npz", "model": ddpm, "held_out_model": judge}
    run("-m", "clinsynth", "train", "preference", *flags(settings), "--output_dir", folder / "preference")
    judged = {"images": only(folder, "study/generate-ddpm-*"), "calibration_pictures": 5, "least_kappa": -1}
    run("-m", "clinsynth", "judge", *flags(judged), "--shard_size", 8, "--output_dir", folder / "judged")


def flags(settings: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def pushes(images: Path, texts: Path) -> str:
    """Commands that publish what was made, and a metric and a Space; the limits let everything through."""
    limits = "exact_copies near_copies dcr_share entity_leakage plagiarism_share".split()
    terms = [*flags(dict.fromkeys((f"max_{limit}" for limit in limits), 1)), "--data_name=Noise", "--data_license=mit"]
    words = []
    for name, folder, made in (("eyes", images / "study", "ddpm"), ("posts", texts / "study", "tuned")):
        evidence = ["--evidence", folder / f"evaluate-{made}", "--repo_id", f"tester/{name}"]
        words.append(["model", only(folder, f"train-{made}-*"), *evidence, *terms[-2:]])
        words.append(["dataset", only(folder, f"generate-{made}-*"), *evidence, *terms])
    words.append(["metric", only(REPOSITORY, "metrics/**/kid/kid.py").parent, "--repo_id", "tester/kid"])
    words.append(["space", REPOSITORY / "spaces/studio", "--repo_id", "tester/studio", "--models", "tester/eyes"])
    return json.dumps([list(map(str, command)) for command in words])


def write_eyes(path: Path) -> None:
    """Noise of 28 px whose brightness tells the class, in MedMNIST's layout."""
    arrays = {}
    for seed, (split, count) in enumerate((("train", 6), ("val", 2), ("test", 8))):
        labels = np.repeat(np.arange(5), count)
        noise = np.random.default_rng(seed).integers(0, 60, (len(labels), 28, 28))
        arrays[f"{split}_images"] = (noise + 45 * labels[:, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(path, **arrays)


def make_texts(folder: Path, run: Run) -> None:
    """`study` of a language model that is fine-tuned and prompted with examples."""
    write_posts(folder / "posts.csv")
    model = save_tiny_model(folder / "model")
    own = {"task": str(save_small_task(folder / "task.yaml")), "dataset": str(folder / "posts.csv")}
    recipe = TEXTS | own | {"model": str(model)}
    recipe["evaluate"] = recipe["evaluate"] | {"encoder": str(model), "language_model": str(model)}
    path = folder / "texts.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    run(STUDY, "study", path, "--output_dir", folder / "study")


def write_posts(path: Path) -> None:
    """120 made-up posts of at most 30 characters, two classes."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        for row in range(120):
            words = (WORDS[row % 3], "lamps" if row % 2 else "house", WORDS[6 + row % 5], str(row))
            table.writerow((" ".join(words), ("mild", "severe")[row % 2]))


def only(folder: Path, pattern: str) -> Path:
    """The one path in `folder` that the pattern means."""
    (found,) = folder.glob(pattern)
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
