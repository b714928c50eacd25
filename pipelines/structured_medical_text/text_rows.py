"""What is asked of the pipeline for one row, what comes of it, and how a row is drawn.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig


@dataclass(frozen=True)
class RowRequest:
    """One text to write.

    Attributes:
        messages: `role` and `content` of each.
        seed: of this row; it alone decides the random numbers, in [0, 2**63).
        schema: of this row; None: the pipeline's.
    """

    messages: list[dict[str, str]]
    seed: int
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class RowResult:
    """What came of a request.

    Attributes:
        data: the validated object, or None after the last attempt.
        seed: the request's.
        attempts: how many were made.
        rejections: why each attempt that failed did; never any of its text.
    """

    data: dict[str, Any] | None
    seed: int
    attempts: int
    rejections: list[str] = field(default_factory=list)


def derive_seed(seed: int, number: int) -> int:
    """A seed in [0, 2**63) for the draw `number` under `seed`; the same everywhere, always."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


def plain_generation(max_new_tokens: int, end_token: int) -> GenerationConfig:
    """Greedy generation with all of the model's own defaults off: the last processor has drawn the token."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end_token,
        pad_token_id=end_token,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        suppress_tokens=[],
        use_cache=True,
    )
