"""What the scores of arms say: differences to the control, p-values, verdicts, gaps closed.

The p-values of all arms and of both judged metrics are corrected together by Holm's method (1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from clinsynth.data.labels import LabelledRows
from clinsynth.trainers.classifiers.resampling import CONFIDENCE, measured
from clinsynth.trainers.classifiers.scores import calibration_floor, metric_names, scores

JUDGED = ("macro_f1", "balanced_accuracy")
FEW_SEEDS = 3
RARE = 5
RULE = (
    "an arm helps (hurts) where its difference to its control is above (below) 0 with p below 0.05 after Holm's "
    "correction over all arms and metrics; else there is no evidence, as always with a single seed"
)


def p_value(resampled: np.ndarray) -> float:
    """Two-sided p of a difference's being 0: twice the smaller share of resamples on one side of 0, those at 0 counted
    on both. With fewer than RARE of them there the normal distribution of their spread may say less: counting cannot
    say less than 2 / (resamples + 1), which corrected for a study of 50 comparisons is never below 5 %."""
    below, above = (resampled[1:] <= 0).sum(), (resampled[1:] >= 0).sum()
    counted = min(1.0, float(2 * (min(below, above) + 1) / len(resampled)))
    spread = resampled[1:].std()
    if min(below, above) >= RARE or spread == 0:
        return counted
    return min(counted, float(2 * norm.sf(abs(resampled[0]) / spread)))


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the i-th smallest of m times m - i + 1, at most 1, and never
    below a smaller one's."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.array(p_values)[order] * factors))
    return corrected.tolist()


def verdict(difference: float, p: float, seeds: int) -> str:
    """What a difference (arm - control) and its corrected p say: helps, hurts, no evidence, or too few seeds to tell.

    One seed is never evidence: its interval leaves out how much one training differs from the next."""
    if seeds < 2:
        return "too few seeds to tell"
    if p >= 1 - CONFIDENCE or difference == 0:
        return "no evidence"
    return "helps" if difference > 0 else "hurts"


def arm_records(
    resampled: Mapping[str, np.ndarray],
    test: LabelledRows,
    probabilities: Mapping[str, np.ndarray],
    minority: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """One record for each arm and metric: value (mean of the seeds), interval, n test rows, seeds, per_seed; of the
    calibration error also the floor, what a perfectly calibrated classifier would read on these rows. `minority` is
    what `bootstrap` was given."""
    classes, records = len(test.label_names), []
    once = np.ones((1, len(test.labels)))
    for arm, values in resampled.items():
        per_seed = np.concatenate([scores(test.labels, run, once, classes, minority) for run in probabilities[arm]])
        for column, metric in enumerate(metric_names(test.label_names, minority)):
            # A resample's calibration error reads too high, like any of few rows: its interval is moved to the value.
            shift = values[0, column] - values[1:, column].mean() if metric == "ece" else 0.0
            found = measured(np.append(values[0, column], values[1:, column] + shift))
            found["interval"][0] = max(0.0, found["interval"][0])
            record = {"arm": arm, "metric": metric, **found, "n": len(test.labels), "seeds": len(per_seed)}
            record["per_seed"] = per_seed[:, column].tolist()
            if metric == "ece":
                rng = np.random.default_rng(0)
                record["floor"] = float(np.mean([calibration_floor(run, rng) for run in probabilities[arm]]))
            records.append(record)
    return records


def comparison_records(
    resampled: Mapping[str, np.ndarray],
    pairs: list[tuple[str, str]],
    arms: list[dict[str, Any]],
    test: LabelledRows,
    minority: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """arm - control for each of `pairs`, one record a metric, pair after pair; `arms` are those of `arm_records`,
    `minority` is what `bootstrap` was given.

    Macro-F1 and balanced accuracy carry p, p_holm (corrected over the pairs and these two), effect size and a verdict;
    the others do not: among many intervals some exclude zero by chance. Recalls are left out, whose mean is the
    balanced accuracy."""
    single = {(record["arm"], record["metric"]): record for record in arms}
    records = []
    for pair in pairs:
        for column, metric in enumerate(metric_names(test.label_names, minority)):
            if not metric.startswith("recall "):
                gap = resampled[pair[0]][:, column] - resampled[pair[1]][:, column]
                records.append(gap_record(gap, pair, single[pair[0], metric], single[pair[1], metric]))
    judge_together(records, test.noun)
    return records


def judge_together(records: Iterable[dict[str, Any]], noun: str) -> None:
    """Correct the p-values of all judged ones of `records` together, and write their verdicts and sentences: of a
    study those of every classifier, since all of them were looked at."""
    judged = [record for record in records if record["metric"] in JUDGED]
    for record, corrected in zip(judged, holm([record["p"] for record in judged]), strict=True):
        record["p_holm"] = corrected
        record["verdict"] = verdict(record["difference"], corrected, record["seeds"])
        record["sentence"] = comparison_sentence(record, len(judged), noun)


def gap_record(gap: np.ndarray, pair: tuple[str, str], arm: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """One metric's difference, as yet without what depends on the other pairs."""
    record = {"arm": pair[0], "metric": arm["metric"], "arms": list(pair), **measured(gap, "difference")}
    record |= {"n": arm["n"], "seeds": arm["seeds"]}
    if arm["metric"] in JUDGED:
        record |= {"p": p_value(gap), **effect(np.array(arm["per_seed"]) - control["per_seed"])}
        record["relative_gain"] = 100 * record["difference"] / control["value"] if control["value"] else None
    return record


