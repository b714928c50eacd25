"""The page of an evaluation of images: from evidence.json to findings, tables, whiskers and the images themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.images import to_picture, to_png
from clinsynth.metrics.registry import ALIGNMENT_METRICS, IMAGE_METRICS, LIKENESS, SCORES, VARIETY, by_name
from clinsynth.reports.page import (
    IMAGES,
    NO_PROOF,
    ends_of,
    first_limits,
    flatten,
    format_interval,
    format_number,
    format_signed,
    limit_of_classes,
    marks_of,
    render_page,
    scale_for,
    tile,
)

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays

SPLITS = {"test": "held-out (test)", "train": "train"}


def render_image_report(evidence: dict[str, Any], samples: ImageSamples) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds."""
    return render_page(
        "report_images",
        image_tiles(evidence),
        image_limits(evidence),
        evidence=evidence,
        samples=samples,
        sets={split: split if split == "synthetic" else f"real {split}" for split in evidence["data"]["counts"]},
        settings=list(flatten(evidence["generation"])),
        tables=list(distance_tables(evidence["measurements"])),
        variety=variety_table(evidence["measurements"], evidence["data"]["label_names"]),
        variety_columns=[metric.column for metric in VARIETY],
        privacy_rows=list(privacy_rows(evidence["privacy"])),
        alignment=alignment_table(evidence.get("alignment")),
        alignment_columns=[metric.column for metric in ALIGNMENT_METRICS],
        arms=arm_table(evidence["classifier"]),
    )


