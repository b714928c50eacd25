"""The arms of a comparison: the same classifier trained on real, and on real plus synthetic, pictures.

Every (arm, seed) is one folder, complete or absent, so that a killed comparison goes on with those that are missing.
Validation and test are real pictures only; the test split is read once for each (arm, seed).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.numpy import load_file

from clinsynth.data.arrays import ImageArrays, load_image_arrays
from clinsynth.run_folder import (
    atomic_write,
    check_same_run,
    complete_folder,
    create_run_folder,
    write_run_config,
)
from clinsynth.trainers.arm_data import arm_rows, check_data, load_synthetic
from clinsynth.trainers.arm_statistics import arm_records, bootstrap, comparison_records
from clinsynth.trainers.arm_training import ArmSettings, arm_folder, finished, identify, run_one

if TYPE_CHECKING:
    from clinsynth.trainers.train_image_classifier import ImageClassifierArguments

ARMS = ("real", "composite")
MAY_DIFFER = frozenset({"seeds", "synthetic", "synthetic_ratio", "output_dir", "dry_run"})  # real arms stay valid
LONGEST_WAIT = timedelta(days=7)  # for the slowest process; torch's own limit is half an hour


def run_arms(
    real: dict[str, ImageArrays],
    synthetic: ImageArrays | None,
    output_dir: Path,
    *,
    arms: tuple[str, ...] = ARMS,
    model: str = "small-resnet",
    seeds: int = 3,
    first_seed: int = 0,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rates: Sequence[float] = (2e-3,),
    class_weights: bool = True,
    augment: bool = True,
    flips: bool = False,
    synthetic_ratio: float | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `model` `seeds` times an arm and compare the arms on the real test split; JSON-able.

    `real` has splits train, validation and test. All arms take the same number of optimizer steps and choose among
    the same number of epochs and learning rates. Trainings found complete in `output_dir/arms` are not repeated;
    under `accelerate launch` the processes share the others.

    Returns:
        `arms`: a record for each arm and metric (value, interval, n, seeds, per_seed); `comparisons`: a record for
        each metric of composite - real (difference, interval, n, seeds; for all but single classes verdict, sentence);
        `runs`: one for each training; `best_model`: folder of each arm's best model by validation; `notes`.

    Raises:
        ValueError: an unknown arm, composite without synthetic pictures, label names or pictures that differ between
            the sets, a class without test pictures, or a folder that holds trainings with other settings or data.
    """
    settings = ArmSettings(
        model, epochs, batch_size, tuple(learning_rates), class_weights, augment, flips, synthetic_ratio
    )
    check_arms(arms, seeds, synthetic)
    check_data(real, synthetic if "composite" in arms else None)
    state = processes()
    jobs = [(arm, seed) for seed in range(first_seed, first_seed + seeds) for arm in arms]
    for arm, seed in jobs[state.process_index :: state.num_processes]:
        folder = arm_folder(output_dir, arm, seed)
        train = arm_rows(real["train"], synthetic, arm, synthetic_ratio, seed)
        identity = identify(settings, arm, real, train)
        if not finished(folder, identity):
            run_one(settings, arm, seed, real, train, folder, identity, progress)
    state.wait_for_everyone()
    return summarize(real["test"], output_dir, jobs, arms)


def processes() -> PartialState:
    """This process's number among those that `accelerate launch` or `torchrun` started, and its device."""
    # Without an accelerator accelerate must be told so, or each of torchrun's processes takes itself for the only one.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)


def check_arms(arms: tuple[str, ...], seeds: int, synthetic: ImageArrays | None) -> None:
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown) or 'none'}")
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    if "composite" in arms and synthetic is None:
        raise ValueError("the arm composite needs synthetic pictures; give --synthetic, or the arm real alone")


def summarize(
    test: ImageArrays, output_dir: Path, jobs: list[tuple[str, int]], arms: tuple[str, ...]
) -> dict[str, Any]:
    """Read the trainings back and state each arm's scores and their differences on the real test pictures."""
    folders = {job: arm_folder(output_dir, *job) for job in jobs}
    runs = {job: json.loads((folder / "result.json").read_text()) for job, folder in folders.items()}
    predicted = {
        arm: np.stack(
            [load_file(folders[job] / "test.safetensors")["probabilities"].argmax(1) for job in jobs if job[0] == arm]
        )
        for arm in arms
    }
    resampled = bootstrap(test.labels, predicted, len(test.label_names))
    by_validation = sorted(jobs, key=lambda job: runs[job]["validation_macro_f1"])
    best = {job[0]: str((folders[job] / "model").relative_to(output_dir)) for job in by_validation}
    seeds = len(jobs) // len(arms)
    return {
        "arms": arm_records(resampled, test, predicted),
        "comparisons": comparison_records(resampled, test, seeds) if set(arms) == set(ARMS) else [],
        "runs": [{**runs[job], "folder": str(folders[job].relative_to(output_dir))} for job in jobs],
        "best_model": best,
        "notes": [
            f"optimizer steps a training: {runs[jobs[0]]['steps']}, the same in all arms",
            "weights and learning rate: best macro-F1 on real validation pictures; scores: real test pictures",
            "intervals: 95 %, bootstrap over test pictures (within classes) and seeds, paired between arms",
        ],
    }


def run_and_report(args: ImageClassifierArguments) -> None:
    """What the command does: load, run the arms, write results.json and the best models, print scores and verdict."""
    assert isinstance(args.learning_rates, list)  # its __post_init__ sees to that
    output_dir = Path(args.output_dir)
    state = processes()
    if state.is_main_process:
        create_run_folder(output_dir)
        if any(output_dir.glob("arms/*/result.json")):  # else nothing is there that other settings could spoil
            check_same_run(output_dir, args, MAY_DIFFER)
        write_run_config(output_dir, args)
    state.wait_for_everyone()
    real = load_image_arrays(args, args.seed)
    synthetic = load_synthetic(args.synthetic, real["train"]) if args.synthetic else None
    results = run_arms(
        real,
        synthetic,
        output_dir,
        arms=ARMS if synthetic else ("real",),
        model=args.model,
        seeds=args.seeds,
        first_seed=args.seed,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rates=args.learning_rates,
        class_weights=args.class_weights,
        augment=args.augment,
        flips=args.flips,
        synthetic_ratio=args.synthetic_ratio,
    )
    if state.is_main_process:
        atomic_write(output_dir / "results.json", json.dumps(results, indent=2) + "\n")
        for arm, model in results["best_model"].items():
            with complete_folder(output_dir / f"best-{arm}") as aside:
                shutil.copytree(output_dir / model, aside, dirs_exist_ok=True)
        print(describe(results))


def describe(results: dict[str, Any]) -> str:
    """The scores, a line an arm and metric, and the verdicts."""
    lines = [
        f"{r['arm']:10} {r['metric']:24} {r['value']:.3f}  [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]"
        for r in results["arms"]
    ]
    sentences = [r["sentence"] for r in results["comparisons"] if "sentence" in r]
    return "\n".join([*lines, *sentences, *results["notes"]])
