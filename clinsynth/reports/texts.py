"""The page of an evaluation of texts: from evidence.json to findings, tables, whiskers, histograms and a map.

No real text is in it unless pairs are handed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.metrics.nearest import nearest
from clinsynth.metrics.readings import recovery_reading
from clinsynth.metrics.records import Features
from clinsynth.metrics.registry import LOWER, TEXT_METRICS, TEXT_TABLES, Metric, MetricTable
from clinsynth.metrics.verdicts import judge
from clinsynth.reports import page
from clinsynth.reports.maps import map_features

if TYPE_CHECKING:
    from clinsynth.data.texts import TextSet

HISTOGRAM = (440.0, 130.0)
SETS = {"synthetic": "synthetic", "train": "real train", "test": "real held-out"}


def render_text_report(evidence: dict[str, Any], samples: dict[str, Any], made: page.Made | None = None) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds, `samples` those of `choose_texts`."""
    tables = [build_table(evidence, table) for table in TEXT_TABLES]
    return page.render_page(
        "report_texts",
        text_limits(evidence),
        verdict=judge(evidence),
        terms=page.terms_of(TEXT_METRICS.values()),
        made=made or page.Made(),
        evidence=evidence,
        samples=samples,
        sets={split: SETS.get(split, split) for split in evidence["data"]["counts"]},
        settings=list(page.flatten(evidence["generation"])),
        tables=[table for table in tables if table["rows"]],
        agreement=list(recovery_rows(evidence)),
        sentences=list(sentences(evidence)),
        histograms=list(histograms(evidence["distributions"])),
    )


def build_table(evidence: dict[str, Any], table: MetricTable) -> dict[str, Any]:
    """One table: a row a metric of the whole set, and a row a class of all metrics that were measured there."""
    found = {
        (record["label"], metric.name): record
        for metric in table.metrics
        for record in evidence[table.part]
        if record["metric"] == metric.name and record.get("reference") == (metric.reference or table.reference)
    }
    whole = [metric for metric in table.metrics if ("overall", metric.name) in found]
    labels = [
        label for label in evidence["data"]["label_names"] if any((label, metric.name) in found for metric in whole)
    ]
    shown = [
        metric for metric in table.metrics if any(is_measured(found.get((label, metric.name))) for label in labels)
    ]
    return {
        "question": table.question,
        "title": table.title,
        "rows": [build_row(found["overall", metric.name], metric) for metric in whole],
        "columns": [(metric.name, metric.heading) for metric in shown],
        "classes": {label: [found.get((label, metric.name)) for metric in shown] for label in labels if shown},
    }


def is_measured(record: dict[str, Any] | None) -> bool:
    """Whether there is a number."""
    return record is not None and record["value"] is not None


