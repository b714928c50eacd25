"""The evidence on a synthetic image set: distances, variety, mode collapse, privacy and classifier arms.

Finished parts are kept in the output folder under keys made of their inputs, so that the same command goes on where it
was stopped and a changed input is measured anew.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_arrays
from clinsynth.metrics.comparisons import comparisons
from clinsynth.metrics.distances import measure_features
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.images.likeness import ImageRows, measure_images
from clinsynth.metrics.images.privacy import image_privacy
from clinsynth.metrics.privacy.attacks import attack_table
from clinsynth.metrics.records import Features, MeasurementSettings, as_dicts, count_classes
from clinsynth.models.image_encoders import (
    FeatureExtractor,
    cached_features,
    hash_arrays,
    load_extractor,
    train_default_extractor,
)
from clinsynth.progress import Announce, Stages
from clinsynth.run_folder import Kept, create_run_folder, describe_environment, write_run_config
from clinsynth.study.alignment import gather_alignment, load_alignment_judge
from clinsynth.synthesis.sets import check_sources, load_synthetic_images, read_generation, with_labels_of
from clinsynth.trainers.classifiers.arms import ArmArguments
from clinsynth.trainers.classifiers.kinds import ImageClassifiers
from clinsynth.trainers.classifiers.rows import check_data
from clinsynth.trainers.classifiers.study import run_study

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays
    from clinsynth.study.arguments import EvaluateImagesArguments


STAGES = ("both sets", "features", "distances and variety", "privacy", "classifiers", "checklist", "report")


def stages_of(args: EvaluateImagesArguments) -> Stages:
    """The parts of an evaluation by these flags."""
    left_out = {"classifiers": args.classifier == "none", "checklist": not args.checklist}
    return Stages([name for name in STAGES if not left_out.get(name)])


def gather_evidence(
    args: EvaluateImagesArguments, begins: Announce
) -> tuple[dict[str, Any], dict[str, ImageArrays], ImageArrays, dict[str, Features]]:
    """All parts of the evidence as JSON-able records, the real splits, the synthetic set, and the features of "train",
    "test" and "synthetic".

    Raises:
        ValueError: either side is missing, unfinished, unreadable or does not fit the other.
    """
    begins("both sets")
    generation = read_generation(Path(args.synthetic))
    synthetic = load_synthetic_images(Path(args.synthetic))
    real = load_real_images(args, like=synthetic)
    synthetic = with_labels_of(real["train"], synthetic)
    check_sources(Path(args.synthetic), real["test"].images)
    judge = load_alignment_judge(args, real["train"].label_names) if args.checklist else None
    if args.classifier != "none":
        check_data(real, {"": synthetic})
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    cache = create_run_folder(args.cache_dir, "cache_dir") if args.cache_dir else output_dir
    begins("features")
    extractor = choose_extractor(args, real, cache)
    sets, names = {**real, "synthetic": synthetic}, synthetic.label_names
    features, pictures = {}, {}
    for split in ("train", "test", "synthetic"):
        rows = cached_features(extractor, sets[split].images, cache / "features", f"features, {split}")
        features[split] = Features(rows, sets[split].labels, sets[split].persons)
        pictures[split] = features[split].of(ImageRows.of(sets[split].images))
    finished = Kept(output_dir / "measurements.json")
    settings = MeasurementSettings(extractor.name, args.bootstrap, args.seed)
    begins("distances and variety")
    measurements = measure_all(features, pictures, names, settings, finished)
    pictures["validation"] = Features(sets["validation"].images, sets["validation"].labels)
    key = f"privacy and exact copies, {hash_inputs(pictures, settings, names)}"
    begins("privacy")
    privacy = finished.get(key, lambda: image_privacy(synthetic, real, features, settings))
    if args.classifier != "none":
        begins("classifiers")
    classifier = compare_classifiers(args, real, synthetic, output_dir)
    if args.checklist:
        begins("checklist")
    attacked = partial(attack_table, features["synthetic"], features["train"], features["test"], args.seed)
    evidence = {
        "data": describe_data(args, sets),
        "generation": generation,
        "extractor": {"name": extractor.name, "dimension": extractor.dimension, "note": extractor.note},
        "measurements": measurements,
        "collapse": read_collapse(measurements, "test"),
        "privacy": privacy,
        "attacks": finished.get(f"attacks, {key}", attacked),
        "classifier": classifier,
        "alignment": gather_alignment(args, judge, extractor, sets, features, generation),
        "environment": describe_environment(),
    }
    return evidence, real, synthetic, features


def load_real_images(args: EvaluateImagesArguments, like: ImageArrays) -> dict[str, ImageArrays]:
    """Splits train, validation and test of `--real` at the resolution and channels of `like`."""
    own = {"dataset", "resolution", "channels"}
    data_args = ImageDataArguments(
        dataset=args.real,
        resolution=like.images.shape[-1],
        channels=like.images.shape[1],
        **{each.name: getattr(args, each.name) for each in fields(ImageDataArguments) if each.name not in own},
    )
    return load_image_arrays(data_args, args.seed)


def describe_data(args: EvaluateImagesArguments, sets: dict[str, ImageArrays]) -> dict[str, Any]:
    """What was compared: specs, counts a class and split, size."""
    names, (_, channels, _, side) = sets["synthetic"].label_names, sets["synthetic"].images.shape
    counts = {split: count_classes(arrays.labels, names) for split, arrays in sets.items()}
    specs = {"real": args.real, "synthetic": args.synthetic}
    notes = {"notes": list(sets["train"].notes)} if sets["train"].notes else {}
    return {**specs, **notes, "label_names": names, "counts": counts, "resolution": side, "channels": channels}


def choose_extractor(args: EvaluateImagesArguments, real: dict[str, ImageArrays], folder: Path) -> FeatureExtractor:
    """The extractor that `--extractor` names; the default one is trained on the real train split, or found again."""
    if args.extractor != "default":
        return load_extractor(args.extractor)
    return train_default_extractor(
        real["train"], real["validation"], folder / "extractor", args.seed, progress="training the default extractor"
    )


def measure_all(
    features: dict[str, Features],
    images: dict[str, Features],
    label_names: list[str],
    settings: MeasurementSettings,
    finished: Kept,
) -> list[dict[str, Any]]:
    """All records of the synthetic set beside the real train and test splits, overall and a class."""
    kinds = {"measure_features": (features, measure_features), "measure_pictures": (images, measure_images)}
    inputs = {name: hash_inputs(sides, settings, label_names) for name, (sides, _) in kinds.items()}
    records: list[dict[str, Any]] = []
    for reference, other in (("test", "train"), ("train", "test")):
        for name, (sides, measure) in kinds.items():
            for comparison in comparisons(sides, reference, other, label_names, settings.seed):
                key = f"{name}, {reference}, {comparison.label}, {inputs[name]}"
                records += finished.get(key, partial(as_dicts, partial(measure, comparison, settings)))
    return records


def hash_inputs(sides: dict[str, Features], settings: MeasurementSettings, label_names: list[str]) -> str:
    """Hash of all that a measurement depends on: 16 hexadecimal digits."""
    kept = [(side.rows, side.labels, side.persons) for _, side in sorted(sides.items())]
    contents = [array for side in kept for array in side if array is not None]
    return hash_arrays(*contents, f"{settings}{label_names}")[:16]


def compare_classifiers(
    args: EvaluateImagesArguments, real: dict[str, ImageArrays], synthetic: ImageArrays, folder: Path
) -> dict[str, Any] | None:
    """Classifiers trained on real, and on real and synthetic images, judged on real test images."""
    if args.classifier == "none":
        return None
    arrays = [real["train"].images, real["test"].images, synthetic.images, synthetic.labels]
    key = hash_arrays(*arrays, f"{args.classifier} {args.classifier_epochs}")[:12]
    arms = ArmArguments(
        arms=["real", "composite"],
        control="real",
        model=args.classifier,
        seeds=args.classifier_seeds,
        epochs=args.classifier_epochs,
        batch_size=64,
        learning_rates=2e-3,
        seed=args.seed,
        output_dir=str(folder / f"classifier-{key}"),
    )
    return run_study(ImageClassifiers(), arms, real, {"": synthetic})
