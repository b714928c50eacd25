"""llama.cpp in this process as a writer of texts: quantised weights on a CPU, texts written side by side."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.models.writers import (
    Request,
    WriterArguments,
    as_json_schema,
    attempt_seed,
    check_answer,
    closed_schema,
    token_budget,
)
from clinsynth.pipelines.structured_medical_text.text_rows import Outcome, RowRequest, RowResult, attempt_rows

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task

CONTEXT = 4096
"""Tokens of a prompt and its text; a longer answer than half of it gets as much more."""


class LlamaCppWriter:
    """A writer by llama.cpp's own server (xllamacpp) within this process, which holds answers to the schema.

    A row's text depends on its seed; as with any server that computes rows together, rounding can differ with how many
    are written at once. What prompts begin with alike is computed once.

    Raises:
        ImportError: xllamacpp is not installed; says how to.
        ValueError: --model is no file that llama.cpp reads, or the task's schema is not valid.
    """

    def __init__(self, args: WriterArguments, task: Task):
        self.args, self.schema = args, closed_schema(task.schema)
        self.budget = token_budget(task.schema, args.max_new_tokens)
        self.context = max(CONTEXT, CONTEXT // 2 + self.budget)
        self.server = start_server(args, self.context)

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the model: the hash is that of its file."""
        with open(self.args.model, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"weights_sha256": digest, "network": "llama.cpp", "decoding": "llama.cpp"}

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request; raises a `ValueError` where a prompt is too long."""
        with ThreadPoolExecutor(self.args.batch_size) as at_once:
            yield from at_once.map(self.write_row, requests)

    def write_row(self, request: Request) -> RowResult:
        """One row, with a new seed for each attempt after the first."""
        return next(attempt_rows([RowRequest(*request)], self.attempt, 1, self.args.max_attempts))

    def attempt(self, rows: list[RowRequest], failed: list[int]) -> list[Outcome]:
        """One answer to the one row there is, of which so many have failed."""
        (row,), (count,) = rows, failed
        answer = self.server.handle_chat_completions(
            {
                "messages": row.messages,
                "response_format": as_json_schema(self.schema),
                "seed": attempt_seed(row.seed, count),
                "max_tokens": self.budget,
                "temperature": self.args.temperature,
                "top_p": self.args.top_p,
                "top_k": 0,
                "min_p": 0.0,
                "chat_template_kwargs": {"enable_thinking": False},
            }
        )
        if "choices" not in answer:
            error = answer.get("error", {})
            raise ValueError(
                f"--model {self.args.model}: llama.cpp gave no answer ({error.get('type', 'unknown error')}); prompt "
                f"and text have {self.context} tokens: lower --k_shot or --max_new_tokens if they are longer"
            )
        choice = answer["choices"][0]
        return [check_answer(choice["message"].get("content"), choice["finish_reason"], self.schema)]


def start_server(args: WriterArguments, context: int) -> Any:
    """llama.cpp around the file --model, for `batch_size` texts of `context` tokens at once.

    It also listens at an address of this machine, where a key that nobody knows keeps others out.
    """
    import torch

    try:
        import xllamacpp
    except ImportError as error:
        raise ImportError(f"--backend llama.cpp needs xllamacpp ({error}); pip install clinsynth[llamacpp]") from error
    path = Path(args.model)
    if path.suffix != ".gguf" or not path.is_file():
        raise ValueError(f"--backend llama.cpp takes a .gguf file as --model, got {args.model}; give the file's path")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_parallel, settings.n_ctx = args.batch_size, args.batch_size * context
    for threads in (settings.cpuparams, settings.cpuparams_batch):
        threads.n_threads, threads.poll = torch.get_num_threads(), 0  # waiting threads sleep
    settings.verbosity, settings.endpoint_slots, settings.api_keys = 0, False, [secrets.token_hex()]
    try:
        return xllamacpp.Server(settings)
    except RuntimeError as error:
        raise ValueError(
            f"--model {args.model} cannot be loaded by llama.cpp ({error}); the file may be damaged or of a kind that "
            "it does not know: fetch it again, or leave --backend out"
        ) from error
