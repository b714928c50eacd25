"""Schemas, a tokenizer and random logits by which several tests write constrained texts."""

from typing import Any

import torch
from text_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def text(least: int = 0, most: int = 12) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": most}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


EVERYTHING = record(
    label={"enum": ['mi"ld\\', "se\nvere", "café 😀", "קל", "group A", "group A+", ""]},
    score={"type": "integer", "minimum": 0, "maximum": 27},
    size={"type": "number"},
    whole={"type": "integer"},
    **{'ke"y': {"type": "boolean"}},
    code={"type": "string", "pattern": "^[A-Z][0-9]{2}( b|\\.[0-9])?$"},
    notes={"type": "array", "items": text(1, 5), "maxItems": 3},
    people={"type": "array", "items": record(name=text(2, 4), age={"type": "integer"}), "minItems": 1, "maxItems": 2},
    grid={"type": "array", "items": {"type": "array", "items": {"enum": [1, 12, 3]}, "maxItems": 2}, "maxItems": 2},
    maybe={"anyOf": [text(), {"type": "null"}, record(z={"type": "integer"})]},
    free=text(30, 80),
)


def write(
    constraint: Any,
    rows: int = 4,
    seed: int = 0,
    budget: int | None = None,
    spread: float = 3.0,
    prompt: torch.Tensor | None = None,
) -> list[list[int]]:
    """Generated tokens, a list a row, from random logits."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, 7, dtype=torch.long) if prompt is None else prompt
    length = ids.shape[1]
    processor = constraint.processor(length, rows, budget)
    for _ in range(budget or constraint.max_tokens):
        logits = torch.randn(rows, len(constraint.tokenizer) + 5, generator=generator) * spread
        scores = processor(ids, logits)
        assert scores.isfinite().any(1).all()
        ids = torch.cat([ids, scores.argmax(1, keepdim=True)], 1)
        if (ids[:, length:] == constraint.end_token).any(1).all():
            break
    return ids[:, length:].tolist()
