"""What is asked of the pipeline for one row, what comes of it, and how a row is drawn.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

CANDIDATES = 256
"""Tokens among which the nucleus is looked for first; only where they do not fill it are all sorted."""


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
        thought_tokens: tokens of thoughts before the answers, of all attempts; the thoughts are not kept.
    """

    data: dict[str, Any] | None
    seed: int
    attempts: int
    rejections: list[str] = field(default_factory=list)
    thought_tokens: int = 0


def derive_seed(seed: int, number: int) -> int:
    """A seed in [0, 2**63) for the draw `number` under `seed`; the same everywhere, always.

    Not that of `clinsynth.seeds`: this file is copied into checkpoints, which load without clinsynth.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


Outcome = tuple[dict[str, Any] | None, str | None]
"""The object of an answer and None, or None and why it is refused."""


def attempt_rows(
    requests: list[RowRequest],
    attempt: Callable[[list[RowRequest], list[int]], list[Outcome]],
    batch_size: int,
    max_attempts: int,
) -> Iterator[RowResult]:
    """A result a request, in their order; one that fails is attempted again in the next batch.

    Args:
        attempt: makes one attempt at each request of a batch, given how many have failed before.
    """
    waiting = deque(enumerate(requests))
    failed: dict[int, list[str]] = {number: [] for number in range(len(requests))}
    finished: dict[int, RowResult] = {}
    following = 0
    while waiting:
        batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        outcomes = attempt([request for _, request in batch], [len(failed[number]) for number, _ in batch])
        # the last first: what fails goes to the front again, and there in its order
        for (number, request), (data, reason) in reversed(list(zip(batch, outcomes, strict=True))):
            if reason is not None:
                failed[number].append(reason)
                if len(failed[number]) < max_attempts:
                    waiting.appendleft((number, request))
                    continue
            attempts = len(failed[number]) + (reason is None)
            finished[number] = RowResult(data, request.seed, attempts, failed.pop(number))
        while following in finished:
            yield finished.pop(following)
            following += 1


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


class EndOfThought(StoppingCriteria):
    """Ends a row where the tokens `mark` have been written after its prompt of `prompt_length` tokens."""

    def __init__(self, mark: list[int], prompt_length: int):
        self.mark, self.prompt_length = torch.tensor(mark), prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> Any:
        count = len(self.mark)
        if input_ids.shape[1] - self.prompt_length < count:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return (input_ids[:, -count:] == self.mark.to(input_ids.device)).all(1)


def thought_of(tokens: list[int], mark: list[int], end_token: int) -> list[int]:
    """The tokens before the first of `mark` and of the end token."""
    for place in range(len(tokens)):
        if tokens[place] == end_token or tokens[place : place + len(mark)] == mark:
            return tokens[:place]
    return tokens


class SeededSampling(LogitsProcessor):
    """Draws each row's next token by the row's own generator and leaves it as the only one, so that `generate` must be
    called with `do_sample=False`. It has to be the last processor.

    A row's n-th token takes the n-th number of the row's generator: what is drawn depends on the row's seed and logits
    alone. Tokens that `constraint` says are forced are not drawn.

    Args:
        seeds: one a row.
        temperature: of the softmax; 0 takes the likeliest token.
        top_p: the likeliest tokens that together have this probability are kept (Holtzman et al. 2020), in (0, 1].
        prompt_length, max_tokens: of the call of `generate`.
        constraint: the `SchemaLogits` that comes before, or None.
    """

    def __init__(
        self,
        seeds: list[int],
        temperature: float,
        top_p: float,
        prompt_length: int,
        max_tokens: int,
        constraint: Any = None,
    ):
        self.temperature, self.top_p, self.prompt_length = temperature, top_p, prompt_length
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.draws = torch.stack([torch.rand(max_tokens, generator=g, dtype=torch.float64) for g in generators])
        self.constraint = constraint

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (batch, V) with 0 for the token drawn and -inf for the others."""
        forced = self.constraint.forced if self.constraint is not None else [-1] * len(scores)
        tokens = torch.tensor(forced, device=scores.device)
        free = [row for row, token in enumerate(forced) if token < 0]
        if free:
            draws = self.draws[free, input_ids.shape[1] - self.prompt_length].to(scores.device)
            tokens[free] = self.draw(scores[free] if len(free) < len(scores) else scores, draws)
        result = torch.full_like(scores, -torch.inf)
        return result.scatter_(1, tokens[:, None], 0.0)

    def draw(self, scores: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Tokens (n) for logits (n, V) and numbers (n) in [0, 1): the inverse of the distribution function."""
        if self.temperature == 0:
            return scores.argmax(1)
        chances = torch.softmax(scores.float() / self.temperature, dim=1)
        if self.top_p < 1:
            chances = chances.where(chances >= self.cutoff(chances)[:, None], 0)
        cumulative = chances.double().cumsum(1)
        return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]

    def cutoff(self, chances: torch.Tensor) -> torch.Tensor:
        """The least probability (n) within each row's nucleus."""
        highest = chances.topk(min(CANDIDATES, chances.shape[1]), dim=1).values
        result = last_kept(highest, self.top_p)
        short = highest.double().sum(1) < self.top_p
        if short.any():
            result[short] = last_kept(chances[short].sort(dim=1, descending=True).values, self.top_p)
        return result


def last_kept(falling: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probability (n) with which each of the rows (n, m) of falling ones reaches `top_p`, or its last."""
    count = (falling.double().cumsum(1) < top_p).sum(1).clamp(max=falling.shape[1] - 1)
    return falling.gather(1, count[:, None])[:, 0]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise a `ValueError` that names the argument, its value and what it may be."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 or more, got {temperature}; 0 takes the likeliest token, 1 is usual")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}; 1 keeps all tokens")
