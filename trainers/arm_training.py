"""One training of a comparison: an arm and a seed, in a folder that is complete or absent."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from safetensors.numpy import save_file

from clinsynth.data.arrays import ImageArrays
from clinsynth.run_folder import append_metrics, atomic_write, complete_folder
from clinsynth.trainers.arm_data import fingerprint
from clinsynth.trainers.classifier_inputs import load_pretrained_classifier, save_classifier
from clinsynth.trainers.train_image_classifier import FitResult, build_small_resnet, fit_classifier, predict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("clinsynth")


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


def fit_best(
    settings: ArmSettings,
    arm: str,
    seed: int,
    real: dict[str, ImageArrays],
    train: ImageArrays,
    folder: Path,
    progress: bool,
) -> tuple[FitResult, PreTrainedModel, float]:
    """Train at every learning rate, appending to `folder`'s metrics.jsonl; the best by validation, and its rate."""
    # Never more batches than the real arm takes: a gain must come from the pictures, not from longer training.
    batch_size = min(settings.batch_size, len(real["train"].labels))
    best: list[tuple[FitResult, PreTrainedModel, float]] = []  # one at most: a model is large
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
            steps_per_epoch=math.ceil(len(real["train"].labels) / batch_size),
            on_epoch=lambda record: append_metrics(folder, {"arm": arm, "seed": seed, **record}),
        )
        best = [max([*best, (result, model, learning_rate)], key=lambda fit: fit[0].best_macro_f1)]
    return best[0]


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
    with complete_folder(folder) as aside:
        result, model, learning_rate = fit_best(settings, arm, seed, real, train, aside, progress)
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
