"""Fidelity of texts as records: are they distributed as the real ones, do they carry their label, is the tone kept?

MAUVE is taken on sentence embeddings, the tone on word lists, the label by a classifier that has learned it from real
texts. Tone is measured because it fails in one way: models tuned to be agreeable write of illness as a leaflet does
and not as a patient, while embeddings and label look right.

BERTScore (Zhang et al. 2020, arXiv 1904.09675, section 3) compares a text with a reference. A synthetic text has none:
it is given the real text of its class whose sentence embedding is the nearest. A high value is then no virtue by
itself, since a copy has 1: it is to be read beside what other real texts have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from clinsynth.data.texts import as_objects
from clinsynth.metrics.comparisons import Comparison, Sides, Values, measure_values, real_halves
from clinsynth.metrics.intervals import bootstrap, bootstrap_interval, centred_interval
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings, empty_record, with_means
from clinsynth.metrics.texts.words import NEGATIVE_SHARE, TONE_DISTANCE, WORD_LISTS
from clinsynth.models.text_encoders import TextEncoder, TokenRows

LEXICON = "word lists"
CLASSIFIER = "logistic regression on TF-IDF of words and pairs"
RECOVERY = "label_recovery"


def measure_tone(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """Records of the tone of lists of words in `rows`.

    "negative_affect", "harsh_affect" and "hopeful_affect": words of a list in a hundred, mean over texts; the floors
    are the real texts' own. A softened generator lies below them in the first two, or above in the third.
    "negative_share": the negative words' part of a text's negative and hopeful ones, mean over texts that have any.
    "tone_distance": Wasserstein distance between the real and synthetic distributions of negative less hopeful words
    in a hundred.
    """
    settings = replace(settings, extractor=LEXICON)
    records = [comparison.empty_record(name, settings) for name in (*WORD_LISTS, NEGATIVE_SHARE, TONE_DISTANCE)]
    if records[0].note:
        return records
    rates = comparison.map(rate_words)
    found, known, seen = rates.synthetic, rates.real, rates.other
    if not known.rows[:, 0].any():
        return [replace(record, note="not measured, no word of the list in the real texts") for record in records]
    halves = [half for pair in real_halves(known, settings.seed) for half in pair]
    measured = []
    for column, record in enumerate(records[:-1]):
        sides = [present(side.rows[:, column]) for side in (found, *halves)]
        held_out = None if seen is None else present(seen.rows[:, column])
        note = "of texts with a word of either list" if record.metric == NEGATIVE_SHARE else "in 100 words"
        record = replace(record, n_real=len(present(known.rows[:, column])), n_synthetic=len(sides[0]))
        measured.append(with_means(record, sides[0], sides[1:], held_out, settings, note))
    return [*measured, measure_tone_distance(records[-1], rates.map(tone), settings)]


def rate_words(side: Features) -> Features:
    """Words of each list in a hundred, and the negative share (NaN where there is none of either list); (n, 4)."""
    rates = np.stack([words.rates(side.rows) for words in WORD_LISTS.values()], axis=1)
    both = rates[:, 0] + rates[:, 2]
    share = np.divide(rates[:, 0], both, out=np.full(len(both), np.nan), where=both > 0)
    return side.of(np.column_stack([rates, share]))


def present(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def tone(rates: Features) -> Features:
    """Negative less hopeful words in a hundred, (n,)."""
    return rates.of(rates.rows[:, 0] - rates.rows[:, 2])


def measure_tone_distance(record: Measurement, tones: Comparison, settings: MeasurementSettings) -> Measurement:
    """The record with the distance between tones (n,); its interval is centred, since resampling adds distance."""
    from scipy.stats import wasserstein_distance

    sides = [tones.synthetic.rows, tones.real.rows]
    value = float(wasserstein_distance(*sides))
    whose = [tones.synthetic.persons, tones.real.persons]
    replicates = bootstrap(wasserstein_distance, sides, settings.replicates, [settings.seed, 8], whose)
    interval = centred_interval(replicates, value) if settings.replicates else None
    record = replace(record, value=value, interval=interval, note="in 100 words")
    return tones.with_distance_floors(record, lambda a, b: float(wasserstein_distance(a, b)), settings.seed)


def measure_label_recovery(sides: Sides, reference: str, settings: MeasurementSettings) -> list[Measurement]:
    """Records "label_recovery": share of texts whose label a classifier that was trained on `sides.real` finds.

    Its held-out floor is the share among new real texts, the one to compare with; far above it the synthetic texts are
    caricatures of their class. Overall on texts in the real label mix. `rows` are lists of words.
    """
    settings = replace(settings, extractor=CLASSIFIER)
    if len(np.unique(sides.real.labels)) < 2:
        record = empty_record(RECOVERY, "overall", reference, (len(sides.real), len(sides.synthetic)), 0, settings)
        return [replace(record, note="not measured, the real texts are of one class")]
    return measure_values(recovered, sides, reference, settings, matched=True)


def recovered(queries: Features, real: Features) -> Values:
    """Whether the label of each query is found: 0 or 1, (n,)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        analyzer=lambda words: [*words, *map(" ".join, pairwise(words))], sublinear_tf=True, min_df=1
    )
    classifier = make_pipeline(words, LogisticRegression(C=10, class_weight="balanced", max_iter=1000))
    classifier.fit(list(real.rows), real.labels)
    return {RECOVERY: (classifier.predict(list(queries.rows)) == queries.labels).astype(float)}


