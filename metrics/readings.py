"""What a verdict rests on: the few numbers of a synthetic set, read from its evidence.json or from a study.

One form for images and texts. A number that was not measured is None, or stands among the gaps: it never counts as
fine. Records of earlier versions, which lack whole parts, are read like any others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any

from clinsynth.metrics import registry
from clinsynth.metrics.findings import COPIES, LEAKS, REPEATS, SOFTENED, all_floors, read_collapse
from clinsynth.metrics.privacy.exact import SPLITS, exact_of, where_found
from clinsynth.metrics.records import MIN_ROWS, OVERALL

Record = dict[str, Any]
IMAGES, TEXTS = "images", "texts"
ADDING = ("composite", "balanced", "pretrain_finetune")
"""Kinds of arm that add synthetic samples to the real ones."""
PLAIN = "real"
"""The control without augmentation and class weights as strong as they can be made."""
LEAST_SKILL = 0.1
"""Of an extractor's or classifier's macro-F1 on the way from chance (0) to all right (1)."""
SCORE = re.compile(r"validation macro-F1 (\d\.\d+)")


def shown(value: float) -> str:
    """Three significant digits, never an exponent; a true minus sign, and 0.00 for what is nearer to 0 than 1e-6."""
    if abs(value) >= 1000:
        text = f"{value:.0f}"
    elif abs(value) < 1e-6:
        text = "0.00"
    elif abs(value) < 0.001:
        text = f"{value:.{2 - floor(log10(abs(value)))}f}"
    else:
        text = f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


@dataclass(frozen=True)
class Beside:
    """A number and its real-vs-real floor, the most lenient one that was measured."""

    title: str
    value: float
    floor: float

    @property
    def ratio(self) -> float:
        """Value over floor; 1 where real samples have nothing either."""
        if self.floor > 0:
            return self.value / self.floor
        return 1.0 if self.value <= self.floor else float("inf")

    def __str__(self) -> str:
        return f"{self.title} {shown(self.value)} (real ones {shown(self.floor)})"


@dataclass(frozen=True)
class Agreement:
    """How often a classifier of real samples finds the label of a synthetic one.

    Attributes:
        value, floor, chance: of synthetic and of real samples, and by chance; shares in [0, 1].
        known: whether it knows the real classes better than by chance; else the numbers say nothing.
        mixed: the share lies nearer to chance than to that of real samples.
        below: it lies clearly below that of real samples.
        classes: the classes that are mixed up.
    """

    value: float
    floor: float
    chance: float
    known: bool
    mixed: bool
    below: bool
    classes: list[str]


@dataclass(frozen=True)
class Gain:
    """What adding the synthetic samples to the real ones changes in a classifier's macro-F1."""

    arm: str
    control: str
    verdict: str
    difference: float
    interval: tuple[float, float]
    seeds: int
    labels: str = ""
    main: bool = True
    """Whether the control is that of the whole study, and not one of arms in another form alone."""

    def __str__(self) -> str:
        low, high = self.interval
        numbers = f"{self.difference:+.3f} (95 % {low:+.3f} to {high:+.3f})".replace("-", "−")
        return f"{self.arm} − {self.control}: macro-F1 {numbers}, {self.seeds} seed{'s' * (self.seeds != 1)}"


@dataclass(frozen=True)
class Copies:
    """What was found of real samples: each list holds sentences.

    Attributes:
        found: copies, or details of real samples.
        doubts: signs short of that, as lying nearer to train than to held-out samples.
        unclear: why a sign cannot be read.
        gaps: what was not measured.
        numbers: how many samples were looked at, and what the detectors flagged.
    """

    found: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Readings:
    """The numbers of one synthetic set.

    Attributes:
        things: "images" or "texts".
        n, n_real: synthetic samples, and the real held-out ones beside them.
        at_chance: the extractor tells the real classes no better than chance; its distances say nothing.
        distance, precision: Fréchet distance, and the share that lies among the real samples.
        structure: likeness in pixels (SSIM) to the nearest real image; None of texts.
        softened: the sentence on a softened tone; empty without one.
        recall, coverage: of the real variety.
        repeats: the classes (or "overall") in which the generator repeats itself; None where that was not measured.
        lacks: the classes of which real variety is missing, though not in the set as a whole.
        agreement, gains, copies: see there.
    """

    things: str
    n: int
    n_real: int
    at_chance: bool = False
    distance: Beside | None = None
    precision: Beside | None = None
    structure: Beside | None = None
    softened: str = ""
    recall: Beside | None = None
    coverage: Beside | None = None
    repeats: list[str] | None = None
    lacks: list[str] = field(default_factory=list)
    agreement: Agreement | None = None
    gains: list[Gain] = field(default_factory=list)
    copies: Copies = field(default_factory=Copies)


