"""Whether checklist feedback makes a generator better: the whole loop on phantoms, whose truth can be measured.

     OMP_NUM_THREADS=1 python -m benchmarks.magic_loop --output_dir runs/magic-loop --seeds 0,1,2

For each seed: `clinsynth train ddpm` on phantoms (`first stage`), then `clinsynth train preference --rounds N` by the
scores of the measuring judge (`feedback`), and the same with `--control shuffled` (`shuffled`). Then each model draws
fresh images from the same new seeds: the share that passes the checklist by measurement, with the items on which
measurement and truth do not agree left out, and the Fréchet distance to fresh real images. Start the same command
again to resume; several seeds may run side by side, each by a command with its own --seeds.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import BenchmarkArguments, markdown, write_results
from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.images import contact_sheet, to_png
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import Judge, pass_rate
from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_interval
from clinsynth.models.generators import load_pipeline
from clinsynth.models.image_encoders import FeatureExtractor, train_default_extractor
from clinsynth.run_folder import atomic_write, check_same_run, create_run_folder, write_run_config
from clinsynth.seeds import derive_seed
from clinsynth.trainers.preference.candidates import draw_fast

YARDSTICK_SEED = 1000
"""Data seed of the phantoms that the held-out judge, the extractor and the reference images come from."""
SHARE_OF_THE_RAREST = 20 / 400  # grade 4 in the test split of phantom-fundus
PREFERENCE: dict[str, float | str] = {
    "prompts": 24,
    "candidates": 8,
    "margin": 0.3,
    "fidelity_weight": 0.5,
    "num_inference_steps": 12,
    "learning_rate": 5e-5,
    "lr_scheduler": "cosine",
    "ema_decay": 0.99,
    "train_steps": 120,
    "train_batch_size": 16,
    "guard_steps": 60,
    "fidelity_tolerance": 0.1,
    "frechet_tolerance": 0.25,
    "least_kappa": 0.75,
    "held_out_least_kappa": 0.6,
    "judge": "measure",
    "held_out": "classifier",
    "pair_rule": "margin",
    "guard_images": 10,
    "checkpointing_steps": 100,
}
"""Flags of `clinsynth train preference`; what is fresh is drawn in as many steps, too."""
ARMS = {"feedback": "none", "shuffled": "shuffled"}
"""What is trained on preferences, and its --control."""


@dataclass(kw_only=True)
class LoopArguments(BenchmarkArguments):
    """Train, prefer, train further, and measure, with a control whose scores are shuffled."""

    seeds: str = "0,1,2"
    """Comma-separated: each is the seed of the data, of both trainings and of the candidates."""
    resolution: int = 32
    """Side of the images; which items can be measured depends on it."""
    channels: int = 1
    """1 grey, 3 colour."""
    train: int = 1080
    """Phantoms to train on."""
    width: int = 16
    """Size of the network, as in `clinsynth train ddpm`."""
    first_steps: int = 1000
    """Optimizer steps of the first stage, of 32 images."""
    rounds: int = 4
    """Rounds of candidates and training on them, of which the guard may drop some; more may be asked for later."""
    judge_epochs: int = 10
    """Passes of the held-out judge's training, and of the extractor's."""
    per_class: int = 100
    """Fresh images of each class and model, and fresh real ones."""
    n_bootstrap: int = 200
    """Replicates of the intervals."""

    @property
    def seed_numbers(self) -> list[int]:
        """The seeds.

        Raises:
            ValueError: they are no whole numbers from 0 on.
        """
        parts = self.seeds.split(",")
        if not all(part.isdecimal() for part in parts):
            raise ValueError(f"--seeds must be whole numbers from 0 on, as 0,1,2; got {self.seeds!r}")
        return [int(part) for part in parts]


def main(args: LoopArguments) -> None:
    """Run what is missing of every seed; print and write the table."""
    seeds = args.seed_numbers
    root = create_run_folder(args.output_dir)
    check_same_run(root, args, frozenset({"output_dir", "seeds", "rounds"}))
    write_run_config(root, args)
    extractor, real = yardsticks(args, root)
    results = []
    for seed in seeds:
        folder = create_run_folder(root / f"seed-{seed}")
        kept = folder / f"measures-{args.rounds}.json"
        if not kept.exists():
            train_models(args, root, folder, seed)
            measured = measure_models(args, folder, seed, extractor, real)
            atomic_write(kept, json.dumps(measured, indent=1) + "\n")
        results.append(json.loads(kept.read_text()))
        text = table(results, extractor.name)
        write_results(args, "loop", text=text, extractor=extractor.name, note=extractor.note, seeds=results)


def clinsynth(*command: str, **flags: object) -> None:
    """Run a command of clinsynth, as a user would."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    subprocess.run([sys.executable, "-m", "clinsynth", *command, *words], check=True)


