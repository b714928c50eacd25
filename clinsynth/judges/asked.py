"""A judge that sees and writes: any image-text-to-text model of transformers, held to the schema as it writes.

It stays outside the pipeline folder that is pushed: nothing of it is trained here, so that its checkpoint would be a
copy of somebody else's weights; name, checklist and version beside the scores say all that there is to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LogitsProcessorList

from clinsynth.judges.judge_questions import Answered, AskedJudge, answer_schema, question_text
from clinsynth.pipelines.structured_medical_text.schema_logits import SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.text_rows import plain_generation

TOGETHER = 8
"""Pictures that the model reads at once, at most: each may be thousands of tokens."""


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

    def ask(self, condition: str, pictures: list[Any]) -> Iterator[Answered]:
        """What the model answers on each of the pictures."""
        for first in range(0, len(pictures), TOGETHER):
            yield from self.answer(condition, pictures[first : first + TOGETHER])

    @torch.no_grad()
    def answer(self, condition: str, pictures: list[Any]) -> list[Answered]:
        """`ask` in one batch."""
        schema = answer_schema(self.checklist, condition)
        constraint = self.constraint_of(condition, schema)
        inputs = self.prompts(condition, pictures)
        length = inputs["input_ids"].shape[1]
        self.check_context(length, constraint.max_tokens)
        output = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            generation_config=plain_generation(constraint.max_tokens, constraint.end_token),
            logits_processor=LogitsProcessorList([constraint.processor(length, len(pictures))]),
        )
        answers: list[Answered] = []
        for tokens in output[:, length:].tolist():
            text, finished = constraint.decode(tokens)
            answers.append(check_text(text, schema) if finished else (None, "not finished within the budget"))
        return answers

    def prompts(self, condition: str, pictures: list[Any]) -> Any:
        """The model's inputs, padded on the left."""
        text = question_text(self.checklist, condition)
        messages = [
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]
            for picture in pictures
        ]
        return self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )

    def constraint_of(self, condition: str, schema: dict[str, Any]) -> SchemaConstraint:
        """What holds answers on a condition to the schema, made once."""
        if condition not in self.constraints:
            self.constraints[condition] = SchemaConstraint(self.processor.tokenizer, schema)
        return self.constraints[condition]

    def check_context(self, prompt: int, budget: int) -> None:
        """Raise a `ValueError` where prompt and answer exceed what the model can read."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context and prompt + budget > context:
            raise ValueError(
                f"picture and checklist take {prompt} tokens and the answer up to {budget}, more than the context of "
                f"{context} of the judge {self.facts['model']}; take a model with a longer one, or fewer items"
            )


def load_vlm(model: str, checklist: dict[str, Any], trust_remote_code: bool) -> VlmJudge:
    """The judge of a folder or Hub id, on the accelerator where there is one.

    Raises:
        ValueError: it cannot be loaded, or cannot be asked.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from clinsynth.synthesis.shards import hash_weights

    place: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        processor: Any = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
        network: Any = AutoModelForImageTextToText.from_pretrained(
            model, trust_remote_code=trust_remote_code, dtype="auto"
        )
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"the judge {model} cannot be loaded as an image-text-to-text model ({error}); give the folder or Hub id "
            "of one with its processor, and --trust_remote_code true where it comes with code that you trust"
        ) from error
    facts = {"model": model, "weights_sha256": hash_weights(network)}
    return VlmJudge(network.to(place).eval(), processor, checklist, facts)
