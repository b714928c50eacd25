"""One self-contained HTML page from the evidence of an image evaluation: pictures, tables, whiskers, limits.

Everything is inside the page (base64 PNG, inline SVG, no script, no link), so that it can be kept as one file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from clinsynth.images import to_picture, to_png
from clinsynth.reports.page import format_interval, format_number, format_signed

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays

WHISKER_WIDTH = 200
METRIC_NAMES = {"frechet": "Fréchet distance", "kid": "KID"}
METRIC_TITLES = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "ece": "calibration error (lower is better)",
}
SPLIT_NAMES = {"test": "held-out (test)", "train": "train"}
VARIETY_NAMES = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "near_duplicates": "near-duplicates",
    "ms_ssim_within": "MS-SSIM in class",
    "ssim_nearest": "SSIM to nearest",
}


def render_report(evidence: dict[str, Any], pictures: Pictures) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds."""
    return (
        template_environment()
        .get_template("report_images.html.jinja")
        .render(
            evidence=evidence,
            pictures=pictures,
            tables=list(distance_tables(evidence["measurements"])),
            variety=variety_table(evidence["measurements"], evidence["data"]["label_names"]),
            variety_names=VARIETY_NAMES,
            privacy_rows=list(privacy_rows(evidence["privacy"])),
            alignment=alignment_table(evidence.get("alignment")),
            alignment_names=ALIGNMENT_NAMES,
            arms=arm_table(evidence["classifier"]),
            findings=list(findings(evidence)),
            limits=list(limits(evidence)),
            settings=list(flatten(evidence["generation"])) if evidence["generation"] else [],
            split_names=SPLIT_NAMES,
        )
    )


def template_environment() -> jinja2.Environment:
    """Where the pages' templates are found, with the filters that write numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = format_number
    environment.filters["signed"] = format_signed
    environment.filters["interval"] = format_interval
    return environment


def distance_tables(measurements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One table a metric and reference; all whiskers of a table share one scale."""
    for reference, metric in ((r, m) for r in SPLIT_NAMES for m in METRIC_NAMES):
        rows = [row for row in measurements if (row["reference"], row["metric"]) == (reference, metric)]
        shown = [x for row in rows for x in (row["value"], row["floor"], row["floor_held_out"]) if x is not None]
        shown += [end for row in rows for end in (row["interval"] or [])]
        low, high = min([0.0, *shown]), max([1e-12, *shown])
        yield {
            "title": f"{METRIC_NAMES[metric]} from the real {SPLIT_NAMES[reference]} split",
            "rows": [{**row, "whisker": whisker(row, low, high)} for row in rows],
            "other": SPLIT_NAMES["train" if reference == "test" else "test"],
        }


