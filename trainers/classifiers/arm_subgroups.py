"""Macro-F1 of an arm in each subgroup of the test split (sex, age band, skin type …), and the worst of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clinsynth.data.subgroups import UNKNOWN
from clinsynth.trainers.classifiers.arm_medium import Samples
from clinsynth.trainers.classifiers.scores import class_scores
from clinsynth.trainers.classifiers.statistics import CONFIDENCE, interval, resampled_rows, resampled_seeds

MIN_ROWS = 20
RESAMPLES = 500


def subgroup_records(test: Samples, probabilities: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
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


def column_records(test: Samples, column: str, predicted: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the record of each group of `column`, as yet without arm and worst; `predicted` are ints (seeds, n)."""
    for group in np.unique(test.groups[column]):
        inside = test.groups[column] == group
        labels = test.labels[inside]
        present = np.unique(labels)
        record = {"column": column, "group": str(group), "n": len(labels), "classes": len(present)}
        if len(labels) < MIN_ROWS or len(present) < 2:
            why = f"{len(labels)} test {test.noun}s" if len(labels) < MIN_ROWS else "one class"
            yield {**record, "value": None, "interval": None, "note": f"too small to measure: {why}"}
            continue
        found = interval(resampled_macro_f1(labels, predicted[:, inside], len(test.label_names)))
        yield {
            **record,
            "value": found.value,
            "interval": [found.low, found.high],
            "confidence": CONFIDENCE,
            "note": "",
        }


def resampled_macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 over the classes in `labels`, mean of the seeds, (1 + RESAMPLES,); first the value itself."""
    rng, seeds, present = np.random.default_rng(0), len(predicted), np.unique(labels)
    weights = np.concatenate([np.ones((1, len(labels))), *resampled_rows(labels, classes, RESAMPLES, rng)])
    shares = np.concatenate([np.full((1, seeds), 1 / seeds), resampled_seeds(seeds, RESAMPLES, rng)])
    by_seed = [class_scores(labels, run, weights, classes)[0][:, present].mean(1) for run in predicted]
    return (shares * np.stack(by_seed, axis=1)).sum(1)
