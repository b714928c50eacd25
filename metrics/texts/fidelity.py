"""Fidelity of texts as records: are they distributed as the real ones, do they carry their label, is the tone kept?

MAUVE is taken on sentence embeddings, the tone on word lists, the label by a classifier that has learned it from real
texts. Tone is measured because it fails in one way: models tuned to be agreeable write of illness as a leaflet does
and not as a patient, while embeddings and label look right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from clinsynth.metrics.comparisons import Comparison, Sides, Values, measure_values, real_halves
from clinsynth.metrics.intervals import bootstrap, centred_interval
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings, empty_record, with_means
from clinsynth.metrics.texts.words import NEGATIVE_SHARE, TONE_DISTANCE, WORD_LISTS

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
    return Features(np.column_stack([rates, share]), side.labels)


def present(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def tone(rates: Features) -> Features:
    """Negative less hopeful words in a hundred, (n,)."""
    return Features(rates.rows[:, 0] - rates.rows[:, 2], rates.labels)


def measure_tone_distance(record: Measurement, tones: Comparison, settings: MeasurementSettings) -> Measurement:
    """The record with the distance between tones (n,); its interval is centred, since resampling adds distance."""
    from scipy.stats import wasserstein_distance

    sides = [tones.synthetic.rows, tones.real.rows]
    value = float(wasserstein_distance(*sides))
    replicates = bootstrap(wasserstein_distance, sides, settings.replicates, [settings.seed, 8])
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

    words = TfidfVectorizer(analyzer=words_and_pairs, sublinear_tf=True, min_df=1)
    classifier = make_pipeline(words, LogisticRegression(C=10, class_weight="balanced", max_iter=1000))
    classifier.fit(list(real.rows), real.labels)
    return {RECOVERY: (classifier.predict(list(queries.rows)) == queries.labels).astype(float)}


def words_and_pairs(words: list[str]) -> list[str]:
    return [*words, *map(" ".join, pairwise(words))]


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
    for first, second, made, seen in draw_sets(comparison, size, settings.seed):
        found.append(quantise(first, made, settings.seed))
        floors.append(mauve(*quantise(first, second, settings.seed)))
        if seen is not None:
            held_out.append(mauve(*quantise(first, seen, settings.seed)))
    value = float(np.mean([mauve(*counts) for counts in found]))
    record = replace(
        record,
        value=value,
        interval=mauve_interval(found, value, settings),
        floor_held_out=float(np.mean(held_out)) if held_out else None,
        note=f"between {size} and {size} texts in {count_cells(size)} cells",
    )
    return [record.with_floors(floors, size)]


Sets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def draw_sets(comparison: Comparison, size: int, seed: int) -> Iterator[Sets]:
    """For each of five splits `size` rows of either real half, of the synthetic, and of `other` if it has as many."""
    for number, (first, second) in enumerate(real_halves(comparison.real, seed)):
        generator = np.random.default_rng([seed, 12, number])
        chosen = [
            side.rows[generator.permutation(len(side))[:size]] if side is not None and len(side) >= size else None
            for side in (first, second, comparison.synthetic, comparison.other)
        ]
        assert chosen[0] is not None and chosen[1] is not None and chosen[2] is not None
        yield chosen[0], chosen[1], chosen[2], chosen[3]


def count_cells(size: int) -> int:
    return size // ROWS_A_CELL


def quantise(left: np.ndarray, right: np.ndarray, seed: int) -> Histograms:
    """Counts (k,) of both sides' rows in common cells, one for ten rows of the smaller side."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    rows = np.concatenate([left, right])
    rows = PCA(VARIANCE, svd_solver="full").fit_transform(rows)
    cells = count_cells(min(len(left), len(right)))
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
