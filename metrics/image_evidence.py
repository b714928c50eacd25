"""The evidence on a synthetic image set: distances, nearest neighbours and classifier arms.

Finished parts are kept in the output folder under keys made of their inputs, so that the same command goes on where it
was stopped and a changed input is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.metrics import measurement as m
from clinsynth.metrics.evidence_data import (
    describe_data,
    load_real,
    load_synthetic,
    read_generation,
    with_labels_of,
)
from clinsynth.metrics.feature_extractor import (
    FeatureExtractor,
    cached_features,
    hash_arrays,
    load_extractor,
    train_default_extractor,
)
from clinsynth.metrics.nearest import NearestNeighbours, find_suspicious
from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment, write_run_config
from clinsynth.trainers.classifier_arms import check_data, run_arms

if TYPE_CHECKING:
    from clinsynth.data.arrays import ImageArrays
    from clinsynth.scripts.evaluate_images import EvaluateImagesArguments


@dataclass(frozen=True)
class Compared:
    """What a report shows pictures of: real train split, synthetic set, and the pairs that are suspiciously near."""

    train: ImageArrays
    synthetic: ImageArrays
    neighbours: NearestNeighbours | None


class FinishedMeasurements:
    """Measurements of a run that was stopped: a JSON file from key to record, rewritten whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, measure: Callable[[], m.Measurement]) -> dict[str, Any]:
        """The record kept under `key`, else that of `measure()`, which is then kept."""
        if key not in self.records:
            self.records[key] = measure().to_dict()
            atomic_write(self.path, json.dumps(self.records, indent=1) + "\n")
        return self.records[key]


def gather_evidence(args: EvaluateImagesArguments) -> tuple[dict[str, Any], Compared]:
    """All parts of the evidence as JSON-able records, and the pictures that they are about.

    Raises:
        ValueError: either side is missing, unfinished, unreadable or does not fit the other.
    """
    generation = read_generation(Path(args.synthetic))
    synthetic = load_synthetic(Path(args.synthetic))
    real = load_real(args, like=synthetic)
    synthetic = with_labels_of(real["train"], synthetic)
    if args.classifier != "none":
        check_data(real, synthetic)
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    extractor = choose_extractor(args, real, output_dir)
    features = extract_all(extractor, real, synthetic, output_dir / "features")
    neighbours = find_suspicious(features["synthetic"].rows, features["train"].rows, features["test"].rows)
    finished = FinishedMeasurements(output_dir / "measurements.json")
    evidence = {
        "data": describe_data(args, real, synthetic),
        "generation": generation,
        "extractor": {"name": extractor.name, "dimension": extractor.dimension, "note": extractor.note},
        "measurements": measure_all(args, extractor, features, synthetic.label_names, finished),
        "neighbours": neighbours.to_dict() if neighbours else None,
        "classifier": compare_classifiers(args, real, synthetic, output_dir),
        "environment": describe_environment(),
    }
    return evidence, Compared(real["train"], synthetic, neighbours)


def extract_all(
    extractor: FeatureExtractor, real: dict[str, ImageArrays], synthetic: ImageArrays, folder: Path
) -> dict[str, m.Features]:
    """Features of the real train and test splits and of the synthetic set, kept in `folder`."""
    sets = {"train": real["train"], "test": real["test"], "synthetic": synthetic}
    return {
        name: m.Features(cached_features(extractor, arrays.images, folder, f"features, {name}"), arrays.labels)
        for name, arrays in sets.items()
    }


def choose_extractor(args: EvaluateImagesArguments, real: dict[str, ImageArrays], folder: Path) -> FeatureExtractor:
    """The extractor that `--extractor` names; the default one is trained on the real train split, or found again."""
    if args.extractor != "default":
        return load_extractor(args.extractor)
    return train_default_extractor(
        real["train"], real["validation"], folder / "extractor", args.seed, progress="training the default extractor"
    )


def measure_all(
    args: EvaluateImagesArguments,
    extractor: FeatureExtractor,
    features: dict[str, m.Features],
    label_names: list[str],
    finished: FinishedMeasurements,
) -> list[dict[str, Any]]:
    """Fréchet distance and KID of the synthetic set from the real train and test splits, overall and a class."""
    settings = m.MeasurementSettings(extractor.name, args.bootstrap, args.seed)
    contents = [array for name in sorted(features) for array in (features[name].rows, features[name].labels)]
    inputs = hash_arrays(*contents, f"{settings}{label_names}")[:16]
    records = []
    for reference, other in (("test", "train"), ("train", "test")):
        sides = (features["synthetic"], features[reference], features[other])
        for label, synthetic, real, held_out in m.comparisons(*sides, label_names, args.seed):
            for metric in m.METRICS:
                key = f"{metric}, {reference}, {label}, {inputs}"
                compared = (metric, label, reference, synthetic, real, held_out, settings, True)
                records.append(finished.get(key, partial(m.measure, *compared)))
    return records


def compare_classifiers(
    args: EvaluateImagesArguments, real: dict[str, ImageArrays], synthetic: ImageArrays, folder: Path
) -> dict[str, Any] | None:
    """Classifiers trained on real, and on real and synthetic pictures, judged on real test pictures."""
    if args.classifier == "none":
        return None
    arrays = [real["train"].images, real["test"].images, synthetic.images, synthetic.labels]
    key = hash_arrays(*arrays, f"{args.classifier} {args.classifier_epochs}")[:12]
    return run_arms(
        real,
        synthetic,
        folder / f"classifier-{key}",
        model=args.classifier,
        seeds=args.classifier_seeds,
        first_seed=args.seed,
        epochs=args.classifier_epochs,
    )
