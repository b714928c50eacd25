"""What a classifier study knows of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifier_result import FitResult
from clinsynth.models.image_classifiers import load_pretrained_classifier, save_classifier, with_input_size
from clinsynth.trainers.classifiers.arm_medium import Medium
from clinsynth.trainers.classifiers.arm_oversampling import oversample_pictures
from clinsynth.trainers.classifiers.arm_training import ArmSettings
from clinsynth.trainers.classifiers.arms import ARMS, Arm, augmentation
from clinsynth.trainers.train_image_classifier import build_small_resnet, fit_classifier, in_batches

if TYPE_CHECKING:
    from clinsynth.trainers.classifiers.arm_medium import Read

BATCH = 256  # pictures read at once
LEAST_SIDE = 16  # of an input: less is nothing to a stem that divides the side by four


@dataclass(frozen=True)
class Pictures(Medium[ImageArrays]):
    """Image classifiers.

    Attributes:
        augment: light augmentation where an arm is not strongly augmented.
        flips: mirrored pictures as well.
        input_size: side at which pictures enter the classifier; None: what it asks for, else their own, at least 64.
    """

    arms = ARMS
    small = "small-resnet"
    minority_recall = False

    augment: bool = True
    flips: bool = False
    input_size: int | None = None

    def __post_init__(self) -> None:
        if self.input_size is not None and self.input_size < LEAST_SIDE:
            raise ValueError(f"--input_size must be at least {LEAST_SIDE} pixels, got {self.input_size}")

    def identity(self, arm: Arm, control: str) -> dict[str, Any]:
        size = {} if self.input_size is None else {"input_size": self.input_size}
        return {"augmentation": augmentation(arm, control, self.augment), "flips": self.flips, **size}

    def build(self, settings: ArmSettings, train: ImageArrays, seed: int) -> PreTrainedModel:
        """The small ResNet, in colour because transformers' pipelines hand every picture over so, or one of
        transformers' architectures, pretrained or not."""
        names, own = train.label_names, max(64, train.images.shape[-1])
        if settings.model == self.small:
            model: PreTrainedModel = build_small_resnet(len(names), 3, input_size=own, seed=seed)
        else:
            model = load_pretrained_classifier(settings.model, names, seed, settings.from_scratch, own)
        return model if self.input_size is None else with_input_size(model, self.input_size, settings.model)

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        save_classifier(model, label_names, folder)

    def load(self, folder: Path, label_names: list[str]) -> PreTrainedModel:
        return load_pretrained_classifier(str(folder), label_names, seed=0)

    def fit(
        self,
        model: PreTrainedModel,
        train: ImageArrays,
        validation: ImageArrays,
        arm: Arm,
        control: str,
        common: dict[str, Any],
    ) -> FitResult:
        views = augmentation(arm, control, self.augment)
        return fit_classifier(
            model,
            train,
            validation,
            augment=views == "light",
            strong=views == "strong",
            flips=self.flips,
            **common,
        )

    def outputs(self, model: PreTrainedModel, data: ImageArrays, read: Read) -> np.ndarray:
        return in_batches(model, data.images, BATCH, lambda pixels: read(model(pixels).logits))

    def oversample(
        self, train: ImageArrays, method: str, balance_to: int | None, seed: int
    ) -> tuple[ImageArrays, list[str]]:
        return oversample_pictures(train, method, balance_to, seed)

    def notes(self, real: Mapping[str, ImageArrays], synthetic: Mapping[str, ImageArrays]) -> list[str]:
        return []
