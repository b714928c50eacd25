"""One training of a study: its rows, its fits at every learning rate, and its folder, complete or absent."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from safetensors.numpy import save_file

from clinsynth.data.arrays import ImageArrays
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.arm_data import ArmRefusedError, arm_rows
from clinsynth.trainers.arm_features import fit_head, head_inputs
from clinsynth.trainers.arm_names import Arm, augmentation, weighted
from clinsynth.trainers.arm_oversampling import oversample, oversample_pictures
from clinsynth.trainers.arm_training import SMALL, ArmSettings, Trainings
from clinsynth.trainers.classifier_inputs import load_pretrained_classifier, save_classifier
from clinsynth.trainers.train_image_classifier import FitResult, build_small_resnet, fit_classifier, predict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("clinsynth")

OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainRows:
    """What a training sees.

    Attributes:
        data: its pictures; of `pretrain_finetune` those of its first half, the synthetic ones; of an arm in feature
            space features, float (n, d), in the pictures' place.
        real: how many real pictures it is trained on.
        made: how many others, synthetic or over-sampled.
        notes: what a reader must know of them.
    """

    data: ImageArrays
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
    """Write the best model and its probabilities of the test pictures into `folder`; returns what there is to record.

    Raises:
        ArmRefusedError: the data does not allow the arm.
    """
    real = trainings.real
    model = body_of(trainings, seed) if arm.in_features else None
    rows = feature_rows(trainings, arm, seed, model) if model else picture_rows(trainings, arm, seed)
    result, model, learning_rate = fit_best(trainings, arm, seed, rows, model, folder)
    save_classifier(model, real["train"].label_names, folder / "model")
    probabilities = predict(model, real["test"].images)
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


def picture_rows(trainings: Trainings, arm: Arm, seed: int) -> TrainRows:
    """The pictures of an arm, drawn by `seed`."""
    real, settings = trainings.real["train"], trainings.settings
    notes: list[str] = []
    if arm.synthetic:
        synthetic = trainings.synthetic[arm.source]
        if settings.keep_agreeing:
            agrees = trainings.synthetic_probabilities(arm.source, seed).argmax(1) == synthetic.labels
            notes = [
                f"{agrees.sum()} of {len(agrees)} synthetic pictures kept, whose label the control gives them too"
            ]
            synthetic = synthetic.take(agrees)
        data = arm_rows(
            real, synthetic, arm, ratio=settings.synthetic_ratio, balance_to=settings.balance_to, seed=seed
        )
    elif arm.method:
        data, notes = oversample_pictures(real, arm.method, settings.balance_to, seed)
    else:
        data = real
    if arm.kind == "synthetic":
        return TrainRows(data, 0, len(data.labels), notes)
    made = len(data.labels) - (0 if arm.kind == "pretrain_finetune" else len(real.labels))
    return TrainRows(data, len(real.labels), made, notes)


def feature_rows(trainings: Trainings, arm: Arm, seed: int, model: PreTrainedModel) -> TrainRows:
    """Features of the real train pictures, and those that over-sampling makes of them."""
    real = trainings.real["train"]
    features, labels = head_inputs(model, real.images), real.labels
    notes: list[str] = []
    if arm.method:
        made, made_labels, notes = oversample(
            features, labels, real.label_names, arm.method, trainings.settings.balance_to, seed
        )
        features, labels = np.concatenate([features, made]), np.concatenate([labels, made_labels])
    data = ImageArrays(features, labels, real.label_names)
    return TrainRows(data, len(real.labels), len(labels) - len(real.labels), notes)


def body_of(trainings: Trainings, seed: int) -> PreTrainedModel:
    """The classifier whose last layer an arm in feature space trains anew."""
    if trainings.settings.features_from == "control":
        return trainings.control_model(seed)
    return build_classifier(trainings.settings, trainings.real["train"], seed)


def build_classifier(settings: ArmSettings, train: ImageArrays, seed: int) -> PreTrainedModel:
    """The small ResNet, in colour because transformers' pipelines hand every picture over so, or one of transformers'
    architectures, pretrained or not; on this process's device."""
    side = max(64, train.images.shape[-1])
    if settings.model == SMALL:
        model: PreTrainedModel = build_small_resnet(len(train.label_names), 3, input_size=side, seed=seed)
    else:
        model = load_pretrained_classifier(settings.model, train.label_names, seed, settings.from_scratch, side)
    return model.to(PartialState().device)


def fit_best(
    trainings: Trainings, arm: Arm, seed: int, rows: TrainRows, body: PreTrainedModel | None, folder: Path
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
        if body is not None:
            model = body_of(trainings, seed) if best else body  # fit_head changes it
            result = fit_head(model, rows.data.images, rows.data.labels, trainings.real, **common)
        else:
            model = build_classifier(settings, trainings.real["train"], seed)
            result = fit_pictures(trainings, arm, rows.data, model, common)
        best = [max([*best, (result, model, learning_rate)], key=lambda fit: fit[0].best_macro_f1)]
    return best[0]


def budget(trainings: Trainings) -> dict[str, int]:
    """Epochs, batch size and steps an epoch, the same for every arm: those of the real train pictures.

    A gain must come from the pictures, not from longer training."""
    rows, settings = len(trainings.real["train"].labels), trainings.settings
    batch_size = min(settings.batch_size, rows)
    return {"epochs": settings.epochs, "batch_size": batch_size, "steps_per_epoch": math.ceil(rows / batch_size)}


def append_epoch(folder: Path, arm: str, seed: int, record: dict[str, float]) -> None:
    append_metrics(folder, {"arm": arm, "seed": seed, **record})


def fit_pictures(
    trainings: Trainings, arm: Arm, data: ImageArrays, model: PreTrainedModel, common: dict[str, Any]
) -> FitResult:
    """Train the whole of `model` on the pictures of an arm."""
    settings, real = trainings.settings, trainings.real
    views = augmentation(arm, settings.control, settings.augment)
    common = common | {"augment": views == "light", "strong": views == "strong", "flips": settings.flips}
    if arm.kind != "pretrain_finetune":
        return fit_classifier(model, data, real["validation"], **common)
    # As many steps as in any arm. The weights are those of an epoch of the second half, on real pictures.
    first = common | {"epochs": settings.epochs // 2}
    pretrained = fit_classifier(model, data, real["validation"], **first)
    second = common | {"epochs": settings.epochs - first["epochs"]}
    second["on_epoch"] = lambda record: common["on_epoch"](later(record, pretrained))
    finetuned = fit_classifier(model, real["train"], real["validation"], **second)
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
