"""One training of a study: its rows, its fits at every learning rate, and its folder, complete or absent."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from accelerate import PartialState
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import cdist
from transformers import PreTrainedModel

from clinsynth.data.labels import LabelledRows
from clinsynth.models.classifiers import FitResult, FitSettings, Read, Record
from clinsynth.models.linear_texts import Linear, fit_linear
from clinsynth.run_folder import (
    MADE_ANEW,
    append_metrics,
    atomic_write,
    complete_folder,
    explained_where_damaged,
    kept_arrays,
)
from clinsynth.trainers.classifiers.arms import (
    DUPLICATE,
    IN_FEATURES,
    REAL_FEATURES,
    ROUND_TRIP,
    Arm,
    ArmArguments,
    Choice,
    Views,
    augmentation,
    weighted,
)
from clinsynth.trainers.classifiers.rows import (
    ArmRefusedError,
    BodyFeatures,
    S,
    arm_rows,
    features_of,
    fit_head,
    hash_sets,
    head_probabilities,
    oversample_features,
    repeated,
    with_repeats,
)

logger = logging.getLogger("clinsynth")

FOLDS = 3
LINEAR_FILE = "linear.safetensors"


class Classifiers(ABC, Generic[S]):
    """How classifiers of images, or of texts, are made, trained, read and kept: all that a study knows of them.

    Attributes:
        arms: the kinds of arms that there are, the controls first.
        minority_recall: whether the scores hold the recall of the small classes together.
        augment: light augmentation where an arm is not strongly augmented.
        class_weights: class weights in every arm.
    """

    arms: ClassVar[tuple[str, ...]]
    minority_recall: ClassVar[bool]
    augment: bool
    class_weights: bool

    @abstractmethod
    def identity(self, views: str) -> dict[str, Any]:
        """What of these settings the result of a training with such `views` depends on, JSON-able."""

    @abstractmethod
    def build(self, args: ArmArguments, train: S, seed: int) -> PreTrainedModel:
        """An untrained classifier of the classes of `train`: the small one, or --model with a new last layer."""

    @abstractmethod
    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        """Write a folder that `transformers.pipeline` takes."""

    @abstractmethod
    def load(self, folder: Path) -> PreTrainedModel:
        """Read back what `save` wrote."""

    @abstractmethod
    def fit(self, model: PreTrainedModel, train: S, validation: S, settings: FitSettings) -> FitResult:
        """Train the whole of `model` in place."""

    @abstractmethod
    def outputs(self, model: PreTrainedModel, data: S, read: Read) -> np.ndarray:
        """What `read` makes of the logits of each batch, float32 (n, …) in the order of `data`; in evaluation mode.
        It is called once after each pass through the network."""

    def predict(self, model: PreTrainedModel, data: S) -> np.ndarray:
        """Class probabilities, float32 (n, classes)."""
        return self.outputs(model, data, lambda logits: logits.softmax(-1))

    def frozen(self, data: S) -> np.ndarray:
        """Features float32 (n, d) of samples by --model as it is, for a logistic regression; else refused."""
        raise ArmRefusedError("there are none here")

    @abstractmethod
    def plain_features(self, train: S) -> Callable[[S], Any]:
        """From samples to features (n, d) that need no network: TF-IDF of words, sparse and fitted on `train`, or
        thumbnails."""

    def oversample(self, train: S, method: str, balance_to: int | None, seed: int) -> tuple[S, list[str]]:
        """Samples that fill up the short classes of `train`, which are repeated here, and notes; else refused."""
        return repeated(train, balance_to, seed)

    def notes(self, real: Mapping[str, S], synthetic: Mapping[str, S]) -> list[str]:
        """What a reader must know of how the samples were brought into the model."""
        return []


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
        said = trainings.taught(arm.source, seed)[kept][drawn[first:]]
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
        said = trainings.taught(arm.source, seed)[np.arange(len(samples.labels)), samples.labels]
        keep &= (choice.band.low <= said) & (said <= choice.band.high)
        keep &= trainings.nearness(arm.source, seed) <= choice.band.near
        notes.append(f"{keep.sum()} of {len(keep)} synthetic {samples.noun}s kept, in the band {choice.band}")
    return np.flatnonzero(keep), notes


def numbered(rows: LabelledRows) -> BodyFeatures:
    """The rows' numbers in their place."""
    return BodyFeatures(np.arange(len(rows.labels))[:, None], rows.labels, rows.label_names)


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


