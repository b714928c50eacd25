"""Judges of a checklist, from the flags that name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.judges.protocol import CLASS_ITEM, Answer, Judge, Question
from clinsynth.models.weights import explained_where_unloadable, hash_weights

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from clinsynth.pipelines.checklist_judge import ChecklistJudgePipeline

JUDGES = ("measure", "classifier", "clip", "vlm", "expert")
NEEDED = {
    "classifier": "the folder or Hub id of an image classifier trained on real images (best-real of `clinsynth "
    "train image-classifier`)",
    "clip": "the folder or Hub id of an image-text model such as CLIP or SigLIP",
    "vlm": "the folder or Hub id of an image-text-to-text model, or the name by which an endpoint knows it",
    "expert": "scores.parquet or scores.csv, which the Space's Review tab exports, or a table like it",
}
"""What the judges need as their model."""


def check_judge(flag: str, kind: str, model: str | None) -> None:
    """Raise a `ValueError` where a judge is unknown, or misses the model that it needs."""
    if kind not in JUDGES:
        raise ValueError(f"--{flag} must be one of {', '.join(JUDGES)}, got {kind!r}")
    if kind in NEEDED and not model:
        raise ValueError(f"--{flag} {kind} needs --{flag}_model, {NEEDED[kind]}")


class PipelineJudge(Judge):
    """A `ChecklistJudgePipeline` as a judge: it counts, compares with statements, or classifies.

    Args:
        pipeline: the pipeline, which knows its checklist.
        model: folder or Hub id of its model, None where nothing was trained.
    """

    def __init__(self, pipeline: ChecklistJudgePipeline, model: str | None):
        digest = None if model is None else hash_weights(pipeline.model)
        super().__init__(pipeline.checklist, {"model": model, "weights_sha256": digest})
        self.kind, self.pipeline = pipeline.kind, pipeline

    def __call__(self, questions: Sequence[Question], batch_size: int = 64) -> list[Answer]:
        answers: list[Answer] = self.pipeline([dict(question) for question in questions], batch_size=batch_size)
        return answers

    def items(self) -> dict[str, set[str]]:
        return {CLASS_ITEM: {CLASS_ITEM}} if self.kind == "classifier" else super().items()


def load_judge(
    kind: str,
    model: str | None,
    checklist: str,
    *,
    endpoint: str | None = None,
    trust_remote_code: bool = False,
    concurrency: int = 8,
    timeout_s: float = 120.0,
) -> Judge:
    """A judge.

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

    asked = load_checklist(checklist).model_dump(mode="json")
    if kind == "measure":
        return PipelineJudge(ChecklistJudgePipeline(MeasuringModel(MeasuringConfig(asked["name"])), asked), None)
    if kind == "expert":
        from clinsynth.judges.expert import ExpertJudge

        return ExpertJudge(Path(str(model)), asked)
    if kind == "vlm":
        try:
            from clinsynth.judges.vlm import load_vlm, open_judge
        except ImportError as error:
            raise ValueError(
                f"--judge vlm needs packages that are not installed ({error}); pip install clinsynth[text]"
            ) from error
        if endpoint:
            return open_judge(endpoint, str(model), asked, concurrency, timeout_s)
        return load_vlm(str(model), asked, trust_remote_code)
    if kind == "clip":
        network, processor, tokenizer = load_clip(str(model))
        seeing = ChecklistJudgePipeline(network, asked, image_processor=processor, tokenizer=tokenizer)
        return PipelineJudge(seeing, str(model))
    from clinsynth.models.image_classifiers import load_image_classifier

    network, processor = load_image_classifier("the judge's classifier", str(model))
    return PipelineJudge(ChecklistJudgePipeline(network, asked, image_processor=processor), str(model))


def load_clip(model: str) -> tuple[PreTrainedModel, BaseImageProcessor, PreTrainedTokenizerBase]:
    """An image-text model, its image processor and its tokenizer."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    hint = "give the folder or Hub id of one with its preprocessor_config.json and tokenizer"
    with explained_where_unloadable("the judge's image-text model", model, hint):
        network: Any = AutoModel.from_pretrained(model, use_safetensors=True)
        processor, tokenizer = AutoImageProcessor.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    if not hasattr(network, "get_text_features"):
        raise ValueError(
            f"the judge's model {model} is a {type(network).__name__}, which does not compare images with texts; "
            "give one such as CLIP or SigLIP"
        )
    return network, processor, tokenizer
