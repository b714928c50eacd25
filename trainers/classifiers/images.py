"""What a study of classifiers knows of images; `clinsynth.trainers.classifiers.study` says how a study goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import FitResult, FitSettings, Read
from clinsynth.models.image_classifiers import (
    build_small_resnet,
    fit_image_classifier,
    in_batches,
    load_image_classifier,
    load_image_classifier_to_train,
    save_image_classifier,
    with_input_size,
)
from clinsynth.trainers.classifiers.arms import ARMS, SMALL_RESNET, ArmArguments
from clinsynth.trainers.classifiers.rows import oversample
from clinsynth.trainers.classifiers.trainings import Classifiers

LEAST_SIDE = 16  # of an input: less is nothing to a stem that divides the side by four


@dataclass(frozen=True)
class ImageClassifiers(Classifiers[ImageArrays]):
    """Image classifiers.

    Attributes:
        augment: light augmentation where an arm is not strongly augmented.
        flips: mirrored images as well.
        input_size: side at which images enter the classifier; None: what it asks for, else their own, at least 64.
        class_weights: class weights in every arm.
    """

    arms = ARMS
    minority_recall = False

    augment: bool = True
    flips: bool = False
    input_size: int | None = None
    class_weights: bool = True

    def __post_init__(self) -> None:
        if self.input_size is not None and self.input_size < LEAST_SIDE:
            raise ValueError(f"--input_size must be at least {LEAST_SIDE} pixels, got {self.input_size}")

    def identity(self, views: str) -> dict[str, Any]:
        size = {} if self.input_size is None else {"input_size": self.input_size}
        return {"augmentation": views, "flips": self.flips, **size}

    def build(self, args: ArmArguments, train: ImageArrays, seed: int) -> PreTrainedModel:
        """The small ResNet, in colour because transformers' pipelines hand every image over so, or one of
        transformers' architectures, pretrained or not."""
        names, own = train.label_names, max(64, train.images.shape[-1])
        if args.model == SMALL_RESNET:
            model: PreTrainedModel = build_small_resnet(len(names), 3, input_size=own, seed=seed)
        else:
            model = load_image_classifier_to_train(args.model, names, seed, args.from_scratch, own)
        return model if self.input_size is None else with_input_size(model, self.input_size, args.model)

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        save_image_classifier(model, label_names, folder)

    def load(self, folder: Path) -> PreTrainedModel:
        return load_image_classifier("the classifier in", str(folder))[0]

    def fit(
        self, model: PreTrainedModel, train: ImageArrays, validation: ImageArrays, settings: FitSettings
    ) -> FitResult:
        return fit_image_classifier(model, train, validation, settings, self.flips)

    def outputs(self, model: PreTrainedModel, data: ImageArrays, read: Read) -> np.ndarray:
        return in_batches(model, data.images, lambda pixels: read(model(pixels).logits))

    def oversample(
        self, train: ImageArrays, method: str, balance_to: int | None, seed: int
    ) -> tuple[ImageArrays, list[str]]:
        """The images that `method` makes of the pixels of `train`, rounded to uint8, and notes."""
        pixels = train.images.reshape(len(train.labels), -1).astype(np.float32)
        rows, labels, notes = oversample(pixels, train.labels, train.label_names, method, balance_to, seed)
        images = rows.round().clip(0, 255).astype(np.uint8).reshape(-1, *train.images.shape[1:])
        return ImageArrays(images, labels, train.label_names), notes
