"""The training of one arm with one seed: every choice of rows at every learning rate, the best by validation kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedModel

from clinsynth.models.classifiers import FitResult
from clinsynth.models.linear_texts import Linear, fit_linear
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.classifiers.arms import Arm
from clinsynth.trainers.classifiers.choices import ArmRows, choose_rows
from clinsynth.trainers.classifiers.fits import fit_rows, fit_settings
from clinsynth.trainers.classifiers.rows import ArmRefusedError, BodyFeatures, S
from clinsynth.trainers.classifiers.trainings import LINEAR_FILE, Trainings

logger = logging.getLogger("clinsynth")


def run_training(trainings: Trainings[S], arm: Arm, seed: int) -> None:
    """Train one arm with one seed and write its folder, or why the data does not allow it; what is there is kept."""
    folder = trainings.folder(arm, seed)
    if folder.exists():
        logger.info("%s: already finished", folder)
        return
    with complete_folder(folder) as aside:
        record = {"arm": arm.name, "seed": seed, "identity": trainings.identity(arm)}
        try:
            record |= train_arm(trainings, arm, seed, aside)
        except ArmRefusedError as error:
            record["refused"] = str(error)
        atomic_write(aside / "result.json", json.dumps(record, indent=2) + "\n")


def train_arm(trainings: Trainings[S], arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """Write the best model and its probabilities of the test samples into `folder`; returns what is to be recorded."""
    real = trainings.real
    fit = fit_best(trainings, arm, seed, folder)
    result, data = fit.result, fit.rows.data
    if isinstance(fit.model, Linear):
        if arm.frozen:  # of words the features cannot be had again
            save_file({"weights": fit.model.weights, "biases": fit.model.biases}, folder / LINEAR_FILE)
    else:
        trainings.classifiers.save(fit.model, real["train"].label_names, folder / "model")
    for split in ("validation", "test"):
        probabilities = fit.predict(real[split])
        save_file({"probabilities": probabilities, "labels": real[split].labels}, folder / f"{split}.safetensors")
    originals = 0 if arm.rows == "synthetic" else len(real["train"].labels)
    made = len(data.labels) - (0 if arm.kind == "pretrain_finetune" else originals)
    return {
        "train_rows": originals + made,
        "synthetic_rows": made,
        "learning_rate": fit.learning_rate,
        **fit.rows.choice.record(),
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "best_epoch": result.best_epoch,
        "validation_macro_f1": result.best_macro_f1,
        "notes": fit.rows.notes,
        "history": result.history,
    }


@dataclass(frozen=True)
class Fit(Generic[S]):
    """A training, what it was done on, and what it says of other samples: probabilities (n, classes)."""

    result: FitResult
    model: PreTrainedModel | Linear
    learning_rate: float | None
    rows: ArmRows[S]
    predict: Callable[[S], np.ndarray]


def fit_best(trainings: Trainings[S], arm: Arm, seed: int, folder: Path) -> Fit[S]:
    """Train on every choice of rows at every learning rate, appending to `folder`'s metrics.jsonl; the best by
    validation."""
    best: list[Fit[S]] = []  # one at most: a model is large
    refused: list[ArmRefusedError] = []
    for choice in trainings.args.choices(arm):
        try:
            rows = choose_rows(trainings, arm, seed, choice)
        except ArmRefusedError as error:  # a band may be too narrow where another is not
            refused.append(error)
            continue
        for learning_rate in [None] if arm.linear else trainings.args.rates:
            if learning_rate is None:
                fit = fit_linear_arm(trainings, arm, seed, rows, folder)
            else:
                settings = replace(fit_settings(trainings, arm, seed, learning_rate, folder), targets=rows.targets)
                result, model = fit_rows(trainings, arm, seed, rows.data, settings)
                fit = Fit(result, model, learning_rate, rows, partial(trainings.predict, arm, seed, model))
            best = [max([*best, fit], key=lambda fit: fit.result.best_macro_f1)]
    if not best:
        raise refused[0]
    return best[0]


def fit_linear_arm(trainings: Trainings[S], arm: Arm, seed: int, rows: ArmRows[S], folder: Path) -> Fit[S]:
    """Fit a logistic regression. It takes no optimizer step of the others' kind, and has no seed: 0 steps."""
    started, real, data = time.perf_counter(), trainings.real, rows.data
    of_words = None if isinstance(data, BodyFeatures) else trainings.classifiers.plain_features(data)

    def features(samples: S) -> Any:
        return trainings.frozen(samples).values if of_words is None else of_words(samples)

    held_out = real["validation"]
    model, history = fit_linear(
        data.values if isinstance(data, BodyFeatures) else features(data),
        data.labels,
        len(real["train"].label_names),
        features(held_out),
        held_out.labels,
        trainings.weighted(arm),
    )
    for record in history:
        append_metrics(folder, {"arm": arm.name, "seed": seed, **record})
    best = max(record["validation_macro_f1"] for record in history)
    result = FitResult(0, time.perf_counter() - started, 0, best, [])
    return Fit(result, model, None, rows, lambda samples: model.probabilities(features(samples)))
