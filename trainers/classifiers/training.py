"""The training of one arm with one seed: every choice of rows at every learning rate, the best by validation kept.

The rows are chosen, weighed and labelled as the flags of the arm say.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedModel

from clinsynth.data.labels import LabelledRows
from clinsynth.models.classifiers import FitResult
from clinsynth.models.linear_texts import Linear, fit_linear
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.classifiers.arms import DUPLICATE, ROUND_TRIP, Arm, Choice
from clinsynth.trainers.classifiers.fits import fit_rows, fit_settings
from clinsynth.trainers.classifiers.rows import (
    ArmRefusedError,
    BodyFeatures,
    S,
    arm_rows,
    oversample_features,
    with_repeats,
)
from clinsynth.trainers.classifiers.teacher import nearness, taught
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


@dataclass(frozen=True)
class ArmRows(Generic[S]):
    """The rows of an arm, real ones first: samples, of `pretrain_finetune` those of its first half, or for an arm in
    feature space features of samples; what they are taken for (`FitSettings.targets`); how they were chosen."""

    data: S | BodyFeatures
    targets: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)


def choose_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice) -> ArmRows[S]:
    """The rows of an arm, drawn by `seed`.

    Raises:
        ArmRefusedError: the data does not allow the arm.
    """
    args, real = trainings.args, trainings.seen(arm, trainings.real["train"], seed)
    if arm.synthetic:
        return synthetic_rows(trainings, arm, seed, choice, real)
    if arm.rows == DUPLICATE:
        added = choose_rows(trainings, trainings.like(arm), seed, replace(choice, weight=1.0))
        return ArmRows(with_repeats(real, added.data.labels[len(real.labels) :], seed), None, added.notes, choice)
    if arm.rows == ROUND_TRIP:
        given_back = trainings.seen(arm, trainings.made(ROUND_TRIP, seed), seed)
        return ArmRows(arm_rows(real, given_back, Arm("composite"), ratio=None, balance_to=None, seed=seed))
    if not arm.method:
        return ArmRows(real)
    if isinstance(real, BodyFeatures):
        features, notes = oversample_features(real, arm.method, args.balance_to, seed)
        return ArmRows(real.followed_by(features), None, notes)
    samples, notes = trainings.classifiers.oversample(real, arm.method, args.balance_to, seed)
    return ArmRows(real.followed_by(samples), None, notes)


def synthetic_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice, real: S | BodyFeatures) -> ArmRows[S]:
    """`choose_rows` of an arm of synthetic samples, weighed and softly labelled as the flags say."""
    args = trainings.args
    kept, notes = kept_rows(trainings, arm, seed, choice)
    seen = trainings.seen(arm, trainings.made(arm.source, seed), seed).take(kept)
    settings: dict[str, Any] = {"ratio": choice.ratio, "balance_to": args.balance_to, "seed": seed}
    data = arm_rows(real, seen, arm, **settings)
    if choice.weight == 1 and (arm.linear or not args.soft_labels):
        return ArmRows(data, None, notes, choice)
    targets = np.eye(len(data.label_names), dtype=np.float32)[data.labels]
    # The same draw once more, of numbers instead of samples, says which of the synthetic ones stand where.
    drawn = arm_rows(numbered(real), numbered(seen), arm, **settings).values[:, 0]
    first = len(data.labels) - len(seen.labels) if arm.rows in ("synthetic", "pretrain_finetune") else len(real.labels)
    if args.soft_labels:
        said = taught(trainings, arm.source, seed)[kept][drawn[first:]]
        targets[first:] = (1 - args.soft_labels) * targets[first:] + args.soft_labels * said
    targets[first:] *= choice.weight
    return ArmRows(data, targets, notes, choice)


def kept_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice) -> tuple[np.ndarray, list[str]]:
    """Numbers of the synthetic samples that are left to an arm by --keep_agreeing and a band, and notes."""
    samples, notes = trainings.made(arm.source, seed), []
    keep = np.ones(len(samples.labels), dtype=bool)
    if trainings.args.keep_agreeing:
        keep &= trainings.says_of(samples, seed).argmax(1) == samples.labels
        kept = f"{keep.sum()} of {len(keep)} synthetic {samples.noun}s kept"
        notes.append(f"{kept}, whose label the control gives them too")
    if choice.band:
        said = taught(trainings, arm.source, seed)[np.arange(len(samples.labels)), samples.labels]
        keep &= (choice.band.low <= said) & (said <= choice.band.high)
        keep &= nearness(trainings, arm.source, seed) <= choice.band.near
        notes.append(f"{keep.sum()} of {len(keep)} synthetic {samples.noun}s kept, in the band {choice.band}")
    return np.flatnonzero(keep), notes


def numbered(rows: LabelledRows) -> BodyFeatures:
    """The rows' numbers in their place."""
    return BodyFeatures(np.arange(len(rows.labels))[:, None], rows.labels, rows.label_names)
