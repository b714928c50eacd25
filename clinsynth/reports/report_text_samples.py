"""What a report on texts shows beside its numbers: a map of the embeddings, synthetic texts, pairs if allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.texts.text_closest import may_be_shown
from clinsynth.metrics.texts.text_words import TextSet

SAMPLES = 3
LONGEST = 600
"""Characters of a text that are shown."""
DOTS = 400
MAP = (320.0, 220.0)


@dataclass(frozen=True)
class ClassSamples:
    """Some synthetic texts of a class, how many of it may be shown (`shareable`), and how many there are."""

    name: str
    texts: list[str]
    shareable: int
    count: int


@dataclass(frozen=True)
class ClassMap:
    """Paths of dots, real and synthetic, of a class or of all."""

    name: str
    real: str
    synthetic: str


@dataclass(frozen=True)
class TextPair:
    """One closest pair in numbers, with its texts."""

    pair: dict[str, Any]
    synthetic: str
    real: str


@dataclass(frozen=True)
class TextSamples:
    """All of it; `explained` is the share of the real texts' variance that the map shows."""

    classes: list[ClassSamples]
    maps: list[ClassMap]
    explained: float
    pairs: list[TextPair]


def draw_text_samples(
    sets: dict[str, TextSet],
    rows: dict[str, np.ndarray],
    label_names: list[str],
    pairs: list[dict[str, Any]],
    seed: int,
) -> TextSamples:
    """Choose by `seed` what is shown.

    Args:
        sets, rows: "synthetic" and the real splits, texts and their embeddings (n, d).
        pairs: those whose texts are to stand side by side; none where real texts must not be shown.
    """
    synthetic, real = sets["synthetic"], [side for name, side in sets.items() if name != "synthetic"]
    real_rows = np.concatenate([own for name, own in rows.items() if name != "synthetic"])
    shareable = may_be_shown(synthetic, real, nearest(rows["synthetic"], real_rows)[0] ** 2 / 2)
    places, explained = project(rows["test"], rows["synthetic"])
    shown = [
        TextPair(pair, cut(synthetic.texts[pair["synthetic_row"]]), cut(sets["train"].texts[pair["train_row"]]))
        for pair in pairs
    ]
    return TextSamples(
        classes=[choose(synthetic, shareable, number, name, seed) for number, name in enumerate(label_names)],
        maps=list(draw_maps(places, (sets["test"].labels, synthetic.labels), label_names, seed)),
        explained=explained,
        pairs=shown,
    )


def choose(synthetic: TextSet, shareable: np.ndarray, number: int, name: str, seed: int) -> ClassSamples:
    """At most three texts of a class."""
    own = np.flatnonzero(synthetic.labels == number)
    allowed = own[shareable[own]]
    chosen = np.random.default_rng([seed, 2, number]).permutation(allowed)[:SAMPLES]
    return ClassSamples(name, [cut(synthetic.texts[row]) for row in chosen], len(allowed), len(own))


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"


def project(real: np.ndarray, synthetic: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Places (n, 2), (m, 2) on the first two principal axes of the real embeddings, and the variance these explain."""
    centre = real.mean(0)
    _, lengths, axes = np.linalg.svd(real - centre, full_matrices=False)
    total = float((lengths**2).sum())
    explained = float((lengths[:2] ** 2).sum() / total) if total else 0.0
    return ((real - centre) @ axes[:2].T, (synthetic - centre) @ axes[:2].T), explained


def draw_maps(
    places: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    label_names: list[str],
    seed: int,
) -> Iterator[ClassMap]:
    """A map of all, then one a class that has texts, on one scale; at most 400 dots a side and map."""
    everything = np.concatenate(places)
    low, span = everything.min(0), np.maximum(np.ptp(everything, axis=0), 1e-9)
    drawn = [6 + (side - low) / span * (np.array(MAP) - 12) for side in places]
    generator = np.random.default_rng([seed, 3])
    yield ClassMap("all classes", *(dots(side[generator.permutation(len(side))[:DOTS]]) for side in drawn))
    for number, name in enumerate(label_names):
        sides = [side[own == number] for side, own in zip(drawn, labels, strict=True)]
        if any(map(len, sides)):
            yield ClassMap(name, *(dots(side[generator.permutation(len(side))[:DOTS]]) for side in sides))


def dots(places: np.ndarray) -> str:
    """An SVG path of dots: moves, each with a line of no length, which a round cap makes a dot."""
    return "".join(f"M{across:.1f} {up:.1f}h0" for across, up in places)
