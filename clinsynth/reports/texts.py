"""The page of an evaluation of texts: from evidence.json to findings, tables, whiskers, histograms and a map.

Everything is inside the page (inline SVG, no script, no link). No real text is in it unless pairs are handed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.data.texts import TextSet
from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.texts.privacy import may_be_shown
from clinsynth.reports.images import flatten, template_environment
from clinsynth.reports.page import Scale, format_interval, format_number, interval_marks, scale_for

WHISKER = 200.0
HISTOGRAM = (440.0, 130.0)
LOWER, HIGHER, ALIKE = "lower", "higher", "as real texts"
DISTANCES = {
    "mmd_squared": ("MMD² of embeddings", LOWER),
    "frechet": ("Fréchet distance of embeddings", LOWER),
    "mauve": ("MAUVE of embeddings", HIGHER),
    "precision": ("precision: synthetic among real", HIGHER),
    "recall": ("recall: real among synthetic", HIGHER),
    "density": ("density", HIGHER),
    "coverage": ("coverage", HIGHER),
}
CONTENT = {
    "bertscore_f1": ("BERTScore with the nearest real text", ALIKE),
    "label_recovery": ("label found by a classifier of real texts", ALIKE),
    "loss": ("language model's loss, nats a token", ALIKE),
    "perplexity_gap": ("perplexity gap, nats a token", "near 0"),
    "negative_affect": ("negative words in 100", ALIKE),
    "harsh_affect": ("words of anger, hopelessness, harm in 100", ALIKE),
    "hopeful_affect": ("hopeful words in 100", ALIKE),
    "negative_share": ("negative among words of affect", ALIKE),
    "tone_distance": ("distance of tone", LOWER),
}
DIVERSITY = {
    "distinct_1": ("distinct-1", HIGHER),
    "distinct_2": ("distinct-2", HIGHER),
    "distinct_3": ("distinct-3", HIGHER),
    "mattr": ("MATTR", HIGHER),
    "mtld": ("MTLD", HIGHER),
    "vocabulary_coverage": ("real vocabulary covered", HIGHER),
    "self_bleu": ("Self-BLEU", LOWER),
    "exact_duplicates": ("exact duplicates", LOWER),
    "near_duplicates": ("near-duplicates", LOWER),
}
OVERLAP = {
    "nearest_distance": ("cosine distance to the nearest train text", ALIKE),
    "plagiarism_share": ("nearer than 0.05", LOWER),
    "longest_shared_ngram": ("longest common run of words", ALIKE),
    "ngram8_share": ("with eight words in a row", LOWER),
    "copied_words": ("words in such runs", LOWER),
    "exact_copies": ("exact copies", LOWER),
}
ENTITIES = {
    "leaked_names": ("with a name from train", LOWER),
    "leaked_dates": ("with a date from train", LOWER),
    "leaked_phones": ("with a telephone number from train", LOWER),
    "leaked_emails": ("with an e-mail address from train", LOWER),
    "leaked_ids": ("with a record number from train", LOWER),
}
MEMORISATION = {
    "dcr_share": ("nearer to train than to held-out", "0.5"),
    "nndr_median": ("NNDR, median", ALIKE),
    "nndr_fifth": ("NNDR, 5 %", ALIKE),
}
TABLES = (
    ("fidelity", "Distances, beside real held-out (test) texts", "fidelity", DISTANCES, "test"),
    ("fidelity", "Content, label and tone", "fidelity", CONTENT, "test"),
    ("diversity", "Variety of words, and repetition", "diversity", DIVERSITY, "test"),
    ("privacy", "Closeness to train texts, and words shared with them", "privacy", OVERLAP, "train"),
    ("privacy", "Words shared with the examples in a text's own prompt", "privacy", OVERLAP, "prompt"),
    ("privacy", "Names, dates and numbers (share of the texts)", "privacy", ENTITIES, "train"),
    ("privacy", "Closer to train than to held-out texts?", "memorisation", MEMORISATION, None),
)
"""Section, title, part of the evidence, metrics, real split."""
SETS = {"synthetic": "synthetic", "train": "real train", "test": "real held-out"}


def render_text_report(evidence: dict[str, Any], samples: TextSamples) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds."""
    tables = [build_table(evidence, *entry) for entry in TABLES]
    return (
        template_environment()
        .get_template("report_texts.html.jinja")
        .render(
            evidence=evidence,
            samples=samples,
            sections={name: [t for t in tables if t["section"] == name and t["rows"]] for name, *_ in TABLES},
            tiles=list(tiles(evidence["findings"])),
            sentences=list(sentences(evidence)),
            histograms=list(histograms(evidence["distributions"])),
            limits=list(limits(evidence)),
            settings=list(flatten(evidence["generation"])) if evidence["generation"] else [],
            sets=SETS,
        )
    )


