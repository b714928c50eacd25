"""One training of a study: its rows, its fits at every learning rate, and its folder, complete or absent."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from accelerate import PartialState
from safetensors.numpy import load_file, save, save_file

from clinsynth.models.classifiers import FitResult, FitSettings
from clinsynth.run_folder import MADE_ANEW, append_metrics, atomic_write, complete_folder, explained_where_damaged
from clinsynth.trainers.classifiers.arms import (
    REAL_FEATURES,
    Arm,
    ArmRefusedError,
    Medium,
    Samples,
    arm_rows,
    augmentation,
    fingerprint,
    weighted,
)
from clinsynth.trainers.classifiers.feature_space import (
    Features,
    features_of,
    fit_head,
    head_probabilities,
    oversample,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("clinsynth")

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
    best: list[tuple[FitResult, PreTrainedModel, float]] = []  # one at most: a model is large
    for learning_rate in trainings.settings.learning_rates:
        settings = fit_settings(trainings, arm, seed, learning_rate, folder)
        if isinstance(rows.data, Features):
            model = trainings.body(seed)  # anew, since fit_head changes its last layer
            held_out = trainings.features(trainings.real["validation"], seed)
            result = fit_head(model, rows.data, held_out, settings, trainings.weighted(arm))
        else:
            model = trainings.new_classifier(seed)
            result = fit_whole(trainings, arm, rows.data, model, settings)
        best = [max([*best, (result, model, learning_rate)], key=lambda fit: fit[0].best_macro_f1)]
    return best[0]


def fit_settings(trainings: Trainings, arm: Arm, seed: int, learning_rate: float, folder: Path) -> FitSettings:
    """Epochs, batch size and steps an epoch are the same for every arm: those of the real train samples.

    A gain must come from the samples, not from longer training."""
    rows, settings = len(trainings.real["train"].labels), trainings.settings
    batch_size = min(settings.batch_size, rows)
    return FitSettings(
        settings.epochs,
        batch_size,
        learning_rate,
        seed,
        steps_per_epoch=math.ceil(rows / batch_size),
        progress=f"{arm.name}, seed {seed}, learning rate {learning_rate:g}" if trainings.progress else None,
        on_epoch=partial(append_epoch, folder, arm.name, seed),
    )


def append_epoch(folder: Path, arm: str, seed: int, record: dict[str, float]) -> None:
    append_metrics(folder, {"arm": arm, "seed": seed, **record})


def fit_whole(
    trainings: Trainings, arm: Arm, data: Samples, model: PreTrainedModel, settings: FitSettings
) -> FitResult:
    """Train the whole of `model` on the samples of an arm."""
    real, own = trainings.real, trainings.settings
    views = augmentation(arm, own.control, trainings.medium.augment)

    def fit(samples: Samples, settings: FitSettings) -> FitResult:
        return trainings.medium.fit(
            model, samples, real["validation"], settings, views=views, class_weights=trainings.weighted(arm)
        )

    if arm.kind != "pretrain_finetune":
        return fit(data, settings)
    # As many steps as in any arm. The weights are those of an epoch of the second half, on real samples.
    first, on_epoch = settings.epochs // 2, settings.on_epoch
    pretrained = fit(data, replace(settings, epochs=first))
    finetuned = fit(
        real["train"],
        replace(
            settings,
            epochs=settings.epochs - first,
            on_epoch=on_epoch and (lambda record: on_epoch(later(record, pretrained))),
        ),
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


@dataclass(frozen=True)
class ArmSettings:
    """How every training of a study is done."""

    model: str
    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    class_weights: bool = True
    synthetic_ratio: float | None = None
    balance_to: int | None = None
    control: str = "real"
    keep_agreeing: bool = False
    features_from: str = "control"
    from_scratch: bool = False

    def __post_init__(self) -> None:
        for flag, value in (("epochs", self.epochs), ("batch_size", self.batch_size), ("balance_to", self.balance_to)):
            if value is not None and value < 1:
                raise ValueError(f"--{flag} must be at least 1, got {value}")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"--learning_rates must be one or more positive numbers, got {list(self.learning_rates)}")
        if self.synthetic_ratio is not None and self.synthetic_ratio <= 0:
            raise ValueError(f"--synthetic_ratio must be above 0, got {self.synthetic_ratio}; leave it out to use all")
        if self.features_from not in ("control", "model"):
            raise ValueError(f"--features_from must be control or model, got {self.features_from}")
        if self.control == REAL_FEATURES and self.features_from == "control":
            raise ValueError(f"--control {REAL_FEATURES} trains no body to take from; add --features_from model")


@dataclass(frozen=True)
class Trainings:
    """The trainings of a study, and where each is kept; features of a body that is not trained are in `cache_dir`."""

    medium: Medium[Any]
    settings: ArmSettings
    real: dict[str, Samples]
    synthetic: dict[str, Samples]
    output_dir: Path
    cache_dir: Path
    progress: bool

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the real splits, and of each synthetic set by its name."""
        sets = {name: fingerprint(data) for name, data in self.synthetic.items()}
        return {"real splits": fingerprint(*(self.real[name] for name in ("train", "validation", "test"))), **sets}

    def identity(self, arm: Arm) -> dict[str, Any]:
        """Everything but the seed that a training's result depends on."""
        s = self.settings
        values = asdict(s)
        for name in ("control", "keep_agreeing", "features_from", "synthetic_ratio", "balance_to"):
            del values[name]
        values |= {"arm": arm.kind, **self.medium.identity(arm, s.control)}
        values |= {"class_weights": self.weighted(arm)}
        values |= {"data": self.fingerprints["real splits"]}
        if arm.rows == "composite":
            values["synthetic_ratio"] = s.synthetic_ratio
        if arm.rows == "balanced" or arm.method:
            values["balance_to"] = s.balance_to
        if arm.synthetic:
            values |= {"synthetic": self.fingerprints[arm.source], "keep_agreeing": s.keep_agreeing}
        if arm.in_features:
            values["features_from"] = s.features_from
        if self.needs_control(arm):
            values["control"] = self.identity(Arm(s.control))
        return values

    def weighted(self, arm: Arm) -> bool:
        """Whether the classes' shares in the loss of an arm are made equal."""
        return weighted(arm, self.settings.control, self.settings.class_weights)

    def needs_control(self, arm: Arm) -> bool:
        """Whether a training needs the control's classifier of its seed."""
        features = arm.in_features and self.settings.features_from == "control"
        return features or (arm.synthetic and self.settings.keep_agreeing)

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where the training is kept. Its name ends in a hash of the identity: other settings or data never meet."""
        return self.output_dir / "arms" / f"{arm.name}-seed{seed}-{short_hash(self.identity(arm))}"

    def result(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The record of a finished training."""
        folder = self.folder(arm, seed)
        with explained_where_damaged(folder, MADE_ANEW):
            return json.loads((folder / "result.json").read_text())

    def test_probabilities(self, arm: Arm, seed: int) -> np.ndarray:
        """Probabilities (n, classes) of the real test samples."""
        folder = self.folder(arm, seed)
        with explained_where_damaged(folder, MADE_ANEW):
            return load_file(folder / "test.safetensors")["probabilities"]

    def control_model(self, seed: int) -> PreTrainedModel:
        folder = self.folder(Arm(self.settings.control), seed) / "model"
        return self.medium.load(folder, self.real["train"].label_names).to(PartialState().device)

    def new_classifier(self, seed: int) -> PreTrainedModel:
        """A classifier to train, on this process's device."""
        return self.medium.build(self.settings, self.real["train"], seed).to(PartialState().device)

    def body(self, seed: int) -> PreTrainedModel:
        """The classifier whose last layer an arm in feature space trains anew."""
        return self.control_model(seed) if self.settings.features_from == "control" else self.new_classifier(seed)

    def features(self, data: Samples, seed: int) -> Features:
        """What the body of arms in feature space makes of `data`, computed once and kept: beside the control's
        classifier of this seed, or, of --model as it is, for all seeds."""
        control, model = self.settings.control, self.settings.model
        if self.settings.features_from == "control":
            folder = self.folder(Arm(control), seed)
        else:
            identity = {"model": model, **self.medium.identity(Arm(REAL_FEATURES), control)}
            folder = self.cache_dir / "features" / short_hash(identity)
        path = folder / f"features-{fingerprint(data)}.safetensors"
        if not path.exists():
            progress = f"features of {len(data.labels)} {data.noun}s" if self.progress else None
            path.parent.mkdir(parents=True, exist_ok=True)
            values = features_of(self.medium, self.body(seed), data, progress).values
            atomic_write(path, save({"values": values}))
        with explained_where_damaged(path, MADE_ANEW):
            return Features(load_file(path)["values"], data.labels, data.label_names)

    def predict(self, arm: Arm, seed: int, model: PreTrainedModel, data: Samples) -> np.ndarray:
        """Class probabilities (n, classes) by the trained `model` of an arm and seed."""
        if arm.in_features:
            return head_probabilities(model, self.features(data, seed))
        return self.medium.predict(model, data)

    def synthetic_probabilities(self, source: str, seed: int) -> np.ndarray:
        """What the control's classifier of this seed says of a synthetic set: (n, classes), kept beside it."""
        control = Arm(self.settings.control)
        path = self.folder(control, seed) / f"synthetic-{self.fingerprints[source]}.safetensors"
        if not path.exists():
            probabilities = self.predict(control, seed, self.control_model(seed), self.synthetic[source])
            atomic_write(path, save({"probabilities": probabilities}))
        with explained_where_damaged(path, MADE_ANEW):
            return load_file(path)["probabilities"]


def short_hash(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits, other ones for another identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
