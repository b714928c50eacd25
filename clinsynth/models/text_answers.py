"""What is asked of an engine that holds to a schema by itself (a server, vLLM), and how its answers are checked."""

from typing import Any

from clinsynth.pipelines.structured_medical_text.schema_bounds import bounded, most_tokens
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.pipelines.structured_medical_text.text_rows import derive_seed

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
