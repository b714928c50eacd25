"""The page of a study: from report.json to tables, whiskers, bars and curves of one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics.privacy.verdict import worst_over_runs
from clinsynth.reports.images import encode, privacy_rows, template_environment
from clinsynth.reports.page import interval_marks, polyline, scale_for
from clinsynth.reports.texts import CONTENT, DISTANCES, DIVERSITY, ENTITIES, OVERLAP
from clinsynth.run_folder import atomic_write, describe_environment
from clinsynth.study.plan import IMAGES, MARK, TEXTS, Kind
from clinsynth.synthesis.sets import load_synthetic_images, with_labels_of
from clinsynth.trainers.classifiers.arms import CONTROLS

if TYPE_CHECKING:
    from clinsynth.scripts.study import StudyArguments
    from clinsynth.study.plan import Plan

WHISKER = 200.0
CURVE = (220.0, 90.0)
ARM_METRICS = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "ece": "calibration error (ECE)",
}


def render_study(report: dict[str, Any], pictures: list[dict[str, Any]]) -> str:
    """The page as HTML text; `report` is what report.json holds, `pictures` a row of data URIs a class and set."""
    kind = kind_of(report)
    generators = report["generators"]
    return (
        template_environment()
        .get_template("report_study.html.jinja")
        .render(
            report=report,
            things="pictures" if kind is IMAGES else "texts",
            pictures=pictures,
            tables=[{"table": table, "rows": list(measure_rows(generators, table))} for table in tables_of(kind)],
            bar_title=bar_of(kind)[1],
            per_class=list(class_bars(generators, bar_of(kind)[0])),
            privacy=privacy_table(generators) if kind is IMAGES else {},
            classifiers=[classifier_view(name, results, report) for name, results in report["classifiers"].items()],
            tiles=list(tiles(report)),
            limits=list(limits(report)),
        )
    )


def kind_of(report: dict[str, Any]) -> Kind:
    """What kind of study a report is of."""
    return TEXTS if report["task"] else IMAGES


def measure_rows(generators: dict[str, Any], table: Table) -> Iterator[dict[str, Any]]:
    """A row a metric of the table that was measured: the floor and every generator's record, overall."""
    for metric, (title, better) in table.measures.items():
        records = {name: find(entry, metric, "overall", table.reference) for name, entry in generators.items()}
        known = [record for record in records.values() if record is not None and record["value"] is not None]
        if not known:
            continue
        floor = known[0]["floor_held_out"]
        ends = [end for record in known for end in (record["interval"] or [record["value"]])]
        scale = scale_for([floor, *ends], WHISKER)
        yield {
            "title": title,
            "better": better,
            "floor": floor,
            "floor_place": None if floor is None else scale(floor),
            "cells": {
                name: record
                and record["value"] is not None
                and {"record": record, "marks": interval_marks(record["value"], record["interval"], scale)}
                for name, record in records.items()
            },
        }


def find(entry: dict[str, Any], metric: str, label: str, reference: str = "test") -> dict[str, Any] | None:
    """The measurement of a generator with this metric, class and real split."""
    for record in entry["evidence"]["measurements"]:
        if (record["metric"], record["label"], record["reference"]) == (metric, label, reference):
            return record
    return None


def class_bars(generators: dict[str, Any], metric: str) -> Iterator[dict[str, Any]]:
    """For each class a bar a generator: `metric` against held-out rows of the class, with interval and floor."""
    if not generators:
        return
    labels = next(iter(generators.values()))["evidence"]["data"]["label_names"]
    records = {(label, name): find(entry, metric, label) for label in labels for name, entry in generators.items()}
    measured = [record for record in records.values() if record and record["value"] is not None]
    ends = [end for record in measured for end in [record["value"], record["floor"], *(record["interval"] or [])]]
    scale = scale_for(ends, 2 * WHISKER)
    for label in labels:
        bars = []
        for name in generators:
            record = records[label, name]
            if record and record["value"] is not None:
                floor = None if record["floor"] is None else scale(record["floor"])
                marks = interval_marks(record["value"], record["interval"], scale)
                bars.append({"name": name, "record": record, "marks": marks, "floor": floor})
        yield {"label": label, "bars": bars}


