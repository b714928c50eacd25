"""The arms of a study on image classifiers; `clinsynth.trainers.classifiers.study` says how a study goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.trainers.classifiers.arm_data import check_data, load_synthetic, parse_sets
from clinsynth.trainers.classifiers.arm_pictures import Pictures
from clinsynth.trainers.classifiers.arm_training import ArmSettings
from clinsynth.trainers.classifiers.study import begin, describe, run_study, write_results

if TYPE_CHECKING:
    from clinsynth.trainers.train_image_classifier import ImageClassifierArguments

__all__ = ["check_data", "describe", "run_and_report", "run_arms"]


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
