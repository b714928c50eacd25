"""The page of an evaluation of images: from evidence.json to findings, tables, whiskers and the images themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.images import to_picture, to_png
from clinsynth.metrics.registry import ALIGNMENT_METRICS, IMAGE_METRICS, LIKENESS, SCORES, VARIETY, Metrics, by_name
from clinsynth.reports import page

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays

SPLITS = {"test": "held-out (test)", "train": "train"}


def render_image_report(evidence: dict[str, Any], samples: dict[str, Any]) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds, `samples` those of `choose_images`."""
    beside = [row for row in evidence["measurements"] if row["reference"] == "test"]
    return page.render_page(
        "report_images",
        image_tiles(evidence),
        image_limits(evidence),
        evidence=evidence,
        samples=samples,
        sets={split: split if split == "synthetic" else f"real {split}" for split in evidence["data"]["counts"]},
        settings=list(page.flatten(evidence["generation"])),
        tables=list(distance_tables(evidence["measurements"])),
        variety=table_by_class(beside, VARIETY),
        variety_columns=[metric.column for metric in VARIETY],
        privacy_rows=list(privacy_rows(evidence["privacy"])),
        alignment=table_by_class(alignment_records(evidence), ALIGNMENT_METRICS),
        alignment_columns=[metric.column for metric in ALIGNMENT_METRICS],
        arms=arm_table(evidence["classifier"]),
    )