def read_evidence(
    evidence: dict[str, Any], classifiers: Iterable[dict[str, Any]] | None = None, source: str = ""
) -> Readings:
    """The readings of an evidence.json.

    Args:
        evidence: of images or of texts; parts may be missing.
        classifiers: results.json of classifiers that were trained with this set; default: those of the evidence.
        source: what the set is called in these.
    """
    of_texts = "findings" in evidence or "fidelity" in evidence
    records, findings = records_of(evidence), evidence.get("findings") or {}
    counts = evidence["data"]["counts"]
    own = evidence.get("classifier")
    results = list(classifiers) if classifiers is not None else [own] if own else []
    agreed = best_agreement([*(agreement_of(one, source) for one in results), recovery_of(records, counts)])
    return Readings(
        things=TEXTS if of_texts else IMAGES,
        n=sum(counts["synthetic"].values()),
        n_real=sum(counts["test"].values()),
        at_chance=is_at_chance(evidence),
        distance=beside(records, "frechet", max),
        precision=beside(records, "precision", min),
        structure=beside(records, "ssim_nearest", min),
        softened=findings[SOFTENED]["sentence"] if (findings.get(SOFTENED) or {}).get("flag") else "",
        recall=beside(records, "recall", min),
        coverage=beside(records, "coverage", min),
        repeats=repeats_of(findings) if of_texts else repeats_in(records),
        lacks=[] if of_texts else lacking_in(records),
        agreement=agreed,
        gains=[gain for one in results for gain in gains_of(one, source)],
        copies=copies_of_texts(evidence, records) if of_texts else copies_of_images(evidence),
    )


def records_of(evidence: dict[str, Any]) -> list[Record]:
    """The records of all parts: of images in "measurements", of texts in several, of a study's texts in both."""
    parts = (evidence.get(name) for name in ("measurements", "fidelity", "diversity", "privacy"))
    return [record for part in parts if isinstance(part, list) for record in part]


def find(records: Iterable[Record], metric: str, label: str = OVERALL, reference: str = "test") -> Record | None:
    """The record of a metric, where it has a value."""
    for record in records:
        if (record["metric"], record["label"], record.get("reference")) == (metric, label, reference):
            return record if record["value"] is not None else None
    return None


def beside(records: list[Record], metric: str, lenient: Any) -> Beside | None:
    """A metric of the whole set beside real held-out samples, and the most lenient of its floors, by `lenient` (max or
    min); None where there is none. A coverage of fewer samples than its floor's is no coverage: it is left out."""
    record = find(records, metric)
    floors = all_floors(record) if record else []
    if record is None or not floors:
        return None
    if metric == "coverage" and record["n_synthetic"] < (record.get("floor_n") or record["n_real"]):
        return None
    return Beside(registry.IMAGE_METRICS[metric].column, record["value"], lenient(floors))


def is_at_chance(evidence: dict[str, Any]) -> bool:
    """Whether the default extractor, which was trained to tell the real classes apart, cannot; by its own score on
    validation, which stands in its note. Of an extractor that was trained elsewhere nothing is known."""
    found = SCORE.search((evidence.get("extractor") or {}).get("note") or "")
    classes = sum(count > 0 for count in evidence["data"]["counts"].get("train", {}).values())
    if found is None or classes < 2:
        return False
    return (float(found.group(1)) - 1 / classes) / (1 - 1 / classes) < LEAST_SKILL


def repeats_in(records: list[Record]) -> list[str] | None:
    """Where a generator of images repeats itself, by the near-duplicates among its outputs."""
    if find(records, "near_duplicates") is None:
        return None
    labels: list[str] = read_collapse(records, "test")["labels"]
    return labels


def lacking_in(records: list[Record]) -> list[str]:
    """The classes of images that cover far less than real images do, beyond chance."""
    signs = [r["label"] for r in read_collapse(records, "test")["readings"] if r["sign"]]
    return sorted({label for label in signs if label != OVERALL})