MAUVE = "mauve"
SCALE = 5.0
MIXTURES = 25
VARIANCE = 0.9
ROWS_A_CELL = 10
FEWEST_ROWS, MOST_ROWS = 50, 500
"""Texts a side: with fewer there would be no five cells; with more k-means takes minutes."""


Histograms = tuple[np.ndarray, np.ndarray]


def measure_mauve(comparison: Comparison, settings: MeasurementSettings) -> list[Measurement]:
    """The record "mauve" of embeddings (n, d) in `rows`, in [0, 1]; higher is nearer.

    MAUVE falls with fewer texts and rises with fewer cells: value and floors are all taken between as many texts, half
    of the real ones (at most 500) and as many others, in a tenth as many cells, mean over five draws. The interval
    resamples the histograms, cells fixed, and is centred, since resampling takes likeness away.
    """
    size = min(len(comparison.real) // 2, len(comparison.synthetic), MOST_ROWS)
    record = comparison.empty_record(MAUVE, settings, comparison.real.rows.shape[1])
    if record.note or size < FEWEST_ROWS:
        note = record.note or f"not measured, needs {FEWEST_ROWS} synthetic and {2 * FEWEST_ROWS} real texts"
        return [replace(record, note=note)]
    found: list[Histograms] = []
    floors, held_out = [], []
    for number, halves in enumerate(real_halves(comparison.real, settings.seed)):
        generator = np.random.default_rng([settings.seed, 12, number])
        given = [*halves, comparison.synthetic, comparison.other]
        drawn = [side.rows[generator.permutation(len(side))[:size]] for side in given if side and len(side) >= size]
        found.append(quantise(drawn[0], drawn[2], settings.seed))
        floors.append(mauve(*quantise(drawn[0], drawn[1], settings.seed)))
        held_out += [mauve(*quantise(drawn[0], seen, settings.seed)) for seen in drawn[3:]]
    value = float(np.mean([mauve(*counts) for counts in found]))
    record = replace(
        record,
        value=value,
        interval=mauve_interval(found, value, settings),
        floor_held_out=float(np.mean(held_out)) if held_out else None,
        note=f"between {size} and {size} texts in {size // ROWS_A_CELL} cells",
    )
    return [record.with_floors(floors, size)]


def quantise(left: np.ndarray, right: np.ndarray, seed: int) -> Histograms:
    """Counts (k,) of both sides' rows in common cells, one for ten rows of the smaller side."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    rows = np.concatenate([left, right])
    rows = PCA(VARIANCE, svd_solver="full").fit_transform(rows)
    cells = min(len(left), len(right)) // ROWS_A_CELL
    numbers = KMeans(cells, n_init=5, random_state=seed).fit_predict(rows)
    counts = [np.bincount(side, minlength=cells) for side in (numbers[: len(left)], numbers[len(left) :])]
    return counts[0], counts[1]


def mauve(left: np.ndarray, right: np.ndarray) -> float:
    """Area under the divergence curve of two histograms (k,); equation 2 and the curve's ends (0, 1) and (1, 0)."""
    p, q = left / left.sum(), right / right.sum()
    weights = np.linspace(1 - 1e-6, 1e-6, MIXTURES)[:, None]  # from the curve's end (0, 1) to (1, 0)
    mixtures = weights * p + (1 - weights) * q
    across = np.exp(-SCALE * np.array([divergence(q, mixture) for mixture in mixtures]))
    up = np.exp(-SCALE * np.array([divergence(p, mixture) for mixture in mixtures]))
    return float(np.trapezoid([1, *up, 0], [0, *across, 1]))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats; `q` is positive where `p` is."""
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def mauve_interval(found: list[Histograms], value: float, settings: MeasurementSettings) -> tuple[float, float] | None:
    """95 % interval of the mean over the draws in `found`: both histograms of each are resampled."""
    if settings.replicates == 0:
        return None
    generator = np.random.default_rng([settings.seed, 13])
    replicates = []
    for _ in range(settings.replicates):
        drawn = [[generator.multinomial(side.sum(), side / side.sum()) for side in counts] for counts in found]
        replicates.append(float(np.mean([mauve(*counts) for counts in drawn])))
    return centred_interval(replicates, value, highest=1.0)


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
        return chosen.of(as_objects(rows))


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
    whose = [comparison.synthetic.persons, comparison.real.persons]
    interval = bootstrap_interval(mean_gap, [found, known], settings.replicates, [settings.seed, 14], whose)
    gap = replace(gap, value=mean_gap(found, known), interval=interval, note="nats a token, synthetic less real")
    return [loss, comparison.with_distance_floors(gap, lambda real, made: mean_gap(made, real), settings.seed)]


def mean_gap(found: np.ndarray, known: np.ndarray) -> float:
    """The difference of two means."""
    return float(found.mean() - known.mean())
