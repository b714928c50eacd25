"""The arms of a study on image classifiers; `clinsynth.trainers.classifiers.study` says how a study goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.models.classifiers import FitResult, FitSettings
from clinsynth.models.image_classifiers import (
    build_small_resnet,
    fit_image_classifier,
    in_batches,
    load_image_classifier_to_train,
    save_classifier,
    with_input_size,
)
from clinsynth.trainers.classifiers.arms import ARMS, Arm, Medium, augmentation, load_synthetic, parse_sets
from clinsynth.trainers.classifiers.feature_space import oversample_pictures
from clinsynth.trainers.classifiers.study import begin, run_study, write_results
from clinsynth.trainers.classifiers.trainings import ArmSettings

if TYPE_CHECKING:
    from clinsynth.models.classifiers import Read
    from clinsynth.trainers.train_image_classifier import ImageClassifierArguments


def run_arms(
    real: dict[str, ImageArrays],
    synthetic: ImageArrays | Mapping[str, ImageArrays] | None,
    output_dir: Path,
    *,
    arms: Sequence[str] = ("real", "composite"),
    control: str = "real",
    model: str = "small-resnet",
    from_scratch: bool = False,
    input_size: int | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rates: Sequence[float] = (2e-3,),
    class_weights: bool = True,
    augment: bool = True,
    flips: bool = False,
    synthetic_ratio: float | None = None,
    balance_to: int | None = None,
    keep_agreeing: bool = False,
    features_from: str = "control",
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `model` `seeds` times an arm and compare the arms with the control on the real test split; JSON-able.

    `real` has splits train, validation and test; `synthetic` is one set, or several by name. The other arguments are
    those of `ImageClassifierArguments`. All arms take the same number of optimizer steps and choose among the same
    learning rates. Trainings found complete in `output_dir/arms` are not repeated; under `accelerate launch` the
    processes share the others.

    Returns:
        What `run_study` returns.

    Raises:
        ValueError: a bad setting, or sets that do not fit each other, by name.
    """
    settings = ArmSettings(
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        learning_rates=tuple(learning_rates),
        class_weights=class_weights,
        synthetic_ratio=synthetic_ratio,
        balance_to=balance_to,
        control=control,
        keep_agreeing=keep_agreeing,
        features_from=features_from,
        from_scratch=from_scratch,
    )
    return run_study(
        Pictures(augment, flips, input_size),
        settings,
        real,
        synthetic,
        output_dir,
        arms=arms,
        seeds=seeds,
        first_seed=first_seed,
        cache_dir=cache_dir,
        progress=progress,
    )


def run_and_report(args: ImageClassifierArguments) -> None:
    """What the command does: load, run the arms, write results.json and the best models, print scores and verdict."""
    assert isinstance(args.learning_rates, list) and isinstance(args.arms, list)  # its __post_init__ sees to that
    output_dir = Path(args.output_dir)
    state = begin(output_dir, args)
    real = load_image_arrays(args, args.seed)
    specs = parse_sets(args.synthetic) if args.synthetic else {}
    results = run_arms(
        real,
        {name: load_synthetic(spec, real["train"]) for name, spec in specs.items()},
        output_dir,
        arms=args.arms,
        control=args.control,
        model=args.model,
        from_scratch=args.from_scratch,
        input_size=args.input_size,
        seeds=args.seeds,
        first_seed=args.seed,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rates=args.learning_rates,
        class_weights=args.class_weights,
        augment=args.augment,
        flips=args.flips,
        synthetic_ratio=args.synthetic_ratio,
        balance_to=args.balance_to,
        keep_agreeing=args.keep_agreeing,
        features_from=args.features_from,
        cache_dir=args.cache_dir,
    )
    if state.is_main_process:
        write_results(output_dir, results, real["train"].noun)


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
            model = load_image_classifier_to_train(settings.model, names, seed, settings.from_scratch, own)
        return model if self.input_size is None else with_input_size(model, self.input_size, settings.model)

    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        save_classifier(model, label_names, folder)

    def load(self, folder: Path, label_names: list[str]) -> PreTrainedModel:
        return load_image_classifier_to_train(str(folder), label_names, seed=0)

    def fit(
        self,
        model: PreTrainedModel,
        train: ImageArrays,
        validation: ImageArrays,
        settings: FitSettings,
        *,
        views: str,
        class_weights: bool,
    ) -> FitResult:
        return fit_image_classifier(
            model, train, validation, settings, class_weights=class_weights, views=views, flips=self.flips
        )

    def outputs(self, model: PreTrainedModel, data: ImageArrays, read: Read) -> np.ndarray:
        return in_batches(model, data.images, lambda pixels: read(model(pixels).logits))

    def oversample(
        self, train: ImageArrays, method: str, balance_to: int | None, seed: int
    ) -> tuple[ImageArrays, list[str]]:
        return oversample_pictures(train, method, balance_to, seed)

    def notes(self, real: Mapping[str, ImageArrays], synthetic: Mapping[str, ImageArrays]) -> list[str]:
        return []