def build_row(record: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """A record with its whisker; halves and held-out floor under one name whatever kind of record it is."""
    row = {"biased": False, **record, "title": metric.heading, "better": metric.better}
    if "n_real" not in record:  # of memorisation
        row |= {"floor": None, "floor_held_out": record["floor"], "n_real": record["n_train"]}
    zero = metric.better == LOWER
    row["name"] = metric.name
    return row | {"marks": page.marks_of(row, page.scale_for(page.ends_of(row), zero=zero), zero)}


def recovery_rows(evidence: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The share of texts whose label a classifier of real texts finds, of all and class by class, in the form of
    `label_agreement`."""
    counts = evidence["data"]["counts"]
    tests = counts["test"]
    for record in evidence["fidelity"]:
        found = recovery_reading(record, counts) if record["metric"] == "label_recovery" else None
        if found is not None:
            flag = "mixed up" if found.mixed else "below real" if found.below else "agrees"
            yield {
                "source": "",
                "label": record["label"],
                "value": found.value,
                "interval": record["interval"],
                "floor": found.floor,
                "chance": found.chance,
                "n": record["n_synthetic"],
                "n_real": sum(tests.values()) if record["label"] == "overall" else tests[record["label"]],
                "flag": flag if found.known else "cannot tell",
                "note": "" if found.known else "the classifier knows this class of real texts no better than chance",
            }


def sentences(evidence: dict[str, Any]) -> Iterator[str]:
    """The findings in full, then how far the texts lie from the real ones."""
    for finding in evidence["findings"].values():
        yield finding["sentence"]
    records = {r["metric"]: r for r in evidence["fidelity"] if (r["reference"], r["label"]) == ("test", "overall")}
    for metric in ("mmd_squared", "frechet", "mauve", "perplexity_gap"):
        record = records.get(metric)
        if record is not None and is_measured(record):
            title = TEXT_METRICS[metric].heading
            interval = f" (95 % {page.format_interval(record['interval'])})" if record["interval"] else ""
            floor = record["floor_held_out"]
            against = "" if floor is None else f"; the same of real train texts is {page.format_number(floor)}"
            name, value = f"{title[0].upper()}{title[1:]}", page.format_number(record["value"])
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
    across, up = page.Scale(0, len(shares), width), page.Scale(0, top or 1.0, height)
    corners = [(edge, share) for number, share in enumerate(shares) for edge in (number, number + 1)]
    points = [(0, 0.0), *corners, (len(shares), 0.0)]
    return " ".join(f"{across(edge)},{round(height - up(share), 1)}" for edge, share in points)


def text_limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data = evidence["data"]
    yield from page.first_limits(data.get("real", ""), page.TEXTS, data.get("notes", ()))
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
    yield from page.limit_of_classes(data["counts"]["synthetic"], "text")
    sides = [data["counts"][source] for source in ("synthetic", "test")]
    few = [name for name in data["label_names"] if 0 < min(counts[name] for counts in sides) < 10]
    if few:
        yield f"Fewer than ten synthetic or held-out texts, too few for most measures: {', '.join(few)}."
    if evidence["language_model"] is None:
        yield "The perplexity gap was not measured: that needs --language_model."
    yield page.NO_PROOF


TEXTS_A_CLASS = 3
LONGEST = 600
"""Characters of a text that are shown."""


def choose_texts(
    sets: dict[str, TextSet],
    rows: dict[str, np.ndarray],
    label_names: list[str],
    pairs: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """Choose by `seed` what is shown.

    Args:
        sets, rows: "synthetic" and the real splits, texts and their embeddings (n, d).
        pairs: those whose texts are to stand side by side; none where real texts must not be shown.

    Returns:
        `classes`, some texts of each; `maps` of dots, of all and of each class; `explained`, the share of the real
        texts' variance that the maps show; `pairs` with their texts.
    """
    from clinsynth.metrics.texts.privacy import may_be_shown  # cards, which use the tables, import nothing of datasets

    synthetic, real = sets["synthetic"], [side for name, side in sets.items() if name != "synthetic"]
    real_rows = np.concatenate([own for name, own in rows.items() if name != "synthetic"])
    shareable = may_be_shown(synthetic, real, nearest(rows["synthetic"], real_rows)[0] ** 2 / 2)
    shown_real, made = (Features(rows[name], sets[name].labels) for name in ("test", "synthetic"))
    return {
        "classes": [
            choose_of_class(synthetic, shareable, label, name, seed) for label, name in enumerate(label_names)
        ],
        **map_features(shown_real, made, label_names, seed),
        "pairs": [
            {
                "pair": pair,
                "synthetic": shortened(synthetic.texts[pair["synthetic_row"]]),
                "real": shortened(sets["train"].texts[pair["train_row"]]),
            }
            for pair in pairs
        ],
    }


def choose_of_class(
    synthetic: TextSet, shareable: np.ndarray, number: int, name: str, seed: int
) -> dict[str, str | int | list[str]]:
    """At most three texts of a class, how many of it may be shown (`shareable`), and how many there are."""
    own = np.flatnonzero(synthetic.labels == number)
    allowed = own[shareable[own]]
    chosen = np.random.default_rng([seed, 2, number]).permutation(allowed)[:TEXTS_A_CLASS]
    texts = [shortened(synthetic.texts[row]) for row in chosen]
    return {"name": name, "texts": texts, "shareable": len(allowed), "count": len(own)}


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
