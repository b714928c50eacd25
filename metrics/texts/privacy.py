"""Privacy of texts as records: do the outputs come too near to train texts, repeat them, or name whom they name?

Embeddings see a paraphrase, runs of words see a copied passage in an otherwise new text; neither replaces the other.
Examples in a prompt are train texts as well, and the ones most likely to be copied: they are looked at by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from clinsynth.metrics.closest import as_views, closest_rows
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.privacy.closest_records import measure_shares
from clinsynth.metrics.privacy.memorisation import MemorisationRecord, measure_ratios, selections
from clinsynth.metrics.record import Measurement, MeasurementSettings, empty_record
from clinsynth.metrics.records import Features
from clinsynth.metrics.texts.records import Sides, Values, describe_means, measure_texts
from clinsynth.metrics.texts.text_entities import KINDS, common_words, entities
from clinsynth.metrics.texts.text_words import TextSet, number_words, word_rows
from clinsynth.metrics.texts.words import shared_words

PLAGIARISM = 0.05
"""Cosine distance below which Fidelity, Diversity, and Privacy (arXiv 2604.27014) calls a text plagiarised."""
RUN = 8
WORDS, RULES = "words", "rules"
TRAIN, PROMPT = "train", "prompt"


def measure_closeness(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records "nearest_distance" (cosine, mean over texts) and "plagiarism_share" (below 0.05) to the train texts.

    `rows` are embeddings of unit length. Compare with the held-out floor: what new real texts have to all train texts.
    """
    return measure_texts(closeness, sides, TRAIN, settings, f"cosine, plagiarism below {PLAGIARISM}")


def closeness(queries: Features, train: Features) -> Values:
    distances = nearest(queries.rows, train.rows)[0] ** 2 / 2
    return {"nearest_distance": distances, "plagiarism_share": (distances < PLAGIARISM).astype(float)}


def measure_memorisation(
    synthetic: Features, train: Features, held_out: Features, label_names: list[str], settings: MeasurementSettings
) -> list[MemorisationRecord]:
    """DCR shares and NNDR of embeddings, overall and a class."""
    near, near_held_out = (closest_rows(as_views(side.rows), train.rows) for side in (synthetic, held_out))
    shares = measure_shares(synthetic, train, held_out, label_names, settings)
    labels = (synthetic.labels, held_out.labels)
    return shares + measure_ratios(near, near_held_out, *labels, label_names, len(train.rows), settings)


def measure_overlap(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records of what texts share with train texts word for word; `rows` are lists of words.

    "longest_shared_ngram": words of the longest run that stands in a train text, mean over texts. "ngram8_share":
    share of the texts with a run of eight words. "copied_words": share of a text's words in such runs, mean.
    "exact_copies": share of the texts all of whose words, in their order, are a train text.
    """
    return measure_texts(overlap, sides, TRAIN, replace(settings, extractor=WORDS))


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
    known = [number for number, other in enumerate(paired) if other >= 0]
    floors = overlap_by_pairs(
        word_rows(held_out.texts[number] for number in known),
        [examples[paired[number]] for number in known],
    )
    used = len({name for names in synthetic.example_ids for name in names})
    records = []
    for label, chosen, own in selections(synthetic.labels, held_out.labels[known], label_names):
        for metric, found in values.items():
            record = empty_record(metric, label, PROMPT, (used, int(chosen.sum())), 0, settings)
            records.append(describe_means(record, found[chosen], [], floors[metric][own], settings))
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


def measure_entities(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records "leaked_names", "leaked_dates", "leaked_phones", "leaked_emails" and "leaked_ids"; `rows` are texts.

    Each is the share of texts that hold an entity of a train text, by the rules of `text_entities`. Compare with the
    held-out floor: dates and common names coincide.
    """
    common = common_words([*sides.synthetic.rows, *sides.real.rows])
    leaked = partial(leaked_entities, common=common)
    return measure_texts(leaked, sides, TRAIN, replace(settings, extractor=RULES))


def leaked_entities(queries: Features, train: Features, common: frozenset[str]) -> Values:
    """Whether each query holds an entity of a train text, by kind: 0 or 1, (n,)."""
    known: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for text in train.rows:
        for kind, values in entities(text, common).items():
            known[kind] |= values
    found = [entities(text, common) for text in queries.rows]
    return {
        f"leaked_{kind}": np.array([not known[kind].isdisjoint(values[kind]) for values in found], dtype=float)
        for kind in KINDS
    }
