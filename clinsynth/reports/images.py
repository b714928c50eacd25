"""The page of an evaluation of images: from evidence.json to findings, tables, whiskers and the images themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.images import to_picture, to_png
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.readings import read_evidence
from clinsynth.metrics.registry import (
    ALIGNMENT_METRICS,
    EXACT,
    IMAGE_METRICS,
    LIKENESS,
    NEAR,
    NO_SIGN,
    SCORES,
    VARIETY,
    Metrics,
    by_name,
)
from clinsynth.metrics.verdicts import judge
from clinsynth.reports import page
from clinsynth.reports.maps import map_features

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays
    from clinsynth.metrics.records import Features

SPLITS = {"test": "held-out (test)", "train": "train"}


def render_image_report(evidence: dict[str, Any], samples: dict[str, Any], made: page.Made | None = None) -> str:
    """The page as HTML text; `evidence` is what evidence.json holds, `samples` those of `choose_images`."""
    beside = [row for row in evidence["measurements"] if row["reference"] == "test"]
    readings = read_evidence(evidence)
    return page.render_page(
        "report_images",
        image_limits(evidence),
        verdict=judge(evidence),
        terms=page.terms_of([*IMAGE_METRICS.values(), *SCORES]),
        made=made or page.Made(),
        at_chance=page.AT_CHANCE if readings.at_chance else "",
        evidence=evidence,
        samples=samples,
        sets={split: split if split == "synthetic" else f"real {split}" for split in evidence["data"]["counts"]},
        settings=list(page.flatten(evidence["generation"])),
        tables=list(distance_tables(evidence["measurements"])),
        collapse=read_collapse(evidence["measurements"], "test")["sentence"],
        variety=table_by_class(beside, VARIETY),
        variety_columns=[(metric.name, metric.column) for metric in VARIETY],
        agreement=agreement_rows(evidence["classifier"]),
        privacy_rows=list(privacy_rows(evidence["privacy"])),
        expected=expected_alarms(evidence["privacy"]),
        alignment=table_by_class((evidence.get("alignment") or {"records": []})["records"], ALIGNMENT_METRICS),
        alignment_columns=[(metric.name, metric.column) for metric in ALIGNMENT_METRICS],
        arms=arm_table(evidence["classifier"]),
    )


def distance_tables(measurements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One table a metric and reference; all whiskers of a table share one scale."""
    for reference, metric in ((split, metric) for split in SPLITS for metric in LIKENESS):
        rows = [row for row in measurements if (row["reference"], row["metric"]) == (reference, metric.name)]
        scale = page.scale_for(end for row in rows for end in page.ends_of(row))
        yield {
            "metric": metric.name,
            "title": f"{metric.title} from the real {SPLITS[reference]} split",
            "rows": [{**row, "marks": page.marks_of(row, scale)} for row in rows],
            "other": SPLITS["train" if reference == "test" else "test"],
        }


def table_by_class(records: list[dict[str, Any]], metrics: Metrics) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class that was measured the records of `metrics`, in that order."""
    found = {(row["label"], row["metric"]): row for row in records}
    labels = [label for label, metric in found if metric == metrics[0].name]
    return {label: [found[label, metric.name] for metric in metrics] for label in labels}


def privacy_rows(privacy: dict[str, Any]) -> Iterator[dict[str, str]]:
    """One row a reading of the whole set: what was read, value, interval, and what it is held against."""
    for record in privacy["copies"]:
        expected = record["expected_false_alarms"]
        kind = "flagged as near copy" if record["metric"] == NEAR else record["metric"]
        yield {
            "reading": f"{kind}, {record['detector']}",
            "value": f"{record['count']} of {record['n_synthetic']}",
            "interval": " to ".join(map(page.format_percent, record.get("interval") or [None])),
            "against": "0" if expected is None else f"{page.format_number(expected)} false alarms expected",
        }
    for record in privacy["records"]:
        if record["label"] == "overall":
            yield {
                "reading": f"{IMAGE_METRICS[record['metric']].title}, {record['extractor']}",
                "value": page.format_number(record["value"]),
                "interval": page.format_interval(record["interval"]),
                "against": f"held-out images: {page.format_number(record['floor'])}",
            }


def arm_table(classifier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row a metric: both arms' records and the record of their difference."""
    if classifier is None:
        return []
    titles = by_name(SCORES)
    by_arm = {(record["arm"], record["metric"]): record for record in classifier["arms"]}
    rows = []
    for comparison in classifier["comparisons"]:
        metric, (arm, control) = comparison["metric"], comparison.get("arms") or ("composite", "real")
        rows.append(
            {
                "metric": titles[metric].title if metric in titles else metric.replace("f1 ", "F1 "),
                "real": by_arm[control, metric],
                "composite": by_arm[arm, metric],
                "difference": comparison,
                "verdict": comparison.get("verdict"),
            }
        )
    return rows


