"""StructuredMedicalTextPipeline: texts of a given label from any causal language model, each valid under a schema.

    pipe = pipeline("structured-medical-text", model="folder or id", trust_remote_code=True)
    pipe({"label": "moderate", "k_shot": [{"id": "7", "text": "…"}]}, num_samples=8)

This file is copied, with those it imports, into every checkpoint, and imports nothing from clinsynth.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList, Pipeline, StoppingCriteriaList
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import cached_file

from .prompts import END_OF_THOUGHT, THOUGHT, Task, encode_messages, pad_left, render_messages
from .schema_logits import SchemaConstraint, SchemaLogits
from .schemas import Schema, check_text, json_schema
from .text_rows import (
    EndOfThought,
    Outcome,
    RowRequest,
    RowResult,
    SeededSampling,
    attempt_rows,
    check_sampling,
    derive_seed,
    plain_generation,
    thought_of,
)

logger = logging.getLogger(__name__)

TASK = "structured-medical-text"
TASK_FILE = "task.json"
SCHEMA_FILE = "schema.json"
THOUGHTS = 1 << 20  # number under which the seed of a row's thoughts is derived, beyond those of attempts


class StructuredMedicalTextPipeline(Pipeline):
    """A transformers pipeline whose every output is a validated object, or is missing and counted.

    Args:
        model: a causal language model, a base model without a chat template too.
        tokenizer: the model's, byte-level BPE or SentencePiece, with an end token.
        task: fields of a `prompts.Task`, by which `__call__` writes prompts; default: the model folder's task.json.
        schema: a pydantic model or a JSON schema; default: the model folder's schema.json, else the task's schema.
        backend: what decides which tokens may follow: "llguidance", or "lm-format-enforcer" or "xgrammar", which must
            then be installed.
        kwargs: transformers' own, such as `device`.

    Attributes:
        rejections: reason to count, of the last call.

    Raises:
        ValueError: there is no schema, or it or the task is not valid, or the back end is unknown.
        ImportError: the back end is not installed.
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: dict[str, Any] | str | None = None,
        schema: Schema | None = None,
        backend: str = "llguidance",
        **kwargs: Any,
    ):
        super().__init__(model=model, tokenizer=tokenizer, task=TASK, **kwargs)
        # transformers.pipeline() passes its own name of the task, a text, under the same keyword
        fields = task if isinstance(task, dict) else read_json(model, TASK_FILE)
        self.medical_task = Task.from_dict(fields) if fields else None
        found = schema if schema is not None else read_json(model, SCHEMA_FILE)
        if found is None and self.medical_task is None:
            raise ValueError(
                f"{model.name_or_path!r} comes without {TASK_FILE} and {SCHEMA_FILE}; give task= (a task's fields) or "
                "schema= (a pydantic model or JSON schema)"
            )
        self.schema: Schema = found if found is not None else self.medical_task.schema  # type: ignore[union-attr]
        self.rejections: Counter[str] = Counter()
        self._backend = backend
        self._constraints: dict[str, SchemaConstraint] = {}
        self.constraint_of(self.schema)

    def __call__(  # type: ignore[override]
        self,
        inputs: dict[str, Any] | list[dict[str, Any]],
        num_samples: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 0.95,
        batch_size: int = 8,
        max_attempts: int = 3,
        max_new_tokens: int | None = None,
    ) -> Any:
        """Write `num_samples` texts for each of `inputs`.

        Args:
            inputs: `label` and `k_shot` (examples with `id` and `text`, may be left out), or `messages`; or a list.
            num_samples: texts, at least 1. Text i has a seed of its own, derived from `seed` and i.
            temperature, top_p: of sampling; temperature 0 takes the likeliest token.
            batch_size: texts written together. It changes no text but for the last bits of the model's arithmetic.
            max_attempts: attempts at a valid text, each with a new seed.
            max_new_tokens: a text's budget; default: the schema's. Texts are brought to an end within it, never cut.

        Returns:
            For each input a list of `{"data", "seed", "attempts"}`, shorter than `num_samples` where texts were given
            up; `self.rejections` tells why.

        Raises:
            ValueError: an argument out of range, an unknown label, or a prompt and budget beyond the model's context.
        """
        self.rejections = Counter()
        check_sampling(temperature, top_p)
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size), ("max_attempts", max_attempts)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_attempts": max_attempts}
        settings |= {"rows_together": batch_size, "max_new_tokens": max_new_tokens}
        return super().__call__(inputs, batch_size=1, num_samples=num_samples, seed=seed, **settings)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        asked: dict[str, Any] = {name: kwargs.pop(name) for name in ("num_samples", "seed") if name in kwargs}
        return asked, kwargs, {}

    def preprocess(self, input_: dict[str, Any], num_samples: int = 1, seed: int = 0) -> list[RowRequest]:  # type: ignore[override]
        """A request a text."""
        seeds = [derive_seed(seed, number) for number in range(num_samples)]
        if "messages" in input_:
            return [RowRequest(input_["messages"], row_seed) for row_seed in seeds]
        if self.medical_task is None:
            raise ValueError('the pipeline has no task to write prompts by; give task= or inputs {"messages": [...]}')
        if "label" not in input_:
            raise ValueError(f'an input must have "label" or "messages", got {sorted(input_)}')
        prompt = {"label": input_["label"], "k_shot": input_.get("k_shot", [])}
        return [RowRequest(render_messages(self.medical_task, seed=s, **prompt), s) for s in seeds]

    def _forward(self, requests: list[RowRequest], rows_together: int = 8, **settings: Any) -> list[RowResult]:  # type: ignore[override]
        return list(self.generate_rows(requests, batch_size=rows_together, **settings))

    def postprocess(self, results: list[RowResult]) -> list[dict[str, Any]]:  # type: ignore[override]
        """The texts that are valid."""
        for result in results:
            self.rejections.update(result.rejections)
        given_up = sum(result.data is None for result in results)
        if given_up:
            logger.warning("%d of %d texts were given up: %s", given_up, len(results), dict(self.rejections))
        return [{"data": r.data, "seed": r.seed, "attempts": r.attempts} for r in results if r.data is not None]

    def generate_rows(
        self,
        requests: list[RowRequest],
        *,
        batch_size: int = 8,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_attempts: int = 3,
        max_new_tokens: int | None = None,
        streamer: Any = None,
        thinking: int = 0,
    ) -> Iterator[RowResult]:
        """A result a request, in their order; arguments and errors as of `__call__`.

        `streamer`, a transformers `BaseStreamer`, is told of every batch's prompts and then of its tokens, one a row.
        A reasoning model may think for `thinking` tokens before each answer, or until it ends its thoughts.

        An attempt that fails is made again, with a seed derived from the row's, in the next batch.
        """
        check_sampling(temperature, top_p)

        def attempt(rows: list[RowRequest], failed: list[int]) -> list[Outcome]:
            counts = zip(rows, failed, strict=True)
            seeds = [derive_seed(row.seed, count) if count else row.seed for row, count in counts]
            thoughts = self.think(rows, seeds, temperature, top_p, thinking) if thinking else None
            for row, thought in zip(rows, thoughts or (), strict=bool(thoughts)):
                spent[row.seed] += len(thought)
            return self.write(rows, seeds, temperature, top_p, max_new_tokens, streamer, thoughts)

        spent: Counter[int] = Counter()
        results = attempt_rows(requests, attempt, batch_size, max_attempts)
        return (replace(result, thought_tokens=spent[result.seed]) for result in results)

    @torch.no_grad()
    def think(
        self, requests: list[RowRequest], seeds: list[int], temperature: float, top_p: float, most: int
    ) -> list[list[int]]:
        """Tokens of each row's thoughts, at most `most`, without the mark at their end."""
        tokenizer: Any = self.tokenizer
        mark = tokenizer(END_OF_THOUGHT, add_special_tokens=False)["input_ids"]
        prompts = [encode_messages(tokenizer, request.messages, thinking=True) for request in requests]
        end_token = int(tokenizer.eos_token_id)
        ids, attention = pad_left(prompts, end_token)
        length, device = ids.shape[1], self.model.device
        self.check_context(length, most, 1)
        sampling = SeededSampling([derive_seed(seed, THOUGHTS) for seed in seeds], temperature, top_p, length, most)
        generate: Any = self.model.generate
        output = generate(
            ids.to(device),
            attention_mask=attention.to(device),
            generation_config=plain_generation(most, end_token),
            logits_processor=LogitsProcessorList([sampling]),
            stopping_criteria=StoppingCriteriaList([EndOfThought(mark, length)]),
        )
        return [thought_of(tokens, mark, end_token) for tokens in output[:, length:].tolist()]

    @torch.no_grad()
    def write(
        self,
        requests: list[RowRequest],
        seeds: list[int],
        temperature: float,
        top_p: float,
        max_new_tokens: int | None,
        streamer: Any = None,
        thoughts: list[list[int]] | None = None,
    ) -> list[Outcome]:
        """One attempt at each request, in one batch: its data and None, or None and why it failed; `thoughts` are
        tokens that come between a prompt and its answer."""
        schemas = [request.schema or self.schema for request in requests]
        constraints = [self.constraint_of(schema) for schema in schemas]
        prompts = [encode_messages(self.tokenizer, request.messages, thoughts is not None) for request in requests]
        if thoughts is not None:
            tokenizer: Any = self.tokenizer
            closing = tokenizer(f"\n{THOUGHT}", add_special_tokens=False)["input_ids"]
            prompts = [[*prompt, *thought, *closing] for prompt, thought in zip(prompts, thoughts, strict=True)]
        budgets = [max_new_tokens or constraint.max_tokens for constraint in constraints]
        self.check_context(max(map(len, prompts)), max(budgets), max(c.least_tokens for c in constraints))
        ids, attention = pad_left(prompts, constraints[0].end_token)
        length, device = ids.shape[1], self.model.device
        constrain = SchemaLogits(constraints, length, budgets)
        sampling = SeededSampling(seeds, temperature, top_p, length, max(budgets), constrain)
        generate: Any = self.model.generate
        output = generate(
            ids.to(device),
            attention_mask=attention.to(device),
            generation_config=plain_generation(max(budgets), constraints[0].end_token),
            logits_processor=LogitsProcessorList([constrain, sampling]),
            streamer=streamer,
        )
        results = []
        for constraint, schema, tokens in zip(constraints, schemas, output[:, length:].tolist(), strict=True):
            text, is_finished = constraint.decode(tokens)
            results.append(check_text(text, schema) if is_finished else (None, "not finished within the budget"))
        return results

    def constraint_of(self, schema: Schema) -> SchemaConstraint:
        """The constraint of a schema on the tokenizer, made once."""
        form = json_schema(schema)
        key = json.dumps(form)
        if key not in self._constraints:
            self._constraints[key] = SchemaConstraint(self.tokenizer, form, self._backend)
        return self._constraints[key]

    def check_context(self, prompt: int, budget: int, least: int) -> None:
        """Raise a `ValueError` that says by how many tokens prompt and budget exceed the model's context."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        excess = prompt + budget - context if context else 0
        if excess > 0:
            raise ValueError(
                f"the prompt has {prompt} tokens and the schema's budget is {budget}, {excess} more than the model's "
                f"context of {context}; shorten the prompt by fewer or shorter k_shot examples, lower the schema's "
                f"maxLength, or give max_new_tokens from {least} on: texts are then brought to an end within it"
            )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Save a folder that stock transformers loads: weights, tokenizer, task.json, schema.json and this code."""
        config = self.model.config
        if getattr(getattr(config, "quantization_config", None), "quant_method", None) == "gguf":
            # weights read from a GGUF file are plain numbers by now, and transformers saves none that say otherwise
            del config.quantization_config
            self.model.hf_quantizer = None  # type: ignore[assignment]
        name = type(self).__name__
        config.custom_pipelines = {TASK: {"impl": f"{Path(__file__).stem}.{name}", "pt": ["AutoModelForCausalLM"]}}
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        custom_object_save(self, folder)
        if self.medical_task is not None:
            write_json(self.medical_task.to_dict(), folder / TASK_FILE)
        write_json(json_schema(self.schema), folder / SCHEMA_FILE)

    def push_to_hub(self, repo_id: str, private: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        """Upload to the Hub, into a private repository unless `private=False`; the rest are transformers' own."""
        return super().push_to_hub(repo_id, private=private, **kwargs)


def read_json(model: Any, name: str) -> dict[str, Any] | None:
    """A file that lies beside the model's weights, in its folder or on the Hub; None without it."""
    if not model.name_or_path:
        return None
    path = cached_file(
        model.name_or_path,
        name,
        revision=getattr(model.config, "_commit_hash", None),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