def yardsticks(args: LoopArguments, root: Path) -> tuple[FeatureExtractor, ImageArrays]:
    """Extractor and real reference images, `per_class` of each; beside them the held-out judge is trained."""
    test = int(np.ceil(args.per_class / SHARE_OF_THE_RAREST))
    dataset = f"phantom-fundus?seed={YARDSTICK_SEED}&train={args.train}&test={test}"
    if not (root / "held-out" / "best-real").exists():
        form = {"resolution": args.resolution, "channels": args.channels}
        once = {"arms": "real", "control": "real", "seeds": 1, "epochs": args.judge_epochs}
        clinsynth("train", "image-classifier", dataset=dataset, output_dir=root / "held-out", **form, **once)
    data = load_image_arrays(ImageDataArguments(dataset, args.resolution, args.channels))
    # another seed, so that it is not the judge that training is watched by
    extractor = train_default_extractor(data["train"], data["validation"], root / "extractor", 1, args.judge_epochs)
    test_split = data["test"]
    classes = range(len(test_split.label_names))
    rows = np.concatenate([np.flatnonzero(test_split.labels == label)[: args.per_class] for label in classes])
    return extractor, test_split.take(rows)


def train_models(args: LoopArguments, root: Path, folder: Path, seed: int) -> None:
    """The models of a seed: first, feedback and shuffled."""
    dataset = f"phantom-fundus?seed={seed}&train={args.train}"
    clinsynth(
        "train",
        "ddpm",
        dataset=dataset,
        resolution=args.resolution,
        channels=args.channels,
        output_dir=folder / "first",
        width=args.width,
        train_steps=args.first_steps,
        train_batch_size=32,
        ema_decay=0.995,
        validation_steps=0,
        checkpointing_steps=100,
        seed=seed,
    )
    for arm, control in ARMS.items():
        clinsynth(
            "train",
            "preference",
            dataset=dataset,
            model=folder / "first",
            output_dir=folder / arm,
            rounds=args.rounds,
            control=control,
            held_out_model=root / "held-out" / "best-real",
            seed=1000 + seed,
            **PREFERENCE,
        )


def measure_models(
    args: LoopArguments, folder: Path, seed: int, extractor: FeatureExtractor, real: ImageArrays
) -> dict[str, Any]:
    """The record of a seed."""
    judge = load_judge("measure", None, "phantom-fundus")
    judge.refused = frozenset(json.loads((folder / "feedback" / "calibration_judge.json").read_text())["refused"])
    held_out = load_judge("classifier", str(folder.parent / "held-out" / "best-real"), "phantom-fundus")
    features, passed, models = extractor(real.images), {}, {}
    models["real"] = judged(judge, held_out, real)[0]
    for name, place in {"first stage": "first", **{arm: arm for arm in ARMS}}.items():
        drawn = draw(folder / place, args.per_class, seed)
        shown = np.arange(len(drawn.labels)).reshape(-1, args.per_class)[:, :8]
        atomic_write(folder / f"{place}.png", to_png(contact_sheet(drawn.images[shown.ravel()], shown.shape[1])))
        models[name], passed[name] = judged(judge, held_out, drawn)
        found = extractor(drawn.images)
        models[name]["frechet"] = frechet_distance(features, found)
        models[name]["frechet_interval"] = frechet_interval(features, found, args.n_bootstrap)
    for arm in ARMS:
        models[arm]["rounds"] = [round_record(folder / arm, number) for number in range(1, args.rounds + 1)]
        models[arm]["rise"] = rise(passed[arm], passed["first stage"], args.n_bootstrap)
        models[arm]["frechet_ratio"] = models[arm]["frechet"] / models["first stage"]["frechet"]
    return {"seed": seed, "rounds": args.rounds, "refused": sorted(judge.refused), "models": models}


