"""From the flags of an evaluation to its alignment part: judge and classifier, and whether they are independent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.metrics import records as m
from clinsynth.metrics.finished import FinishedMeasurements
from clinsynth.models.image_encoders import FeatureExtractor, cached_features, default_classifier, hash_arrays
from clinsynth.study.alignment import alignment_evidence, not_independent

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays
    from clinsynth.scripts.evaluate_images import EvaluateImagesArguments


def load_alignment_judge(args: EvaluateImagesArguments, label_names: list[str]) -> Any:
    """The judge that the flags name, whose checklist has all the classes.

    Raises:
        ValueError: it cannot be had, or a class is missing.
    """
    from clinsynth.judges.judges import load_judge

    judge = load_judge(args.judge, args.judge_model, str(args.checklist))
    for name in label_names:
        if name not in judge.checklist["conditions"]:
            raise ValueError(
                f"--checklist {judge.checklist['name']} has no condition {name!r}, a class of --real {args.real}; it "
                f"has {', '.join(judge.checklist['conditions'])}"
            )
    return judge


def measure_alignment(
    args: EvaluateImagesArguments,
    judge: Any,
    extractor: FeatureExtractor,
    sets: dict[str, ImageArrays],
    features: dict[str, m.Features],
    generation: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """The alignment part of the evidence; None without a judge."""
    from clinsynth.judges.judges import describe_judge
    from clinsynth.synthesis.shards import hash_weights
    from clinsynth.trainers.train_image_classifier import predict

    if judge is None:
        return None
    output_dir = Path(args.output_dir)
    cache = Path(args.cache_dir or output_dir)
    model, name, classes = load_margin_model(args, sets, cache)
    images = sets["validation"].images
    known = cached_features(extractor, images, cache / "features", "features, validation")
    about_judge = describe_judge(judge, args.judge_model)
    digests = [hash_arrays(sets[split].images, sets[split].labels) for split in ("test", "validation", "synthetic")]
    found = alignment_evidence(
        judge,
        lambda images: np.ascontiguousarray(predict(model, images)[:, classes]),
        sets,
        {**features, "validation": m.Features(known, sets["validation"].labels)},
        m.MeasurementSettings(extractor.name, args.bootstrap, args.seed),
        FinishedMeasurements(output_dir / "measurements.json"),
        hash_arrays(*digests, f"{about_judge}")[:16],
    )
    weights = hash_weights(model)
    return {
        "judge": about_judge,
        "class_model": {"name": name, "weights_sha256": weights},
        "not_independent": not_independent(generation, about_judge, weights),
        **found,
    }


def load_margin_model(
    args: EvaluateImagesArguments, sets: dict[str, ImageArrays], cache: Path
) -> tuple[Any, str, list[int]]:
    """The classifier of the class margin, its name, and its number of each class."""
    from clinsynth.models.class_model import class_numbers, load_class_model

    names = sets["train"].label_names
    if args.class_model:
        model = load_class_model("--class_model", args.class_model)
        return model, args.class_model, class_numbers("--class_model", model, names)
    progress = "training the classifier of the class margin"
    model, _ = default_classifier(sets["train"], sets["validation"], cache / "extractor", args.seed, progress=progress)
    name = f"small ResNet trained on the real train split (seed {args.seed})"
    return model, name, list(range(len(names)))
