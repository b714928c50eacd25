"""The arms of a comparison: the same classifier trained on real, and on real plus synthetic, pictures.

Every (arm, seed) is one folder, complete or absent, so that a killed comparison goes on with those that are missing.
Validation and test are real pictures only; the test split is read once for each (arm, seed).
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from safetensors.numpy import load_file, save_file

from clinsynth.data.arrays import ImageArrays, load_image_arrays
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder, create_run_folder, write_run_config
from clinsynth.trainers.arm_data import arm_rows, check_data, fingerprint, load_synthetic
from clinsynth.trainers.arm_statistics import arm_records, bootstrap, comparison_records
from clinsynth.trainers.classifier_inputs import load_pretrained_classifier, save_classifier
from clinsynth.trainers.train_image_classifier import FitResult, build_small_resnet, fit_classifier, predict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clinsynth.trainers.train_image_classifier import ImageClassifierArguments

logger = logging.getLogger("clinsynth")

ARMS = ("real", "composite")
LONGEST_WAIT = timedelta(days=7)  # for the slowest process; torch's own limit is half an hour


@dataclass(frozen=True)
class ArmSettings:
    """How every training of a comparison is done; a finished one is only taken up again under the same settings."""

    model: str
    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    class_weights: bool
    augment: bool
    flips: bool
    synthetic_ratio: float | None

    def __post_init__(self) -> None:
        for flag, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise ValueError(f"--{flag} must be at least 1, got {value}")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"--learning_rates must be one or more positive numbers, got {list(self.learning_rates)}")
        if self.synthetic_ratio is not None and self.synthetic_ratio <= 0:
            raise ValueError(f"--synthetic_ratio must be above 0, got {self.synthetic_ratio}; leave it out to use all")


def run_arms(
    real: dict[str, ImageArrays],
    synthetic: ImageArrays | None,
    output_dir: Path,
    *,
    arms: tuple[str, ...] = ARMS,
    model: str = "small-resnet",
    seeds: int = 3,
    first_seed: int = 0,
    epochs: int = 30,
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
    state = PartialState(timeout=LONGEST_WAIT)
    jobs = [(arm, seed) for seed in range(first_seed, first_seed + seeds) for arm in arms]
    for arm, seed in jobs[state.process_index :: state.num_processes]:
        folder = arm_folder(output_dir, arm, seed)
        train = arm_rows(real["train"], synthetic, arm, synthetic_ratio, seed)
        identity = identify(settings, arm, real, train)
        if not finished(folder, identity):
            run_one(settings, arm, seed, real, train, folder, identity, progress)
    state.wait_for_everyone()
    return summarize(real["test"], output_dir, jobs, arms)


def check_arms(arms: tuple[str, ...], seeds: int, synthetic: ImageArrays | None) -> None:
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown) or 'none'}")
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    if "composite" in arms and synthetic is None:
        raise ValueError("the arm composite needs synthetic pictures; give --synthetic, or the arm real alone")


def arm_folder(output_dir: Path, arm: str, seed: int) -> Path:
    return Path(output_dir) / "arms" / f"{arm}-seed{seed}"


def identify(settings: ArmSettings, arm: str, real: dict[str, ImageArrays], train: ImageArrays) -> dict[str, Any]:
    """Everything but the seed that a training's result depends on, as JSON gives it back."""
    ratio = settings.synthetic_ratio if arm == "composite" else None
    values = {**asdict(settings), "synthetic_ratio": ratio, "data": fingerprint(real, train)}
    return json.loads(json.dumps(values))


def finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether `folder` holds this training; one with other settings or data is an error, not overwritten."""
    if not folder.exists():
        return False
    before = json.loads((folder / "result.json").read_text())["identity"]
    for name, value in identity.items():
        if before[name] != value:
            raise ValueError(
                f"{folder} was trained with {name} {before[name]}, not {value}; "
                "give the same settings and data to go on, or another --output_dir"
            )
    logger.info("%s: already finished", folder)
    return True


def build_classifier(name: str, train: ImageArrays, seed: int) -> PreTrainedModel:
    """The small ResNet, in colour because transformers' pipelines hand every picture over so, or a pretrained one."""
    if name != "small-resnet":
        return load_pretrained_classifier(name, train.label_names, seed)
    side = max(64, train.images.shape[-1])
    return build_small_resnet(len(train.label_names), 3, input_size=side, seed=seed)


def run_one(
    settings: ArmSettings,
    arm: str,
    seed: int,
    real: dict[str, ImageArrays],
    train: ImageArrays,
    folder: Path,
    identity: dict[str, Any],
    progress: bool,
) -> None:
    """Train one arm with one seed at every learning rate, keep the best by validation, and write its folder."""
    # Never more batches than the real arm takes: a gain must come from the pictures, not from longer training.
    batch_size = min(settings.batch_size, len(real["train"].labels))
    steps_per_epoch = math.ceil(len(real["train"].labels) / batch_size)
    best: tuple[FitResult, PreTrainedModel, float] | None = None
    with complete_folder(folder) as aside:
        for learning_rate in settings.learning_rates:
            model = build_classifier(settings.model, train, seed).to(PartialState().device)
            result = fit_classifier(
                model,
                train,
                real["validation"],
                epochs=settings.epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                class_weights=settings.class_weights,
                augment=settings.augment,
                flips=settings.flips,
                seed=seed,
                progress=f"{arm}, seed {seed}, learning rate {learning_rate:g}" if progress else None,
                steps_per_epoch=steps_per_epoch,
                on_epoch=lambda record: append_metrics(aside, {"arm": arm, "seed": seed, **record}),
            )
            if best is None or result.best_macro_f1 > best[0].best_macro_f1:
                best = result, model, learning_rate
        assert best is not None
        result, model, learning_rate = best
        save_classifier(model, train.label_names, aside / "model")
        probabilities = predict(model, real["test"].images)
        save_file({"probabilities": probabilities, "labels": real["test"].labels}, aside / "test.safetensors")
        record = {
            "arm": arm,
            "seed": seed,
            "train_rows": len(train.labels),
            "synthetic_rows": len(train.labels) - len(real["train"].labels),
            "learning_rate": learning_rate,
            "steps": result.steps,
            "seconds": round(result.seconds, 2),
            "best_epoch": result.best_epoch,
            "validation_macro_f1": result.best_macro_f1,
            "identity": identity,
        }
        atomic_write(aside / "result.json", json.dumps(record, indent=2) + "\n")


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
            f"every training took {runs[jobs[0]]['steps']} optimizer steps, in all arms",
            "weights and learning rate: best macro-F1 on real validation pictures; scores: real test pictures",
            "intervals: 95 %, bootstrap over test pictures (within classes) and seeds, paired between arms",
        ],
    }


def run_and_report(args: ImageClassifierArguments) -> None:
    """What the command does: load, run the arms, write results.json and the best models, print scores and verdict."""
    assert isinstance(args.learning_rates, list)  # its __post_init__ sees to that
    output_dir = create_run_folder(args.output_dir)
    real = load_image_arrays(args, args.seed)
    synthetic = load_synthetic(args.synthetic, real["train"]) if args.synthetic else None
    state = PartialState(timeout=LONGEST_WAIT)
    if state.is_main_process:
        write_run_config(output_dir, args)
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
