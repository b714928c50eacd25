"""What a study of classifiers knows of texts; `clinsynth.trainers.classifiers.study` says how a study goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from clinsynth.data.texts import TextArrays
from clinsynth.models.classifiers import FitResult, FitSettings, Read
from clinsynth.models.text_classifiers import (
    Tokens,
    build_small_bert,
    fit_text_classifier,
    load_text_classifier,
    load_text_classifier_to_train,
    load_tokens,
    save_text_classifier,
    small_tokenizer,
    text_outputs,
)
from clinsynth.models.text_encoders import MINILM, default_source
from clinsynth.trainers.classifiers.arms import SMALL_BERT, TEXT_ARMS, ArmArguments
from clinsynth.trainers.classifiers.trainings import Classifiers


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

    tokens: Tokens
    source: str = ""

    @classmethod
    def of(cls, model: str, train: TextArrays, max_length: int) -> TextClassifiers:
        """Those of --model `model`; the small one's tokenizer is made of the real train texts.

        Raises:
            ValueError: no tokenizer is there, or it takes fewer than `max_length` tokens.
        """
        if model == SMALL_BERT:
            return cls(Tokens(small_tokenizer(train.texts), max_length))
        source = default_source() if model == MINILM else model
        return cls(load_tokens(source, max_length), source)

    def identity(self, views: str) -> dict[str, Any]:
        return {"max_length": self.tokens.max_length}

    def build(self, args: ArmArguments, train: TextArrays, seed: int) -> PreTrainedModel:
        if args.model == SMALL_BERT:
            return build_small_bert(self.tokens, len(train.label_names), seed)
        return load_text_classifier_to_train(self.source, train.label_names, self.tokens, seed, args.from_scratch)

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        save_text_classifier(model, label_names, self.tokens, folder)

    def load(self, folder: Path) -> PreTrainedModel:
        return load_text_classifier("the classifier in", str(folder))[0]

    def fit(
        self, model: PreTrainedModel, train: TextArrays, validation: TextArrays, settings: FitSettings
    ) -> FitResult:
        return fit_text_classifier(model, self.tokens, train, validation, settings)

    def outputs(self, model: PreTrainedModel, data: TextArrays, read: Read) -> np.ndarray:
        return text_outputs(model, self.tokens, data.texts, read)

    def notes(self, real: Mapping[str, TextArrays], synthetic: Mapping[str, TextArrays]) -> list[str]:
        """How many texts of each set were cut."""
        sets = {**real, **{f"synthetic {name}".strip(): data for name, data in synthetic.items()}}
        cut = {name: self.tokens.count_cut(data.texts) for name, data in sets.items()}
        counts = ", ".join(f"{name} {count} of {len(sets[name].labels)}" for name, count in cut.items() if count)
        return [f"texts longer than --max_length {self.tokens.max_length} tokens, cut there: {counts or 'none'}"]