def build_table(
    evidence: dict[str, Any],
    section: str,
    title: str,
    part: str,
    metrics: dict[str, tuple[str, str]],
    reference: str | None,
) -> dict[str, Any]:
    """One table: a row a metric of the whole set, and a row a class of all metrics that were measured there."""
    found = {
        (record["label"], record["metric"]): record
        for record in evidence[part]
        if record.get("reference") == reference or record["metric"] == "label_recovery"
    }
    whole = [metric for metric in metrics if ("overall", metric) in found]
    rows = [build_row(found["overall", metric], *metrics[metric]) for metric in whole]
    labels = [label for label in evidence["data"]["label_names"] if any((label, metric) in found for metric in whole)]
    shown = [metric for metric in metrics if any(measured(found.get((label, metric))) for label in labels)]
    return {
        "section": section,
        "title": title,
        "rows": rows,
        "metrics": [metrics[metric][0] for metric in shown],
        "classes": {label: [found.get((label, metric)) for metric in shown] for label in labels if shown},
    }


def measured(record: dict[str, Any] | None) -> bool:
    return record is not None and record["value"] is not None


def build_row(record: dict[str, Any], title: str, better: str) -> dict[str, Any]:
    """A record with its whisker; halves and held-out floor under one name whatever kind of record it is."""
    memorisation = "n_real" not in record
    floor = None if memorisation else record["floor"]
    held_out = record["floor"] if memorisation else record["floor_held_out"]
    n_real = record["n_train"] if memorisation else record["n_real"]
    row = {**record, "title": title, "better": better, "floor": floor, "floor_held_out": held_out, "n_real": n_real}
    row["marks"] = None
    if record["value"] is not None:
        shown = [record["value"], floor, held_out, *(record["interval"] or [])]
        scale = scale_for(shown, WHISKER, zero=better == LOWER)
        row["marks"] = interval_marks(record["value"], record["interval"], scale)
        row["marks"] |= {name: scale(row[name]) for name in ("floor", "floor_held_out") if row[name] is not None}
    row["biased"] = record.get("biased", False)
    return row


