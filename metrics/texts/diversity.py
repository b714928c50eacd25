"""Diversity of texts as records: is the vocabulary as rich as the real one, and do texts repeat one another?

Every one of these numbers depends on how much text it is taken from. Words are therefore counted in streams: texts in
random order, end to end, cut at one budget of words for both sides. The floor of a record is the real texts' own value
in the same amount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clinsynth.metrics.comparisons import FLOOR_SPLITS, Comparison
from clinsynth.metrics.intervals import percentile_interval
from clinsynth.metrics.records import MIN_ROWS, Features, Measurement, MeasurementSettings, with_means
from clinsynth.metrics.texts.words import number_words, self_bleu

WORDS = "words"
BUDGET, FEWEST_WORDS = 5000, 100
FEWEST_DRAWS = 20
WINDOW, MTLD_THRESHOLD = 50, 0.72


class Stream(NamedTuple):
    """Word numbers int64 (words,) and for each word the number of the text that it stands in."""

    words: np.ndarray
    texts: np.ndarray


def measure_streams(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records "distinct_1" to "distinct_3", "mattr", "mtld" and "vocabulary_coverage" of lists of words in `rows`.

    Budget: half the words of the side that has fewer, at most 5,000. The value is the mean over random streams, the
    interval the middle 95 % of them, which is that of all words (delete-half jackknife) where the budget is half of
    them, and wider where the real texts are fewer or the budget is capped. Below the floor: less diverse. MATTR and
    MTLD see what repeats within some fifty words: texts that are longer and each written twice escape them.

    "vocabulary_coverage" is the share of the different words of a real stream that a synthetic one has too; its floor
    compares two real streams that share no text.
    """
    settings = replace(settings, extractor=WORDS)
    records = {name: comparison.empty_record(name, settings) for name in STATISTICS}
    if min(comparison.sizes) < MIN_ROWS:
        return list(records.values())
    given = (comparison.synthetic, comparison.real, comparison.other)
    sides = number_words(*(side.rows for side in given if side is not None))
    budget = min(BUDGET, *(sum(map(len, side)) // 2 for side in sides[:2]))
    if budget < FEWEST_WORDS:
        note = f"not measured, a side has fewer than {2 * FEWEST_WORDS} words"
        return [replace(record, note=note) for record in records.values()]
    values, floors, held_out = draw_values(sides, budget, settings)
    for name, record in records.items():
        records[name] = replace(
            record,
            value=float(np.mean(values[name])),
            interval=percentile_interval(values[name]) if settings.replicates else None,
            floor_held_out=float(np.mean(held_out[name])) if held_out else None,
            note=f"in {budget} words",
        ).with_floors(floors[name], len(comparison.real))
    return list(records.values())


def draw_values(
    sides: list[list[np.ndarray]], budget: int, settings: MeasurementSettings
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[float]]]:
    """Values of random streams by statistic: synthetic, real, and those of the other real split (or none)."""
    generator = np.random.default_rng([settings.seed, 7])
    found: list[dict[str, list[float]]] = [{}, {}, {}]
    long_enough = len(sides) > 2 and sum(map(len, sides[2])) >= budget
    for _ in range(max(settings.replicates, FEWEST_DRAWS)):
        synthetic = draw_stream(sides[0], budget, generator)
        real, rest = draw_two_streams(sides[1], budget, generator)
        streams = [synthetic, rest, draw_stream(sides[2], budget, generator)] if long_enough else [synthetic, rest]
        for values, stream in zip(found, streams, strict=False):
            for name, statistic in STATISTICS.items():
                values.setdefault(name, []).append(statistic(stream, real))
    return found[0], found[1], found[2]


def draw_stream(texts: list[np.ndarray], budget: int, generator: np.random.Generator) -> Stream:
    """Texts in random order, cut at `budget` words."""
    return join(texts, generator.permutation(len(texts)), budget)


def draw_two_streams(texts: list[np.ndarray], budget: int, generator: np.random.Generator) -> tuple[Stream, Stream]:
    """Two streams without a common text: one from the start of a random order, one from its end.

    Where one long text would be in both, the second is shorter by it.
    """
    order = generator.permutation(len(texts))
    lengths = np.cumsum([len(texts[number]) for number in order])
    used = int(np.searchsorted(lengths, budget)) + 1
    return join(texts, order[:used], budget), join(texts, order[used:][::-1], budget)


def join(texts: list[np.ndarray], order: np.ndarray, budget: int) -> Stream:
    parts, owners, total = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], 0
    for number in order:
        if total >= budget:
            break
        parts.append(texts[number])
        owners.append(np.full(len(texts[number]), number))
        total += len(texts[number])
    return Stream(np.concatenate(parts)[:budget], np.concatenate(owners)[:budget])


