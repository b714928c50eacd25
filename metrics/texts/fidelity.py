"""Fidelity of texts as records: are they distributed as the real ones, do they carry their label, is the tone kept?

Distances are taken on sentence embeddings, the tone on word lists (`text_lexicon`), the label by a classifier that has
learned it from real texts. Tone is measured because it fails in one way: models tuned to be agreeable write of illness
as a leaflet does and not as a patient, while embeddings and label look right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from clinsynth.metrics.images.manifold_measurement import measure_manifold
from clinsynth.metrics.mmd.mmd import count_blocks, median_bandwidth, mmd_interval, mmd_squared
from clinsynth.metrics.record import MIN_ROWS, Measurement, MeasurementSettings, empty_record
from clinsynth.metrics.records import Features, measure, real_halves
from clinsynth.metrics.texts.records import Sides, Values, describe_means, measure_texts
from clinsynth.metrics.texts.text_lexicon import NEGATIVE_SHARE, TONE_DISTANCE, WORD_LISTS

LEXICON = "word lists"
CLASSIFIER = "logistic regression on TF-IDF of words and pairs"
MMD, RECOVERY = "mmd_squared", "label_recovery"

Distance = Callable[[np.ndarray, np.ndarray], float]


def measure_embeddings(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records "mmd_squared", "frechet" and "precision" to "coverage" of embeddings (n, d) in `rows`."""
    sides = (label, reference, synthetic, real, other, settings)
    return [measure_mmd(*sides), measure("frechet", *sides, progress=True), *measure_manifold(*sides, progress=True)]


def measure_mmd(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> Measurement:
    """The record "mmd_squared"; value and floors have one bandwidth, the median distance between the real rows."""
    from tqdm.auto import tqdm

    sizes = (len(real), len(synthetic))
    record = empty_record(MMD, label, reference, sizes, real.rows.shape[1], settings)
    if record.note:
        return record
    try:
        bandwidth = median_bandwidth(real.rows)
    except ValueError:
        return replace(record, note="not measured, more than half of the pairs of real texts are equal")
    interval = None
    if settings.replicates:
        with tqdm(total=count_blocks(*sizes), unit="block", desc=f"{MMD}, {label}", leave=False) as bar:
            bootstrap = (settings.replicates, settings.seed, 0.95, bar.update)
            interval = mmd_interval(real.rows, synthetic.rows, bandwidth, *bootstrap)
    record = replace(
        record,
        value=mmd_squared(real.rows, synthetic.rows, bandwidth),
        interval=interval,
        note=f"Gaussian kernel, bandwidth {bandwidth:.3g}",
    )
    return with_distance_floors(record, lambda a, b: mmd_squared(a, b, bandwidth), real, other, settings)


def with_distance_floors(
    record: Measurement, distance: Distance, real: Features, other: Features | None, settings: MeasurementSettings
) -> Measurement:
    """The record with the same distance between real rows."""
    if other is not None and len(other) >= MIN_ROWS:
        record = replace(record, floor_held_out=distance(real.rows, other.rows))
    halves = real_halves(real, settings.seed)
    if not halves:
        return record
    return record.with_floors([distance(a.rows, b.rows) for a, b in halves], min(map(len, halves[0])))


def measure_tone(
    label: str,
    reference: str,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> list[Measurement]:
    """Records of the tone of lists of words in `rows`.

    "negative_affect", "harsh_affect" and "hopeful_affect": words of a list in a hundred, mean over texts; the floors
    are the real texts' own. A softened generator lies below them in the first two, or above in the third.
    "negative_share": the negative words' part of a text's negative and hopeful ones, mean over texts that have any.
    "tone_distance": Wasserstein distance between the real and synthetic distributions of negative less hopeful words
    in a hundred.
    """
    settings = replace(settings, extractor=LEXICON)
    sizes = (len(real), len(synthetic))
    names = (*WORD_LISTS, NEGATIVE_SHARE, TONE_DISTANCE)
    records = [empty_record(name, label, reference, sizes, 0, settings) for name in names]
    if records[0].note:
        return records
    found, known = rate_words(synthetic), rate_words(real)
    seen = None if other is None else rate_words(other)
    if not known.rows[:, 0].any():
        return [replace(record, note="not measured, no word of the list in the real texts") for record in records]
    halves = [half for pair in real_halves(known, settings.seed) for half in pair]
    measured = []
    for column, record in enumerate(records[:-1]):
        sides = [present(side.rows[:, column]) for side in (found, *halves)]
        held_out = None if seen is None else present(seen.rows[:, column])
        note = "of texts with a word of either list" if record.metric == NEGATIVE_SHARE else "in 100 words"
        record = replace(record, n_real=len(present(known.rows[:, column])), n_synthetic=len(sides[0]))
        measured.append(describe_means(record, sides[0], sides[1:], held_out, settings, note))
    return [*measured, measure_tone_distance(records[-1], tone(found), tone(known), seen and tone(seen), settings)]


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


def measure_tone_distance(
    record: Measurement,
    synthetic: Features,
    real: Features,
    other: Features | None,
    settings: MeasurementSettings,
) -> Measurement:
    """The record with the distance between tones (n,); its interval is centred, since resampling adds distance."""
    from scipy.stats import wasserstein_distance

    value = float(wasserstein_distance(synthetic.rows, real.rows))
    generator = np.random.default_rng([settings.seed, 8])
    replicates = [
        wasserstein_distance(*(side.rows[generator.integers(len(side), size=len(side))] for side in (synthetic, real)))
        for _ in range(settings.replicates)
    ]
    interval = None
    if replicates:
        low, high = np.quantile(replicates, [0.025, 0.975]) - (np.mean(replicates) - value)
        interval = max(0.0, float(low)), max(0.0, float(high))
    record = replace(record, value=value, interval=interval, note="in 100 words")
    return with_distance_floors(record, lambda a, b: float(wasserstein_distance(a, b)), real, other, settings)


def measure_label_recovery(sides: Sides, reference: str, settings: MeasurementSettings) -> list[Measurement]:
    """Records "label_recovery": share of texts whose label a classifier that was trained on `sides.real` finds.

    Its held-out floor is the share among new real texts, the one to compare with; far above it the synthetic texts are
    caricatures of their class. Overall on texts in the real label mix. `rows` are lists of words.
    """
    settings = replace(settings, extractor=CLASSIFIER)
    if len(np.unique(sides.real.labels)) < 2:
        record = empty_record(RECOVERY, "overall", reference, (len(sides.real), len(sides.synthetic)), 0, settings)
        return [replace(record, note="not measured, the real texts are of one class")]
    return measure_texts(recovered, sides, reference, settings, matched=True)


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
