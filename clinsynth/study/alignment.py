"""The alignment part of the evidence: every image's checklist share, class margin and typicality, as records.

Real held-out (test) images are scored as the synthetic ones are, and say what a good score is; the validation split
is the second real one. Typicality is the distance to the train images of the class.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import Judge, is_met
from clinsynth.metrics.alignment.alignment import (
    alignment,
    class_margin,
    distance_to_class,
    low_tail,
    low_tail_interval,
    tail_threshold,
    typicality,
)
from clinsynth.metrics.comparisons import Comparison, comparisons
from clinsynth.metrics.records import MIN_ROWS, Features, Measurement, MeasurementSettings, mean_interval
from clinsynth.models.classifiers import class_numbers
from clinsynth.models.image_classifiers import load_image_classifier, predict
from clinsynth.models.image_encoders import FeatureExtractor, cached_features, default_classifier, hash_arrays
from clinsynth.models.weights import best_device, hash_weights
from clinsynth.run_folder import Kept

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays
    from clinsynth.study.arguments import EvaluateImagesArguments

PARTS = ("checklist_share", "class_margin", "typicality", "alignment")
"""Columns of the scores of a split, in this order."""


def alignment_evidence(
    judge: Judge,
    classify: Callable[[np.ndarray], np.ndarray],
    sets: dict[str, ImageArrays],
    features: dict[str, Features],
    settings: MeasurementSettings,
    finished: Kept,
    key: str,
) -> dict[str, Any]:
    """`records` (as in evidence.json), and how many images were not scored, and why.

    Args:
        judge: answers a checklist that has all the classes.
        classify: a classifier trained on real train images, from uint8 images (n, channels, side, side) to
            probabilities (n, classes) in the order of the real classes.
        sets: train, validation, test and synthetic.
        features: of the same, by one extractor.
        finished: keeps the judge's answers under names that hold `key`, for a run that is stopped.
    """
    train = features["train"]
    rows = {}
    for split in ("test", "validation", "synthetic"):
        arrays = sets[split]
        shares = finished.get(f"checklist shares, {split}, {key}", partial(checklist_shares, judge, arrays, split))
        typical = typicalities(features[split], features["test"], train)
        rows[split] = score(shares, classify(arrays.images), arrays.labels, typical)
    whole = {split: ~np.isnan(found).any(1) for split, found in rows.items()}
    measured = {split: features[split].of(rows[split]).take(kept) for split, kept in whole.items()}
    records = []
    for comparison in comparisons(measured, "test", "validation", sets["test"].label_names, settings.seed):
        records += [record.to_dict() for record in measure_alignment(comparison, settings)]
    return {
        "records": records,
        "not_scored": {split: len(rows[split]) - len(measured[split]) for split in rows},
        "not_judged": {split: int(np.isnan(found[:, 0]).sum()) for split, found in rows.items()},
    }


def checklist_shares(judge: Judge, arrays: ImageArrays, split: str) -> list[float | None]:
    """The share of its class's items that each image meets; None where the judge gave no answer."""
    shares: list[float | None] = []
    conditions = [arrays.label_names[label] for label in arrays.labels]
    for start in tqdm(range(0, len(conditions), 64), desc=f"judge, {split}", unit="batch"):
        part = slice(start, start + 64)
        for answer in judge.judge_arrays(arrays.images[part], conditions[part]):
            met = [is_met(value) for value in answer["scores"].values()]
            shares.append(sum(met) / len(met) if met and not answer.get("failure") else None)
    return shares


def typicalities(side: Features, held_out: Features, train: Features) -> np.ndarray:
    """Typicality (n,) of each row of `side` among the held-out rows of its class, by the distance to the train rows.

    NaN where the class has fewer than ten held-out rows, which make no percentile.
    """
    found = np.full(len(side), np.nan)
    for label in np.unique(side.labels):
        known, mine = held_out.rows[held_out.labels == label], side.labels == label
        if len(known) < MIN_ROWS:
            continue
        of_class = train.rows[train.labels == label]
        real = distance_to_class(known, of_class)
        found[mine] = typicality(distance_to_class(side.rows[mine], of_class), real, own=side is held_out)
    return found


def score(
    shares: list[float | None], probabilities: np.ndarray, labels: np.ndarray, typical: np.ndarray
) -> np.ndarray:
    """The PARTS of each image, float64 (n, 4); an image that lacks one, which is then NaN, has no alignment."""
    given = np.array([np.nan if share is None else share for share in shares])
    rows = np.stack([given, class_margin(probabilities, labels), typical, np.full(len(labels), np.nan)], axis=1)
    whole = ~np.isnan(rows[:, :3]).any(1)
    rows[whole, 3] = alignment(*rows[whole, :3].T)
    return rows


