"""The report of a study: what its steps left behind, brought together into report.json and one page, report.html."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics.privacy.verdict import worst_over_runs
from clinsynth.reports.report_pictures import encode
from clinsynth.reports.study import render_study
from clinsynth.run_folder import atomic_write, describe_environment
from clinsynth.study.plan import MARK
from clinsynth.synthesis.sets import load_synthetic, with_labels_of

if TYPE_CHECKING:
    from clinsynth.scripts.study import StudyArguments
    from clinsynth.study.plan import Plan

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
        sets[name] = with_labels_of(sets["real"], load_synthetic(draws[0].output_dir))
    random = np.random.default_rng([args.seed, 4])
    return [
        {"label": name, "sets": {source: choose(arrays, label, random) for source, arrays in sets.items()}}
        for label, name in enumerate(sets["real"].label_names)
    ]


def choose(arrays: ImageArrays, label: int, random: np.random.Generator) -> list[str]:
    """At most six pictures of a class, encoded."""
    rows = np.flatnonzero(arrays.labels == label)
    return encode(arrays.images[random.choice(rows, size=min(PICTURES, len(rows)), replace=False)])
