"""What each part of `train ddpm`'s recipe brings at equal processor time, and each solver from the same weights.

     python -m benchmarks.recipe --dataset retinamnist.npz --cpu_budget 300 --output_dir runs/recipe
     python -m benchmarks.recipe --arm gan --dataset retinamnist.npz --cpu_budget 300 --output_dir runs/recipe-gans
     python -m benchmarks.recipe --dataset retinamnist.npz --checkpoint runs/retina --output_dir runs/recipe-solvers

The first trains every row of `CHANGES`, one change of the default at a time, as equal_time.py does; the second the
baselines of `GANS`, so that the DDPM is not compared with a straw man; the third draws
from one checkpoint with each of `SOLVERS` at several numbers of evaluations. Both compare with the real train and test
images as score.py does, and leave ten images of each class in `images.png` of the row's folder. Finished rows are
kept, so a stopped command goes on.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks import equal_time
from benchmarks.samplers import draw_all, labels_like, load_pipeline, our_draw, with_scheduler
from benchmarks.score import ImagesArguments, distances, named_extractor
from benchmarks.timing import markdown, measure_missing
from clinsynth.arguments import run
from clinsynth.images import contact_sheet
from clinsynth.run_folder import create_run_folder

BEFORE = (
    "--patch_size 1 --noise_levels uniform --standardise false --beta_schedule cosine --learning_rate 1e-3 "
    "--adam_beta2 0.999 --lr_scheduler constant_with_warmup"
)
"""The defaults until November 2026."""

CHANGES = {
    "default": "",
    "the default before": BEFORE,
    "preset fast": "--preset fast",
    "patches of 1": "--patch_size 1",
    "patches of 4": "--patch_size 4",
    "uniform noise levels": "--noise_levels uniform",
    "images not standardised": "--standardise false",
    "constant learning rate": "--lr_scheduler constant_with_warmup",
    "learning rate 1e-3": "--learning_rate 1e-3",
    "learning rate 4e-3": "--learning_rate 4e-3",
    "beta2 0.999": "--adam_beta2 0.999",
    "cosine betas": "--beta_schedule cosine",
    "batch 32": "--train_batch_size 32",
    "width 64": "--width 64 --learning_rate null",
    "EMA 0.99": "--ema_decay 0.99",
    "augmentation 0.12": "--augment 0.12",
    "augmentation 0.3": "--augment 0.3",
    "dropout 0.1": "--dropout 0.1",
}
"""Rows of the table: flags of `train ddpm`."""

GANS = {
    "hinge": "",
    "hinge, width 32": "--width 32",
    "hinge, EMA 0.99": "--ema_decay 0.99",
    "hinge, learning rates 1e-4 and 4e-4": "--learning_rate 1e-4 --discriminator_learning_rate 4e-4",
    "hinge, learning rate 4e-4": "--learning_rate 4e-4",
    "hinge, without augmentation": "--diff_augment false",
    "DCGAN": "--loss dcgan",
    "DCGAN, width 32": "--loss dcgan --width 32",
    "WGAN-GP, as published": "--loss wgan_gp --diff_augment false",
    "WGAN-GP": "--loss wgan_gp",
    "WGAN-GP, 1 critic step": "--loss wgan_gp --n_critic 1",
    "WGAN-GP, 1 critic step, 2e-4": "--loss wgan_gp --n_critic 1 --learning_rate 2e-4",
    "WGAN-GP, 1 critic step, 2e-4, width 32": "--loss wgan_gp --n_critic 1 --learning_rate 2e-4 --width 32",
    "WGAN-GP, 2 critic steps, 2e-4": "--loss wgan_gp --n_critic 2 --learning_rate 2e-4",
}
"""Rows of the baselines: flags of `train gan`."""

SOLVERS: dict[str, dict[str, Any]] = {
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": False},
    "DPMSolverMultistepScheduler, Karras": {"use_karras_sigmas": True},
    "UniPCMultistepScheduler, Karras": {"use_karras_sigmas": True},
    "HeunDiscreteScheduler, Karras": {"use_karras_sigmas": True},
    "EulerDiscreteScheduler, Karras": {"use_karras_sigmas": True},
    "DDIMScheduler": {},
}
"""Samplers of diffusers, with settings that differ from the checkpoint's."""


@dataclass(kw_only=True)
class RecipeArguments(ImagesArguments):
    """Rows of the training recipe at equal processor time, or solvers on one checkpoint."""

    arm: Literal["unet2d", "gan"] = "unet2d"
    """What is trained: `unet2d`, `train ddpm`; `gan`, `train gan`."""
    cpu_budget: float = 300.0
    """Processor seconds of training steps of each row."""
    rows: str = ""
    """Rows to measure, separated by semicolons; default: all."""
    seeds: str = "0"
    """Training seeds, comma-separated."""
    base: str = ""
    """Flags of the trainer that all rows have."""
    checkpoint: str = ""
    """Draw from this checkpoint with each solver instead of training."""
    evaluations: str = "10,18,25,50,100"
    """Evaluations of the network an image, for the solvers."""
    extractor: str = "default"
    """`default` (a CNN trained on the real train split), a path or an id."""
    n: int = 540
    """Images of each set, with the train split's class shares."""
    num_inference_steps: int = 18
    """Steps of drawing after training."""