def repeats_of(findings: dict[str, Any]) -> list[str] | None:
    """Where a generator of texts repeats itself."""
    finding = findings.get(REPEATS)
    if finding is None or (not finding["flag"] and finding["sentence"].startswith("Not judged")):
        return None
    labels: list[str] = finding["labels"]
    return labels


def best_agreement(found: Iterable[Agreement | None]) -> Agreement | None:
    """That of the classifier which knows the real classes best."""
    known = [one for one in found if one is not None]
    return max(known, key=lambda one: one.floor - one.chance, default=None)


def agreement_of(results: dict[str, Any], source: str) -> Agreement | None:
    """The label agreement of a synthetic set that results.json has; None where it was not measured."""
    records = [record for record in results.get("label_agreement") or [] if record["source"] == source]
    whole = next((record for record in records if record["label"] == OVERALL), None)
    if whole is None or whole["value"] is None:
        return None
    return Agreement(
        whole["value"],
        whole["floor"],
        whole["chance"],
        known=whole["flag"] != "cannot tell",
        mixed=whole["flag"] == "mixed up",
        below=whole["flag"] == "below real",
        classes=[r["label"] for r in records if r["flag"] == "mixed up" and r["label"] != OVERALL],
    )


def recovery_of(records: list[Record], counts: dict[str, dict[str, int]]) -> Agreement | None:
    """The same of texts, by the classifier of `measure_label_recovery`; two standard errors stand for its floor's
    interval."""
    whole = recovery_reading(find(records, "label_recovery", reference="train"), counts)
    if whole is None:
        return None
    names = [name for name, count in counts["synthetic"].items() if count >= MIN_ROWS]
    by_class = {name: find(records, "label_recovery", name, "train") for name in names}
    classes = [name for name, one in by_class.items() if (read := recovery_reading(one, counts)) and read.mixed]
    return Agreement(whole.value, whole.floor, whole.chance, whole.known, whole.mixed, whole.below, classes)


def recovery_reading(record: Record | None, counts: dict[str, dict[str, int]]) -> Agreement | None:
    """One record of label recovery; None where it has no value or no floor of held-out texts."""
    if record is None or record["value"] is None or record["floor_held_out"] is None:
        return None
    own = counts["test"] if record["label"] == OVERALL else {record["label"]: counts["test"][record["label"]]}
    value, real, n = record["value"], record["floor_held_out"], max(1, sum(own.values()))
    chance = 1 / max(1, sum(count > 0 for count in counts["train"].values()))
    error = 2 * (real * (1 - real) / n) ** 0.5
    high = record["interval"][1] if record["interval"] else value
    known = real - error > chance
    mixed, below = known and high < (chance + real) / 2, known and high < real - error
    return Agreement(value, real, chance, known, mixed, below, [])


def gains_of(results: dict[str, Any], source: str) -> Iterator[Gain]:
    """What adding a synthetic set changes, an arm each."""
    for record in results.get("comparisons") or []:
        arm, control = record.get("arms") or (record.get("arm", "composite"), PLAIN)
        kind, _, own = arm.partition("-")
        kind = kind.partition("_x")[0]  # a ratio of its own
        if record["metric"] == "macro_f1" and (kind in ADDING or kind.rpartition("_")[0] in ADDING) and own == source:
            low, high = record["interval"]
            yield Gain(
                arm,
                control,
                record["verdict"],
                record["difference"],
                (low, high),
                record["seeds"],
                record.get("labels", ""),
                control == results.get("control", control),
            )


def copies_of_images(evidence: dict[str, Any]) -> Copies:
    """What the detectors of copies say of a set of images."""
    privacy, exact = evidence.get("privacy") or {}, exact_of(evidence)
    copies, verdict = privacy.get("copies") or [], privacy.get("verdict")
    text = [privacy.get("text", "")]
    return Copies(
        found=text if verdict == registry.COPIES or (exact and exact["count"]) else [],
        doubts=[*(text if verdict == registry.MEMORISED else []), *told_by_attacks(evidence)],
        unclear=text if verdict == registry.UNCLEAR else [],
        gaps=list(gaps_of_images(evidence, privacy)),
        numbers=tuple(counts_of_copies(exact, copies)),
    )


