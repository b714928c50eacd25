"""One training on given rows: the whole of a classifier, or its last layer alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from clinsynth.models.classifiers import FitResult, FitSettings, Record
from clinsynth.run_folder import append_metrics
from clinsynth.trainers.classifiers.arms import Arm
from clinsynth.trainers.classifiers.rows import BodyFeatures, S, fit_head
from clinsynth.trainers.classifiers.trainings import Trainings


def fit_rows(
    trainings: Trainings[S], arm: Arm, seed: int, data: S | BodyFeatures, settings: FitSettings
) -> tuple[FitResult, PreTrainedModel]:
    """Train a new classifier on `data`, of features its last layer alone."""
    if isinstance(data, BodyFeatures):
        model = trainings.body(seed)  # anew, since fit_head changes its last layer
        held_out = trainings.features(trainings.real["validation"], seed)
        return fit_head(model, data, held_out, settings), model
    model = trainings.new_classifier(seed)
    return fit_whole(trainings, arm, data, model, settings), model


def fit_settings(trainings: Trainings[S], arm: Arm, seed: int, learning_rate: float, folder: Path) -> FitSettings:
    """Epochs, batch size and steps an epoch are the same for every arm: those of the real train samples.

    A gain must come from the samples, not from longer training."""
    rows, args = len(trainings.real["train"].labels), trainings.args
    batch_size = min(args.batch_size, rows)
    return FitSettings(
        args.epochs,
        batch_size,
        learning_rate,
        seed,
        trainings.weighted(arm),
        trainings.views(arm),
        steps_per_epoch=math.ceil(rows / batch_size),
        progress=f"{arm.name}, seed {seed}, learning rate {learning_rate:g}" if trainings.progress else None,
        on_epoch=lambda record: append_metrics(folder, {"arm": arm.name, "seed": seed, **record}),
    )


def fit_whole(trainings: Trainings[S], arm: Arm, data: S, model: PreTrainedModel, settings: FitSettings) -> FitResult:
    """Train the whole of `model` on the samples of an arm."""
    real = trainings.real

    def fit(samples: S, settings: FitSettings) -> FitResult:
        return trainings.classifiers.fit(model, samples, real["validation"], settings)

    if arm.kind != "pretrain_finetune":
        return fit(data, settings)
    # As many steps as in any arm. The weights are those of an epoch of the second half, on real samples.
    first, on_epoch = settings.epochs // 2, settings.on_epoch
    pretrained = fit(data, replace(settings, epochs=first))
    rest = on_epoch and (lambda record: on_epoch(later(record, pretrained)))
    finetuned = fit(real["train"], replace(settings, epochs=settings.epochs - first, targets=None, on_epoch=rest))
    return replace(
        finetuned,
        steps=pretrained.steps + finetuned.steps,
        seconds=pretrained.seconds + finetuned.seconds,
        best_epoch=len(pretrained.history) + finetuned.best_epoch,
        history=[*pretrained.history, *(later(record, pretrained) for record in finetuned.history)],
    )


def later(record: Record, before: FitResult) -> Record:
    """The record of an epoch that comes after those of `before`."""
    return record | {"epoch": record["epoch"] + len(before.history), "step": record["step"] + before.steps}