def tiles(findings: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What was looked for, whether it was found, and where."""
    for name, finding in findings.items():
        judged = finding["flag"] or not finding["sentence"].startswith("Not judged")
        value = "found" if finding["flag"] else "no sign" if judged else "not judged"
        where = ["the set as a whole" if label == "overall" else label for label in finding["labels"]]
        text = f"in {', '.join(where[:3])}{' and others' if len(where) > 3 else ''}" if where else ""
        verdict = {"found": "hurts", "no sign": "helps"}.get(value, "")
        yield {"title": name, "value": value, "text": text, "verdict": verdict}


def sentences(evidence: dict[str, Any]) -> Iterator[str]:
    """The findings in full, then how far the texts lie from the real ones."""
    for finding in evidence["findings"].values():
        yield finding["sentence"]
    records = {r["metric"]: r for r in evidence["fidelity"] if (r["reference"], r["label"]) == ("test", "overall")}
    for metric in ("mmd_squared", "frechet", "mauve", "perplexity_gap"):
        record = records.get(metric)
        if record is not None and measured(record):
            title = (DISTANCES | CONTENT)[metric][0]
            interval = f" (95 % {format_interval(record['interval'])})" if record["interval"] else ""
            floor = record["floor_held_out"]
            against = "" if floor is None else f"; the same of real train texts is {format_number(floor)}"
            name, value = f"{title[0].upper()}{title[1:]}", format_number(record["value"])
            yield f"{name} against held-out texts: {value}{interval}{against}."


def histograms(distributions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Step outlines of each set's shares, all of a drawing on one scale."""
    titles = {
        "words": ("Words a text", "longer ones count in the last step"),
        "nearest": ("Cosine distance to the nearest train text", "real held-out texts show how near new texts come"),
    }
    for name, (title, note) in titles.items():
        found = distributions[name]
        top = max(max(shares) for shares in found["shares"].values())
        lines = {source: step_line(shares, top) for source, shares in found["shares"].items()}
        yield {"title": title, "note": note, "low": found["edges"][0], "high": found["edges"][-1], "lines": lines}


def step_line(shares: list[float], top: float) -> str:
    """Points of an SVG polyline: a step a bin, the highest share `top` at the upper edge."""
    width, height = HISTOGRAM
    across, up = Scale(0, len(shares), width), Scale(0, top or 1.0, height)
    corners = [(edge, share) for number, share in enumerate(shares) for edge in (number, number + 1)]
    points = [(0, 0.0), *corners, (len(shares), 0.0)]
    return " ".join(f"{across(edge)},{round(height - up(share), 1)}" for edge, share in points)


def limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data = evidence["data"]
    yield (
        "No clinician has read these texts. A small distance means that a language model's embeddings are distributed "
        "alike; it does not mean that a text is medically right or shows its class."
    )
    yield (
        f"All distances are those of one encoder: {evidence['encoder']['name']}. Values of another encoder, and "
        "published ones, are no measure for these; the floors are."
    )
    cut = {name: share for name, share in data["cut_by_encoder"].items() if share}
    if cut:
        parts = ", ".join(f"{share:.0%} of the {SETS[name]} texts" for name, share in cut.items())
        yield f"The encoder did not see the ends of {parts}: {evidence['encoder']['note']}."
    yield (
        "Tone is counted by lists of English words, and names, dates and numbers are found by rules: both miss what "
        "they do not know. Words are parted by blanks, which not all languages do."
    )
    yield (
        "Intervals are for drawing other texts from the same sources. They leave out what running or training the "
        "generator anew would change."
    )
    missing = [name for name, count in data["counts"]["synthetic"].items() if count == 0]
    if missing:
        yield f"The synthetic set holds no text of: {', '.join(missing)}. “Overall” leaves those classes out."
    sides = [data["counts"][source] for source in ("synthetic", "test")]
    few = [name for name in data["label_names"] if 0 < min(counts[name] for counts in sides) < 10]
    if few:
        yield f"Fewer than ten synthetic or held-out texts, too few for most measures: {', '.join(few)}."
    if evidence["language_model"] is None:
        yield "The perplexity gap was not measured: that needs --language_model."
    yield "Privacy readings find what they look for. Finding nothing is no proof that nothing leaks."


SAMPLES = 3
LONGEST = 600
"""Characters of a text that are shown."""
DOTS = 400
MAP = (320.0, 220.0)


@dataclass(frozen=True)
class ClassSamples:
    """Some synthetic texts of a class, how many of it may be shown (`shareable`), and how many there are."""

    name: str
    texts: list[str]
    shareable: int
    count: int


@dataclass(frozen=True)
class ClassMap:
    """Paths of dots, real and synthetic, of a class or of all."""

    name: str
    real: str
    synthetic: str


@dataclass(frozen=True)
class TextPair:
    """One closest pair in numbers, with its texts."""

    pair: dict[str, Any]
    synthetic: str
    real: str


@dataclass(frozen=True)
class TextSamples:
    """All of it; `explained` is the share of the real texts' variance that the map shows."""

    classes: list[ClassSamples]
    maps: list[ClassMap]
    explained: float
    pairs: list[TextPair]


def draw_text_samples(
    sets: dict[str, TextSet],
    rows: dict[str, np.ndarray],
    label_names: list[str],
    pairs: list[dict[str, Any]],
    seed: int,
) -> TextSamples:
    """Choose by `seed` what is shown.

    Args:
        sets, rows: "synthetic" and the real splits, texts and their embeddings (n, d).
        pairs: those whose texts are to stand side by side; none where real texts must not be shown.
    """
    synthetic, real = sets["synthetic"], [side for name, side in sets.items() if name != "synthetic"]
    real_rows = np.concatenate([own for name, own in rows.items() if name != "synthetic"])
    shareable = may_be_shown(synthetic, real, nearest(rows["synthetic"], real_rows)[0] ** 2 / 2)
    places, explained = project(rows["test"], rows["synthetic"])
    shown = [
        TextPair(pair, cut(synthetic.texts[pair["synthetic_row"]]), cut(sets["train"].texts[pair["train_row"]]))
        for pair in pairs
    ]
    return TextSamples(
        classes=[choose(synthetic, shareable, number, name, seed) for number, name in enumerate(label_names)],
        maps=list(draw_maps(places, (sets["test"].labels, synthetic.labels), label_names, seed)),
        explained=explained,
        pairs=shown,
    )


def choose(synthetic: TextSet, shareable: np.ndarray, number: int, name: str, seed: int) -> ClassSamples:
    """At most three texts of a class."""
    own = np.flatnonzero(synthetic.labels == number)
    allowed = own[shareable[own]]
    chosen = np.random.default_rng([seed, 2, number]).permutation(allowed)[:SAMPLES]
    return ClassSamples(name, [cut(synthetic.texts[row]) for row in chosen], len(allowed), len(own))


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"


def project(real: np.ndarray, synthetic: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Places (n, 2), (m, 2) on the first two principal axes of the real embeddings, and the variance these explain."""
    centre = real.mean(0)
    _, lengths, axes = np.linalg.svd(real - centre, full_matrices=False)
    total = float((lengths**2).sum())
    explained = float((lengths[:2] ** 2).sum() / total) if total else 0.0
    return ((real - centre) @ axes[:2].T, (synthetic - centre) @ axes[:2].T), explained


def draw_maps(
    places: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    label_names: list[str],
    seed: int,
) -> Iterator[ClassMap]:
    """A map of all, then one a class that has texts, on one scale; at most 400 dots a side and map."""
    everything = np.concatenate(places)
    low, span = everything.min(0), np.maximum(np.ptp(everything, axis=0), 1e-9)
    drawn = [6 + (side - low) / span * (np.array(MAP) - 12) for side in places]
    generator = np.random.default_rng([seed, 3])
    yield ClassMap("all classes", *(dots(side[generator.permutation(len(side))[:DOTS]]) for side in drawn))
    for number, name in enumerate(label_names):
        sides = [side[own == number] for side, own in zip(drawn, labels, strict=True)]
        if any(map(len, sides)):
            yield ClassMap(name, *(dots(side[generator.permutation(len(side))[:DOTS]]) for side in sides))


def dots(places: np.ndarray) -> str:
    """An SVG path of dots: moves, each with a line of no length, which a round cap makes a dot."""
    return "".join(f"M{across:.1f} {up:.1f}h0" for across, up in places)