def gap_records(
    resampled: Mapping[str, np.ndarray], pairs: list[tuple[str, str]], ceiling: np.ndarray
) -> list[dict[str, Any]]:
    """For each of `pairs` the share of the way in macro-F1 from the control to `ceiling`, what all real samples reach:
    1 closes the gap, 0 is the control. All are columns of `bootstrap` from one call, so that the share's interval
    holds what is uncertain in all three. `value` is None where the ceiling is not clearly above the control."""
    records, top = [], ceiling[:, 0]
    for arm, control in pairs:
        base = resampled[control][:, 0]
        way = measured(top - base)
        record = {"arm": arm, "arms": [arm, control], "way": way["value"], "way_interval": way["interval"]}
        if way["interval"][0] <= 0:
            note = f"all real samples are not clearly above {control}, so there is no gap to close"
            records.append({**record, "value": None, "interval": None, "note": note})
            continue
        found = measured((resampled[arm][:, 0] - base) / (top - base))
        low, high = found["interval"]
        sentence = (
            f"{arm} closes {found['value']:.0%} (95 % interval {low:.0%} to {high:.0%}) of the gap in macro-F1 "
            f"between {control} and all real samples, which is {way['value']:.3f}"
        )
        records.append({**record, **found, "note": "", "sentence": sentence})
    return records


def effect(differences: np.ndarray) -> dict[str, Any]:
    """Cohen's d of paired differences, one a seed: their mean over their standard deviation; None where that is 0 or
    there is one seed alone."""
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    if not spread > 0:
        return {"effect_size": None, "effect_note": "no spread between seeds to measure it by"}
    few = f"effect size from {len(differences)} seeds only" if len(differences) < FEW_SEEDS else ""
    return {"effect_size": float(differences.mean() / spread), "effect_note": few}


def comparison_sentence(record: dict[str, Any], judged: int, noun: str) -> str:
    """The difference in words."""
    low, high = record["interval"]
    seeds = record["seeds"]
    corrected = f", {record['p_holm']:.3f} after Holm over {judged} comparisons"
    gain = "" if record["relative_gain"] is None else f"; {record['relative_gain']:+.1f} % of the control"
    mixed = f"; the labels of its synthetic set are {record['labels']}" if "labels" in record else ""
    return (
        f"{' - '.join(record['arms'])}, {record['metric']}: {record['difference']:+.3f} ({CONFIDENCE:.0%} interval "
        f"{low:+.3f} to {high:+.3f}; p {record['p']:.3f}{corrected}; {record['n']} test {noun}s, "
        f"{seeds} seed{'s' * (seeds > 1)}{gain}): {record['verdict']}{mixed}"
    )
