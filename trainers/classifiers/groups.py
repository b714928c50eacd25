"""Scores by subgroup of the test rows, what an arm changes there, and the worst of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clinsynth.data.labels import UNKNOWN, LabelledRows
from clinsynth.trainers.classifiers.resampling import measured, persons_in, resampled_rows, resampled_seeds
from clinsynth.trainers.classifiers.scores import class_scores

SUBGROUP_RESAMPLES = 500
MIN_GROUP = 20


def subgroup_records(test: LabelledRows, probabilities: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One record for each arm, subgroup column and group; `probabilities` maps an arm to (seeds, n, classes).

    `value` is the macro-F1 over the classes that the group has test rows of (`classes`), None with fewer than 20 rows
    or one class, which `note` says; `worst` marks the lowest value of its column and arm, rows of unknown
    group aside. Groups differ in their classes and so in how hard they are: compare arms within one group.
    """
    records = []
    for arm, runs in probabilities.items():
        for column in test.groups:
            found = list(column_records(test, column, runs.argmax(2)))
            known = [r for r in found if r["value"] is not None and r["group"] != UNKNOWN]
            worst = min(known, key=lambda r: r["value"], default=None)
            records += [{"arm": arm, **record, "worst": record is worst and len(known) > 1} for record in found]
    return records


def subgroup_changes(
    test: LabelledRows, probabilities: Mapping[str, np.ndarray], pairs: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """arm - control in each group that `subgroup_records` measures: `difference` in macro-F1 with its interval, paired
    on the same resampled rows and seeds, and both values. Without a verdict: groups are many."""
    records = []
    for arm, control in pairs:
        for column in test.groups:
            for group in np.unique(test.groups[column]):
                inside = test.groups[column] == group
                labels = test.labels[inside]
                if len(labels) < MIN_GROUP or len(np.unique(labels)) < 2 or group == UNKNOWN:
                    continue
                mine, other = (
                    resampled_macro_f1(
                        labels,
                        probabilities[name].argmax(2)[:, inside],
                        len(test.label_names),
                        persons_in(test, inside),
                    )
                    for name in (arm, control)
                )
                record = {"arm": arm, "arms": [arm, control], "column": column, "group": str(group), "n": len(labels)}
                values = {"value": float(mine[0]), "control_value": float(other[0])}
                records.append({**record, **values, **measured(mine - other, "difference")})
    return records


def worst_groups(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each arm and column of `subgroup_changes` with two groups or more: the group in which the control is worst
    (`group`), what the arm changes there, the arm's own worst group (`after`), and the gaps between best and worst."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for change in changes:
        found.setdefault((change["arm"], change["column"]), []).append(change)
    records = []
    for (arm, column), groups in found.items():
        if len(groups) < 2:
            continue
        worst, after = (min(groups, key=lambda one: one[name]) for name in ("control_value", "value"))
        gaps = [
            max(one[name] for one in groups) - min(one[name] for one in groups) for name in ("control_value", "value")
        ]
        low, high = worst["interval"]
        sentence = (
            f"{arm}, {column}: {worst['group']} is where {worst['arms'][1]} is worst ({worst['control_value']:.3f}), "
            f"and changes by {worst['difference']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}); worst then is "
            f"{after['group']} ({after['value']:.3f}), the gap between groups goes from {gaps[0]:.3f} to {gaps[1]:.3f}"
        )
        kept = ("arms", "group", "n", "value", "control_value", "difference", "interval")
        about = {"arm": arm, "column": column, **{name: worst[name] for name in kept}}
        records.append(
            {**about, "after": after["group"], "control_gap": gaps[0], "gap": gaps[1], "sentence": sentence}
        )
    return records


def column_records(test: LabelledRows, column: str, predicted: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the record of each group of `column`, as yet without arm and worst; `predicted` are ints (seeds, n)."""
    for group in np.unique(test.groups[column]):
        inside = test.groups[column] == group
        labels = test.labels[inside]
        present = np.unique(labels)
        record = {"column": column, "group": str(group), "n": len(labels), "classes": len(present)}
        if len(labels) < MIN_GROUP or len(present) < 2:
            why = f"{len(labels)} test {test.noun}s" if len(labels) < MIN_GROUP else "one class"
            yield {**record, "value": None, "interval": None, "note": f"too small to measure: {why}"}
            continue
        whose = persons_in(test, inside)
        found = measured(resampled_macro_f1(labels, predicted[:, inside], len(test.label_names), whose))
        yield {**record, **found, "note": ""}


def resampled_macro_f1(
    labels: np.ndarray, predicted: np.ndarray, classes: int, persons: np.ndarray | None = None
) -> np.ndarray:
    """Macro-F1 over the classes in `labels`, mean of the seeds, (1 + RESAMPLES,); first the value itself."""
    rng, seeds, present = np.random.default_rng(0), len(predicted), np.unique(labels)
    weights = np.concatenate(list(resampled_rows(labels, classes, SUBGROUP_RESAMPLES, rng, persons)))
    shares = resampled_seeds(seeds, SUBGROUP_RESAMPLES, rng)
    by_seed = [class_scores(labels, run, weights, classes)[0][:, present].mean(1) for run in predicted]
    return (shares * np.stack(by_seed, axis=1)).sum(1)
