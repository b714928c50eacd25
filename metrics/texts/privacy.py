"""Privacy of texts as records: do the outputs come too near to train texts, repeat them, or name whom they name?

Embeddings see a paraphrase, runs of words see a copied passage in an otherwise new text; neither replaces the other.
Examples in a prompt are train texts as well, and the ones most likely to be copied: they are looked at by themselves.

Canaries are made-up sentences planted in the train texts. Exposure (Carlini et al. 2019, arXiv 1802.08232, section 4)
ranks one among sentences of the same making that were not planted. The model's likelihood is not at hand for a
synthetic set, so a sentence is scored by the longest run of its words that stands in a synthetic text, as in attacks
on released synthetic texts (Meeus et al. 2025, arXiv 2502.14921).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.metrics.comparisons import Sides, Values, measure_values, selections
from clinsynth.metrics.nearest import as_views, closest_rows, nearest
from clinsynth.metrics.privacy.closest_records import MemorisationRecord, measure_memorisation
from clinsynth.metrics.records import (
    Features,
    Measurement,
    MeasurementSettings,
    empty_record,
    mean_interval,
    with_means,
)
from clinsynth.metrics.texts.entities import all_entities, common_words, leaks
from clinsynth.metrics.texts.words import number_words, shared_runs, shared_words, word_rows, words_of

if TYPE_CHECKING:
    from clinsynth.data.texts import TextSet

PLAGIARISM = 0.05
"""Cosine distance below which Fidelity, Diversity, and Privacy (arXiv 2604.27014) calls a text plagiarised."""
RUN = 8
WORDS = "words"
TRAIN, PROMPT = "train", "prompt"


def measure_closeness(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records "nearest_distance" (cosine, mean over texts) and "plagiarism_share" (below 0.05) to the train texts.

    `rows` are embeddings of unit length. Compare with the held-out floor: what new real texts have to all train texts.
    """
    return measure_values(closeness, sides, TRAIN, settings, f"cosine, plagiarism below {PLAGIARISM}")


def closeness(queries: Features, train: Features) -> Values:
    distances = nearest(queries.rows, train.rows)[0] ** 2 / 2
    return {"nearest_distance": distances, "plagiarism_share": (distances < PLAGIARISM).astype(float)}


def measure_closest(
    synthetic: Features, train: Features, held_out: Features, label_names: list[str], settings: MeasurementSettings
) -> list[MemorisationRecord]:
    """DCR shares and NNDR of embeddings, overall and a class."""
    near = closest_rows(as_views(synthetic.rows), train.rows), closest_rows(as_views(held_out.rows), train.rows)
    return measure_memorisation((synthetic, train, held_out), near, label_names, settings)