def gaps_of_images(evidence: dict[str, Any], privacy: dict[str, Any]) -> Iterator[str]:
    """What was not looked for."""
    copies = privacy.get("copies") or []
    if "verdict" not in privacy:
        yield "a verdict on all readings"
    yield from gap_of_exact(evidence)
    if not any(record["metric"] == registry.NEAR and record.get("p_value") is not None for record in copies):
        yield "near copies"
    if not any(record["metric"] == registry.CERTAIN for record in copies):
        yield "single copies"
    if not has_share(privacy.get("records") or []):
        yield "closeness to train"


def gap_of_exact(evidence: dict[str, Any]) -> Iterator[str]:
    exact = exact_of(evidence)
    if exact is None or not set(SPLITS) <= set(exact["splits"]):
        yield "exact copies of train, validation and test"


def has_share(records: Iterable[Record]) -> bool:
    """Whether the share nearer to train than to held-out samples was measured."""
    return any(r["metric"] == "dcr_share" and r["label"] == OVERALL and r["value"] is not None for r in records)


def counts_of_copies(exact: dict[str, Any] | None, copies: list[Record]) -> Iterator[str]:
    """`exact copies 0 of 300`, and of detectors that may err the false alarms to expect."""
    if exact is not None:
        where = f" ({where_found(exact)})" if exact["count"] else ""
        yield f"exact copies {exact['count']} of {exact['n_synthetic']}{where}"
    for record in copies:
        if record["metric"] == registry.CERTAIN:
            yield f"single copies {record['count']}"
    near = [record for record in copies if record["metric"] == registry.NEAR and record.get("p_value") is not None]
    if near:
        worst = min(near, key=lambda record: record["p_value"])
        expected = shown(worst["expected_false_alarms"])
        yield f"flagged as near copies {worst['count']} ({expected} false alarms expected)"


LEAKED = ("leaked_names", "leaked_dates", "leaked_phones", "leaked_emails", "leaked_ids")
COPIED = ("exact_copies", "ngram8_share", "plagiarism_share")


def copies_of_texts(evidence: dict[str, Any], records: list[Record]) -> Copies:
    """What the findings on copies and leaks say of a set of texts."""
    findings, exact = evidence.get("findings") or {}, exact_of(evidence)
    found: list[str] = []
    doubts: list[str] = []
    for name in (COPIES, LEAKS):
        finding = findings.get(name) or {"flag": False, "sentence": "", "readings": []}
        counts = [exact["count"] if exact else 0, *(one["count"] for one in evidence.get("copies") or [])]
        certain = name == LEAKS or any(counts) or any(r["sign"] for r in finding["readings"])
        if finding["flag"]:
            (found if certain else doubts).append(finding["sentence"])
        elif "But look" in finding["sentence"]:
            doubts.append(finding["sentence"])
    parts = list(counts_of_copies(exact, []))
    if record := find(records, "exact_copies", reference="prompt"):
        parts.append(f"of the prompt's own examples {record['value']:.0%}")
    if record := find(records, "ngram8_share", reference="train"):
        real = max(all_floors(record), default=0.0)
        parts.append(f"with eight words in a row from train {record['value']:.0%} (real ones {real:.0%})")
    doubts += told_by_attacks(evidence)
    return Copies(found, doubts, [], list(gaps_of_texts(evidence, records)), tuple(parts))


def told_by_attacks(evidence: dict[str, Any]) -> Iterator[str]:
    """What attacks learn of train rows that they do not learn of held-out ones."""
    for one in (evidence.get("attacks") or {}).get("attacks") or []:
        if one["leak"]:
            yield f"{one['criterion']}: an attack succeeds on train rows more often than on held-out ones."


def gaps_of_texts(evidence: dict[str, Any], records: list[Record]) -> Iterator[str]:
    """What was not looked for."""
    yield from gap_of_exact(evidence)
    missing = [name for name in (*COPIED, *LEAKED) if find(records, name, reference="train") is None]
    yield from (registry.TEXT_METRICS[name].title for name in missing)
    if not has_share(evidence.get("memorisation") or []):
        yield "closeness to train"
    generator = (evidence.get("generation") or {}).get("generator") or {}
    if generator.get("k_shot") and find(records, "exact_copies", reference="prompt") is None:
        yield "copies of the prompt's examples"
