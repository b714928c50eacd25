"""A judge that sees and writes: any image-text-to-text model of transformers, held to the schema as it writes.

It stays outside the pipeline folder that is pushed: nothing of it is trained here, so that its checkpoint would be a
copy of somebody else's weights; name, checklist and version beside the scores say all that there is to it.
"""

from __future__ import annotations

import base64
import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, LogitsProcessorList

from clinsynth.data.phantom_fundus import NAME
from clinsynth.images import to_png
from clinsynth.judges.protocol import Answer, Judge, Question, answer_of, unscored
from clinsynth.models.endpoints import CANARY_SCHEMA, Endpoint, describe_failure, open_endpoint, status_of
from clinsynth.models.weights import explained_where_unloadable, hash_weights
from clinsynth.models.writers import WriterArguments, closed_schema, is_loopback, split_address, token_budget
from clinsynth.pipelines.checklist_judge.pipeline_checklist_judge import check_conditions
from clinsynth.pipelines.structured_medical_text.schema_logits import SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.text_rows import plain_generation
from clinsynth.run_folder import read_json

logger = logging.getLogger("clinsynth")

MOST_REASON = 120
"""Characters of a reason."""
TOGETHER = 8
"""Images that the model reads at once, at most: each may be thousands of tokens."""
REFUSED_REQUEST = (400, 413, 415, 422)
"""How servers refuse an image for a model that sees none, or a prompt that is too long."""

Answered = tuple[dict[str, Any] | None, str | None]
"""The object of an answer and None, or None and why there is none."""


