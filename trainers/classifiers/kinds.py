"""What a study of classifiers knows of images, and what of texts; study.py beside it says how a study goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from transformers import PreTrainedModel

from clinsynth.data.images import ImageArrays
from clinsynth.data.texts import TextArrays
from clinsynth.metrics.privacy.copies import thumbnails
from clinsynth.models import image_classifiers, linear_texts, text_classifiers
from clinsynth.models.classifiers import FitResult, FitSettings, Read
from clinsynth.models.text_encoders import default_source
from clinsynth.models.weights import MINILM
from clinsynth.trainers.classifiers.arms import ARMS, SMALL_BERT, SMALL_RESNET, TEXT_ARMS, ArmArguments
from clinsynth.trainers.classifiers.rows import ArmRefusedError, oversample
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
            model: PreTrainedModel = image_classifiers.build_small_resnet(len(names), 3, input_size=own, seed=seed)
        else:
            model = image_classifiers.load_image_classifier_to_train(args.model, names, seed, args.from_scratch, own)
        return (
            model if self.input_size is None else image_classifiers.with_input_size(model, self.input_size, args.model)
        )

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        image_classifiers.save_image_classifier(model, label_names, folder)

    def load(self, folder: Path) -> PreTrainedModel:
        return image_classifiers.load_image_classifier("the classifier in", str(folder))[0]

    def fit(
        self, model: PreTrainedModel, train: ImageArrays, validation: ImageArrays, settings: FitSettings
    ) -> FitResult:
        return image_classifiers.fit_image_classifier(model, train, validation, settings, self.flips)

    def outputs(self, model: PreTrainedModel, data: ImageArrays, read: Read) -> np.ndarray:
        return image_classifiers.in_batches(model, data.images, lambda pixels: read(model(pixels).logits))

    def plain_features(self, train: ImageArrays) -> Callable[[ImageArrays], np.ndarray]:
        return lambda data: thumbnails(data.images).reshape(len(data.labels), -1) / 255

    def oversample(
        self, train: ImageArrays, method: str, balance_to: int | None, seed: int
    ) -> tuple[ImageArrays, list[str]]:
        """The images that `method` makes of the pixels of `train`, rounded to uint8, and notes."""
        pixels = train.images.reshape(len(train.labels), -1).astype(np.float32)
        rows, labels, notes = oversample(pixels, train.labels, train.label_names, method, balance_to, seed)
        images = rows.round().clip(0, 255).astype(np.uint8).reshape(-1, *train.images.shape[1:])
        return ImageArrays(images, labels, train.label_names), notes


@dataclass(frozen=True)
class TextClassifiers(Classifiers[TextArrays]):
    """Text classifiers.

    Attributes:
        tokens: of the model to train.
        source: where that model is: a folder or Hub id, empty for the small one.
    """

    arms = TEXT_ARMS
    augment = False
    class_weights = False  # real_weighted, and what is compared with it, has them all the same
    minority_recall = True

    tokens: text_classifiers.Tokens
    source: str = ""

    @classmethod
    def of(cls, model: str, train: TextArrays, max_length: int, windows: int = 1) -> TextClassifiers:
        """Those of --model `model`; the small one's tokenizer is made of the real train texts.

        Raises:
            ValueError: no tokenizer is there, or it takes fewer than `max_length` tokens.
        """
        if model == SMALL_BERT:
            return cls(text_classifiers.Tokens(text_classifiers.small_tokenizer(train.texts), max_length, windows))
        source = default_source() if model == MINILM else model
        return cls(text_classifiers.load_tokens(source, max_length, windows), source)

    def identity(self, views: str) -> dict[str, Any]:
        return {"max_length": self.tokens.max_length, "windows": self.tokens.most_windows}

    def build(self, args: ArmArguments, train: TextArrays, seed: int) -> PreTrainedModel:
        if args.model == SMALL_BERT:
            return text_classifiers.build_small_bert(self.tokens, len(train.label_names), seed)
        return text_classifiers.load_text_classifier_to_train(
            self.source, train.label_names, self.tokens, seed, args.from_scratch
        )

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        text_classifiers.save_text_classifier(model, label_names, self.tokens, folder)

    def load(self, folder: Path) -> PreTrainedModel:
        return text_classifiers.load_text_classifier("the classifier in", str(folder))[0]

    def fit(
        self, model: PreTrainedModel, train: TextArrays, validation: TextArrays, settings: FitSettings
    ) -> FitResult:
        return text_classifiers.fit_text_classifier(model, self.tokens, train, validation, settings)

    def outputs(self, model: PreTrainedModel, data: TextArrays, read: Read) -> np.ndarray:
        return text_classifiers.text_outputs(model, self.tokens, data.texts, read)

    def predict(self, model: PreTrainedModel, data: TextArrays) -> np.ndarray:
        """Of the mean logits of a text's windows, which training has seen."""
        return softmax(self.outputs(model, data, lambda logits: logits), axis=1)

    def frozen(self, data: TextArrays) -> np.ndarray:
        if not self.source:
            raise ArmRefusedError(f"--model {SMALL_BERT} has no trained weights to embed texts with; name another")
        return linear_texts.FrozenEncoder(self.source, self.tokens)(list(data.texts))

    def plain_features(self, train: TextArrays) -> Callable[[TextArrays], Any]:
        vectorizer = linear_texts.tfidf(list(train.texts))
        return lambda data: vectorizer.transform(data.texts)

    def notes(self, real: Mapping[str, TextArrays], synthetic: Mapping[str, TextArrays]) -> list[str]:
        """How many texts of each set were cut."""
        sets = {**real, **{f"synthetic {name}".strip(): data for name, data in synthetic.items()}}
        cut = {name: self.tokens.count_cut(data.texts) for name, data in sets.items()}
        counts = ", ".join(f"{name} {count} of {len(sets[name].labels)}" for name, count in cut.items() if count)
        long = f"--windows {self.tokens.most_windows} of --max_length {self.tokens.max_length} tokens"
        return [f"texts longer than {long}, cut there: {counts or 'none'}"]
