"""The page of a study: from report.json to tables, whiskers, bars and curves of one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics import registry
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.images.privacy import worst_over_runs
from clinsynth.metrics.readings import read_evidence
from clinsynth.metrics.verdicts import Verdict, judge
from clinsynth.reports import page
from clinsynth.reports.images import IMAGES_A_CLASS, agreement_rows, encode_images, may_hold_copies, privacy_rows
from clinsynth.run_folder import atomic_write, describe_environment, read_json, read_metrics
from clinsynth.study.plan import MARK
from clinsynth.synthesis.sets import load_synthetic_images, with_labels_of
from clinsynth.trainers.classifiers.arms import REAL_ONLY
from clinsynth.trainers.classifiers.dose import fading
from clinsynth.trainers.classifiers.statistics import judge_together

if TYPE_CHECKING:
    from clinsynth.study.arguments import StudyArguments
    from clinsynth.study.plan import Plan

ARM_SCORES = [score for score in registry.SCORES if score.name != "accuracy"]


@dataclass(frozen=True)
class Section:
    """One table of measures.

    Attributes:
        title, text: heading and what is compared.
        metrics: in their order.
        reference: the real split that stands beside the synthetic set.
    """

    title: str
    text: str
    metrics: registry.Metrics
    reference: str = "test"


HELD_OUT = (
    "Synthetic against real held-out (test) {things} on matched label mixes. The floor is the same measure between "
    "real train and real held-out {things}: what a perfect generator would reach."
)
SECTIONS = {
    page.IMAGES: [
        Section("Fidelity and diversity", HELD_OUT.format(things=page.IMAGES), registry.LIKENESS + registry.VARIETY)
    ],
    page.TEXTS: [
        Section("Fidelity", HELD_OUT.format(things=page.TEXTS), registry.DISTANCES + registry.CONTENT),
        Section("Diversity", "Beside held-out texts: a generator should vary as much as they do.", registry.WORDS),
        Section(
            "Privacy",
            "Synthetic against real train texts; the floor is what held-out texts share with train texts.",
            registry.OVERLAP + registry.ENTITIES,
            "train",
        ),
    ],
}
BARS = {page.IMAGES: registry.IMAGE_METRICS["kid"], page.TEXTS: registry.TEXT_METRICS["mmd_squared"]}
"""What is drawn class by class."""


def render_study(
    report: dict[str, Any],
    samples: list[dict[str, Any]],
    made: page.Made | None = None,
    curves: dict[str, list[dict[str, Any]]] | None = None,
    shareable: bool = False,
) -> str:
    """The page as HTML text.

    Args:
        report: what report.json holds.
        samples: a row of data URIs a class and set.
        made: date and files.
        curves: of each generator's training, as `page.training_curves` draws it.
        shareable: the page shows no real image.
    """
    things, generators = things_of(report), report["generators"]
    metrics = [metric for section in SECTIONS[things] for metric in section.metrics]
    return page.render_page(
        "report_study",
        study_limits(report),
        verdicts=study_verdicts(report),
        terms=page.terms_of([*metrics, *registry.MEMORISATION, *registry.SCORES]),
        made=made or page.Made(),
        trained=curves or {},
        shareable=shareable,
        at_chance=page.AT_CHANCE if is_at_chance(report) else "",
        report=report,
        things=things,
        samples=samples,
        sections=[(section, list(measure_rows(generators, section))) for section in SECTIONS[things]],
        bar_title=BARS[things].title,
        per_class=list(class_bars(generators, BARS[things])),
        privacy=privacy_table(generators) if things == page.IMAGES else {},
        classifiers=[classifier_view(name, results, report) for name, results in report["classifiers"].items()],
        agreement=agreement_by_classifier(report),
        doses=list(dose_views(report)),
        collapse={
            name: read_collapse(entry["evidence"]["measurements"], "test")["sentence"]
            for name, entry in generators.items()
            if things == page.IMAGES
        },
    )


def study_verdicts(report: dict[str, Any]) -> dict[str, Verdict]:
    """The verdict on each generator's set, by its evidence, the worst privacy of its draws and all classifiers."""
    results, found = list(report["classifiers"].values()), {}
    for name, entry in report["generators"].items():
        evidence = dict(entry["evidence"])
        if "privacy" in entry:
            evidence["privacy"] = entry["privacy"]
        found[name] = judge(evidence, results, name)
    return found