def round_record(folder: Path, number: int) -> dict[str, Any]:
    """Steps of a round, the one that was kept, and why the guard stopped it."""
    path = folder / f"round-{number}" / "round.json"
    found = json.loads(path.read_text()) if path.exists() else {}  # of one round alone nothing is written
    return {name: found.get(name) for name in ("steps", "kept_step", "stopped")}


def draw(model: Path, per_class: int, seed: int) -> ImageArrays:
    """Fresh images, those of a class in a row."""
    pipeline = load_pipeline(str(model))
    labels = np.repeat(np.arange(pipeline.num_classes), per_class)
    seeds = [derive_seed(seed, 98, i) for i in range(len(labels))]
    images, _ = draw_fast(pipeline, int(PREFERENCE["num_inference_steps"]), labels.tolist(), seeds, 64)
    return ImageArrays(images, labels, list(pipeline.id2label.values()))


def judged(judge: Judge, held_out: Judge, images: ImageArrays) -> tuple[dict[str, Any], np.ndarray]:
    """The record of some images, and which of them pass."""
    conditions = [images.label_names[label] for label in images.labels]
    shares, passes = judge.score_arrays(images.images, conditions)
    passed, names = np.array(passes), enumerate(images.label_names)
    record = {
        "passed": pass_rate(passes),
        "by_condition": {name: float(passed[images.labels == label].mean()) for label, name in names},
        "mean_share": float(shares.mean()),
        "held_out_passed": pass_rate(held_out.score_arrays(images.images, conditions)[1]),
    }
    return record, passed


def rise(now: np.ndarray, before: np.ndarray, n_bootstrap: int) -> dict[str, Any]:
    """Difference of two pass rates of images of the same seeds, with its 95 % bootstrap interval over images."""
    difference = now.astype(float) - before
    generator = np.random.default_rng(0)
    draws = generator.integers(len(difference), size=(10 * n_bootstrap, len(difference)))
    low, high = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    return {"value": float(difference.mean()), "interval": (float(low), float(high))}


def table(results: list[dict[str, Any]], extractor: str) -> str:
    """Seeds and models as a Markdown table, and what it says of the goals."""
    rows = []
    for result in results:
        for name, model in result["models"].items():
            gained = frechet = ratio = ""
            if "rise" in model:
                low, high = model["rise"]["interval"]
                gained = f"{100 * model['rise']['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                ratio = f"{model['frechet_ratio']:.2f}"
            if "frechet" in model:
                low, high = model["frechet_interval"]
                frechet = f"{model['frechet']:.2f} ({low:.2f} to {high:.2f})"
            cells = [f"{result['seed']}", name, percent(model["passed"]), gained, percent(model["held_out_passed"])]
            rows.append([*cells, frechet, ratio])
    shown = markdown("seed | model | passes | rise, points | held-out judge | Fréchet | ratio", rows)
    return "\n".join([shown, "", *verdict(results), f"Fréchet: {extractor}; intervals of 95 %."])


def percent(rate: dict[str, Any]) -> str:
    """A pass rate with its interval, in percent."""
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def verdict(results: list[dict[str, Any]]) -> list[str]:
    """A line for each arm, over the seeds."""
    lines = []
    for name in ARMS:
        rises = [100 * result["models"][name]["rise"]["value"] for result in results]
        ratios = [result["models"][name]["frechet_ratio"] for result in results]
        lines.append(
            f"{name}: rise {np.mean(rises):+.1f} points (of the seeds {min(rises):+.1f} to {max(rises):+.1f}), "
            f"Fréchet ratio {np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return lines


if __name__ == "__main__":
    run(LoopArguments, main)
