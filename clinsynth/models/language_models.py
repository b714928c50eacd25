"""The language model as a function from messages and seeds to rows, wherever it runs, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clinsynth.models.text_encoders import TextModel, token_counter, unpack_texts
from clinsynth.models.weights import best_device, hash_weights
from clinsynth.pipelines.structured_medical_text.schema_bounds import bounded, most_tokens
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.text_rows import RowResult, derive_seed

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.scripts.generate_text import GenerateTextArguments

Request = tuple[list[dict[str, str]], int]
"""Messages and a seed."""


class Result(Protocol):
    """What came of one request: validated data or None, and the reasons of the attempts that failed."""

    @property
    def data(self) -> dict[str, Any] | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def rejections(self) -> list[str]: ...


Write = Callable[[list[Request]], Iterator[Result]]
"""From requests to their results, in that order."""


def load_writer(args: GenerateTextArguments, task: Task, device: Any) -> tuple[Any, dict[str, Any]]:
    """A function from messages and seeds to results, in their order, and what identifies the model behind it.

    Raises:
        ValueError, ImportError: the model or the server cannot be had; names the cause.
    """
    if args.endpoint:
        from clinsynth.models.endpoints import open_endpoint

        return open_endpoint(args.endpoint, args, task)
    if args.backend == "vllm":
        return open_vllm(args, task)
    pipeline = load_pipeline(args, task, device)
    facts = {"weights_sha256": hash_weights(pipeline.model), "network": type(pipeline.model).__name__}
    return writer(args, pipeline), {**facts, "decoding": args.decoding, "dtype": args.dtype}


def load_pipeline(args: GenerateTextArguments, task: Task, device: Any) -> Any:
    """The pipeline around the model and the tokenizer of --model.

    Raises:
        ValueError: they cannot be had; names the cause.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from clinsynth.pipelines.structured_medical_text import StructuredMedicalTextPipeline

    path = Path(args.model)
    gguf = path.suffix == ".gguf"
    source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (args.model, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=args.dtype, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {args.model} cannot be loaded as a causal language model ({error}); check the path or id, and "
            "for the Hub the connection and HF_HUB_OFFLINE"
        ) from error
    return StructuredMedicalTextPipeline(
        model=model.eval(),
        tokenizer=tokenizer,
        task=task.to_dict(),
        schema=task.schema,
        device=device,
        backend=args.decoding,
    )


def asker(args: GenerateTextArguments, task: Task, names: list[str], examples: dict[str, list[dict[str, Any]]]) -> Any:
    """A function from a label's number and a seed to the messages and the ids of the examples in them."""
    from clinsynth.pipelines.structured_medical_text.prompts import draw_k_shot, render_messages

    def ask(label: int, seed: int) -> tuple[list[dict[str, str]], list[str]]:
        shots = draw_k_shot(examples[names[label]], args.k_shot, seed)
        messages = render_messages(task, label=names[label], k_shot=shots, seed=seed)
        return messages, [shot["id"] for shot in shots]

    return ask


def writer(args: GenerateTextArguments, pipeline: Any) -> Any:
    """A function from messages and seeds to the results of the pipeline."""
    from clinsynth.pipelines.structured_medical_text import RowRequest

    def write(requests: list[Request]) -> Iterator[Result]:
        rows = [RowRequest(messages=messages, seed=seed) for messages, seed in requests]
        with token_bar() as bar:
            yield from pipeline.generate_rows(
                rows,
                batch_size=args.batch_size,
                temperature=args.temperature,
                top_p=args.top_p,
                max_attempts=args.max_attempts,
                max_new_tokens=args.max_new_tokens,
                streamer=TokenCount(bar),
            )

    return write


def token_bar() -> Any:
    """A second bar, of tokens, on a terminal: a batch of long texts takes minutes."""
    from accelerate import PartialState
    from tqdm.auto import tqdm

    return tqdm(desc="tokens", unit="token", leave=False, disable=None if PartialState().is_main_process else True)


class TokenCount:
    """A streamer, as transformers' `generate` takes it, that counts the tokens drawn on a bar."""

    def __init__(self, bar: Any):
        self.bar, self.is_prompt = bar, True

    def put(self, tokens: Any) -> None:
        """Take a batch's prompts, or the tokens that follow, one a row."""
        if not self.is_prompt:
            self.bar.update(len(tokens))
        self.is_prompt = False

    def end(self) -> None:
        """The next tokens are prompts."""
        self.is_prompt = True


def describe_generator(
    args: GenerateTextArguments, task: Task, examples: Any, identity: dict[str, Any], check: Any = None
) -> dict[str, Any]:
    """What `generation.json` says of the generator; a resumed run must agree with all of it.

    Task and examples are named by digests: the one lies in `task.json`, the others are real texts.

    Args:
        identity: what identifies the model.
        check: the `LabelCheck` of --verify_labels.
    """
    return {
        "model": args.model,
        **identity,
        "task": task.name,
        "task_sha256": digest(task.to_dict()),
        "examples_sha256": digest(examples) if args.k_shot else None,
        "k_shot": args.k_shot,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "max_attempts": args.max_attempts,
        "max_new_tokens": args.max_new_tokens,
        "near_duplicate": args.near_duplicate,
        "near_duplicate_encoder": args.near_duplicate_encoder,
        "near_duplicate_cosine": args.near_duplicate_cosine if args.near_duplicate_encoder else None,
        "reject_copies": args.reject_copies,
        "verify_labels_sha256": hash_weights(check.model) if check is not None else None,
        "seed": args.seed,
    }


