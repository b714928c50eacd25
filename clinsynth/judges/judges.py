"""Judges of a checklist, from the flags that name them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.images import to_picture

JUDGES = ("measure", "classifier", "clip", "vlm", "expert")
NEEDED = {
    "classifier": "the folder or Hub id of an image classifier trained on real pictures (best-real of `clinsynth "
    "train image-classifier`)",
    "clip": "the folder or Hub id of an image-text model such as CLIP or SigLIP",
    "vlm": "the folder or Hub id of an image-text-to-text model, or the name by which an endpoint knows it",
    "expert": "scores.parquet or scores.csv, which the Space's Review tab exports, or a table like it",
}
"""What the judges need as their model."""
MET = 0.5
"""An item is met where more of the raters than this say yes; other judges say 0 or 1."""


def check_judge(flag: str, kind: str, model: str | None) -> None:
    """Raise a `ValueError` where a judge is unknown, or misses the model that it needs."""
    if kind not in JUDGES:
        raise ValueError(f"--{flag} must be one of {', '.join(JUDGES)}, got {kind!r}")
    if kind in NEEDED and not model:
        raise ValueError(f"--{flag} {kind} needs --{flag}_model, {NEEDED[kind]}")


def load_judge(
    kind: str,
    model: str | None,
    checklist: str,
    *,
    endpoint: str | None = None,
    trust_remote_code: bool = False,
    concurrency: int = 8,
    timeout_s: float = 120.0,
) -> Any:
    """A judge: a `ChecklistJudgePipeline`, or what is called as one is and has its `kind` and `checklist`.

    Args:
        kind: one of JUDGES.
        model: folder or Hub id of the model, name of it at the endpoint, or file of scores; not used by measure.
        checklist: name or file of a checklist.
        endpoint: address of a server that runs the model of a vlm.
        trust_remote_code: run code that comes with a vlm.
        concurrency, timeout_s: requests to the endpoint under way at once, and seconds until one has failed.

    Raises:
        ValueError: the checklist or the model cannot be loaded, or do not fit each other.
    """
    from clinsynth.judges.checklists import load_checklist
    from clinsynth.pipelines.checklist_judge import ChecklistJudgePipeline, MeasuringConfig, MeasuringModel

    items = load_checklist(checklist).model_dump(mode="json")
    if kind == "measure":
        return ChecklistJudgePipeline(MeasuringModel(MeasuringConfig(items["name"])), items)
    if kind == "vlm":
        return load_asked(str(model), items, endpoint, trust_remote_code, concurrency, timeout_s)
    if kind == "expert":
        from clinsynth.judges.expert import ExpertJudge

        return ExpertJudge(Path(str(model)), items)
    if kind == "clip":
        network, processor, tokenizer = load_clip(str(model))
        return ChecklistJudgePipeline(network, items, image_processor=processor, tokenizer=tokenizer)
    from clinsynth.models.image_classifiers import load_image_classifier

    network, processor = load_image_classifier("the judge's classifier", str(model))
    return ChecklistJudgePipeline(network, items, image_processor=processor)


def load_asked(
    model: str,
    items: dict[str, Any],
    endpoint: str | None,
    trust_remote_code: bool,
    concurrency: int,
    timeout_s: float,
) -> Any:
    """A judge of kind vlm, here or at an endpoint."""
    try:
        from clinsynth.judges.asked import load_vlm, open_judge
    except ImportError as error:
        raise ValueError(
            f"--judge vlm needs packages that are not installed ({error}); pip install clinsynth[text]"
        ) from error
    if endpoint:
        return open_judge(endpoint, model, items, concurrency, timeout_s)
    return load_vlm(model, items, trust_remote_code)


def load_clip(model: str) -> tuple[Any, Any, Any]:
    """An image-text model, its image processor and its tokenizer."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        network = AutoModel.from_pretrained(model)
        processor, tokenizer = AutoImageProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the judge's image-text model {model} cannot be loaded ({error}); give the folder or Hub id of one with "
            "its preprocessor_config.json and tokenizer"
        ) from error
    if not hasattr(network, "get_text_features"):
        raise ValueError(
            f"the judge's model {model} is a {type(network).__name__}, which does not compare pictures with texts; "
            "give one such as CLIP or SigLIP"
        )
    return network, processor, tokenizer


def describe_judge(judge: Any, model: str | None) -> dict[str, Any]:
    """What identifies a judge and its checklist beside scores."""
    return {
        "judge": judge.kind,
        **facts_of(judge, model),
        "checklist": judge.checklist["name"],
        "checklist_version": judge.checklist["version"],
    }


def facts_of(judge: Any, model: str | None) -> dict[str, Any]:
    """What a judge judges by: `model`, `weights_sha256`, and what else there is to say."""
    from clinsynth.models.weights import hash_weights

    if judge.kind == "measure":
        return {"model": None, "weights_sha256": None}
    if judge.kind in ("classifier", "clip"):
        return {"model": model, "weights_sha256": hash_weights(judge.model)}
    facts: dict[str, Any] = judge.facts
    return facts


def judge_arrays(judge: Any, images: np.ndarray, conditions: Sequence[str]) -> list[dict[str, Any]]:
    """An answer of `judge` for each of the pictures, uint8 (n, channels, side, side)."""
    rows = [{"image": to_picture(i), "condition": c} for i, c in zip(images, conditions, strict=True)]
    answers: list[dict[str, Any]] = judge(rows)
    return answers


def share_of_items(answer: dict[str, Any], refused: frozenset[str]) -> float:
    """The share in [0, 1] of the items met that are not refused; a classifier's is the condition's probability.

    It is the mean score where several raters were averaged, and not a number (nan) where the judge gave no scores.
    """
    if answer.get("failure"):
        return math.nan
    if "condition" in answer["scores"]:
        return float(answer["share"])
    kept = [score for item, score in answer["scores"].items() if item not in refused]
    return sum(kept) / len(kept)


def passes(answer: dict[str, Any], refused: frozenset[str]) -> bool:
    """Whether all items that are not refused are met; never where the judge gave no scores."""
    scores = answer["scores"].items()
    return not answer.get("failure") and all(is_met(score) for item, score in scores if item not in refused)


def is_met(score: float) -> bool:
    """Whether a score, 0 or 1 or the mean of raters, says yes."""
    return score > MET


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (Wilson 1927) of `count` in `total`, at least 1."""
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def pass_rate(passed: Sequence[bool]) -> dict[str, Any]:
    """Share, interval and n, as they stand in reports."""
    count, total = sum(passed), len(passed)
    return {"value": count / total, "interval": wilson_interval(count, total), "n": total}
