"""The arms of a study on text classifiers; `clinsynth.trainers.classifiers.study` says how a study goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from clinsynth.data.texts import TextArrays, load_text_arrays
from clinsynth.models.classifiers import FitResult, FitSettings
from clinsynth.models.text_classifiers import (
    Tokens,
    build_small_bert,
    fit_text_classifier,
    load_text_classifier_to_train,
    load_tokens,
    save_text_classifier,
    small_tokenizer,
    text_outputs,
)
from clinsynth.trainers.classifiers.arms import TEXT_ARMS, Arm, Medium, load_synthetic, parse_sets
from clinsynth.trainers.classifiers.feature_space import repeat_samples
from clinsynth.trainers.classifiers.study import begin, run_study, write_results
from clinsynth.trainers.classifiers.trainings import ArmSettings
from clinsynth.trainers.train_text_classifier import SMALL

if TYPE_CHECKING:
    from clinsynth.models.classifiers import Read
    from clinsynth.trainers.train_text_classifier import TextClassifierArguments


@dataclass(frozen=True)
class Texts(Medium[TextArrays]):
    """Text classifiers.

    Attributes:
        tokens: of the model to train.
        source: where that model is: a folder or Hub id, empty for the small one.
    """

    arms = TEXT_ARMS
    small = SMALL
    augment = False
    minority_recall = True

    tokens: Tokens
    source: str = ""

    def identity(self, arm: Arm, control: str) -> dict[str, Any]:
        return {"max_length": self.tokens.max_length}

    def build(self, settings: ArmSettings, train: TextArrays, seed: int) -> PreTrainedModel:
        if settings.model == self.small:
            return build_small_bert(self.tokens, len(train.label_names), seed)
        return load_text_classifier_to_train(self.source, train.label_names, self.tokens, seed, settings.from_scratch)

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        save_text_classifier(model, label_names, self.tokens, folder)

    def load(self, folder: Path, label_names: list[str]) -> PreTrainedModel:
        return load_text_classifier_to_train(str(folder), label_names, self.tokens, seed=0)

    def fit(
        self,
        model: PreTrainedModel,
        train: TextArrays,
        validation: TextArrays,
        settings: FitSettings,
        *,
        views: str,
        class_weights: bool,
    ) -> FitResult:
        return fit_text_classifier(model, self.tokens, train, validation, settings, class_weights=class_weights)

    def outputs(self, model: PreTrainedModel, data: TextArrays, read: Read) -> np.ndarray:
        return text_outputs(model, self.tokens, data.texts, read)

    def oversample(
        self, train: TextArrays, method: str, balance_to: int | None, seed: int
    ) -> tuple[TextArrays, list[str]]:
        """The texts of short classes again; no other method makes texts of texts."""
        assert method == "random_oversampling"
        return repeat_samples(train, balance_to, seed)

    def notes(self, real: Mapping[str, TextArrays], synthetic: Mapping[str, TextArrays]) -> list[str]:
        """How many texts of each set were cut."""
        sets = {**real, **{f"synthetic {name}".strip(): data for name, data in synthetic.items()}}
        cut = {name: self.tokens.count_cut(data.texts) for name, data in sets.items()}
        counts = ", ".join(f"{name} {count} of {len(sets[name].labels)}" for name, count in cut.items() if count)
        return [f"texts longer than --max_length {self.tokens.max_length} tokens, cut there: {counts or 'none'}"]


def prepare_texts(model: str, train: TextArrays, max_length: int) -> Texts:
    """What a study with --model `model` knows of texts; the small one's tokenizer is made of the real train texts.

    Raises:
        ValueError: no tokenizer is there, or it takes fewer than `max_length` tokens.
    """
    if model == SMALL:
        return Texts(Tokens(small_tokenizer(train.texts), max_length))
    from clinsynth.models.text_encoders import MINILM, default_source

    source = default_source() if model == MINILM else model
    return Texts(load_tokens(source, max_length), source)


def run_and_report(args: TextClassifierArguments) -> None:
    """What the command does: load, run the arms, write results.json and the best models, print scores and verdict."""
    assert isinstance(args.learning_rates, list) and isinstance(args.arms, list)  # its __post_init__ sees to that
    output_dir = Path(args.output_dir)
    settings = ArmSettings(
        model=args.model,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rates=tuple(args.learning_rates),
        class_weights=False,  # real_weighted, and what is compared with it, has them all the same
        synthetic_ratio=args.synthetic_ratio,
        balance_to=args.balance_to,
        control=args.control,
        keep_agreeing=args.keep_agreeing,
        features_from=args.features_from,
        from_scratch=args.from_scratch,
    )
    state = begin(output_dir, args)
    real = load_text_arrays(args, args.seed)
    specs = parse_sets(args.synthetic) if args.synthetic else {}
    results = run_study(
        prepare_texts(args.model, real["train"], args.max_length),
        settings,
        real,
        {name: load_synthetic(spec, real["train"]) for name, spec in specs.items()},
        output_dir,
        arms=args.arms,
        seeds=args.seeds,
        first_seed=args.seed,
        cache_dir=args.cache_dir,
    )
    if state.is_main_process:
        write_results(output_dir, results, real["train"].noun)
