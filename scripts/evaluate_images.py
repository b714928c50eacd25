"""Compare a synthetic image set with the real one and write a page of evidence.

    clinsynth evaluate images --real phantom-fundus --synthetic runs/phantom-synthetic \\
        --output_dir runs/phantom-evidence
    python scripts/evaluate_images.py --real retinamnist.npz --synthetic runs/retina-synthetic \\
        --output_dir runs/retina-evidence --extractor facebook/dinov2-small

Writes evidence.json (every number with its interval, n, floor and extractor) and report.html (one page, shows real
pictures: keep it private). Start the same command again to go on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run

if TYPE_CHECKING:
    import numpy as np

    from clinsynth.data.arrays import ImageArrays
    from clinsynth.metrics.feature_extractor import FeatureExtractor
    from clinsynth.metrics.measurement import Features


@dataclass
class EvaluateImagesArguments:
    """Compare a synthetic image set with the real one: distances, nearest neighbours, classifiers, a report."""

    real: str = "phantom-fundus"
    """the real data set that the generator was trained on: any spec that --dataset of `clinsynth train ddpm` takes"""
    synthetic: str = "runs/synthetic"
    """folder that `clinsynth generate images` wrote; real pictures are brought to its resolution and channels"""
    output_dir: str = "runs/evidence"
    """where evidence.json and report.html go; finished parts found there are kept"""
    extractor: str = "default"
    """default (a small ResNet trained on the real train split), the folder or Hub id of a transformers vision model,
    or a TorchScript file, as path or owner/repo:file"""
    bootstrap: int = 200
    """bootstrap replicates of each distance's 95 % interval; 0 leaves the intervals out"""
    classifier: str = "small-resnet"
    """classifier of the arms real and composite: small-resnet, a transformers folder or Hub id, or none"""
    classifier_seeds: int = 3
    """trainings of each arm"""
    classifier_epochs: int = 30
    """passes over the real train split in each training"""
    seed: int = 0
    """of the choice of few-shot images (give the trainer's), default extractor, subsets, bootstrap and classifiers"""
    fit: str | None = None
    """squash, crop or pad; required where a real picture is not square"""
    label_column: str = "label"
    """column of the real data set that holds the class"""
    label_names: list[str] | None = None
    """class names of the real data set, where it has none of its own"""
    train_fraction: float = 1.0
    """share of the real train split that the generator was trained on"""
    few_shot: int | None = None
    """real train images a class that the generator was trained on"""
    min_class_size: int = 2
    """a class with fewer real train images is an error"""

    def __post_init__(self) -> None:
        for name, lowest in (("bootstrap", 0), ("classifier_seeds", 1), ("classifier_epochs", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"--{name} must be >= {lowest}, got {getattr(self, name)}")


class FinishedParts:
    """Results of a run that was stopped: a JSON file from key to result, rewritten whole after each part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result kept under `key`, else that of `compute()`, which is then kept."""
        from clinsynth.run_folder import atomic_write

        if key not in self.results:
            self.results[key] = compute()
            atomic_write(self.path, json.dumps(self.results, indent=1) + "\n")
        return self.results[key]


def load_synthetic(folder: Path) -> ImageArrays:
    """Read the Parquet shards that `clinsynth generate images` wrote, at their own resolution and channels.

    Raises:
        ValueError: no folder, no shard, no row, no image or named label column, or a picture that cannot be read.
    """
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Dataset, concatenate_datasets

    from clinsynth.data.arrays import to_arrays

    mend = "give the folder that `clinsynth generate images` wrote"
    if not folder.is_dir():
        raise ValueError(f"--synthetic {folder} is not a folder; {mend}")
    shards = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))
    if not shards:
        raise ValueError(f"--synthetic {folder} holds no .parquet file; {mend}")
    dataset = concatenate_datasets([Dataset(pq.read_table(path)) for path in shards])
    if len(dataset) == 0:
        raise ValueError(f"--synthetic {folder} holds no picture; {mend}")
    if "image" not in dataset.features or not isinstance(dataset.features.get("label"), ClassLabel):
        raise ValueError(
            f"--synthetic {folder} needs columns image and label (with class names), got "
            f"{', '.join(dataset.column_names)}; {mend}"
        )
    try:
        return to_arrays(dataset.select_columns(["image", "label"]), None, None, None)
    except ValueError as error:
        raise ValueError(f"--synthetic {folder}: {error}") from error


def load_real(args: EvaluateImagesArguments, like: ImageArrays) -> dict[str, ImageArrays]:
    """Splits train, validation and test of `--real` at the resolution and channels of `like`."""
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.arrays import load_image_arrays

    shared = ("fit", "label_column", "label_names", "train_fraction", "few_shot", "min_class_size")
    data_args = ImageDataArguments(
        dataset=args.real,
        resolution=like.images.shape[-1],
        channels=like.images.shape[1],
        **{name: getattr(args, name) for name in shared},
    )
    return load_image_arrays(data_args, args.seed)


def with_labels_of(real: ImageArrays, synthetic: ImageArrays) -> ImageArrays:
    """`synthetic` with its labels numbered as in `real`, by name; it may lack classes.

    Raises:
        ValueError: it has a class that the real data set has not.
    """
    import numpy as np

    unknown = [name for name in synthetic.label_names if name not in real.label_names]
    if unknown:
        raise ValueError(
            f"the synthetic set has classes that the real one has not: {', '.join(unknown)} (real: "
            f"{', '.join(real.label_names)}); give the --real that the generator was trained on, or its --label_names"
        )
    numbers = np.array([real.label_names.index(name) for name in synthetic.label_names])
    return replace(synthetic, labels=numbers[synthetic.labels], label_names=real.label_names)


