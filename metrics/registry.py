"""Every metric once: its name in records, what pages and cards call it, which way is better, and what it answers.

A metric that is added to registry.yaml is shown by the pages of an evaluation and of a study, by the cards and by the
Space; it is measured in `clinsynth.study.image_evidence` or `clinsynth.study.text_evidence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import yaml

LOWER, HIGHER, ALIKE, NEAR_ZERO, HALF = "lower", "higher", "as real", "near 0", "0.5"
"""Which values are better; `ALIKE`: those that real samples have among themselves."""

NO_SIGN, COPIES = "no sign", "copies found"
MEMORISED = "closer to train than to held-out: memorisation"
UNCLEAR = "unclear: train and held-out pictures differ"
"""Verdicts on the privacy of images."""
EXACT, NEAR, CERTAIN = "exact copy", "near copy", "single copy"
"""Kinds of copy. The last is certain by itself (`clinsynth.metrics.privacy.views`); near copies are so by their
number."""

FIDELITY, DIVERSITY, PRIVACY, ALIGNMENT, USE = "fidelity", "diversity", "privacy", "alignment", "use"
"""What a metric answers: are they like the real samples, as varied, private, of their class, of use?"""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in records and in evidence.json.
        title: in tables and sentences.
        better: which values are better.
        question: FIDELITY to USE.
        unit: of the numbers; empty for shares and distances.
        short: the title over a narrow column, where it is another.
        reference: the only real split that it is measured beside; None where it is measured beside each.
        meaning: a sentence that a reader who does not know it understands.
    """

    name: str
    title: str
    better: str
    question: str
    unit: str = ""
    short: str = ""
    reference: str | None = None
    meaning: str = ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def column(self) -> str:
        """Over a narrow column."""
        return self.short or self.heading


Metrics = tuple[Metric, ...]

GROUPS: dict[str, Metrics] = {
    name: tuple(Metric(**row) for row in rows)
    for name, rows in yaml.safe_load(
        resources.files(__package__).joinpath("registry.yaml").read_text(encoding="utf-8")
    ).items()
}
LIKENESS, VARIETY, ALIGNMENT_METRICS = GROUPS["likeness"], GROUPS["variety"], GROUPS["alignment"]
DISTANCES, CONTENT, WORDS, OVERLAP = (GROUPS[name] for name in ("distances", "content", "words", "overlap"))
ENTITIES, MEMORISATION, SCORES = GROUPS["entities"], GROUPS["memorisation"], GROUPS["scores"]


def by_name(*groups: Metrics) -> dict[str, Metric]:
    """Name to metric, in the order of the groups."""
    return {metric.name: metric for group in groups for metric in group}


IMAGE_METRICS = by_name(LIKENESS, VARIETY, ALIGNMENT_METRICS, MEMORISATION)
TEXT_METRICS = by_name(DISTANCES, CONTENT, WORDS, OVERLAP, ENTITIES, MEMORISATION)


@dataclass(frozen=True)
class MetricTable:
    """Metrics that stand under one another.

    Attributes:
        question: FIDELITY to USE.
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
