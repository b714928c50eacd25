"""One training of a study: its rows, its fits at every learning rate, and its folder, complete or absent."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors.numpy import save_file

from clinsynth.models.classifier_result import FitResult
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.classifiers.arm_data import ArmRefusedError, arm_rows
from clinsynth.trainers.classifiers.arm_medium import Samples
from clinsynth.trainers.classifiers.arm_oversampling import oversample
from clinsynth.trainers.classifiers.arm_training import Trainings
from clinsynth.trainers.classifiers.arms import Arm, weighted
from clinsynth.trainers.classifiers.feature_space import Features, fit_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("clinsynth")

OnEpoch = Callable[[dict[str, float]], None]
R = TypeVar("R", Samples, Features)


@dataclass(frozen=True)
class TrainRows:
    """What a training sees.

    Attributes:
        data: its samples; of `pretrain_finetune` those of its first half, the synthetic ones; of an arm in feature
            space features in the samples' place.
        real: how many real samples it is trained on.
        made: how many others, synthetic or over-sampled.
        notes: what a reader must know of them.
    """

    data: Samples | Features
    real: int
    made: int
    notes: list[str]


def run_one(trainings: Trainings, arm: Arm, seed: int) -> None:
    """Train one arm with one seed and write its folder, or why the data does not allow it; what is there is kept."""
    folder = trainings.folder(arm, seed)
    if folder.exists():
        logger.info("%s: already finished", folder)
        return
    with complete_folder(folder) as aside:
        record = {"arm": arm.name, "seed": seed, "identity": trainings.identity(arm)}
        try:
            record |= train(trainings, arm, seed, aside)
        except ArmRefusedError as error:
            record["refused"] = str(error)
        atomic_write(aside / "result.json", json.dumps(record, indent=2) + "\n")


def train(trainings: Trainings, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Write the best model and its probabilities of the test samples into `folder`; returns what there is to record.

    Raises:
        ArmRefusedError: the data does not allow the arm.
    """
    real = trainings.real
    rows = feature_rows(trainings, arm, seed) if arm.in_features else sample_rows(trainings, arm, seed)
    result, model, learning_rate = fit_best(trainings, arm, seed, rows, folder)
    trainings.medium.save(model, real["train"].label_names, folder / "model")
    probabilities = trainings.predict(arm, seed, model, real["test"])
    save_file({"probabilities": probabilities, "labels": real["test"].labels}, folder / "test.safetensors")
    return {
        "train_rows": rows.real + rows.made,
        "synthetic_rows": rows.made,
        "learning_rate": learning_rate,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "best_epoch": result.best_epoch,
        "validation_macro_f1": result.best_macro_f1,
        "notes": rows.notes,
        "history": result.history,
    }


def sample_rows(trainings: Trainings, arm: Arm, seed: int) -> TrainRows:
    """The samples of an arm, drawn by `seed`."""
    real = trainings.real["train"]
    if arm.synthetic:
        return with_synthetic(trainings, arm, seed, real, trainings.synthetic[arm.source])
    if not arm.method:
        return TrainRows(real, len(real.labels), 0, [])
    data, notes = trainings.medium.oversample(real, arm.method, trainings.settings.balance_to, seed)
    return TrainRows(data, len(real.labels), len(data.labels) - len(real.labels), notes)


def feature_rows(trainings: Trainings, arm: Arm, seed: int) -> TrainRows:
    """Features of an arm's samples, drawn by `seed`; over-sampling adds rows to those of the real ones."""
    real = trainings.features(trainings.real["train"], seed)
    if arm.synthetic:
        synthetic = trainings.features(trainings.synthetic[arm.source], seed)
        return with_synthetic(trainings, arm, seed, real, synthetic)
    if not arm.method:
        return TrainRows(real, len(real.labels), 0, [])
    values, labels, notes = oversample(
        real.values, real.labels, real.label_names, arm.method, trainings.settings.balance_to, seed
    )
    made = Features(values, labels, real.label_names)
    return TrainRows(real.followed_by(made), len(real.labels), len(labels), notes)