def choose_extractor(args: EvaluateImagesArguments, real: dict[str, ImageArrays], folder: Path) -> FeatureExtractor:
    """The extractor that `--extractor` names; the default one is trained on the real train split, or found again."""
    from clinsynth.metrics.feature_extractor import load_extractor, train_default_extractor

    if args.extractor != "default":
        return load_extractor(args.extractor)
    return train_default_extractor(
        real["train"], real["validation"], folder / "extractor", args.seed, progress="training the default extractor"
    )


def measure_all(
    args: EvaluateImagesArguments,
    extractor: FeatureExtractor,
    features: dict[str, Features],
    label_names: list[str],
    parts: FinishedParts,
) -> list[dict[str, Any]]:
    """Fréchet distance and KID of the synthetic set from the real train and test splits, overall and a class."""
    from clinsynth.metrics import measurement as m
    from clinsynth.metrics.feature_extractor import hash_arrays

    settings = m.MeasurementSettings(extractor.name, args.bootstrap, args.seed)
    contents = [array for name in sorted(features) for array in (features[name].rows, features[name].labels)]
    inputs = hash_arrays(*contents, f"{settings}{label_names}")[:16]
    records = []
    for reference, other in (("test", "train"), ("train", "test")):
        sides = (features["synthetic"], features[reference], features[other])
        for label, synthetic, real, held_out in m.comparisons(*sides, label_names, args.seed):
            for metric in m.METRICS:
                compared = (metric, label, reference, synthetic, real, held_out, settings, True)
                key = f"{metric}, {reference}, {label}, {inputs}"
                records.append(parts.get(key, lambda given=compared: m.measure(*given).to_dict()))
    return records


def compare_classifiers(
    args: EvaluateImagesArguments, real: dict[str, ImageArrays], synthetic: ImageArrays, folder: Path
) -> dict[str, Any] | None:
    """Classifiers trained on real, and on real and synthetic pictures, judged on real test pictures."""
    from clinsynth.metrics.feature_extractor import hash_arrays
    from clinsynth.trainers.classifier_arms import run_arms

    if args.classifier == "none":
        return None
    arrays: list[np.ndarray] = [real["train"].images, real["test"].images, synthetic.images, synthetic.labels]
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


def describe_data(
    args: EvaluateImagesArguments, real: dict[str, ImageArrays], synthetic: ImageArrays
) -> dict[str, Any]:
    """What was compared: specs, counts a class and split, size."""
    import numpy as np

    names = synthetic.label_names
    sets = {**real, "synthetic": synthetic}
    counts = {
        split: dict(zip(names, np.bincount(arrays.labels, minlength=len(names)).tolist(), strict=True))
        for split, arrays in sets.items()
    }
    return {
        "real": args.real,
        "synthetic": args.synthetic,
        "label_names": names,
        "counts": counts,
        "resolution": synthetic.images.shape[-1],
        "channels": synthetic.images.shape[1],
    }


def main(args: EvaluateImagesArguments) -> None:
    """Compare, write evidence.json and report.html, print where they are."""
    from clinsynth.metrics.feature_extractor import cached_features
    from clinsynth.metrics.measurement import Features
    from clinsynth.metrics.nearest import find_suspicious
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment, write_run_config
    from clinsynth.scripts.report import draw_pictures, render_report
    from clinsynth.trainers.classifier_arms import check_data

    synthetic = load_synthetic(Path(args.synthetic))
    real = load_real(args, like=synthetic)
    synthetic = with_labels_of(real["train"], synthetic)
    if args.classifier != "none":
        check_data(real, synthetic)
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    extractor = choose_extractor(args, real, output_dir)
    features = {
        name: Features(
            cached_features(extractor, arrays.images, output_dir / "features", f"features, {name}"), arrays.labels
        )
        for name, arrays in {"train": real["train"], "test": real["test"], "synthetic": synthetic}.items()
    }
    neighbours = find_suspicious(features["synthetic"].rows, features["train"].rows, features["test"].rows)
    parts = FinishedParts(output_dir / "parts.json")
    generation = Path(args.synthetic) / "generation.json"
    evidence = {
        "data": describe_data(args, real, synthetic),
        "generation": json.loads(generation.read_text()) if generation.exists() else None,
        "extractor": {"name": extractor.name, "dimension": extractor.dimension, "note": extractor.note},
        "measurements": measure_all(args, extractor, features, synthetic.label_names, parts),
        "neighbours": neighbours.to_dict() if neighbours else None,
        "classifier": compare_classifiers(args, real, synthetic, output_dir),
        "environment": describe_environment(),
    }
    atomic_write(output_dir / "evidence.json", json.dumps(evidence, indent=1) + "\n")
    pictures = draw_pictures(real["train"], synthetic, neighbours, args.seed)
    atomic_write(output_dir / "report.html", render_report(evidence, pictures))
    print(f"evidence: {output_dir / 'evidence.json'}\nreport (shows real pictures, keep it private): ", end="")
    print(output_dir / "report.html")


if __name__ == "__main__":
    run(EvaluateImagesArguments, main)
