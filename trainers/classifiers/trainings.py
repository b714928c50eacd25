"""What the trainings of a study share: samples, features, identities, and the folder of each, complete or absent."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
import torch
from accelerate import PartialState
from safetensors.numpy import load_file
from transformers import PreTrainedModel

from clinsynth.models.classifiers import FitResult, FitSettings, Read
from clinsynth.models.linear_texts import Linear
from clinsynth.run_folder import MADE_ANEW, explained_where_damaged, kept_arrays
from clinsynth.trainers.classifiers.arms import (
    DUPLICATE,
    IN_FEATURES,
    REAL_FEATURES,
    ROUND_TRIP,
    Arm,
    ArmArguments,
    Views,
    augmentation,
    weighted,
)
from clinsynth.trainers.classifiers.rows import (
    ArmRefusedError,
    BodyFeatures,
    S,
    features_of,
    hash_sets,
    head_probabilities,
    repeated,
)

LINEAR_FILE = "linear.safetensors"
LONGEST_WAIT = timedelta(days=7)  # for the slowest process; torch's own limit is half an hour


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
            values |= {"features_from": args.features_from, "spread": "shrunk"}
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

    def says_of(self, data: S, seed: int) -> np.ndarray:
        """What the control's classifier of this seed says of a synthetic set: (n, classes), kept beside it."""
        path = self.folder(self.control, seed) / f"synthetic-{hash_sets(data)}.safetensors"

        def compute() -> dict[str, np.ndarray]:
            return {"probabilities": self.predict(self.control, seed, self.control_model(seed), data)}

        return kept_arrays(path, compute)["probabilities"]


def processes() -> PartialState:
    """This process's number among those that `accelerate launch` or `torchrun` started, and its device."""
    # Without an accelerator accelerate must be told so, or each of torchrun's processes takes itself for the only one.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)


def short_hash(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits, other ones for another identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
