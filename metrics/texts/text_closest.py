"""Which synthetic texts come nearest to a train text, in numbers; how far all of them are; and which may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.texts.privacy import PLAGIARISM, RUN
from clinsynth.metrics.texts.text_entities import KINDS, common_words, entities
from clinsynth.metrics.texts.text_words import TextSet, number_words, word_rows
from clinsynth.metrics.texts.words import shared_runs, shared_words

PAIRS = 6
BY_MEANING, BY_WORDS = "embedding", "words"
BINS = 24


def closest_pairs(
    synthetic: TextSet, train: TextSet, rows: np.ndarray, train_rows: np.ndarray
) -> list[dict[str, Any]]:
    """The six pairs with the smallest cosine distance and the six with the longest common run of words; no text.

    Args:
        rows, train_rows: embeddings of unit length, (n, d) and (m, d).

    Returns:
        for each "by" (what made it a pair: "embedding" or "words"), "synthetic_row", "train_row", "train_id",
        "cosine_distance", "shared_run" (words), "copied_share" (of the synthetic text's words in common runs of eight
        words or more), "words" (of the synthetic text), "exact", and "in_prompt" (None where that is not known).
    """
    texts, others = number_words(word_rows(synthetic.texts), word_rows(train.texts))
    distances, numbers = nearest(rows, train_rows)
    near = [(int(row), int(numbers[row])) for row in np.argsort(distances, kind="stable")[:PAIRS]]
    runs = [(row, find_run(texts[row], others)) for row in longest_runs(texts, others)]
    pairs = []
    for by, row, other in [(BY_MEANING, *pair) for pair in near] + [(BY_WORDS, *pair) for pair in runs]:
        longest, copied = shared_words([texts[row]], [others[other]], RUN)
        prompt = synthetic.example_ids
        pairs.append(
            {
                "by": by,
                "synthetic_row": row,
                "train_row": other,
                "train_id": train.ids[other],
                "cosine_distance": float(1 - rows[row] @ train_rows[other]),
                "shared_run": int(longest[0]),
                "copied_share": float(copied[0]),
                "words": len(texts[row]),
                "exact": texts[row].tolist() == others[other].tolist(),
                "in_prompt": None if prompt is None else train.ids[other] in prompt[row],
            }
        )
    return pairs


def longest_runs(texts: list[np.ndarray], others: list[np.ndarray]) -> Iterator[int]:
    """Numbers of the six texts with the longest common runs, those of one word or more."""
    longest = shared_words(texts, others, RUN)[0]
    for row in np.argsort(-longest, kind="stable")[:PAIRS]:
        if longest[row]:
            yield int(row)


def find_run(text: np.ndarray, others: list[np.ndarray]) -> int:
    """The number of the first of `others` that holds the longest run that the text shares with any of them."""
    length, places = max(
        ((length, places) for length, places, _ in shared_runs([text], others)), key=lambda run: run[0]
    )
    run = as_words(text[places[0] : places[0] + length])
    return next(number for number, other in enumerate(others) if run in as_words(other))


def as_words(numbers: np.ndarray) -> str:
    return f" {' '.join(map(str, numbers.tolist()))} "


def describe_distributions(sets: dict[str, TextSet], rows: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Histograms of "words" (a text, by set) and "nearest" (cosine distance to the nearest train text).

    Each has "edges" (25,) and for each set "shares" (24,), which add up to 1. Lengths above the longest edge, the 99 %
    quantile of all, count in the last bin. In "nearest", "test" says how near new real texts come.
    """
    words = {name: np.array([len(own) for own in word_rows(side.texts)], dtype=float) for name, side in sets.items()}
    distances = {name: nearest(rows[name], rows["train"])[0] ** 2 / 2 for name in ("synthetic", "test")}
    longest = max(float(BINS), float(np.quantile(np.concatenate(list(words.values())), 0.99)))
    farthest = max(1e-6, *(float(values.max()) for values in distances.values()))
    return {"words": histogram(words, longest), "nearest": histogram(distances, farthest)}


def histogram(values: dict[str, np.ndarray], end: float) -> dict[str, Any]:
    edges = np.linspace(0, end, BINS + 1)
    shares = {name: np.histogram(np.minimum(own, end), edges)[0] / len(own) for name, own in values.items()}
    return {"edges": edges.tolist(), "shares": {name: own.tolist() for name, own in shares.items()}}


def may_be_shown(synthetic: TextSet, real: Iterable[TextSet], distances: np.ndarray) -> np.ndarray:
    """Mask (n,) of the synthetic texts that give away nothing of a real one, as far as the measures can see.

    Kept back is what shares eight words in a row, or half of its words, with a real text, lies within cosine distance
    0.05 of one (`distances` (n,), to the nearest), or holds a name, date, telephone number, address or record number
    that stands in one.
    """
    known = [text for side in real for text in side.texts]
    texts, others = number_words(word_rows(synthetic.texts), word_rows(known))
    longest = shared_words(texts, others, RUN)[0]
    half = np.array([len(text) for text in texts]) / 2
    common = common_words([*known, *synthetic.texts])
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for text in known:
        for kind, values in entities(text, common).items():
            found[kind] |= values
    named = [any(found[kind] & own for kind, own in entities(text, common).items()) for text in synthetic.texts]
    return (longest < RUN) & (longest < half) & (distances >= PLAGIARISM) & ~np.array(named, dtype=bool)