def digest(values: Any) -> str:
    """SHA-256 of values of JSON's types."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


Messages = list[dict[str, str]]
Outcome = tuple[dict[str, Any] | None, str | None]


def open_vllm(args: GenerateTextArguments, task: Task) -> tuple[Any, dict[str, Any]]:
    """A function from messages and seeds to results, and what identifies the model.

    Raises:
        ImportError: vLLM is not installed; says how to.
        ValueError: the task's schema is not valid.
    """
    try:
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
    except ImportError as error:
        raise ImportError(f"--backend vllm needs vLLM 0.12 or later ({error}); pip install clinsynth[vllm]") from error
    schema, budget = closed(task.schema), token_budget(task.schema, args.max_new_tokens)
    engine = LLM(model=args.model, dtype=args.dtype)

    def attempt(conversations: list[Messages], seeds: list[int]) -> list[Outcome]:
        settings = [
            SamplingParams(
                seed=seed,
                max_tokens=budget,
                temperature=args.temperature,
                top_p=args.top_p,
                structured_outputs=StructuredOutputsParams(json=schema),
            )
            for seed in seeds
        ]
        answers = [output.outputs[0] for output in engine.chat(conversations, settings, use_tqdm=False)]
        return [check_answer(answer.text, answer.finish_reason, schema) for answer in answers]

    def write(requests: list[tuple[Messages, int]]) -> Iterator[RowResult]:
        return write_rows(requests, attempt, args.max_attempts)

    return write, {"weights_sha256": None, "network": "vLLM", "dtype": args.dtype}


def write_rows(
    requests: list[tuple[Messages, int]],
    attempt: Callable[[list[Messages], list[int]], list[Outcome]],
    max_attempts: int,
) -> Iterator[RowResult]:
    """A result a request, in their order: all are attempted at once, then those that failed, with new seeds."""
    finished: dict[int, RowResult] = {}
    failed: dict[int, list[str]] = {number: [] for number in range(len(requests))}
    while failed:
        numbers = list(failed)
        seeds = [attempt_seed(requests[number][1], len(failed[number])) for number in numbers]
        outcomes = attempt([requests[number][0] for number in numbers], seeds)
        for number, (data, reason) in zip(numbers, outcomes, strict=True):
            reasons = failed[number] + ([reason] if reason is not None else [])
            if reason is None or len(reasons) == max_attempts:
                attempts = len(reasons) + (reason is None)
                finished[number] = RowResult(data, requests[number][1], attempts, reasons)
                del failed[number]
            else:
                failed[number] = reasons
    return iter([finished[number] for number in range(len(requests))])


SEEDS = 2**31
"""Engines get seeds modulo this, since some take 32 bits with a sign."""
FINISHED = ("stop", "eos_token", "stop_sequence")
"""What finish_reason says of a text that is whole; the last two are TGI's."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with all its properties required and no others allowed, as the local pipeline has it."""
    return {**schema, "required": list(schema["properties"]), "additionalProperties": False}


def token_budget(schema: dict[str, Any], max_new_tokens: int | None) -> int:
    """Tokens of an answer: those asked for, else as many as the schema can need.

    Raises:
        ValueError: the schema has no bound or cannot be met; names the place.
    """
    most = most_tokens(bounded(schema))
    return max_new_tokens or most


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of a row's attempt, counted from 0, in [0, 2**31)."""
    return (derive_seed(seed, attempt) if attempt else seed) % SEEDS


def check_answer(text: Any, finish: Any, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The object of an answer, and None; or None, and the reason why it is refused, without any of its text."""
    if finish == "length":
        return None, "not finished within the budget"
    if finish not in FINISHED:
        return None, "stopped by a filter" if finish == "content_filter" else "stopped before its end"
    return check_text(text, schema) if isinstance(text, str) else (None, "without content")


BATCH_TEXTS = 4  # a row of logits has as many numbers as the vocabulary, for each token
MOST_TOKENS = 256


def load_language_model(name_or_path: str) -> TextModel:
    """Load a causal language model by folder, Hub id or .gguf file; its one feature is a text's loss.

    Raises:
        ValueError: it is not there, is no such model, or its tokenizer has no token to begin a text with.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name_or_path)
    gguf = path.suffix == ".gguf"
    source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (name_or_path, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--language_model {name_or_path} cannot be loaded as a causal language model ({type(error).__name__}); "
            "give a local folder or a .gguf file, or a Hub id where the Hub can be reached, or leave the flag out"
        ) from error
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError(
            f"--language_model {name_or_path}: its tokenizer has no token to begin a text with; take another"
        )
    return build_scorer(path.name if path.exists() else name_or_path, model.to(best_device()).eval(), tokenizer, start)


def build_scorer(name: str, model: Any, tokenizer: Any, start: int) -> TextModel:
    """The judge around a network and its tokenizer; each text is put behind the token `start`.

    A text's first token counts only where it is the only one: what may begin a text is a matter of the model's chat
    format, and would weigh more in short texts.
    """
    import torch

    def losses(texts: Sequence[str]) -> np.ndarray:
        options = {"truncation": True, "max_length": MOST_TOKENS, "add_special_tokens": False}
        rows = [[start, *ids] for ids in tokenizer(list(texts), **options)["input_ids"]]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [start] * (longest - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        there = mask[:, 1:].float()
        there[there.sum(1) > 1, 0] = 0
        means: np.ndarray = ((nats * there).sum(1) / there.sum(1)).double().cpu().numpy()
        return means

    return TextModel(
        name=f"{name} (causal language model)",
        dimension=1,
        fingerprint=f"{hash_weights(model)} {MOST_TOKENS} {start}",
        embed=lambda packed: losses(unpack_texts(packed))[:, None],
        note=f"texts are cut at {MOST_TOKENS} tokens",
        most_tokens=MOST_TOKENS,
        count_tokens=token_counter(tokenizer),
        batch_texts=BATCH_TEXTS,
    )
