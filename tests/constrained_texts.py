"""Schemas, tokenizers and random logits by which several tests write constrained texts."""

import random
from collections.abc import Iterable
from typing import Any

import torch
from text_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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


PLAIN = record(
    text=text(2, 30),
    notes={"type": "array", "items": text(0, 9), "minItems": 1, "maxItems": 3},
    score={"type": "integer", "minimum": 0, "maximum": 27},
    code={"type": "string", "pattern": "^[A-Z][0-9]{2}( b|\\.[0-9])?$"},
    grade={"enum": ["mild", "severe", "group A", "group A+"]},
    maybe={"anyOf": [{"type": "null"}, record(z={"type": "boolean"})]},
    few={
        "type": "array",
        "items": {"type": "array", "items": text(0, 3), "maxItems": 1},
        "minItems": 1,
        "maxItems": 1,
    },
)
"""A schema for back ends that know less."""

PATTERNS = [
    "^(ja|nein|möglich)$",
    "^ä{2,3}$",
    "^[0-9]{1,3}\\$",
    "^ {2}b$",
    '^"[a-z]{1,3}"$',
    "^[0-9]{2}$",
    "^a$|^b{3}$",
]
PATTERNS += ["(c\\\\){2}", "^[^ab]{0,4}$", "^\\w{1,3} \\d{2}-\\S$", "^(?i:yes|no)$", "^$"]
WITH_PATTERNS = record(
    **{f"p{number}": {"type": "string", "pattern": pattern} for number, pattern in enumerate(PATTERNS)}
)


def random_value(chooser: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of any kind that is known here, objects and lists within each other to a depth of three."""
    least, kind = chooser.randint(0, 3), chooser.randrange(3 if depth == 3 else 5)
    if kind == 0:
        return text(least, least + chooser.randint(1, 20))
    if kind == 1:
        plain: list[dict[str, Any]] = [{"type": name} for name in ("integer", "number", "boolean", "null")]
        return chooser.choice([*plain, {"type": "string", "pattern": chooser.choice(PATTERNS)}])
    if kind == 2:
        words, numbers = ["a", "ab", "é", "è😀", 'x"y', "", "tab\t"], [1, 12, 123, -1, 0.5, -12]
        options = [text(0, 9), {"type": "null"}, {"type": "integer"}, record(z=text(1, 3)), {"type": "boolean"}]
        values = chooser.choice([{"enum": words}, {"enum": numbers}, {"anyOf": options}])
        return {name: chooser.sample(found, chooser.randint(1, len(found))) for name, found in values.items()}
    if kind == 3:
        items = random_value(chooser, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + chooser.randint(1, 3)}
    names = chooser.sample(["a", "b b", "é", 'q"', "x\\y", "😀"], chooser.randint(1, 3))
    return record(**{name: random_value(chooser, depth + 1) for name in names})


def byte_level(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of these tokens, in the letters of byte-level BPE, and an end token."""
    vocabulary = {"<end>": 0} | {word: number for number, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def write(
    constraint: Any,
    rows: int = 4,
    seed: int = 0,
    budget: int | None = None,
    spread: float = 3.0,
    prompt: torch.Tensor | None = None,
    favour: torch.Tensor | None = None,
) -> list[list[int]]:
    """Generated tokens, a list a row, from random logits, to which `favour` (V) is added."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, 7, dtype=torch.long) if prompt is None else prompt
    length = ids.shape[1]
    processor = constraint.processor(length, rows, budget)
    for _ in range(budget or constraint.max_tokens):
        logits = torch.randn(rows, len(constraint.tokenizer) + 5, generator=generator) * spread
        if favour is not None:
            logits[:, : len(favour)] += favour
        scores = processor(ids, logits)
        assert scores.isfinite().any(1).all()
        ids = torch.cat([ids, scores.argmax(1, keepdim=True)], 1)
        if (ids[:, length:] == constraint.end_token).any(1).all():
            break
    return ids[:, length:].tolist()
