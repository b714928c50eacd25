"""The trainings of a study: their settings, what each depends on, and the folder that it is kept in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from safetensors.numpy import load_file, save

from clinsynth.run_folder import MADE_ANEW, atomic_write, explained_where_damaged
from clinsynth.trainers.classifiers.arm_data import fingerprint
from clinsynth.trainers.classifiers.arm_medium import Medium, Samples
from clinsynth.trainers.classifiers.arms import REAL_FEATURES, Arm, weighted
from clinsynth.trainers.classifiers.feature_space import Features, features_of, head_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        values |= {"class_weights": weighted(arm, s.control, s.class_weights)}
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
