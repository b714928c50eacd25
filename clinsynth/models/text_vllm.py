"""vLLM in this process as a writer of rows: for one or more accelerators of one machine. Not run in clinsynth's tests.

vLLM's own LLM.chat and structured outputs (vLLM 0.12 or later); each answer is checked against the schema again here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from clinsynth.models.text_answers import attempt_seed, check_answer, closed, token_budget
from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.scripts.generate_text import GenerateTextArguments

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