def distance_tables(measurements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One table a metric and reference; all whiskers of a table share one scale."""
    for reference, metric in ((split, metric) for split in SPLITS for metric in LIKENESS):
        rows = [row for row in measurements if (row["reference"], row["metric"]) == (reference, metric.name)]
        scale = scale_for(end for row in rows for end in ends_of(row))
        yield {
            "title": f"{metric.title} from the real {SPLITS[reference]} split",
            "rows": [{**row, "marks": marks_of(row, scale)} for row in rows],
            "other": SPLITS["train" if reference == "test" else "test"],
        }


def variety_table(measurements: list[dict[str, Any]], label_names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class the records of VARIETY beside the held-out split, in that order."""
    found = {(row["label"], row["metric"]): row for row in measurements if row["reference"] == "test"}
    labels = [label for label in ("overall", *label_names) if (label, "precision") in found]
    return {label: [found[label, metric.name] for metric in VARIETY] for label in labels}


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
    for record in privacy["records"]:
        if record["label"] == "overall":
            yield {
                "reading": f"{IMAGE_METRICS[record['metric']].title}, {record['extractor']}",
                "value": format_number(record["value"]),
                "interval": format_interval(record["interval"]),
                "against": f"held-out pictures: {format_number(record['floor'])}",
            }


def arm_table(classifier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row a metric: both arms' records and the record of their difference."""
    if classifier is None:
        return []
    by_arm = {(record["arm"], record["metric"]): record for record in classifier["arms"]}
    return [
        {
            "metric": title_of_score(comparison["metric"]),
            "real": by_arm["real", comparison["metric"]],
            "composite": by_arm["composite", comparison["metric"]],
            "difference": comparison,
            "verdict": comparison.get("verdict"),
        }
        for comparison in classifier["comparisons"]
    ]


def title_of_score(name: str) -> str:
    """The title of a classifier's score, of a class's F1 too."""
    scores = by_name(SCORES)
    return scores[name].title if name in scores else name.replace("f1 ", "F1 ")


def image_tiles(evidence: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The few numbers at the head of the page, each with a sentence that says what it is held against."""
    titles = by_name(LIKENESS)
    for row in evidence["measurements"]:
        if row["reference"] == "test" and row["label"] == "overall" and row["metric"] in titles:
            against = "; real train pictures lie at {}"
            yield number_tile(f"{titles[row['metric']].title}, overall", row, row["floor_held_out"], against)
    for record in evidence["classifier"]["comparisons"][:1] if evidence["classifier"] else []:
        low, high = map(format_signed, record["interval"])
        text = f"macro-F1 {format_signed(record['difference'])} against real alone, 95 % {low} to {high}"
        yield tile("Classifier, real + synthetic", record["verdict"], text)
    for row in alignment_table(evidence.get("alignment")).get("overall", [])[-1:]:
        floor = row["floor"] if row["floor"] is not None else row["floor_held_out"]
        yield number_tile("Low-alignment tail, overall", row, floor, "; among real pictures {}")
    yield tile("Privacy", evidence["privacy"]["verdict"], "see the readings and the closest pairs below")
    collapsed = "found" if evidence["collapse"]["flag"] else "not found"
    yield tile("Mode collapse", collapsed, evidence["collapse"]["sentence"])


def number_tile(title: str, record: dict[str, Any], floor: float | None, against: str) -> dict[str, str]:
    """The value of a record with its interval, `against` its floor."""
    if record["value"] is None:
        return tile(title, "–", record["note"])
    interval = f"95 % {format_interval(record['interval'])}" if record["interval"] else "no interval"
    beside = "" if floor is None else against.format(format_number(floor))
    return tile(title, format_number(record["value"]), f"{interval}{beside}")


def image_limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data, extractor, rows = evidence["data"], evidence["extractor"]["name"], evidence["measurements"]
    yield from first_limits(data["real"], IMAGES)
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
    counts = data["counts"]["synthetic"]
    yield from limit_of_classes(counts, "picture")
    unmeasured = {row["label"] for row in rows if row["value"] is None and counts.get(row["label"]) != 0}
    if unmeasured:
        yield f"Too few pictures to measure: {', '.join(sorted(unmeasured))}."
    yield NO_PROOF
    if evidence["classifier"]:
        yield (
            "“No evidence” means that the interval holds zero: the synthetic pictures may help or hurt by less than "
            "this many test pictures and seeds can show."
        )


def alignment_table(alignment: dict[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class the records of ALIGNMENT_METRICS, in that order; empty where none was measured."""
    table: dict[str, list[dict[str, Any]]] = {}
    for record in alignment["records"] if alignment else []:
        table.setdefault(record["label"], []).append(record)
    return table


IMAGES_A_CLASS = 8


@dataclass(frozen=True)
class ClassImages:
    """Images of one class as data URIs, the same number of real and of synthetic ones."""

    name: str
    real: list[str]
    synthetic: list[str]


@dataclass(frozen=True)
class ImagePair:
    """A synthetic image and the real train image nearest to it as data URIs, and what was made of them."""

    synthetic: str
    real: str
    synthetic_label: str
    real_label: str
    detector: str
    verdict: str


@dataclass(frozen=True)
class ImageSamples:
    """All images of the page."""

    classes: list[ClassImages]
    pairs: list[ImagePair]


def choose_images(real: ImageArrays, synthetic: ImageArrays, closest: list[dict[str, Any]], seed: int) -> ImageSamples:
    """Choose images by `seed`, at most eight a class and side, and encode them and the closest pairs."""
    generator = np.random.default_rng([seed, 2])
    classes = []
    for number, name in enumerate(real.label_names):
        rows = [np.flatnonzero(arrays.labels == number) for arrays in (real, synthetic)]
        count = min(IMAGES_A_CLASS, *(len(side) for side in rows))
        chosen = [generator.choice(side, size=count, replace=False) for side in rows]
        classes.append(
            ClassImages(name, encode_images(real.images[chosen[0]]), encode_images(synthetic.images[chosen[1]]))
        )
    pairs = [
        ImagePair(
            synthetic=encode_png(synthetic.images[pair["synthetic_row"]]),
            real=encode_png(real.images[pair["train_row"]]),
            synthetic_label=real.label_names[synthetic.labels[pair["synthetic_row"]]],
            real_label=real.label_names[real.labels[pair["train_row"]]],
            detector=pair["detector"],
            verdict=pair["verdict"],
        )
        for pair in closest
    ]
    return ImageSamples(classes, pairs)


def encode_images(images: np.ndarray) -> list[str]:
    return [encode_png(image) for image in images]


def encode_png(image: np.ndarray) -> str:
    """A uint8 image (channels, r, r) as a data URI, pixel for pixel."""
    return "data:image/png;base64," + base64.b64encode(to_png(to_picture(image))).decode()