def main(args: RecipeArguments) -> None:
    """Measure every row that is missing, and write the table after each."""
    torch.set_num_threads(1)
    output_dir = create_run_folder(args.output_dir)
    splits = args.splits
    extract = named_extractor(args.extractor, splits, output_dir / "extractor")
    real = {name: extract(splits[name].images) for name in ("train", "test")}
    sets = solver_sets(args, splits["train"].labels, output_dir) if args.checkpoint else trained_sets(args, output_dir)

    def measure(make: Make) -> dict[str, Any]:
        images, facts = make()
        features = extract(images)
        to_test = distances(real["test"], features, 0)["frechet"]
        return distances(real["train"], features, 0) | {"test": to_test, "facts": facts}

    floor = distances(real["train"], real["test"], 0) | {"test": None, "facts": {}}
    measures = ((name, partial(measure, make)) for name, make in sets)
    measure_missing(args, "recipe", measures, table, {"floor: real test": floor})


Make = Callable[[], tuple[np.ndarray, dict[str, Any]]]
"""Draws the images of a row, and says what they cost."""


def trained_sets(args: RecipeArguments, output_dir: Path) -> Iterator[tuple[str, Make]]:
    """Name of each row and what trains it and draws its images."""
    changes = GANS if args.arm == "gan" else CHANGES
    for seed in map(int, args.seeds.split(",")):
        for name in args.rows.split(";") if args.rows else changes:
            folder = output_dir / f"{name} {seed}".replace(" ", "_")
            settings = equal_time.EqualTimeArguments(
                arm=args.arm,
                name=name,
                output_dir=str(folder),
                dataset=args.dataset,
                resolution=args.resolution,
                channels=args.channels,
                cpu_budget=args.cpu_budget,
                fractions="1",
                seed=seed,
                trainer_flags=f"{args.base} {changes[name]}",
                num_inference_steps=args.num_inference_steps,
                guidance_scales="1",
                n=args.n,
            )

            def make(settings: Any = settings, folder: Path = folder) -> tuple[np.ndarray, dict[str, Any]]:
                equal_time.main(settings)
                drawn = next(folder.glob("snapshot-1/*/samples.npz"))
                images, drawn_labels = (np.load(drawn)[part] for part in ("images", "labels"))
                shown = np.concatenate(
                    [np.flatnonzero(drawn_labels == label)[:10] for label in np.unique(drawn_labels)]
                )
                contact_sheet(images[shown], 10).save(folder / "images.png")
                return images, json.loads(drawn.with_suffix(".json").read_text())

            yield f"{name}, seed {seed}", make


def solver_sets(args: RecipeArguments, labels: np.ndarray, output_dir: Path) -> Iterator[tuple[str, Make]]:
    """Name of each solver with its evaluations, and what draws its images."""
    pipe = load_pipeline(args.checkpoint)
    chosen = labels_like(labels, args.n)
    for evaluations in map(int, args.evaluations.split(",")):
        for name, changes in SOLVERS.items():
            solver = with_scheduler(pipe, name.split(",")[0])
            solver.scheduler = type(solver.scheduler).from_config(solver.scheduler.config, **changes)
            steps = (evaluations + 1) // 2 if solver.scheduler.order == 2 else evaluations
            draw, folder = our_draw(solver, 1.0, steps), output_dir / f"{name} {evaluations}".replace(" ", "_")

            def make(draw: Any = draw, folder: Path = folder) -> tuple[np.ndarray, dict[str, Any]]:
                images, seconds = draw_all(draw, chosen, folder)
                return images, {"drawing_cpu_seconds": seconds}

            yield f"{name}, {evaluations} evaluations", make


def table(rows: dict[str, Any]) -> str:
    """A Markdown table, a row a recipe or solver."""
    lines = []
    for name, row in rows.items():
        facts = [row["facts"].get(key) for key in ("steps", "cpu_seconds", "drawing_cpu_seconds")]
        to_test = "" if row["test"] is None else f"{row['test']:.1f}"
        costs = ["" if fact is None else f"{fact:.0f}" for fact in facts]
        lines.append([name, f"{row['frechet']:.1f}", to_test, *costs])
    return markdown("row | Fréchet distance to train | to test | steps | training CPU s | drawing CPU s", lines)


if __name__ == "__main__":
    run(RecipeArguments, main)
