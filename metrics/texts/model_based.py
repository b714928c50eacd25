"""BERTScore of texts as records: how like is a synthetic text, token by token, to the real one that it is nearest to?

BERTScore (Zhang et al. 2020, arXiv 1904.09675, section 3) compares a text with a reference. A synthetic text has none:
it is given the real text of its class whose sentence embedding is the nearest. A high value is then no virtue by
itself, since a copy has 1: it is to be read beside what other real texts have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from clinsynth.data.texts import as_objects
from clinsynth.metrics.comparisons import Comparison, Sides, Values, measure_values, real_halves
from clinsynth.metrics.intervals import bootstrap_interval
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings, with_means
from clinsynth.models.text_encoders import TextEncoder, TokenRows

BERTSCORE = "bertscore_f1"
MOST_TEXTS = 500
"""Texts of a set, drawn by seed: the embeddings of all their tokens are held in memory."""


@dataclass(frozen=True)
class TokenView:
    """A set's texts and labels, of which `embed` takes the tokens when they are needed."""

    texts: Features
    encoder: TextEncoder
    name: str

    def embed(self, seed: int) -> Features:
        """`TokenRows` of at most 500 of the texts, and their labels."""
        chosen = self.texts.take(draw_rows(len(self.texts), MOST_TEXTS, seed))
        rows: list[TokenRows | None] = [None] * len(chosen)
        for batch in self.encoder.batches(list(chosen.rows), f"tokens, {self.name}"):
            found = self.encoder.embed_tokens([chosen.rows[row] for row in batch])
            for row, own in zip(batch, found, strict=True):
                rows[row] = own
        return Features(as_objects(rows), chosen.labels)


def draw_rows(count: int, most: int, seed: int) -> np.ndarray:
    """Numbers of `most` of `count` rows, drawn by `seed`, in their order; of all where there are no more."""
    return np.sort(np.random.default_rng([seed, 11]).permutation(count)[:most])


def measure_bertscore(
    views: dict[str, TokenView],
    references: Iterable[tuple[str, str]],
    label_names: list[str],
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records "bertscore_f1": mean over the synthetic texts of the F1 with the nearest real text of their class.

    `views` are those of "synthetic" and of the splits in `references`, pairs of the split that is compared with and of
    the one whose texts, in the place of the synthetic ones, make the held-out floor. Last hidden layer, no weights by
    rarity, not rescaled: values of another encoder are no measure for these. Overall in the real label mix.
    """
    encoder = views["synthetic"].encoder
    tokens = {name: view.embed(settings.seed) for name, view in views.items()}
    drawn = any(len(view.texts) > MOST_TEXTS for view in views.values())
    note = "nearest real text of the class" + (f", {MOST_TEXTS} texts drawn of each set" if drawn else "")
    settings = replace(settings, extractor=f"{encoder.name.partition(' (')[0]} (tokens, last layer)")
    records = []
    for reference, other in references:
        sides = Sides(tokens["synthetic"], tokens[reference], tokens[other], label_names)
        records += measure_values(nearest_scores, sides, reference, settings, note, matched=True)
    return records


def nearest_scores(queries: Features, real: Features) -> Values:
    """F1 (n,) of each query with the nearest text of its class in `real`; of any class where its own has none."""
    scores = np.zeros(len(queries))
    for label in np.unique(queries.labels):
        own, others = np.flatnonzero(queries.labels == label), real.rows[real.labels == label]
        others = others if len(others) else real.rows
        numbers = nearest(sentences(queries.rows[own]), sentences(others))[1]
        for row, number in zip(own, numbers, strict=True):
            scores[row] = bertscore(queries.rows[row], others[number])[2]
    return {BERTSCORE: scores}


def sentences(rows: np.ndarray) -> np.ndarray:
    """The sentence embeddings (n, d) of an array (n,) of `TokenRows`."""
    return np.stack([row.sentence for row in rows])


def bertscore(candidate: TokenRows, reference: TokenRows) -> tuple[float, float, float]:
    """Precision, recall and F1: each token is matched with the likest of the other text, by cosine.

    Tokens that the tokenizer adds may be matched with, but have no say, as in the authors' package.
    """
    likeness = candidate.tokens.astype(np.float32) @ reference.tokens.astype(np.float32).T
    precision = float(likeness.max(1)[candidate.counts].mean()) if candidate.counts.any() else 0.0
    recall = float(likeness.max(0)[reference.counts].mean()) if reference.counts.any() else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


LOSS, GAP = "loss", "perplexity_gap"
MOST_SCORED = 200
"""Texts of a set, drawn by seed: a model of 135 million parameters reads a few in a second on a processor core."""


def measure_perplexity(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records "loss" and "perplexity_gap" of losses (n, 1) in `rows`.

    "loss": mean over texts; its floors are the real texts' own. "perplexity_gap": the difference, synthetic less real,
    of these means, which is the logarithm of the ratio of perplexities; its floors are differences between real texts.
    """
    loss, gap = (comparison.empty_record(name, settings, 1) for name in (LOSS, GAP))
    if loss.note:
        return [loss, gap]
    found, known, other = comparison.synthetic.rows[:, 0], comparison.real.rows[:, 0], comparison.other
    halves = [half.rows[:, 0] for pair in real_halves(comparison.real, settings.seed) for half in pair]
    seen = None if other is None else other.rows[:, 0]
    loss = with_means(loss, found, halves, seen, settings, "nats a token")
    interval = bootstrap_interval(mean_gap, [found, known], settings.replicates, [settings.seed, 14])
    gap = replace(gap, value=mean_gap(found, known), interval=interval, note="nats a token, synthetic less real")
    return [loss, comparison.with_distance_floors(gap, lambda real, made: mean_gap(made, real), settings.seed)]


def mean_gap(found: np.ndarray, known: np.ndarray) -> float:
    """The difference of two means."""
    return float(found.mean() - known.mean())