def with_synthetic(trainings: Trainings, arm: Arm, seed: int, real: R, synthetic: R) -> TrainRows:
    """The real rows of an arm and those of its synthetic set, samples or features of them."""
    settings, noun = trainings.settings, trainings.real["train"].noun
    notes = []
    if settings.keep_agreeing:
        agrees = trainings.synthetic_probabilities(arm.source, seed).argmax(1) == synthetic.labels
        notes = [f"{agrees.sum()} of {len(agrees)} synthetic {noun}s kept, whose label the control gives them too"]
        synthetic = synthetic.take(agrees)
    data = arm_rows(real, synthetic, arm, ratio=settings.synthetic_ratio, balance_to=settings.balance_to, seed=seed)
    if arm.rows == "synthetic":
        return TrainRows(data, 0, len(data.labels), notes)
    made = len(data.labels) - (0 if arm.kind == "pretrain_finetune" else len(real.labels))
    return TrainRows(data, len(real.labels), made, notes)


def fit_best(
    trainings: Trainings, arm: Arm, seed: int, rows: TrainRows, folder: Path
) -> tuple[FitResult, PreTrainedModel, float]:
    """Train at every learning rate, appending to `folder`'s metrics.jsonl; the best by validation, and its rate."""
    settings = trainings.settings
    best: list[tuple[FitResult, PreTrainedModel, float]] = []  # one at most: a model is large
    for learning_rate in settings.learning_rates:
        label = f"{arm.name}, seed {seed}, learning rate {learning_rate:g}" if trainings.progress else None
        common: dict[str, Any] = {
            **budget(trainings),
            "learning_rate": learning_rate,
            "class_weights": weighted(arm, settings.control, settings.class_weights),
            "seed": seed,
            "progress": label,
            "on_epoch": partial(append_epoch, folder, arm.name, seed),
        }
        if isinstance(rows.data, Features):
            model = trainings.body(seed)  # anew, since fit_head changes its last layer
            result = fit_head(model, rows.data, trainings.features(trainings.real["validation"], seed), **common)
        else:
            model = trainings.new_classifier(seed)
            result = fit_whole(trainings, arm, rows.data, model, common)
        best = [max([*best, (result, model, learning_rate)], key=lambda fit: fit[0].best_macro_f1)]
    return best[0]


def budget(trainings: Trainings) -> dict[str, int]:
    """Epochs, batch size and steps an epoch, the same for every arm: those of the real train samples.

    A gain must come from the samples, not from longer training."""
    rows, settings = len(trainings.real["train"].labels), trainings.settings
    batch_size = min(settings.batch_size, rows)
    return {"epochs": settings.epochs, "batch_size": batch_size, "steps_per_epoch": math.ceil(rows / batch_size)}


def append_epoch(folder: Path, arm: str, seed: int, record: dict[str, float]) -> None:
    append_metrics(folder, {"arm": arm, "seed": seed, **record})


def fit_whole(
    trainings: Trainings, arm: Arm, data: Samples, model: PreTrainedModel, common: dict[str, Any]
) -> FitResult:
    """Train the whole of `model` on the samples of an arm."""
    real, epochs = trainings.real, trainings.settings.epochs

    def fit(samples: Samples, **keywords: Any) -> FitResult:
        control = trainings.settings.control
        return trainings.medium.fit(model, samples, real["validation"], arm, control, common | keywords)

    if arm.kind != "pretrain_finetune":
        return fit(data)
    # As many steps as in any arm. The weights are those of an epoch of the second half, on real samples.
    pretrained = fit(data, epochs=epochs // 2)
    finetuned = fit(
        real["train"],
        epochs=epochs - epochs // 2,
        on_epoch=lambda record: common["on_epoch"](later(record, pretrained)),
    )
    return replace(
        finetuned,
        steps=pretrained.steps + finetuned.steps,
        seconds=pretrained.seconds + finetuned.seconds,
        best_epoch=len(pretrained.history) + finetuned.best_epoch,
        history=[*pretrained.history, *(later(record, pretrained) for record in finetuned.history)],
    )


def later(record: dict[str, float], before: FitResult) -> dict[str, float]:
    """The record of an epoch that comes after those of `before`."""
    return record | {"epoch": record["epoch"] + len(before.history), "step": record["step"] + before.steps}