def agreement_rows(classifier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The records of the label agreement, the whole set first; none where no classifier was trained."""
    rows: list[dict[str, Any]] = (classifier or {}).get("label_agreement") or []
    return sorted(rows, key=lambda row: row["label"] != "overall")


def expected_alarms(privacy: dict[str, Any]) -> dict[str, str]:
    """False alarms that each detector of near copies is expected to give, by its name."""
    return {
        record["detector"]: page.format_number(record["expected_false_alarms"])
        for record in privacy["copies"]
        if record["metric"] == NEAR and record["expected_false_alarms"] is not None
    }


def image_limits(evidence: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    data, extractor, rows = evidence["data"], evidence["extractor"]["name"], evidence["measurements"]
    yield from page.first_limits(data["real"], page.IMAGES, data.get("notes", ()))
    if read_evidence(evidence).at_chance:
        yield page.AT_CHANCE
    if "inception-2015-12-05" not in extractor:
        yield (
            f"The extractor of all distances is: {extractor}. They are not comparable with published FID or KID "
            "values."
        )
    if extractor.startswith("small ResNet"):
        yield (
            "This extractor was trained on the real train split, whose images it knows better than any others: "
            "the floor between train and held-out images includes that. Rely on the held-out tables."
        )
    yield (
        "Intervals are for drawing other images from the same sources. They leave out what training the generator "
        "anew would change. The Fréchet interval is centred on its value and keeps that value's own bias."
    )
    if any(row["biased"] for row in rows):
        yield (
            "Fréchet distances marked biased come from fewer than twice as many images as the features have "
            "dimensions: they read too high, the more so the fewer images. Compare them only with the floors; the "
            "floor of two halves comes from half as many images, which raises it. KID has no such bias."
        )
    counts = data["counts"]["synthetic"]
    yield from page.limit_of_classes(counts, "image")
    unmeasured = {row["label"] for row in rows if row["value"] is None and counts.get(row["label"]) != 0}
    if unmeasured:
        yield f"Too few images to measure: {', '.join(sorted(unmeasured))}."
    yield page.NO_PROOF
    if evidence["classifier"]:
        yield (
            "“No evidence” means that the interval holds zero: the synthetic images may help or hurt by less than "
            "this many test images and seeds can show."
        )


IMAGES_A_CLASS = 8


def choose_images(
    train: ImageArrays,
    synthetic: ImageArrays,
    privacy: dict[str, Any],
    seed: int,
    features: dict[str, Features] | None = None,
    shareable: bool = False,
) -> dict[str, Any]:
    """What the page shows of both sides.

    Args:
        train, synthetic: both sides.
        privacy: that of the evidence.
        seed: of the choice.
        features: of "test" and "synthetic", for the map; None leaves it out.
        shareable: show no real image, no synthetic one that was flagged as a copy, and none at all where a sign of
            copies was found or exact copies were not looked for.

    Returns:
        `classes`, at most eight images a side as data URIs, as many real as synthetic ones; `pairs`, each of a
        synthetic image and the real train image nearest to it; `shareable`; and what `map_features` gives.
    """
    generator, classes = np.random.default_rng([seed, 2]), []
    hidden = shareable and may_hold_copies(privacy)
    flagged = [pair["synthetic_row"] for pair in privacy["pairs"] if pair["verdict"] in (EXACT, NEAR)]
    shown_rows = ~np.isin(np.arange(len(synthetic.labels)), flagged if shareable else [])
    for number, name in enumerate(train.label_names):
        rows = [np.flatnonzero(train.labels == number), np.flatnonzero((synthetic.labels == number) & shown_rows)]
        count = min(IMAGES_A_CLASS, *(len(side) for side in rows))
        chosen = [generator.choice(side, size=count, replace=False) for side in rows]
        shown = [encode_images(arrays.images[own]) for arrays, own in zip((train, synthetic), chosen, strict=True)]
        classes.append({"name": name, "real": [] if shareable else shown[0], "synthetic": [] if hidden else shown[1]})
    drawn = {"maps": [], "explained": 0.0}
    if features is not None:
        drawn = map_features(features["test"], features["synthetic"], train.label_names, seed)
    pairs = [] if shareable else [encode_pair(pair, train, synthetic) for pair in privacy["pairs"]]
    return {"classes": classes, "pairs": pairs, "shareable": shareable, **drawn}


def may_hold_copies(privacy: dict[str, Any]) -> bool:
    """Whether a sign of copies was found, or exact ones were not looked for."""
    return privacy["verdict"] != NO_SIGN or not privacy.get("exact")


def encode_pair(pair: dict[str, Any], train: ImageArrays, synthetic: ImageArrays) -> dict[str, Any]:
    """One of the closest pairs with its images and their labels."""
    made, seen = pair["synthetic_row"], pair["train_row"]
    return {
        **pair,
        "synthetic": encode_png(synthetic.images[made]),
        "real": encode_png(train.images[seen]),
        "synthetic_label": train.label_names[synthetic.labels[made]],
        "real_label": train.label_names[train.labels[seen]],
    }


def encode_images(images: np.ndarray) -> list[str]:
    return [encode_png(image) for image in images]


def encode_png(image: np.ndarray) -> str:
    """A uint8 image (channels, r, r) as a data URI, pixel for pixel."""
    return "data:image/png;base64," + base64.b64encode(to_png(to_picture(image))).decode()