def measure_overlap(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records of what texts share with train texts word for word; `rows` are lists of words.

    "longest_shared_ngram": words of the longest run that stands in a train text, mean over texts. "ngram8_share":
    share of the texts with a run of eight words. "copied_words": share of a text's words in such runs, mean.
    "exact_copies": share of the texts all of whose words, in their order, are a train text.
    """
    return measure_values(overlap, sides, TRAIN, replace(settings, extractor=WORDS))


def overlap(queries: Features, train: Features) -> Values:
    texts, others = number_words(queries.rows, train.rows)
    longest, copied = shared_words(texts, others, RUN)
    known = {tuple(words) for words in train.rows}
    return overlap_values(longest, copied, np.array([tuple(words) in known for words in queries.rows]))


def overlap_values(longest: np.ndarray, copied: np.ndarray, exact: np.ndarray) -> Values:
    return {
        "longest_shared_ngram": longest.astype(float),
        "ngram8_share": (longest >= RUN).astype(float),
        "copied_words": copied,
        "exact_copies": exact.astype(float),
    }


def measure_prompt_overlap(
    synthetic: TextSet, train: TextSet, held_out: TextSet, label_names: list[str], settings: MeasurementSettings
) -> list[Measurement]:
    """The records of `measure_overlap` with the examples in each text's own prompt alone, reference "prompt".

    The held-out floor is what held-out texts share with the examples of a synthetic text of their class, drawn by
    seed. n_real: train texts that were examples. No record where the examples are not known.

    Raises:
        ValueError: an example is none of the train texts.
    """
    if synthetic.example_ids is None or not any(synthetic.example_ids):
        return []
    rows = dict(zip(train.ids, word_rows(train.texts), strict=True))
    unknown = next((name for names in synthetic.example_ids for name in names if name not in rows), None)
    if unknown is not None:
        raise ValueError(
            f"example_ids names {unknown!r}, which no train text has; give the --real that the prompts were made from"
        )
    settings = replace(settings, extractor=WORDS)
    examples = [[rows[name] for name in names] for names in synthetic.example_ids]
    values = overlap_by_pairs(word_rows(synthetic.texts), examples)
    paired = pair_by_class(held_out.labels, synthetic.labels, settings.seed)
    known = np.flatnonzero(paired >= 0)
    shown = [examples[other] for other in paired[known]]
    floors = overlap_by_pairs(word_rows(held_out.texts[number] for number in known), shown)
    used = len({name for names in synthetic.example_ids for name in names})
    records = []
    for label, chosen, own in selections(synthetic.labels, held_out.labels[known], label_names):
        for metric, found in values.items():
            record = empty_record(metric, label, PROMPT, (used, int(chosen.sum())), 0, settings)
            records.append(with_means(record, found[chosen], [], floors[metric][own], settings))
    return records


def overlap_by_pairs(rows: Iterable[list[str]], examples: list[list[list[str]]]) -> Values:
    """What each text shares with its own examples."""
    found = []
    for words, own in zip(rows, examples, strict=True):
        texts, others = number_words([words], own)
        longest, copied = shared_words(texts, others, RUN)
        found.append((longest[0], copied[0], words in own))
    table = np.array(found, dtype=float).reshape(-1, 3)
    return overlap_values(table[:, 0], table[:, 1], table[:, 2])


def pair_by_class(labels: np.ndarray, others: np.ndarray, seed: int) -> np.ndarray:
    """For each of `labels` (n,) a random place in `others` that has it, -1 where none has."""
    generator = np.random.default_rng([seed, 10])
    places = np.full(len(labels), -1)
    for label in np.intersect1d(labels, others):
        own = labels == label
        places[own] = generator.choice(np.flatnonzero(others == label), size=int(own.sum()))
    return places


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
    *_, (length, places, _) = shared_runs([text], others)  # they grow longer
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
    found = all_entities(known, common)
    named = np.any(list(leaks(synthetic.texts, found, common).values()), axis=0)
    return (longest < RUN) & (longest < half) & (distances >= PLAGIARISM) & ~named


EXPOSURE, EMITTED = "canary_exposure", "canaries_emitted"
WORDS_A_CANARY = 10
OPENINGS, ENDINGS = (
    "bo da fe gu ka li mo nu pa re si to va wi zu".split(),
    "ban dor fil gem kos lat mir nop ras tel".split(),
)


@dataclass(frozen=True)
class Canaries:
    """Sentences that were planted in the train texts, and `references` of the same making that were not."""

    planted: list[str]
    references: list[str]


def make_canaries(planted: int = 20, references: int = 1000, seed: int = 0) -> Canaries:
    """Different sentences of ten made-up words each."""
    generator = np.random.default_rng([seed, 9])
    words = [opening + ending for opening in OPENINGS for ending in ENDINGS]
    sentences: dict[str, None] = {}
    while len(sentences) < planted + references:
        sentences[" ".join(generator.choice(words, WORDS_A_CANARY))] = None
    drawn = list(sentences)
    return Canaries(drawn[:planted], drawn[planted:])


def measure_exposure(texts: list[str], canaries: Canaries, settings: MeasurementSettings) -> list[Measurement]:
    """Records "canary_exposure" (bits) and "canaries_emitted" (share of the planted ones that stand there whole).

    A planted canary has log2(references + 1) bits where no reference scores as high, and about 1 bit where scores say
    nothing; ties count half. The floor is the mean of the references, each ranked among the others. n_real: planted
    canaries; intervals are over these.

    Raises:
        ValueError: fewer than two references, or no planted canary.
    """
    if not canaries.planted or len(canaries.references) < 2:
        raise ValueError(
            f"canary exposure needs planted canaries and two references or more, got {len(canaries.planted)} and "
            f"{len(canaries.references)}; make_canaries makes both"
        )
    sentences, rows = number_words(*(map(words_of, side) for side in (canaries.planted + canaries.references, texts)))
    lengths = np.array([len(sentence) for sentence in sentences])
    scores = shared_words(sentences, rows)[0] / lengths
    planted, references = scores[: len(canaries.planted)], scores[len(canaries.planted) :]
    others = len(references)
    settings = replace(settings, extractor="words")
    floor = exposures(references, references, own=1).mean()
    values = {
        EXPOSURE: (exposures(planted, references), float(floor)),
        EMITTED: (planted == 1, float((references == 1).mean())),
    }
    note = f"{len(planted)} planted, {others} references, at most {np.log2(others + 1):.1f} bits"
    records = []
    for metric, (found, known) in values.items():
        record = empty_record(metric, "overall", "canaries", (len(planted), len(texts)), 0, settings)
        value, interval = float(found.mean()), mean_interval(found, settings)
        records.append(replace(record, value=value, interval=interval, floor=known, note=note))
    return records


def exposures(scores: np.ndarray, references: np.ndarray, own: int = 0) -> np.ndarray:
    """Bits (n,) of each score among the references, `own` of which are the sentence itself."""
    above = (references > scores[:, None]).sum(1)
    equal = (references == scores[:, None]).sum(1) - own
    return np.log2(len(references) - own + 1) - np.log2(1 + above + equal / 2)