@dataclass(frozen=True)
class Trainings(Generic[S]):
    """The trainings of a study, and where each is kept; features of a body that is not trained are in `cache_dir`.

    `synthetic` has under each name the sets of a generator's trainings or draws; one training of an arm sees one."""

    classifiers: Classifiers[S]
    args: ArmArguments
    real: Mapping[str, S]
    synthetic: Mapping[str, Sequence[S]]
    output_dir: Path
    cache_dir: Path
    progress: bool

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the real splits, and of each synthetic set by its name."""
        sets = {name: "+".join(hash_sets(data) for data in made) for name, made in self.synthetic.items()}
        return {"real splits": hash_sets(*(self.real[name] for name in ("train", "validation", "test"))), **sets}

    def identity(self, arm: Arm) -> dict[str, Any]:
        """Everything but the seed that a training's result depends on."""
        args = self.args
        values: dict[str, Any] = {
            "model": args.model,
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "learning_rates": args.rates,
            "class_weights": self.weighted(arm),
            "from_scratch": args.from_scratch,
            "arm": arm.kind,
            **self.classifiers.identity(self.views(arm)),
            "data": self.fingerprints["real splits"],
        }
        if arm.rows == "composite":
            tried = list(args.ratios) if arm.ratio is None else [arm.ratio]
            values["synthetic_ratio"] = tried if len(tried) > 1 else tried[0]
        if arm.rows in ("composite", "balanced") and args.weights != [1.0]:
            values["synthetic_weight"] = args.weights
        if arm.rows == "balanced" or arm.method:
            values["balance_to"] = args.balance_to
        if arm.synthetic:
            values |= {"synthetic": self.fingerprints[arm.source], "keep_agreeing": args.keep_agreeing}
            taught = {"soft_labels": args.soft_labels, "keep_band": [str(band) for band in args.bands]}
            values |= taught if args.teaches else {}
        if arm.rows == DUPLICATE:
            values["like"] = self.identity(self.like(arm))
        if arm.rows == ROUND_TRIP:
            values["round_trip"] = self.fingerprints[ROUND_TRIP]
        if arm.in_features:
            values["features_from"] = args.features_from
        if self.needs_control(arm):
            values["control"] = self.identity(self.control)
        return values

    def made(self, source: str, seed: int) -> S:
        """The set of `source` that a training with this seed sees: the next seed has that of the next generator."""
        return self.synthetic[source][self.generator(source, seed)]

    def generator(self, source: str, seed: int) -> int:
        """The number of that set."""
        return seed % len(self.synthetic[source])

    @property
    def control(self) -> Arm:
        return Arm(self.args.control)

    def views(self, arm: Arm) -> Views:
        """How the samples of an arm are varied in training."""
        return augmentation(arm, self.args.control, self.classifiers.augment)

    def weighted(self, arm: Arm) -> bool:
        """Whether the classes' shares in the loss of an arm are made equal."""
        return weighted(arm, self.args.control, self.classifiers.class_weights)

    def needs_control(self, arm: Arm) -> bool:
        """Whether a training needs the control's classifier of its seed."""
        features = arm.in_features and self.args.features_from == "control"
        return features or (
            (arm.synthetic or arm.rows == DUPLICATE) and (self.args.keep_agreeing or self.args.teaches)
        )

    def like(self, arm: Arm) -> Arm:
        """The arm whose synthetic samples `duplicate_real` has real ones instead of: composite, of several sets that
        with the largest."""
        sets = {name: len(made[0].labels) for name, made in self.synthetic.items() if name != ROUND_TRIP}
        return Arm(f"composite{IN_FEATURES * arm.in_features}", max(sets, key=lambda name: sets[name]))

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where the training is kept. Its name ends in a hash of the identity: other settings or data never meet."""
        return self.output_dir / "arms" / f"{arm.name}-seed{seed}-{short_hash(self.identity(arm))}"

    def result(self, arm: Arm, seed: int) -> tuple[dict[str, Any], np.ndarray | None]:
        """The record of a finished training, and its probabilities (n, classes) of the real test samples, None where
        the data did not allow the arm."""
        folder = self.folder(arm, seed)
        with explained_where_damaged(folder, MADE_ANEW):
            record: dict[str, Any] = json.loads((folder / "result.json").read_text())
            return record, None if "refused" in record else load_file(folder / "test.safetensors")["probabilities"]

    def held_out(self, arm: Arm, seed: int) -> np.ndarray:
        """What a finished training says of the real validation samples: probabilities (n, classes)."""
        folder = self.folder(arm, seed)

        def compute() -> dict[str, np.ndarray]:  # of a training that was finished before this was kept
            model = self.classifiers.load(folder / "model").to(PartialState().device)
            return {"probabilities": self.predict(arm, seed, model, self.real["validation"])}

        return kept_arrays(folder / "validation.safetensors", compute)["probabilities"]

    def control_model(self, seed: int) -> Any:
        """The control's classifier; of a frozen encoder the logistic regression."""
        if self.control.linear:
            return Linear(**load_file(self.folder(self.control, seed) / LINEAR_FILE))
        return self.classifiers.load(self.folder(self.control, seed) / "model").to(PartialState().device)

    def new_classifier(self, seed: int) -> PreTrainedModel:
        """A classifier to train, on this process's device."""
        return self.classifiers.build(self.args, self.real["train"], seed).to(PartialState().device)

    def body(self, seed: int) -> PreTrainedModel:
        """The classifier whose last layer an arm in feature space trains anew."""
        return self.control_model(seed) if self.args.features_from == "control" else self.new_classifier(seed)

    def seen(self, arm: Arm, data: S, seed: int) -> S | BodyFeatures:
        """What a training of an arm sees of `data`: the samples, or their features."""
        if arm.frozen:
            return self.frozen(data)
        return self.features(data, seed) if arm.in_features else data

    def frozen(self, data: S) -> BodyFeatures:
        """What --model as it is makes of `data`, for a logistic regression; computed once and kept for all seeds."""
        identity = {"frozen": self.args.model, **self.classifiers.identity("none")}
        path = self.cache_dir / "features" / short_hash(identity) / f"features-{hash_sets(data)}.safetensors"
        values = kept_arrays(path, lambda: {"values": self.classifiers.frozen(data)})["values"]
        return BodyFeatures(values, data.labels, data.label_names)

    def features(self, data: S, seed: int) -> BodyFeatures:
        """What the body of arms in feature space makes of `data`, computed once and kept: beside the control's
        classifier of this seed, or, of --model as it is, for all seeds."""
        if self.args.features_from == "control":
            folder = self.folder(self.control, seed)
        else:
            identity = {"model": self.args.model, **self.classifiers.identity(self.views(Arm(REAL_FEATURES)))}
            folder = self.cache_dir / "features" / short_hash(identity)
        progress = f"features of {len(data.labels)} {data.noun}s" if self.progress else None

        def compute() -> dict[str, np.ndarray]:
            return {"values": features_of(self.classifiers.outputs, self.body(seed), data, progress).values}

        values = kept_arrays(folder / f"features-{hash_sets(data)}.safetensors", compute)["values"]
        return BodyFeatures(values, data.labels, data.label_names)

    def predict(self, arm: Arm, seed: int, model: Any, data: S) -> np.ndarray:
        """Class probabilities (n, classes) by the trained `model` of an arm and seed."""
        if isinstance(model, Linear):
            return model.probabilities(self.frozen(data).values)
        if arm.in_features:
            return head_probabilities(model, self.features(data, seed))
        return self.classifiers.predict(model, data)

    def taught(self, source: str, seed: int) -> np.ndarray:
        """What classifiers that are trained as the control is, each without a third of the real train samples, say of
        a synthetic set, their mean: (n, classes), kept beside the control."""
        folder, train = self.folder(self.control, seed), self.real["train"]

        def compute() -> dict[str, np.ndarray]:
            rate = json.loads((folder / "result.json").read_text())["learning_rate"]
            settings = replace(fit_settings(self, self.control, seed, rate, folder), on_epoch=None)
            seen, found = self.seen(self.control, train, seed), []
            for part in folds(train.labels, seed):
                _, model = fit_rows(self, self.control, seed, seen.take(np.flatnonzero(part)), settings)
                found.append(self.predict(self.control, seed, model, self.made(source, seed)))
            return {"probabilities": np.stack(found).mean(0)}

        path = folder / f"teacher-{hash_sets(self.made(source, seed))}.safetensors"
        return kept_arrays(path, compute)["probabilities"]

    def nearness(self, source: str, seed: int) -> np.ndarray:
        """For each synthetic sample the share of the real validation samples that lie nearer to the real train samples
        of their class than it does to those of its own, in the features of the control's body: (n,)."""
        body = Arm(REAL_FEATURES)
        train, known, made = (
            self.seen(body, data, seed)
            for data in (self.real["train"], self.real["validation"], self.made(source, seed))
        )
        assert isinstance(train, BodyFeatures) and isinstance(known, BodyFeatures) and isinstance(made, BodyFeatures)
        usual = np.sort(to_nearest(known, train))
        return np.searchsorted(usual, to_nearest(made, train), side="left") / len(usual)

    def says_of(self, data: S, seed: int) -> np.ndarray:
        """What the control's classifier of this seed says of a synthetic set: (n, classes), kept beside it."""
        path = self.folder(self.control, seed) / f"synthetic-{hash_sets(data)}.safetensors"

        def compute() -> dict[str, np.ndarray]:
            return {"probabilities": self.predict(self.control, seed, self.control_model(seed), data)}

        return kept_arrays(path, compute)["probabilities"]


def folds(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Three masks (n,) that each leave out a third of the rows of every class; a class of one row is in all."""
    part = np.empty(len(labels), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        part[own] = np.arange(len(own)) % FOLDS if len(own) > 1 else FOLDS
    return [part != number for number in range(FOLDS)]


def to_nearest(rows: BodyFeatures, train: BodyFeatures) -> np.ndarray:
    """Euclidean distance of each row to the nearest of its class in `train`, (n,)."""
    found = np.empty(len(rows.labels))
    for label in np.unique(rows.labels):
        own = rows.labels == label
        found[own] = cdist(rows.values[own], train.values[train.labels == label]).min(1)
    return found


def short_hash(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits, other ones for another identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
