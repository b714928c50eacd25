"""The language model as a function from messages and seeds to rows, wherever it runs, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.scripts.generate_text import GenerateTextArguments


def load_writer(args: GenerateTextArguments, task: Task, device: Any) -> tuple[Any, dict[str, Any]]:
    """A function from messages and seeds to results, in their order, and what identifies the model behind it.

    Raises:
        ValueError, ImportError: the model or the server cannot be had; names the cause.
    """
    if args.endpoint:
        from clinsynth.models.endpoints import open_endpoint

        return open_endpoint(args.endpoint, args, task)
    if args.backend == "vllm":
        from clinsynth.models.text_vllm import open_vllm

        return open_vllm(args, task)
    from clinsynth.synthesis.shards import hash_weights

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
    from clinsynth.synthesis.shards import hash_weights

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
