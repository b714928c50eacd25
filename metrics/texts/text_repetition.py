"""Repetition among texts as records: Self-BLEU, exact and near duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from clinsynth.metrics.record import Measurement, MeasurementSettings, empty_record, mean_interval
from clinsynth.metrics.records import FLOOR_SPLITS, Features
from clinsynth.metrics.texts.text_words import number_words
from clinsynth.metrics.texts.words import self_bleu

WORDS = "words"
NEAR_THRESHOLD = 0.7
REPETITIONS = ("self_bleu", "exact_duplicates", "near_duplicates")


def measure_repetition(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records "self_bleu", "exact_duplicates" and "near_duplicates" of lists of words in `rows`.

    Means over texts: Self-BLEU, the share that has its twin among the others, and the share with a near-duplicate
    (MinHash likeness of 0.7 or more) there. All rise with the number of texts: both sides are cut to the smaller one,
    by `seed`. The floor is the real texts' own value over five such cuts, or the held-out floor that of `other`, where
    it is as large. The interval is a bootstrap over texts with their fellows as they are.
    """
    settings = replace(settings, extractor=WORDS)
    size = min(len(real), len(synthetic))
    records = [empty_record(name, label, reference, (len(real), len(synthetic)), 0, settings) for name in REPETITIONS]
    if records[0].note:
        return records
    values = next(repetitions(synthetic, size, settings.seed))
    floors = list(repetitions(real, size, settings.seed))
    large = other is not None and len(other) >= size
    held_out = next(repetitions(other, size, settings.seed)) if other is not None and large else None
    measured = []
    for record in records:
        own = replace(
            record,
            value=float(values[record.metric].mean()),
            interval=mean_interval(values[record.metric], settings),
            floor_held_out=None if held_out is None else float(held_out[record.metric].mean()),
            note=f"among {size} texts",
        )
        measured.append(own.with_floors([float(floor[record.metric].mean()) for floor in floors], size))
    return measured


def repetitions(side: Features, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """`repetition` of five random sets of `size` texts; of all of them, once, where the side has no more."""
    from clinsynth.data.text_duplicates import signature

    (texts,) = number_words(side.rows)
    joined = [" ".join(words) for words in side.rows]
    hashes = [signature(text) for text in joined]
    generator = np.random.default_rng([seed, 6])
    for _ in range(FLOOR_SPLITS if len(side) > size else 1):
        chosen = np.sort(generator.permutation(len(side))[:size])
        yield {
            "self_bleu": self_bleu([texts[number] for number in chosen]),
            "exact_duplicates": exact_duplicates([joined[number] for number in chosen]),
            "near_duplicates": near_duplicates([hashes[number] for number in chosen]),
        }


def exact_duplicates(texts: list[str]) -> np.ndarray:
    """Which texts stand there twice or more: float64 (n,) of 0 and 1."""
    _, numbers, counts = np.unique(texts, return_inverse=True, return_counts=True)
    return (counts[numbers] > 1).astype(float)


def near_duplicates(hashes: list[Any], threshold: float = NEAR_THRESHOLD) -> np.ndarray:
    """Which of the MinHashes have another with an estimated likeness of `threshold` or more: float64 (n,), 0 and 1."""
    from datasketch import MinHashLSH

    from clinsynth.data.text_duplicates import MARGIN, PERMUTATIONS

    index: Any = MinHashLSH(threshold=threshold - MARGIN, num_perm=PERMUTATIONS)
    for number, own in enumerate(hashes):
        index.insert(number, own)
    return np.array(
        [
            float(any(other != number and own.jaccard(hashes[other]) >= threshold for other in index.query(own)))
            for number, own in enumerate(hashes)
        ]
    )
