"""Every metric once: its name in records, what pages and cards call it, which way is better, and what it answers.

A metric that is added here is shown by the pages of an evaluation and of a study, by the cards and by the Space; it is
measured in `clinsynth.study.image_evidence` or `clinsynth.study.text_evidence`.
"""

from __future__ import annotations

from dataclasses import dataclass

LOWER, HIGHER, ALIKE, NEAR_ZERO, HALF = "lower", "higher", "as real", "near 0", "0.5"
"""Which values are better; `ALIKE`: those that real samples have among themselves."""

NO_SIGN, COPIES = "no sign", "copies found"
MEMORISED = "closer to train than to held-out: memorisation"
UNCLEAR = "unclear: train and held-out pictures differ"
"""Verdicts on the privacy of images."""

FIDELITY, DIVERSITY, PRIVACY, ALIGNMENT, USE = "fidelity", "diversity", "privacy", "alignment", "use"
QUESTIONS = {
    FIDELITY: "are they like the real {things}?",
    DIVERSITY: "are they as varied?",
    PRIVACY: "do they give real {things} away?",
    ALIGNMENT: "do they show their class?",
    USE: "do they help a classifier?",
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in records and in evidence.json.
        title: in tables and sentences.
        better: which values are better.
        question: a key of QUESTIONS.
        unit: of the numbers; empty for shares and distances.
        short: the title over a narrow column, where it is another.
        reference: the only real split that it is measured beside; None where it is measured beside each.
    """

    name: str
    title: str
    better: str
    question: str
    unit: str = ""
    short: str = ""
    reference: str | None = None

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def column(self) -> str:
        """Over a narrow column."""
        return self.short or self.heading


Metrics = tuple[Metric, ...]

MANIFOLD = (
    Metric("precision", "precision: synthetic among real", HIGHER, FIDELITY, short="precision"),
    Metric("recall", "recall: real among synthetic", HIGHER, DIVERSITY, short="recall"),
    Metric("density", "density", HIGHER, FIDELITY),
    Metric("coverage", "coverage", HIGHER, DIVERSITY),
)
NEAR_DUPLICATES = Metric("near_duplicates", "near-duplicates", LOWER, DIVERSITY)

LIKENESS = (
    Metric("frechet", "Fréchet distance", LOWER, FIDELITY),
    Metric("kid", "KID", LOWER, FIDELITY),
)
VARIETY = (
    *MANIFOLD,
    NEAR_DUPLICATES,
    Metric("ms_ssim_within", "MS-SSIM within classes", ALIKE, DIVERSITY, short="MS-SSIM in class"),
    Metric("ssim_nearest", "SSIM to the nearest real picture", ALIKE, PRIVACY, short="SSIM to nearest"),
)
ALIGNMENT_METRICS = (
    Metric("checklist_share", "checklist share", HIGHER, ALIGNMENT),
    Metric("class_margin", "class margin", HIGHER, ALIGNMENT),
    Metric("typicality", "typicality", HIGHER, ALIGNMENT),
    Metric("alignment", "alignment", HIGHER, ALIGNMENT),
    Metric("low_alignment_tail", "low-alignment tail", LOWER, ALIGNMENT),
)

DISTANCES = (
    Metric("mmd_squared", "MMD² of embeddings", LOWER, FIDELITY),
    Metric("frechet", "Fréchet distance of embeddings", LOWER, FIDELITY),
    Metric("mauve", "MAUVE of embeddings", HIGHER, FIDELITY),
    *MANIFOLD,
)
CONTENT = (
    Metric("bertscore_f1", "BERTScore with the nearest real text", ALIKE, FIDELITY),
    Metric("label_recovery", "label found by a classifier of real texts", ALIKE, ALIGNMENT, reference="train"),
    Metric("loss", "language model's loss", ALIKE, FIDELITY, "nats a token"),
    Metric("perplexity_gap", "perplexity gap", NEAR_ZERO, FIDELITY, "nats a token"),
    Metric("negative_affect", "negative words in 100", ALIKE, FIDELITY),
    Metric("harsh_affect", "words of anger, hopelessness, harm in 100", ALIKE, FIDELITY),
    Metric("hopeful_affect", "hopeful words in 100", ALIKE, FIDELITY),
    Metric("negative_share", "negative among words of affect", ALIKE, FIDELITY),
    Metric("tone_distance", "distance of tone", LOWER, FIDELITY),
)
WORDS = (
    Metric("distinct_1", "distinct-1", HIGHER, DIVERSITY),
    Metric("distinct_2", "distinct-2", HIGHER, DIVERSITY),
    Metric("distinct_3", "distinct-3", HIGHER, DIVERSITY),
    Metric("mattr", "MATTR", HIGHER, DIVERSITY),
    Metric("mtld", "MTLD", HIGHER, DIVERSITY),
    Metric("vocabulary_coverage", "real vocabulary covered", HIGHER, DIVERSITY),
    Metric("self_bleu", "Self-BLEU", LOWER, DIVERSITY),
    Metric("exact_duplicates", "exact duplicates", LOWER, DIVERSITY),
    NEAR_DUPLICATES,
)
OVERLAP = (
    Metric("nearest_distance", "cosine distance to the nearest train text", ALIKE, PRIVACY),
    Metric("plagiarism_share", "nearer than 0.05", LOWER, PRIVACY),
    Metric("longest_shared_ngram", "longest common run of words", ALIKE, PRIVACY),
    Metric("ngram8_share", "with eight words in a row", LOWER, PRIVACY),
    Metric("copied_words", "words in such runs", LOWER, PRIVACY),
    Metric("exact_copies", "exact copies", LOWER, PRIVACY),
)
ENTITIES = (
    Metric("leaked_names", "with a name from train", LOWER, PRIVACY),
    Metric("leaked_dates", "with a date from train", LOWER, PRIVACY),
    Metric("leaked_phones", "with a telephone number from train", LOWER, PRIVACY),
    Metric("leaked_emails", "with an e-mail address from train", LOWER, PRIVACY),
    Metric("leaked_ids", "with a record number from train", LOWER, PRIVACY),
)
MEMORISATION = (
    Metric("dcr_share", "nearer to train than to held-out", HALF, PRIVACY),
    Metric("nndr_median", "NNDR, median", ALIKE, PRIVACY),
    Metric("nndr_fifth", "NNDR, 5 %", ALIKE, PRIVACY),
)
SCORES = (
    Metric("macro_f1", "macro-F1", HIGHER, USE),
    Metric("balanced_accuracy", "balanced accuracy", HIGHER, USE),
    Metric("accuracy", "accuracy", HIGHER, USE),
    Metric("auroc", "AUROC", HIGHER, USE),
    Metric("ece", "calibration error (ECE, lower is better)", LOWER, USE),
)


def by_name(*groups: Metrics) -> dict[str, Metric]:
    """Name to metric, in the order of the groups."""
    return {metric.name: metric for group in groups for metric in group}


IMAGE_METRICS = by_name(LIKENESS, VARIETY, ALIGNMENT_METRICS, MEMORISATION)
TEXT_METRICS = by_name(DISTANCES, CONTENT, WORDS, OVERLAP, ENTITIES, MEMORISATION)


@dataclass(frozen=True)
class MetricTable:
    """Metrics that stand under one another.

    Attributes:
        question: a key of QUESTIONS.
        title: heading.
        part: of evidence.json, which holds their records.
        metrics: in their order.
        reference: the real split beside which they are measured; None for records without one.
    """

    question: str
    title: str
    part: str
    metrics: Metrics
    reference: str | None


IMAGE_TABLES = (
    MetricTable(FIDELITY, "Likeness", "measurements", LIKENESS, "test"),
    MetricTable(DIVERSITY, "Variety", "measurements", VARIETY, "test"),
)
TEXT_TABLES = (
    MetricTable(FIDELITY, "Distances, beside real held-out (test) texts", "fidelity", DISTANCES, "test"),
    MetricTable(FIDELITY, "Content, label and tone", "fidelity", CONTENT, "test"),
    MetricTable(DIVERSITY, "Variety of words, and repetition", "diversity", WORDS, "test"),
    MetricTable(PRIVACY, "Closeness to train texts, and words shared with them", "privacy", OVERLAP, "train"),
    MetricTable(PRIVACY, "Words shared with the examples in a text's own prompt", "privacy", OVERLAP, "prompt"),
    MetricTable(PRIVACY, "Names, dates and numbers (share of the texts)", "privacy", ENTITIES, "train"),
    MetricTable(PRIVACY, "Closer to train than to held-out texts?", "memorisation", MEMORISATION, None),
)