def distinct(stream: Stream, order: int) -> float:
    """Different n-grams over all n-grams within texts (Li et al. 2016, arXiv 1510.03055); in (0, 1]."""
    count = len(stream.words) - order + 1
    base, keys = int(stream.words.max(initial=0)) + 1, np.zeros(max(count, 0), dtype=np.int64)
    for start in range(order):
        _, keys = np.unique(keys * base + stream.words[start : start + count], return_inverse=True)
    inside = stream.texts[order - 1 :] == stream.texts[:count]
    return len(np.unique(keys[inside])) / inside.sum() if inside.any() else 1.0


def mattr(words: np.ndarray, window: int = WINDOW) -> float:
    """Moving-average type-token ratio (Covington & McFall 2010): different words in a window, over its length, mean.

    A word adds to the windows that hold it but no earlier occurrence of it.
    """
    window = min(window, len(words))
    order = np.argsort(words, kind="stable")
    previous = np.full(len(words), -1)
    same = words[order[1:]] == words[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    place = np.arange(len(words))
    last = np.minimum(place, len(words) - window)
    first = np.maximum(np.maximum(previous, place - window) + 1, 0)
    return float(np.maximum(last - first + 1, 0).sum() / (len(words) - window + 1) / window)


def mtld(words: np.ndarray, threshold: float = MTLD_THRESHOLD) -> float:
    """Measure of textual lexical diversity (McCarthy & Jarvis 2010): words a factor, forwards and backwards, mean.

    A factor is a stretch over which the type-token ratio falls to `threshold`; the rest counts in proportion. Words
    that never repeat make no factor; they count as one, so that the value is at most the number of words.
    """
    numbers = words.tolist()
    return (one_way_mtld(numbers, threshold) + one_way_mtld(numbers[::-1], threshold)) / 2


def one_way_mtld(words: list[int], threshold: float) -> float:
    factors, count, types = 0.0, 0, set()
    ratio = 1.0
    for word in words:
        count += 1
        types.add(word)
        ratio = len(types) / count
        if ratio <= threshold:
            factors, count, types, ratio = factors + 1, 0, set(), 1.0
    factors += (1 - ratio) / (1 - threshold)
    return len(words) / (factors or 1)


def vocabulary_coverage(real: np.ndarray, words: np.ndarray) -> float:
    """Share of the different words of a real stream that `words` hold too."""
    return float(np.isin(np.unique(real), words).mean())


STATISTICS: dict[str, Callable[[Stream, Stream], float]] = {
    "distinct_1": lambda stream, real: distinct(stream, 1),
    "distinct_2": lambda stream, real: distinct(stream, 2),
    "distinct_3": lambda stream, real: distinct(stream, 3),
    "mattr": lambda stream, real: mattr(stream.words),
    "mtld": lambda stream, real: mtld(stream.words),
    "vocabulary_coverage": lambda stream, real: vocabulary_coverage(real.words, stream.words),
}
"""Of a stream, beside a real one that shares no text with it."""

NEAR_THRESHOLD = 0.7
REPETITIONS = ("self_bleu", "exact_duplicates", "near_duplicates")


def measure_repetition(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records "self_bleu", "exact_duplicates" and "near_duplicates" of lists of words in `rows`.

    Means over texts: Self-BLEU, the share that has its twin among the others, and the share with a near-duplicate
    (MinHash likeness of 0.7 or more) there. All rise with the number of texts: both sides are cut to the smaller one,
    by `seed`. The floor is the real texts' own value over five such cuts, or the held-out floor that of `other`, where
    it is as large. The interval is a bootstrap over texts with their fellows as they are.
    """
    settings = replace(settings, extractor=WORDS)
    size, other = min(comparison.sizes), comparison.other
    records = [comparison.empty_record(name, settings) for name in REPETITIONS]
    if records[0].note:
        return records
    values = next(repetitions(comparison.synthetic, size, settings.seed))
    floors = list(repetitions(comparison.real, size, settings.seed))
    large = other if other is not None and len(other) >= size else None
    held_out = None if large is None else next(repetitions(large, size, settings.seed))
    measured = []
    for record in records:
        known = [floor[record.metric] for floor in floors]
        seen = None if held_out is None else held_out[record.metric]
        measured.append(with_means(record, values[record.metric], known, seen, settings, f"among {size} texts"))
    return measured


def repetitions(side: Features, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """`repetition` of five random sets of `size` texts; of all of them, once, where the side has no more."""
    from clinsynth.data.duplicates import signature

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

    from clinsynth.data.duplicates import MARGIN, PERMUTATIONS

    index: Any = MinHashLSH(threshold=threshold - MARGIN, num_perm=PERMUTATIONS)
    for number, own in enumerate(hashes):
        index.insert(number, own)
    return np.array(
        [
            float(any(other != number and own.jaccard(hashes[other]) >= threshold for other in index.query(own)))
            for number, own in enumerate(hashes)
        ]
    )