def distance_tables(measurements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One table a metric and reference; all whiskers of a table share one scale."""
    for reference, metric in ((split, metric) for split in SPLITS for metric in LIKENESS):
        rows = [row for row in measurements if (row["reference"], row["metric"]) == (reference, metric.name)]
        scale = page.scale_for(end for row in rows for end in page.ends_of(row))
        yield {
            "title": f"{metric.title} from the real {SPLITS[reference]} split",
            "rows": [{**row, "marks": page.marks_of(row, scale)} for row in rows],
            "other": SPLITS["train" if reference == "test" else "test"],
        }


def table_by_class(records: list[dict[str, Any]], metrics: Metrics) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class that was measured the records of `metrics`, in that order."""
    found = {(row["label"], row["metric"]): row for row in records}
    labels = [label for label, metric in found if metric == metrics[0].name]
    return {label: [found[label, metric.name] for metric in metrics] for label in labels}


def alignment_records(evidence: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores of the checklist's judge; none where there was no judge."""
    records: list[dict[str, Any]] = (evidence.get("alignment") or {"records": []})["records"]
    return records


def privacy_rows(privacy: dict[str, Any]) -> Iterator[dict[str, str]]:
    """One row a reading of the whole set: what was read, value, interval, and what it is held against."""
    for record in privacy["copies"]:
        expected = record["expected_false_alarms"]
        yield {
            "reading": f"{record['metric'].replace('_', ' ')}, {record['detector']}",
            "value": f"{record['count']} of {record['n_synthetic']}",
            "interval": "–",
            "against": "0" if expected is None else f"{page.format_number(expected)} false alarms expected",
        }
    for record in privacy["records"]:
        if record["label"] == "overall":
            yield {
                "reading": f"{IMAGE_METRICS[record['metric']].title}, {record['extractor']}",
                "value": page.format_number(record["value"]),
                "interval": page.format_interval(record["interval"]),
                "against": f"held-out pictures: {page.format_number(record['floor'])}",
            }


def arm_table(classifier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row a metric: both arms' records and the record of their difference."""
    if classifier is None:
        return []
    titles = by_name(SCORES)
    by_arm = {(record["arm"], record["metric"]): record for record in classifier["arms"]}
    return [
        {
            "metric": titles[comparison["metric"]].title
            if comparison["metric"] in titles
            else comparison["metric"].replace("f1 ", "F1 "),
            "real": by_arm["real", comparison["metric"]],
            "composite": by_arm["composite", comparison["metric"]],
            "difference": comparison,
            "verdict": comparison.get("verdict"),
        }
        for comparison in classifier["comparisons"]
    ]


def image_tiles(evidence: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The few numbers at the head of the page, each with a sentence that says what it is held against."""
    titles = by_name(LIKENESS)
    for row in evidence["measurements"]:
        if row["reference"] == "test" and row["label"] == "overall" and row["metric"] in titles:
            against = "; real train pictures lie at {}"
            yield number_tile(f"{titles[row['metric']].title}, overall", row, row["floor_held_out"], against)
    for record in evidence["classifier"]["comparisons"][:1] if evidence["classifier"] else []:
        low, high = map(page.format_signed, record["interval"])
        text = f"macro-F1 {page.format_signed(record['difference'])} against real alone, 95 % {low} to {high}"
        yield page.tile("Classifier, real + synthetic", record["verdict"], text)
    for row in alignment_records(evidence):
        if (row["label"], row["metric"]) == ("overall", "low_alignment_tail"):
            floor = row["floor"] if row["floor"] is not None else row["floor_held_out"]
            yield number_tile("Low-alignment tail, overall", row, floor, "; among real pictures {}")
    yield page.tile("Privacy", evidence["privacy"]["verdict"], "see the readings and the closest pairs below")
    collapsed = "found" if evidence["collapse"]["flag"] else "not found"
    yield page.tile("Mode collapse", collapsed, evidence["collapse"]["sentence"])


def number_tile(title: str, record: dict[str, Any], floor: float | None, against: str) -> dict[str, str]:
    """The value of a record with its interval, `against` its floor."""
    if record["value"] is None:
        return page.tile(title, "–", record["note"])
    interval = f"95 % {page.format_interval(record['interval'])}" if record["interval"] else "no interval"
    beside = "" if floor is None else against.format(page.format_number(floor))
    return page.tile(title, page.format_number(record["value"]), f"{interval}{beside}")


def image_limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data, extractor, rows = evidence["data"], evidence["extractor"]["name"], evidence["measurements"]
    yield from page.first_limits(data["real"], page.IMAGES, data.get("notes", ()))
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
    yield from page.limit_of_classes(counts, "picture")
    unmeasured = {row["label"] for row in rows if row["value"] is None and counts.get(row["label"]) != 0}
    if unmeasured:
        yield f"Too few pictures to measure: {', '.join(sorted(unmeasured))}."
    yield page.NO_PROOF
    if evidence["classifier"]:
        yield (
            "“No evidence” means that the interval holds zero: the synthetic pictures may help or hurt by less than "
            "this many test pictures and seeds can show."
        )


IMAGES_A_CLASS = 8


def choose_images(
    real: ImageArrays, synthetic: ImageArrays, closest: list[dict[str, Any]], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The images of the page as data URIs: `classes`, at most eight a side, as many real as synthetic ones, drawn by
    `seed`; and `pairs`, each of a synthetic image and the real train image nearest to it."""
    generator = np.random.default_rng([seed, 2])
    classes = []
    for number, name in enumerate(real.label_names):
        rows = [np.flatnonzero(arrays.labels == number) for arrays in (real, synthetic)]
        count = min(IMAGES_A_CLASS, *(len(side) for side in rows))
        chosen = [generator.choice(side, size=count, replace=False) for side in rows]
        shown = [encode_images(arrays.images[own]) for arrays, own in zip((real, synthetic), chosen, strict=True)]
        classes.append({"name": name, "real": shown[0], "synthetic": shown[1]})
    pairs = [
        {
            **pair,
            "synthetic": encode_png(synthetic.images[pair["synthetic_row"]]),
            "real": encode_png(real.images[pair["train_row"]]),
            "synthetic_label": real.label_names[synthetic.labels[pair["synthetic_row"]]],
            "real_label": real.label_names[real.labels[pair["train_row"]]],
        }
        for pair in closest
    ]
    return {"classes": classes, "pairs": pairs}


def encode_images(images: np.ndarray) -> list[str]:
    return [encode_png(image) for image in images]


def encode_png(image: np.ndarray) -> str:
    """A uint8 image (channels, r, r) as a data URI, pixel for pixel."""
    return "data:image/png;base64," + base64.b64encode(to_png(to_picture(image))).decode()
