"""Judges of a checklist, from the flags that name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clinsynth.pictures import to_picture

JUDGES = ("measure", "classifier")


def check_judge(flag: str, kind: str, model: str | None) -> None:
    """Raise a `ValueError` where a judge is unknown, or misses the model that it needs."""
    if kind not in JUDGES:
        raise ValueError(f"--{flag} must be one of {', '.join(JUDGES)}, got {kind!r}")
    if kind == "classifier" and not model:
        raise ValueError(
            f"--{flag} classifier needs --{flag}_model, the folder or Hub id of an image classifier trained on real "
            "pictures (best-real of `clinsynth train image-classifier`)"
        )


def load_judge(kind: str, model: str | None, checklist: str) -> Any:
    """A `ChecklistJudgePipeline`.

    Args:
        kind: one of JUDGES.
        model: folder or Hub id of the classifier; not used by measure.
        checklist: name or file of a checklist.

    Raises:
        ValueError: the checklist or the model cannot be loaded, or do not fit each other.
    """
    from clinsynth.checklists import load_checklist
    from clinsynth.pipelines.checklist_judge import ChecklistJudgePipeline, MeasuringConfig, MeasuringModel

    items = load_checklist(checklist).model_dump(mode="json")
    if kind == "measure":
        return ChecklistJudgePipeline(MeasuringModel(MeasuringConfig(items["name"])), items)
    network, processor = load_classifier(str(model))
    return ChecklistJudgePipeline(network, items, image_processor=processor)


def load_classifier(model: str) -> tuple[Any, Any]:
    """An image classifier and its image processor."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_pretrained(model), AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the judge's classifier {model} cannot be loaded ({error}); give the folder or Hub id of an image "
            "classifier with its preprocessor_config.json"
        ) from error


def describe_judge(judge: Any, model: str | None) -> dict[str, Any]:
    """What identifies a judge and its checklist beside scores."""
    from clinsynth.scripts.synthetic_shards import hash_weights

    return {
        "judge": judge.kind,
        "model": model if judge.kind == "classifier" else None,
        "weights_sha256": hash_weights(judge.model) if judge.kind == "classifier" else None,
        "checklist": judge.checklist["name"],
        "checklist_version": judge.checklist["version"],
    }


def judge_arrays(judge: Any, images: np.ndarray, conditions: Sequence[str]) -> list[dict[str, Any]]:
    """An answer of `judge` for each of the pictures, uint8 (n, channels, side, side)."""
    rows = [{"image": to_picture(i), "condition": c} for i, c in zip(images, conditions, strict=True)]
    answers: list[dict[str, Any]] = judge(rows)
    return answers


def share_of_items(answer: dict[str, Any], refused: frozenset[str]) -> float:
    """The share in [0, 1] of the items met that are not refused; a classifier's is the condition's probability."""
    if "condition" in answer["scores"]:
        return float(answer["share"])
    kept = [score for item, score in answer["scores"].items() if item not in refused]
    return sum(kept) / len(kept)


def passes(answer: dict[str, Any], refused: frozenset[str]) -> bool:
    """Whether all items that are not refused are met."""
    return all(score for item, score in answer["scores"].items() if item not in refused)


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (Wilson 1927) of `count` in `total`, at least 1."""
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def pass_rate(passed: Sequence[bool]) -> dict[str, Any]:
    """Share, interval and n, as they stand in reports."""
    count, total = sum(passed), len(passed)
    return {"value": count / total, "interval": wilson_interval(count, total), "n": total}
