"""What a prompt says beyond its task, drawn for each row: topics of the label, its neighbour, its place on a scale.

After ClinGen (Xu et al. 2024, arXiv 2311.00287), which draws topics and styles, and contrastive instructions. A row
keeps what was drawn in its column `prompt_choices`, which is not published: topics are words of real texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.pipelines.structured_medical_text.prompts import Task, draw, quote

LEAST_TEXTS = 3
"""Of a label, that hold a word before it is a topic: a word of fewer may tell of a person."""
MOST_TOPICS, TOPICS_A_PROMPT = 40, 2
WORD = re.compile(r"[^\W\d_]{4,}")
POOL = 8
"""Times as many examples are drawn as stand in a prompt, before the most different ones of them are chosen."""


@dataclass(frozen=True)
class PromptParts:
    """What is said besides.

    Attributes:
        parts: those wanted, of the names that --prompt_parts takes.
        topics: label to its topics.
        neighbours: label to the one that it is most easily taken for.
        vectors: label to the vectors (n, d), of unit length, of the examples that its prompts choose from.
    """

    parts: tuple[str, ...]
    topics: dict[str, list[str]]
    neighbours: dict[str, str]
    vectors: dict[str, Any]

    def choose(self, task: Task, label: str, seed: int) -> tuple[list[str], dict[str, Any]]:
        """Sentences to add to a prompt, and what was chosen for them."""
        lines: list[str] = []
        choices: dict[str, Any] = {"style": draw(task.styles, 1, seed, "style")[0]}
        if "topics" in self.parts:
            known = self.topics[label]
            choices["topics"] = draw(known, min(TOPICS_A_PROMPT, len(known)), seed, "topics")
            lines.append(f"Let it touch on: {', '.join(choices['topics'])}.")
        if "contrast" in self.parts:
            other = choices["contrast"] = self.neighbours[label]
            lines.append(
                f"It must not read as one with the label {quote(other)}, which means: {task.labels[other]} "
                f"Show what tells {quote(label)} from that."
            )
        if "scale" in self.parts:
            lines.append(self.place(list(self.neighbours), label))
        if "diverse" in self.parts:
            choices["examples"] = "most different"
        return lines, choices

    @staticmethod
    def place(names: list[str], label: str) -> str:
        """Where a label stands among all, in their order."""
        number = names.index(label)
        below = f"go beyond {quote(names[number - 1])}" if number else ""
        above = f"stay short of {quote(names[number + 1])}" if number + 1 < len(names) else ""
        between = ", and ".join(part for part in (below, above) if part)
        scale = ", ".join(map(quote, names))
        return f"The labels, from the least to the most, are {scale}. Yours is number {number + 1}: {between}."

    def choose_examples(self, pool: list[dict[str, Any]], label: str, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` of a pool's examples: the first by the seed, each next one farthest from those before it, of some
        that the seed draws (greedy k-center, Gonzalez 1985)."""
        numbers = draw(range(len(pool)), min(len(pool), POOL * count), seed, "k_shot")
        vectors = self.vectors[label][numbers]
        chosen = farthest_first(vectors, count)
        return [pool[numbers[place]] for place in chosen]


def farthest_first(vectors: Any, count: int) -> list[int]:
    """Numbers of `count` rows of vectors (n, d) of unit length, dense or sparse: the first, then always the one whose
    nearest chosen row is farthest."""
    chosen = [0]
    likeness = as_row(vectors @ vectors[0].T)
    while len(chosen) < count:
        likeness[chosen] = np.inf
        chosen.append(int(likeness.argmin()))
        likeness = np.maximum(likeness, as_row(vectors @ vectors[chosen[-1]].T))
    return chosen


def as_row(values: Any) -> np.ndarray:
    row: np.ndarray = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=float).ravel()
    return row


def load_parts(
    parts: Sequence[str],
    names: list[str],
    texts: Sequence[str],
    labels: np.ndarray,
    pools: dict[str, list[dict[str, Any]]],
) -> PromptParts:
    """The parts `parts`, of the real train texts and their labels; `pools` are the examples by label.

    Raises:
        ValueError: a label has no word that may be a topic.
    """
    vectors: dict[str, Any] = {}
    if "diverse" in parts:
        from clinsynth.models.linear_texts import tfidf

        measure = tfidf(texts)
        vectors = {name: measure.transform([one["text"] for one in pool]) for name, pool in pools.items() if pool}
    topics = find_topics(names, texts, labels) if "topics" in parts else {}
    neighbours = find_neighbours(names, texts, labels) if "contrast" in parts else dict.fromkeys(names, "")
    return PromptParts(tuple(parts), topics, neighbours, vectors)


def find_topics(names: list[str], texts: Sequence[str], labels: np.ndarray) -> dict[str, list[str]]:
    """The words of each label that tell most of it: of four letters and more, never with a capital, in three different
    texts of the label or more, by their share of its Kullback-Leibler divergence from all labels."""
    seen: list[Counter[str]] = [Counter() for _ in names]
    counts: list[int] = [0] * len(names)
    capital: set[str] = set()
    for text, label in {(text, int(label)) for text, label in zip(texts, labels, strict=True)}:
        words = set(WORD.findall(text))
        capital |= {word.lower() for word in words if word != word.lower()}
        seen[label].update(word for word in words if word == word.lower())
        counts[label] += 1
    total, everything = sum(counts), sum(seen, Counter[str]())
    found = {}
    for name, own, count in zip(names, seen, counts, strict=True):
        weights = {
            word: there / count * np.log((there / count) / (everything[word] / total))
            for word, there in own.items()
            if there >= LEAST_TEXTS and word not in capital
        }
        found[name] = sorted(weights, key=lambda word: (-weights[word], word))[:MOST_TOPICS]
        if not found[name]:
            raise ValueError(
                f"--prompt_parts topics: no word stands in {LEAST_TEXTS} train texts of {name!r}; leave topics out"
            )
    return found


def find_neighbours(names: list[str], texts: Sequence[str], labels: np.ndarray) -> dict[str, str]:
    """Label to the one that a classifier of the real texts most takes it for, on texts that it did not see; where
    there are not enough of them the next in their order.

    Raises:
        ValueError: there is one label alone.
    """
    if len(names) < 2:
        raise ValueError("--prompt_parts contrast needs two labels or more; leave contrast out")
    counts = np.bincount(labels, minlength=len(names)) if len(labels) else np.zeros(len(names))
    if counts.min() < 2:
        return {
            name: names[number + 1] if number + 1 < len(names) else names[number - 1]
            for number, name in enumerate(names)
        }
    from clinsynth.models.linear_texts import cross_fitted, tfidf

    found, _ = cross_fitted(tfidf(texts).transform(texts), labels, len(names), folds=int(min(5, counts.min())))
    means = np.stack([found[labels == number].mean(0) for number in range(len(names))])
    np.fill_diagonal(means, -1)
    return {name: names[int(row.argmax())] for name, row in zip(names, means, strict=True)}