def measure_alignment(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """The records of one comparison: the means of PARTS and the low tail."""
    records = [comparison.empty_record(name, settings, 1) for name in (*PARTS, "low_alignment_tail")]
    if records[0].note:
        return records
    means = [mean_record(record, comparison, column, settings) for column, record in enumerate(records[:-1])]
    return [*means, tail_record(records[-1], comparison, settings)]


def mean_record(
    record: Measurement, comparison: Comparison, column: int, settings: MeasurementSettings
) -> Measurement:
    """The mean of a column of scores, whose floors are the means of the real images."""
    values, real, held_out = comparison.synthetic.rows[:, column], comparison.real, comparison.held_out
    return replace(
        record,
        value=float(values.mean()),
        interval=mean_interval(values, settings),
        floor=float(real.rows[:, column].mean()),
        floor_n=len(real),
        floor_held_out=None if held_out is None else float(held_out.rows[:, column].mean()),
    )


def tail_record(record: Measurement, comparison: Comparison, settings: MeasurementSettings) -> Measurement:
    """The low tail; its floors are those of one half of the real images below the other's, and of the other split."""
    scores = comparison.map(lambda side: side.of(side.rows[:, 3]))
    mine, known, many = scores.synthetic.rows, scores.real.rows, settings.replicates
    record = replace(
        record,
        value=low_tail(mine, known),
        interval=low_tail_interval(mine, known, many, settings.seed, scores.real.persons) if many else None,
        note=f"below {tail_threshold(known):.3f}, the real 5th percentile",
    )
    return scores.with_distance_floors(record, lambda real, made: low_tail(made, real), settings.seed)


def not_independent(generation: dict[str, Any] | None, judge: dict[str, Any], class_model: str) -> list[str]:
    """Why the score flatters the set: its judge or classifier also chose the images, or taught the generator.

    Args:
        generation: generation.json, or None.
        judge: what `Judge.identity` says.
        class_model: SHA-256 of the classifier's weights.
    """
    generator = (generation or {}).get("generator", {})
    keep, same = generator.get("keep", {}), ("judge", "weights_sha256")
    found = []
    if "checklist" in keep and all(keep["checklist"].get(name) == judge.get(name) for name in same):
        found.append("this judge also chose which images to keep (--keep_if_checklist)")
    hashes = {class_model, judge.get("weights_sha256")}
    if "class" in keep and keep["class"].get("weights_sha256") in hashes:
        found.append("this classifier also chose which images to keep (--keep_if_class)")
    path = Path(str(generator.get("model", ""))) / "preferences" / "pairs" / "preferences.json"
    taught = json.loads(path.read_text()) if path.is_file() else {}
    if taught and all(taught.get(name) == judge.get(name) for name in same):
        found.append("the generator was trained on this judge's preferences (`clinsynth train preference`)")
    return found


def load_alignment_judge(args: EvaluateImagesArguments, label_names: list[str]) -> Judge:
    """The judge that the flags name, whose checklist has all the classes.

    Raises:
        ValueError: it cannot be had, or a class is missing.
    """
    judge = load_judge(args.judge, args.judge_model, str(args.checklist))
    for name in label_names:
        if name not in judge.checklist["conditions"]:
            raise ValueError(
                f"--checklist {judge.checklist['name']} has no condition {name!r}, a class of --real {args.real}; it "
                f"has {', '.join(judge.checklist['conditions'])}"
            )
    return judge


def gather_alignment(
    args: EvaluateImagesArguments,
    judge: Judge | None,
    extractor: FeatureExtractor,
    sets: dict[str, ImageArrays],
    features: dict[str, Features],
    generation: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """The alignment part of the evidence; None without a judge."""
    if judge is None:
        return None
    output_dir = Path(args.output_dir)
    cache = Path(args.cache_dir or output_dir)
    model, name, classes = load_margin_model(args, sets, cache)
    images = sets["validation"].images
    known = cached_features(extractor, images, cache / "features", "features, validation")
    about_judge = judge.identity()
    digests = [hash_arrays(sets[split].images, sets[split].labels) for split in ("test", "validation", "synthetic")]
    found = alignment_evidence(
        judge,
        lambda images: np.ascontiguousarray(predict(model, images)[:, classes]),
        sets,
        {**features, "validation": Features(known, sets["validation"].labels, sets["validation"].persons)},
        MeasurementSettings(extractor.name, args.bootstrap, args.seed),
        Kept(output_dir / "measurements.json"),
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
    names = sets["train"].label_names
    if args.class_model:
        model, _ = load_image_classifier("--class_model", args.class_model, best_device())
        return model, args.class_model, class_numbers("--class_model", model, names)
    progress = "training the classifier of the class margin"
    model, _ = default_classifier(sets["train"], sets["validation"], cache / "extractor", args.seed, progress=progress)
    name = f"small ResNet trained on the real train split (seed {args.seed})"
    return model, name, list(range(len(names)))