class AskedJudge(Judge):
    """A judge of kind vlm; its subclasses know whom to ask."""

    kind = "vlm"

    @abstractmethod
    def ask(self, condition: str, images: list[Image.Image]) -> Iterable[Answered]:
        """What the model answers on each of the images, RGB."""

    def __call__(self, questions: Sequence[Question], batch_size: int = 64) -> list[Answer]:
        check_conditions([question["condition"] for question in questions], self.checklist)
        places: dict[str, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            places[question["condition"]].append(place)
        answers: dict[int, Answer] = {}
        for condition, mine in places.items():
            asked = self.ask(condition, [questions[place]["image"].convert("RGB") for place in mine])
            for place, (data, failure) in zip(mine, asked, strict=True):
                answers[place] = unscored(condition, str(failure)) if data is None else scored(condition, data)
        return [answers[place] for place in range(len(questions))]


def scored(condition: str, data: dict[str, Any]) -> Answer:
    """The answer to an object of the schema."""
    scores = {item: int(part["met"]) for item, part in data.items()}
    return answer_of(condition, scores, {item: part["reason"] for item, part in data.items()})


def answer_schema(checklist: dict[str, Any], condition: str) -> dict[str, Any]:
    """The JSON schema of an answer: of each item `reason`, which is to be thought of first, and `met`, 0 or 1."""
    reason = {"type": "string", "minLength": 1, "maxLength": MOST_REASON}
    asked = {"reason": reason, "met": {"type": "integer", "enum": [0, 1]}}
    part = closed_schema({"type": "object", "properties": asked})
    items = {item["id"]: part for item in checklist["conditions"][condition]}
    return closed_schema({"type": "object", "properties": items})


def question_text(checklist: dict[str, Any], condition: str) -> str:
    """What the model is asked beside the image."""
    items = [f"- {item['id']}: {item['question']} {item['criterion']}" for item in checklist["conditions"][condition]]
    return (
        f"The picture ({checklist['modality']}) is meant to show: {condition}. Judge it by this checklist, by what "
        "can be seen and not by what it is meant to show.\n"
        + "\n".join(items)
        + f"\nAnswer with one JSON object and nothing else. For each item give reason (what you see, at most "
        f"{MOST_REASON} characters) and met: 1 for yes; 0 for no, or where it cannot be made out.\n"
        'Form: {"item": {"reason": "…", "met": 1}}'
    )


class VlmJudge(AskedJudge):
    """Greedy answers of a local model, each an object of the schema as far as tokens can be held to it.

    Args:
        model, processor: of an image-text-to-text model with a chat template.
        checklist, facts: as of `AskedJudge`.

    Raises:
        ValueError: there is no chat template or end token, or the model does not write on from its prompt.
    """

    def __init__(self, model: Any, processor: Any, checklist: dict[str, Any], facts: dict[str, Any]):
        super().__init__(checklist, facts)
        self.model, self.processor = model, processor
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                f"the judge {facts['model']} has no chat template, so that it cannot be asked; give a model that was "
                "tuned to follow instructions"
            )
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"the judge {facts['model']} is an encoder-decoder model; give one that writes on from its prompt"
            )
        self.constraints: dict[str, SchemaConstraint] = {}

    def ask(self, condition: str, images: list[Image.Image]) -> Iterator[Answered]:
        schema = answer_schema(self.checklist, condition)
        if condition not in self.constraints:
            self.constraints[condition] = SchemaConstraint(self.processor.tokenizer, schema)
        constraint = self.constraints[condition]
        for first in range(0, len(images), TOGETHER):
            for text, finished in self.write(condition, images[first : first + TOGETHER], constraint):
                yield check_text(text, schema) if finished else (None, "not finished within the budget")

    @torch.no_grad()
    def write(self, condition: str, images: list[Image.Image], constraint: SchemaConstraint) -> list[tuple[str, bool]]:
        """The texts of one batch, and whether each was finished within the budget."""
        inputs = self.prompts(condition, images)
        length = inputs["input_ids"].shape[1]
        self.check_context(length, constraint.max_tokens)
        output = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            generation_config=plain_generation(constraint.max_tokens, constraint.end_token),
            logits_processor=LogitsProcessorList([constraint.processor(length, len(images))]),
        )
        return [constraint.decode(tokens) for tokens in output[:, length:].tolist()]

    def prompts(self, condition: str, images: list[Image.Image]) -> BatchFeature:
        """The model's inputs, padded on the left."""
        text = question_text(self.checklist, condition)
        messages = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
            for image in images
        ]
        inputs: BatchFeature = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        return inputs

    def check_context(self, prompt: int, budget: int) -> None:
        """Raise a `ValueError` where prompt and answer exceed what the model can read."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context and prompt + budget > context:
            raise ValueError(
                f"image and checklist take {prompt} tokens and the answer up to {budget}, more than the context of "
                f"{context} of the judge {self.facts['model']}; take a model with a longer one, or fewer items"
            )


def load_vlm(model: str, checklist: dict[str, Any], trust_remote_code: bool) -> VlmJudge:
    """The judge of a folder or Hub id, on the accelerator where there is one.

    Raises:
        ValueError: it cannot be loaded, or cannot be asked.
    """
    place: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    hint = (
        "give the folder or Hub id of one with its processor, and --trust_remote_code true where it comes with code "
        "that you trust"
    )
    with explained_where_unloadable("the judge", model, hint, "an image-text-to-text model"):
        processor: Any = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
        network: Any = AutoModelForImageTextToText.from_pretrained(
            model, trust_remote_code=trust_remote_code, dtype="auto", use_safetensors=True
        )
    facts = {"model": model, "weights_sha256": hash_weights(network)}
    return VlmJudge(network.to(place).eval(), processor, checklist, facts)


class EndpointJudge(AskedJudge):
    """Answers of a server's model.

    Args:
        endpoint: proven to hold to schemas; its own schema is not used.
        checklist, facts: as of `AskedJudge`.
    """

    def __init__(self, endpoint: Endpoint, checklist: dict[str, Any], facts: dict[str, Any]):
        super().__init__(checklist, facts)
        self.endpoint = endpoint
        self.endpoints: dict[str, Endpoint] = {}

    def ask(self, condition: str, images: list[Image.Image]) -> Iterator[Answered]:
        """What the model answers on each of the images; several are under way at once.

        Raises:
            ValueError: the server failed for good; says how, and what to do.
        """
        if condition not in self.endpoints:
            schema = answer_schema(self.checklist, condition)
            budget = token_budget(schema, None)
            self.endpoints[condition] = replace(self.endpoint, schema=schema, max_tokens=budget)
        text = question_text(self.checklist, condition)
        requests: Any = [(message(image, text), 0) for image in images]
        with explained(self.endpoint.url):
            for result in self.endpoints[condition].write(requests):
                yield result.data, result.rejections[0] if result.rejections else None


def message(image: Image.Image, text: str) -> list[dict[str, Any]]:
    """A chat with one image, as a PNG file without metadata, and one question."""
    data = base64.b64encode(to_png(image)).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": text}]}]


def open_judge(url: str, model: str, checklist: dict[str, Any], concurrency: int, timeout_s: float) -> EndpointJudge:
    """The judge at `url`, proven to hold to schemas.

    Raises:
        ValueError: the server cannot be had, or does not hold to a schema.
    """
    with explained(url):
        greedy = WriterArguments(model, endpoint=url, temperature=0.0, top_p=1.0, max_attempts=1, max_new_tokens=64)
        args = replace(greedy, concurrency=concurrency, timeout_s=timeout_s)
        endpoint = open_endpoint(args, CANARY_SCHEMA, "--judge_endpoint")
    facts = {"model": model, "weights_sha256": None, "served_model": endpoint.served_model}
    return EndpointJudge(endpoint, checklist, facts)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Errors of `Endpoint` within the block, in the words of a judge's flags."""
    try:
        yield
    except ValueError as error:
        if status_of(error.__cause__) in REFUSED_REQUEST:
            raise ValueError(
                f"--judge_endpoint {url} refused a request ({describe_failure(error.__cause__)}); finished shards are "
                "kept: mostly its model takes no images, or image and checklist exceed its context, which the "
                "server's log says: serve a model that sees, with a longer context"
            ) from error
        words = str(error).replace("--endpoint", "--judge_endpoint").replace("--model", "--judge_model")
        raise ValueError(words) from error


def check_may_leave(url: str, images: str, rows: Dataset, send_real: str | None) -> None:
    """Raise a `ValueError` where images that may be of patients would leave this machine without the user's word."""
    if is_loopback(url) or send_real or is_synthetic(images, rows):
        return
    raise ValueError(
        f"--judge_endpoint {url} would send the images of --images {images} to {split_address(url).hostname}, which "
        "is not this machine, and nothing says that they are synthetic (no generation.json of `clinsynth generate "
        "images` with rows of seeds, no column synthetic); where their owners and licence allow it, say so in words: "
        '--send_real "who allowed it, and why"; else serve the model here'
    )


def is_synthetic(images: str, rows: Dataset) -> bool:
    """Whether a set says of itself that no row is a patient: drawn, generated by clinsynth, or published as synthetic.

    Nothing but a folder's generation.json and the columns of its rows is looked at: who wants to can write them in.
    Images made from a patient's are not: much of the source is left in them.
    """
    if images.partition("?")[0] == NAME:
        return True
    if "source_id" in rows.column_names:
        return False
    if "synthetic" in rows.column_names:
        return all(value is True for value in rows["synthetic"][:])
    return "seed" in rows.column_names and "generator" in read_json(Path(images) / "generation.json")