def variety_table(measurements: list[dict[str, Any]], label_names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class the records of VARIETY_NAMES beside the held-out split, in that order."""
    found = {(row["label"], row["metric"]): row for row in measurements if row["reference"] == "test"}
    labels = [label for label in ("overall", *label_names) if (label, "precision") in found]
    return {label: [found[label, metric] for metric in VARIETY_NAMES] for label in labels}


def privacy_rows(privacy: dict[str, Any]) -> Iterator[dict[str, str]]:
    """One row a reading of the whole set: what was read, value, interval, and what it is held against."""
    for record in privacy["copies"]:
        expected = record["expected_false_alarms"]
        yield {
            "reading": f"{record['metric'].replace('_', ' ')}, {record['detector']}",
            "value": f"{record['count']} of {record['n_synthetic']}",
            "interval": "–",
            "against": "0" if expected is None else f"{format_number(expected)} false alarms expected",
        }
    names = {"dcr_share": "nearer to train than to held-out", "nndr_median": "NNDR, median", "nndr_fifth": "NNDR, 5 %"}
    for record in privacy["records"]:
        if record["label"] == "overall":
            yield {
                "reading": f"{names[record['metric']]}, {record['extractor']}",
                "value": format_number(record["value"]),
                "interval": format_interval(record["interval"]),
                "against": f"held-out pictures: {format_number(record['floor'])}",
            }


def whisker(row: dict[str, Any], low: float, high: float) -> dict[str, float] | None:
    """Horizontal positions of value, interval and floors in an SVG 200 wide; None where nothing was measured."""
    if row["value"] is None:
        return None

    def place(value: float) -> float:
        return round(6 + (WHISKER_WIDTH - 12) * (value - low) / (high - low), 1)

    low_end, high_end = row["interval"] or (row["value"], row["value"])
    places = {"zero": place(0), "value": place(row["value"]), "low": place(low_end), "high": place(high_end)}
    floors = {name: place(row[name]) for name in ("floor", "floor_held_out") if row[name] is not None}
    return places | floors


def arm_table(classifier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row a metric: both arms' records and the record of their difference."""
    if classifier is None:
        return []
    by_arm = {(record["arm"], record["metric"]): record for record in classifier["arms"]}
    return [
        {
            "metric": METRIC_TITLES.get(comparison["metric"], comparison["metric"].replace("f1 ", "F1 ")),
            "real": by_arm["real", comparison["metric"]],
            "composite": by_arm["composite", comparison["metric"]],
            "difference": comparison,
            "verdict": comparison.get("verdict"),
        }
        for comparison in classifier["comparisons"]
    ]


def findings(evidence: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The few numbers at the head of the page, each with a sentence that says what it is held against."""
    for row in evidence["measurements"]:
        if row["reference"] == "test" and row["label"] == "overall" and row["metric"] in METRIC_NAMES:
            yield {"title": f"{METRIC_NAMES[row['metric']]}, overall", **describe_distance(row)}
    for record in evidence["classifier"]["comparisons"][:1] if evidence["classifier"] else []:
        low, high = map(format_signed, record["interval"])
        yield {
            "title": "Classifier, real + synthetic",
            "value": record["verdict"],
            "text": f"macro-F1 {format_signed(record['difference'])} against real alone, 95 % {low} to {high}",
        }
    yield from alignment_findings(evidence.get("alignment"))
    privacy = evidence["privacy"]
    yield {"title": "Privacy", "value": privacy["verdict"], "text": "see the readings and the closest pairs below"}
    collapsed = "found" if evidence["collapse"]["flag"] else "not found"
    yield {"title": "Mode collapse", "value": collapsed, "text": evidence["collapse"]["sentence"]}


def describe_distance(row: dict[str, Any]) -> dict[str, str]:
    if row["value"] is None:
        return {"value": "–", "text": row["note"]}
    interval = f"95 % {format_interval(row['interval'])}" if row["interval"] else "no interval"
    floor = row["floor_held_out"]
    against = "" if floor is None else f"; real train pictures lie at {format_number(floor)}"
    return {"value": format_number(row["value"]), "text": f"{interval}{against}"}


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", text


def limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data, extractor, rows = evidence["data"], evidence["extractor"]["name"], evidence["measurements"]
    if data["real"].startswith("phantom"):
        yield (
            "The phantom data set is drawn by a program. It is not medical data, and nothing here says anything about "
            "patients."
        )
    yield (
        "No clinician has judged these pictures. A small distance means that a network's features are distributed "
        "alike; it does not mean that a picture is anatomically or clinically right, or that it shows its class."
    )
    if "inception-2015-12-05" not in extractor:
        yield (
            f"The extractor of all distances is: {extractor}. They are not comparable with published FID or KID "
            "values."
        )
    if extractor.startswith("small ResNet"):
        yield (
            "This extractor was trained on the real train split, whose pictures it knows better than any others: "
            "the floor between train and held-out pictures includes that. Rely on the held-out tables."
        )
    yield (
        "Intervals are for drawing other pictures from the same sources. They leave out what training the generator "
        "anew would change. The Fréchet interval is centred on its value and keeps that value's own bias."
    )
    if any(row["biased"] for row in rows):
        yield (
            "Fréchet distances marked biased come from fewer than twice as many pictures as the features have "
            "dimensions: they read too high, the more so the fewer pictures. Compare them only with the floors; the "
            "floor of two halves comes from half as many pictures, which raises it. KID has no such bias."
        )
    missing = [name for name, count in data["counts"]["synthetic"].items() if count == 0]
    if missing:
        yield f"The synthetic set holds no picture of: {', '.join(missing)}. “Overall” leaves those classes out."
    unmeasured = {row["label"] for row in rows if row["value"] is None} - set(missing)
    if unmeasured:
        yield f"Too few pictures to measure: {', '.join(sorted(unmeasured))}."
    yield "Privacy readings find what they look for. That none found a copy does not prove that the set is private."
    if evidence["classifier"]:
        yield (
            "“No evidence” means that the interval holds zero: the synthetic pictures may help or hurt by less than "
            "this many test pictures and seeds can show."
        )


ALIGNMENT_NAMES = {
    "checklist_share": "checklist share",
    "class_margin": "class margin",
    "typicality": "typicality",
    "alignment": "alignment",
    "low_alignment_tail": "low-alignment tail",
}


def alignment_table(alignment: dict[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class the records of ALIGNMENT_NAMES, in that order; empty where it was not measured."""
    table: dict[str, list[dict[str, Any]]] = {}
    for record in alignment["records"] if alignment else []:
        table.setdefault(record["label"], []).append(record)
    return table


def alignment_findings(alignment: dict[str, Any] | None) -> Iterator[dict[str, str]]:
    """The tail overall, for the head of the page."""
    for row in alignment_table(alignment).get("overall", [])[-1:]:
        yield {"title": "Low-alignment tail, overall", **describe_tail(row)}


def describe_tail(row: dict[str, Any]) -> dict[str, str]:
    if row["value"] is None:
        return {"value": "–", "text": row["note"]}
    interval = f"95 % {format_interval(row['interval'])}" if row["interval"] else "no interval"
    floor = row["floor"] if row["floor"] is not None else row["floor_held_out"]
    against = "" if floor is None else f"; among real pictures {format_number(floor)}"
    return {"value": format_number(row["value"]), "text": f"{interval}{against}"}


PICTURES_PER_CLASS = 8


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class as data URIs, the same number of real and of synthetic ones."""

    name: str
    real: list[str]
    synthetic: list[str]


@dataclass(frozen=True)
class PicturePair:
    """A synthetic picture and the real train picture nearest to it as data URIs, and what was made of them."""

    synthetic: str
    real: str
    synthetic_label: str
    real_label: str
    detector: str
    verdict: str


@dataclass(frozen=True)
class Pictures:
    """All pictures of the page."""

    classes: list[ClassPictures]
    pairs: list[PicturePair]


def draw_pictures(real: ImageArrays, synthetic: ImageArrays, closest: list[dict[str, Any]], seed: int) -> Pictures:
    """Choose pictures by `seed`, at most eight a class and side, and encode them and the closest pairs."""
    generator = np.random.default_rng([seed, 2])
    classes = []
    for number, name in enumerate(real.label_names):
        rows = [np.flatnonzero(arrays.labels == number) for arrays in (real, synthetic)]
        count = min(PICTURES_PER_CLASS, *(len(side) for side in rows))
        chosen = [generator.choice(side, size=count, replace=False) for side in rows]
        classes.append(ClassPictures(name, encode(real.images[chosen[0]]), encode(synthetic.images[chosen[1]])))
    pairs = [
        PicturePair(
            synthetic=encode_png(synthetic.images[pair["synthetic_row"]]),
            real=encode_png(real.images[pair["train_row"]]),
            synthetic_label=real.label_names[synthetic.labels[pair["synthetic_row"]]],
            real_label=real.label_names[real.labels[pair["train_row"]]],
            detector=pair["detector"],
            verdict=pair["verdict"],
        )
        for pair in closest
    ]
    return Pictures(classes, pairs)


def encode(images: np.ndarray) -> list[str]:
    return [encode_png(image) for image in images]


def encode_png(image: np.ndarray) -> str:
    """A uint8 picture (channels, r, r) as a data URI, pixel for pixel."""
    return "data:image/png;base64," + base64.b64encode(to_png(to_picture(image))).decode()