def agreement_by_classifier(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The label agreement by each classifier, the whole sets first."""
    found = {name: agreement_rows(results) for name, results in report["classifiers"].items()}
    return {name: rows for name, rows in found.items() if rows}


def is_at_chance(report: dict[str, Any]) -> bool:
    """Whether the extractor of any generator's evidence cannot tell the real classes apart."""
    return any(read_evidence(entry["evidence"]).at_chance for entry in report["generators"].values())


def things_of(report: dict[str, Any]) -> str:
    """What the samples of a study are called."""
    return page.TEXTS if report["task"] else page.IMAGES


def measure_rows(generators: dict[str, Any], section: Section) -> Iterator[dict[str, Any]]:
    """A row a metric that was measured: the floor and every generator's record, overall."""
    for metric in section.metrics:
        records = {name: find(entry, metric, "overall", section.reference) for name, entry in generators.items()}
        known = [record for record in records.values() if record is not None]
        if not known:
            continue
        floor = known[0]["floor_held_out"]
        scale = page.scale_for([floor, *(end for record in known for end in record["interval"] or [record["value"]])])
        cells = {name: record and with_whisker(record, scale, held_out=floor) for name, record in records.items()}
        yield {"name": metric.name, "title": metric.heading, "better": metric.better, "floor": floor, "cells": cells}


def find(entry: dict[str, Any], metric: registry.Metric, label: str, reference: str = "test") -> dict[str, Any] | None:
    """The measurement of a generator with this metric, class and real split; None where there is no number."""
    for record in entry["evidence"]["measurements"]:
        if (record["metric"], record["label"], record["reference"]) == (metric.name, label, reference):
            return record if record["value"] is not None else None
    return None


def class_bars(generators: dict[str, Any], metric: registry.Metric) -> Iterator[dict[str, Any]]:
    """For each class a bar a generator: `metric` against held-out rows of the class, with interval and floor."""
    if not generators:
        return
    labels = next(iter(generators.values()))["evidence"]["data"]["label_names"]
    records = {(label, name): find(entry, metric, label) for label in labels for name, entry in generators.items()}
    known = [record for record in records.values() if record is not None]
    ends = [end for record in known for end in (record["value"], record["floor"], *(record["interval"] or []))]
    scale = page.scale_for(ends, 2 * page.WHISKER)
    for label in labels:
        found = ((name, records[label, name]) for name in generators)
        bars = [{"name": name, **with_whisker(record, scale, record["floor"])} for name, record in found if record]
        yield {"label": label, "bars": bars}


def with_whisker(
    record: dict[str, Any], scale: page.Scale, floor: float | None = None, held_out: float | None = None
) -> dict[str, Any]:
    """A measurement with its whisker."""
    return {"record": record, "marks": page.whisker(record["value"], record["interval"], scale, floor, held_out)}


def privacy_table(generators: dict[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Reading by reading, then generator by generator, the worst of the draws."""
    table: dict[str, dict[str, dict[str, str]]] = {}
    for name, entry in generators.items():
        for row in privacy_rows(entry["privacy"]):
            table.setdefault(row["reading"], {})[name] = row
    return table


def classifier_view(name: str, results: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Tables and drawings of one classifier: arms, classes, confusion (each row the shares of its true class, in
    percent), learning curves, subgroups."""
    values = {(record["arm"], record["metric"]): record for record in results["arms"]}
    against = {record["arm"]: record for record in results["comparisons"] if record["metric"] == "macro_f1"}
    arms = list(dict.fromkeys(record["arm"] for record in results["arms"]))
    scale = page.scale_for(end for record in against.values() for end in record["interval"])
    rows = [
        {
            "arm": arm,
            "samples": samples_of(results, arm),
            "scores": [values.get((arm, score.name)) for score in ARM_SCORES],
            "comparison": against.get(arm),
            "marks": against.get(arm) and page.whisker(against[arm]["difference"], against[arm]["interval"], scale),
        }
        for arm in arms
    ]
    return {
        "name": name,
        "results": results,
        "advantage": advantage(results, report["generators"]),
        "rows": rows,
        "titles": [(score.name, score.title) for score in ARM_SCORES],
        "classes": results["label_names"],
        "recalls": {arm: [values[arm, f"recall {label}"] for label in results["label_names"]] for arm in arms},
        "confusions": [
            {"arm": arm, "shares": [[100 * count / max(sum(row), 1e-12) for count in row] for row in matrix]}
            for arm, matrix in results["confusion"].items()
        ],
        "curves": curve_views(results),
        "subgroups": results["subgroups"],
    }


def samples_of(results: dict[str, Any], arm: str) -> str:
    """How many samples an arm's first training saw: "100 real, 500 made", or "100 real, 500 again"."""
    run = next(run for run in results["runs"] if run["arm"] == arm)
    real, made = run["train_rows"] - run["synthetic_rows"], run["synthetic_rows"]
    more = "again" if arm in REAL_ONLY else "made"
    return ", ".join(f"{count} {kind}" for count, kind in ((real, "real"), (made, more)) if count)


def advantage(results: dict[str, Any], generators: dict[str, Any]) -> str:
    """A sentence where a generator saw more real samples than this classifier's real arms hold; else empty."""
    control = next(run for run in results["runs"] if run["arm"] == results["control"])
    real = control["train_rows"] - control["synthetic_rows"]
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


def curve_views(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Validation macro-F1 over the epochs: one drawing an arm, one line a seed, all on one scale."""
    lines: dict[str, list[list[float]]] = {}
    for run in results["runs"]:
        lines.setdefault(run["arm"], []).append([record["validation_macro_f1"] for record in run["history"]])
    every = [value for seeds in lines.values() for line in seeds for value in line]
    low, high = min(every, default=0.0), max(every, default=1.0)
    return [
        {
            "arm": arm,
            "low": low,
            "high": high,
            "lines": [page.polyline(line, low, high, *page.CURVE) for line in seeds],
        }
        for arm, seeds in lines.items()
    ]


DOSE = (560.0, 220.0)
DOSE_TICKS = 4


def dose_views(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """For each kind of arm and generator of --each_ratio a drawing of the gain over the ratio, one line for each
    number of real samples, and what it says."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for results in report["classifiers"].values():
        for record in results.get("dose", []):
            found.setdefault((record["kind"], record["source"]), []).append(record)
    for (kind, source), records in found.items():
        records.sort(key=lambda record: record["real"])
        points = [point for record in records for point in record["points"]]
        across = page.scale_for((float(np.log(point["ratio"])) for point in points), DOSE[0] - 100, zero=False)
        up = page.scale_for((end for point in points for end in point["interval"]), DOSE[1] - 30)
        faded = fading(records)
        yield {
            "name": f"{kind} of {source}" if source else kind,
            "size": DOSE,
            "ticks": sorted({(across(float(np.log(point["ratio"]))), f"{point['ratio']:g}") for point in points}),
            "levels": [(DOSE[1] - 30 - up(at), f"{at:+.2f}") for at in np.linspace(up.low, up.high, DOSE_TICKS)],
            "zero": DOSE[1] - 30 - up(0),
            "lines": [dose_line(record, across, up) for record in records],
            "sentences": [record["sentence"] for record in records] + ([faded["sentence"]] if faded else []),
        }


def dose_line(record: dict[str, Any], across: page.Scale, up: page.Scale) -> dict[str, Any]:
    """The line of one number of real samples: where its points and the ends of their intervals stand."""
    places = [
        (across(float(np.log(point["ratio"]))), *(DOSE[1] - 30 - up(at) for at in (point["difference"], low, high)))
        for point in record["points"]
        for low, high in [point["interval"]]
    ]
    return {
        "real": record["real"],
        "points": " ".join(f"{x},{round(y, 1)}" for x, y, *_ in places),
        "whiskers": [(x, round(low, 1), round(high, 1)) for x, _, low, high in places],
        "end": places[-1][:2],
    }


def study_limits(report: dict[str, Any]) -> Iterator[str]:
    """What the numbers do not say, in plain words."""
    notes = [note for entry in report["generators"].values() for note in entry["evidence"]["data"].get("notes", ())]
    yield from page.first_limits(report["dataset"], things_of(report), dict.fromkeys(notes))
    if is_at_chance(report):
        yield page.AT_CHANCE
    yield (
        "Each generator was trained once. What another training seed would change is not in the intervals of fidelity "
        "and privacy; those of the classifiers hold test samples and classifier seeds."
    )
    yield (
        "“No evidence” means that the interval, corrected for the number of arms (Holm), holds zero: a smaller effect "
        "than these test samples and seeds can show is possible."
    )
    yield page.NO_PROOF
    yield "Energy was not measured."


def write_study_report(args: StudyArguments, plan: Plan, output_dir: Path) -> None:
    """Write report.json and report.html, and print the verdict on each generator and where the files are."""
    report = gather_report(args, plan)
    samples = [] if args.task else choose_shown(args, plan, report)
    seconds = sum(command["seconds"] for command in report["commands"])
    results = [f"{step.output_dir.relative_to(output_dir)}/results.json" for step in plan.classified.values()]
    made = page.Made(f"{date.today()}", seconds, ("report.json", *results), author=args.author)
    curves = {name: page.training_curves(read_metrics(step.output_dir)) for name, step in plan.trained.items()}
    atomic_write(output_dir / "report.html", render_study(report, samples, made, curves, args.shareable))
    atomic_write(output_dir / "report.json", json.dumps(report, indent=1) + "\n")
    for name, verdict in study_verdicts(report).items():
        print("\n".join([f"{name}:", *verdict.lines()]))
    private = "" if args.shareable else " (shows real images, keep it private)"
    print(f"report{' (keep it private)' if args.task else private}: {output_dir / 'report.html'}")


def gather_report(args: StudyArguments, plan: Plan) -> dict[str, Any]:
    """Everything that the steps measured, as report.json holds it."""
    generators = {name: gather_generator(args, plan, name) for name in plan.generated}
    classifiers = {name: read_json(step.output_dir / "results.json") for name, step in plan.classified.items()}
    if len(classifiers) > 1:  # a single one has judged its own
        every = [record for results in classifiers.values() for record in results["comparisons"]]
        judge_together(every, "text" if args.task else ImageArrays.noun)
    return {
        "title": args.title or args.dataset,
        "dataset": args.dataset,
        "task": args.task,
        "shareable": args.shareable,
        "author": args.author,
        "generators": generators,
        "classifiers": classifiers,
        "commands": [read_json(step.output_dir / MARK) for step in plan.steps],
        "environment": describe_environment(),
        "steps": {step.name: step.key for step in plan.steps},
    }


def gather_generator(args: StudyArguments, plan: Plan, name: str) -> dict[str, Any]:
    """What was measured of one generator: the whole evidence on its first draw, and the worst privacy of all draws."""
    draws = {
        f"seed {step.flags['seed']}": read_json(evaluated.output_dir / "evidence.json")
        for step, evaluated in zip(plan.generated[name], plan.evaluated[name], strict=True)
    }
    trained, audited = plan.trained.get(name), plan.audited.get(name)
    entry = {
        "trainer": args.generators[name]["trainer"],
        "training": read_json(trained.output_dir / MARK) if trained else None,
        "page": str((plan.evaluated[name][0].output_dir / "report.html").relative_to(args.output_dir)),
    }
    first = next(iter(draws.values()))
    if args.task:
        parts = ("data", "encoder", "language_model", "findings", "exact", "memorisation", "generation")
        shown = {part: first[part] for part in parts}
        shown["measurements"] = [*first["fidelity"], *first["diversity"], *first["privacy"]]
        return {**entry, "evidence": shown}
    return {
        **entry,
        "evidence": {part: first[part] for part in first if part != "environment"},
        "privacy": worst_over_runs({draw: evidence["privacy"] for draw, evidence in draws.items()}),
        "membership": read_json(audited.output_dir / "membership.json") if audited else None,
    }


def choose_shown(args: StudyArguments, plan: Plan, report: dict[str, Any]) -> list[dict[str, Any]]:
    """For each class a row of real images and one of each generator's, as data URIs, chosen by the study's seed; as
    many from each set that has any. With --shareable no real ones, and none of a generator with a sign of copies."""
    sets: dict[str, ImageArrays] = {"real": load_image_arrays(args, args.seed)["train"]}
    for name, draws in plan.generated.items():
        sets[name] = with_labels_of(sets["real"], load_synthetic_images(draws[0].output_dir))
    names, random = sets["real"].label_names, np.random.default_rng([args.seed, 4])
    if args.shareable:
        hidden = {name for name, entry in report["generators"].items() if may_hold_copies(entry["privacy"])}
        sets = {name: arrays for name, arrays in sets.items() if name != "real" and name not in hidden}
    rows = []
    for label, name in enumerate(names):
        counts = [int((arrays.labels == label).sum()) for arrays in sets.values()]
        count = min([IMAGES_A_CLASS, *(count for count in counts if count)])
        chosen = {source: choose_of_class(arrays, label, count, random) for source, arrays in sets.items()}
        rows.append({"label": name, "sets": chosen})
    return rows


def choose_of_class(arrays: ImageArrays, label: int, count: int, random: np.random.Generator) -> list[str]:
    """At most `count` images of a class, encoded."""
    rows = np.flatnonzero(arrays.labels == label)
    return encode_images(arrays.images[random.choice(rows, size=min(count, len(rows)), replace=False)])