def privacy_table(generators: dict[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Reading by reading, then generator by generator, the worst of the draws."""
    table: dict[str, dict[str, dict[str, str]]] = {}
    for name, entry in generators.items():
        for row in privacy_rows(entry["privacy"]):
            table.setdefault(row["reading"], {})[name] = row
    return table


def classifier_view(name: str, results: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Tables and drawings of one classifier: arms, classes, confusion, learning curves, subgroups."""
    values = {(record["arm"], record["metric"]): record for record in results["arms"]}
    against = {record["arm"]: record for record in results["comparisons"] if record["metric"] == "macro_f1"}
    arms = list(dict.fromkeys(record["arm"] for record in results["arms"]))
    scale = scale_for([end for record in against.values() for end in record["interval"]], WHISKER)
    rows = [
        {
            "arm": arm,
            "pictures": pictures_of(results, arm),
            "scores": [values.get((arm, metric)) for metric in ARM_METRICS],
            "comparison": against.get(arm),
            "marks": against.get(arm) and interval_marks(against[arm]["difference"], against[arm]["interval"], scale),
        }
        for arm in arms
    ]
    return {
        "name": name,
        "results": results,
        "advantage": advantage(results, report["generators"]),
        "rows": rows,
        "metric_titles": list(ARM_METRICS.values()),
        "classes": [label for label in results["label_names"]],
        "recalls": {arm: [values[arm, f"recall {label}"] for label in results["label_names"]] for arm in arms},
        "confusions": [confusion_view(arm, matrix) for arm, matrix in results["confusion"].items()],
        "curves": curve_views(results),
        "agreement": results["label_agreement"],
        "subgroups": results["subgroups"],
    }


def pictures_of(results: dict[str, Any], arm: str) -> str:
    """How many samples an arm's first training saw: "100 real, 500 made"."""
    run = next(run for run in results["runs"] if run["arm"] == arm)
    real, made = run["train_rows"] - run["synthetic_rows"], run["synthetic_rows"]
    return ", ".join(f"{count} {kind}" for count, kind in ((real, "real"), (made, "made")) if count)


def advantage(results: dict[str, Any], generators: dict[str, Any]) -> str:
    """A sentence where a generator saw more real pictures than this classifier's real arms hold; else empty."""
    real = next(run["train_rows"] for run in results["runs"] if run["arm"] == results["control"])
    seen = {name: sum(entry["evidence"]["data"]["counts"]["train"].values()) for name, entry in generators.items()}
    used = {record["arm"].rpartition("-")[2] for record in results["arms"]} & set(seen)
    more = {name: count for name, count in seen.items() if name in used and count > real}
    if not more:
        return ""
    counts = ", ".join(f"{name} {count:,}" for name, count in more.items())
    return (
        f"Generators were trained on more real samples ({counts}) than the {real:,} that the real arms hold: this is "
        "the case of a site with few samples that is given a synthetic set by one with many, not a gain from nothing."
    )


def confusion_view(arm: str, matrix: list[list[float]]) -> dict[str, Any]:
    """A confusion matrix with each row as shares of its true class, in percent."""
    shares = [[100 * cell / max(sum(row), 1e-12) for cell in row] for row in matrix]
    return {"arm": arm, "shares": shares}


def curve_views(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Validation macro-F1 over the epochs: one drawing an arm, one line a seed, all on one scale."""
    lines: dict[str, list[list[float]]] = {}
    for run in results["runs"]:
        lines.setdefault(run["arm"], []).append([record["validation_macro_f1"] for record in run["history"]])
    every = [value for seeds in lines.values() for line in seeds for value in line]
    low, high = min(every, default=0.0), max(every, default=1.0)
    return [
        {"arm": arm, "low": low, "high": high, "lines": [polyline(line, low, high, *CURVE) for line in seeds]}
        for arm, seeds in lines.items()
    ]


def tiles(report: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The few numbers at the head of the page."""
    for name, results in report["classifiers"].items():
        compared = [r for r in results["comparisons"] if r["metric"] == "macro_f1" and r["arm"] not in CONTROLS]
        if compared:
            best = max(compared, key=lambda record: record["difference"])
            yield {"title": f"Best arm for {name}", "value": best["verdict"], "text": best["sentence"]}
    for name, entry in report["generators"].items():
        if kind_of(report) is IMAGES:
            privacy = entry["privacy"]
            yield {"title": f"Privacy of {name}", "value": privacy["verdict"], "text": privacy["text"]}
        else:
            found = [finding for finding in entry["evidence"]["findings"].values() if finding["flag"]]
            what = " ".join(finding["sentence"] for finding in found)
            text = what or "No sign of copies, leaks, repetition or a softened tone."
            yield {"title": f"Findings on {name}", "value": f"{len(found) or 'none'} of 4", "text": text}


def limits(report: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    if report["dataset"].startswith("phantom"):
        yield "The phantom data sets are made by a program: nothing here says anything about patients."
    if kind_of(report) is IMAGES:
        yield (
            "No clinician has judged these pictures. Distances compare a network's features; they do not say that a "
            "picture is anatomically or clinically right."
        )
    else:
        yield (
            "No clinician has read these texts. Distances compare a network's embeddings and counts of words; they do "
            "not say that a text is medically right, or that somebody with the condition would write it."
        )
    yield (
        "Each generator was trained once. What another training seed would change is not in the intervals of fidelity "
        "and privacy; those of the classifiers hold test samples and classifier seeds."
    )
    yield (
        "“No evidence” means that the interval, corrected for the number of arms (Holm), holds zero: a smaller effect "
        "than these test samples and seeds can show is possible."
    )
    yield "Privacy tests find what they look for. Finding nothing is no proof that nothing leaks."
    yield "Energy was not measured."


PICTURES = 6


def write_study_report(args: StudyArguments, plan: Plan, output_dir: Path) -> None:
    """Write report.json and report.html, and print where they are."""
    report = gather_report(args, plan)
    pictures = [] if args.task else draw_rows(args, plan)
    atomic_write(output_dir / "report.html", render_study(report, pictures))
    atomic_write(output_dir / "report.json", json.dumps(report, indent=1) + "\n")
    private = "keep it private" if args.task else "shows real pictures, keep it private"
    print(f"report ({private}): {output_dir / 'report.html'}")


def gather_report(args: StudyArguments, plan: Plan) -> dict[str, Any]:
    """Everything that the steps measured, as report.json holds it."""
    generators = {name: gather_generator(args, plan, name) for name in plan.generated}
    return {
        "title": args.title or args.dataset,
        "dataset": args.dataset,
        "task": args.task,
        "generators": generators,
        "classifiers": {
            name: json.loads((step.output_dir / "results.json").read_text()) for name, step in plan.classified.items()
        },
        "commands": [read_mark(step.output_dir) for step in plan.steps],
        "environment": describe_environment(),
        "steps": {step.name: step.key for step in plan.steps},
    }


def gather_generator(args: StudyArguments, plan: Plan, name: str) -> dict[str, Any]:
    """What was measured of one generator: the whole evidence on its first draw, and the worst privacy of all draws."""
    draws = {
        f"seed {step.flags['seed']}": json.loads((evaluated.output_dir / "evidence.json").read_text())
        for step, evaluated in zip(plan.generated[name], plan.evaluated[name], strict=True)
    }
    trained = plan.trained.get(name)
    entry = {
        "trainer": args.generators[name]["trainer"],
        "training": read_mark(trained.output_dir) if trained else None,
        "page": str((plan.evaluated[name][0].output_dir / "report.html").relative_to(args.output_dir)),
    }
    first = next(iter(draws.values()))
    if args.task:
        return {**entry, "evidence": text_evidence_of(first)}
    return {
        **entry,
        "evidence": {part: first[part] for part in first if part != "environment"},
        "privacy": worst_over_runs({draw: evidence["privacy"] for draw, evidence in draws.items()}),
        "membership": read_membership(plan, name),
    }


def text_evidence_of(evidence: dict[str, Any]) -> dict[str, Any]:
    """The parts of a text set's evidence that the study's page shows, its measurements in one list."""
    parts = {part: evidence[part] for part in ("data", "encoder", "language_model", "findings")}
    return {**parts, "measurements": [*evidence["fidelity"], *evidence["diversity"], *evidence["privacy"]]}


def read_membership(plan: Plan, name: str) -> dict[str, Any] | None:
    """The membership attack on a generator, None where there is none on its kind."""
    if name not in plan.audited:
        return None
    record: dict[str, Any] = json.loads((plan.audited[name].output_dir / "membership.json").read_text())
    return record


def read_mark(folder: Path) -> dict[str, Any]:
    """Command and time of a finished step."""
    mark: dict[str, Any] = json.loads((folder / MARK).read_text())
    return mark


def draw_rows(args: StudyArguments, plan: Plan) -> list[dict[str, Any]]:
    """For each class a row of real pictures and one of each generator's, as data URIs, chosen by the study's seed."""
    sets: dict[str, ImageArrays] = {"real": load_image_arrays(args, args.seed)["train"]}
    for name, draws in plan.generated.items():
        sets[name] = with_labels_of(sets["real"], load_synthetic_images(draws[0].output_dir))
    random = np.random.default_rng([args.seed, 4])
    return [
        {"label": name, "sets": {source: choose(arrays, label, random) for source, arrays in sets.items()}}
        for label, name in enumerate(sets["real"].label_names)
    ]


def choose(arrays: ImageArrays, label: int, random: np.random.Generator) -> list[str]:
    """At most six pictures of a class, encoded."""
    rows = np.flatnonzero(arrays.labels == label)
    return encode(arrays.images[random.choice(rows, size=min(PICTURES, len(rows)), replace=False)])


LOWER, HIGHER, NEAR = "lower", "higher", "near the floor"


@dataclass(frozen=True)
class Table:
    """One table of measures.

    Attributes:
        title, text: heading and what is compared.
        reference: the real split that stands beside the synthetic set.
        measures: metric to its name on the page and the better direction.
    """

    title: str
    text: str
    reference: str
    measures: dict[str, tuple[str, str]]


HELD_OUT = (
    "Synthetic against real held-out (test) {things} on matched label mixes. The floor is the same measure between "
    "real train and real held-out {things}: what a perfect generator would reach."
)
IMAGE_TABLES = [
    Table(
        "Fidelity and diversity",
        HELD_OUT.format(things="pictures"),
        "test",
        {
            "frechet": ("Fréchet distance", LOWER),
            "kid": ("KID", LOWER),
            "precision": ("precision", HIGHER),
            "recall": ("recall", HIGHER),
            "density": ("density", HIGHER),
            "coverage": ("coverage", HIGHER),
            "ms_ssim_within": ("MS-SSIM within a class", NEAR),
            "ssim_nearest": ("SSIM to the nearest train picture", NEAR),
        },
    )
]
TEXT_TABLES = [
    Table("Fidelity", HELD_OUT.format(things="texts"), "test", {**DISTANCES, **CONTENT}),
    Table("Diversity", "Beside held-out texts: a generator should vary as much as they do.", "test", DIVERSITY),
    Table(
        "Privacy",
        "Synthetic against real train texts; the floor is what held-out texts share with train texts.",
        "train",
        {**OVERLAP, **ENTITIES},
    ),
]


def tables_of(kind: Kind) -> list[Table]:
    """The tables of a study of pictures, or of texts."""
    return IMAGE_TABLES if kind is IMAGES else TEXT_TABLES


def bar_of(kind: Kind) -> tuple[str, str]:
    """The metric that is drawn class by class, and its name."""
    return ("kid", "KID") if kind is IMAGES else ("mmd_squared", "MMD² of embeddings")
