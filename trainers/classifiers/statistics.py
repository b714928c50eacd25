"""Scores of class probabilities on weighted test rows, and what they say: intervals, differences, verdicts, flags.

The bootstrap (Efron 1979) resamples seeds, and test rows within each class, so that no class vanishes, or where it is
known whose a row is, persons; two arms are compared on the same resampled rows and seeds. Of S seeds S - 1 are drawn
(Rao and Wu 1988): a bootstrap of S out of S would give only (S - 1) / S of the variance between seeds, two thirds for
the usual three. The p-values of all arms and of both judged metrics are corrected together by Holm's method (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clinsynth.data.labels import UNKNOWN, LabelledRows
from clinsynth.data.summary import VISIBLE, visible
from clinsynth.metrics.intervals import percentile_interval

BINS = 15
MAIN = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "ece")
MINORITY = "minority_recall"
CONFIDENCE = 0.95
RESAMPLES, AGREEMENT_RESAMPLES, SUBGROUP_RESAMPLES = 2000, 1000, 500
VISIBLE_RESAMPLES = 500
MOST_DRAWS = 100
CHUNK = 100  # resamples at a time, to bound the memory
JUDGED = ("macro_f1", "balanced_accuracy")
FEW_SEEDS = 3
MIN_ROWS, MIN_GROUP = 10, 20
RULE = (
    "an arm helps (hurts) where its difference to its control is above (below) 0 with p below 0.05 after Holm's "
    "correction over all arms and metrics; else there is no evidence, as always with a single seed"
)
OVERALL, MIXED_UP = "overall", "mixed up"


def minority_classes(train_labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """The classes with fewer train rows than the average one."""
    counts = np.bincount(train_labels, minlength=classes)
    return tuple(np.flatnonzero(counts < counts.mean()).tolist())


def metric_names(label_names: list[str], minority: Sequence[int] = ()) -> list[str]:
    """The columns of `scores`, in order."""
    own = [*MAIN, *(f"f1 {name}" for name in label_names), *(f"recall {name}" for name in label_names)]
    return [*own, MINORITY] if minority else own


def scores(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, classes: int, minority: Sequence[int] = ()
) -> np.ndarray:
    """Macro-F1, balanced accuracy, accuracy, AUROC (one class against the rest, mean of the classes), calibration
    error, each class's F1 and each class's recall: float64 (b, 5 + 2 * classes); with classes named in `minority` one
    column more, the mean of their recalls.

    `labels` are ints (n,), `probabilities` (n, classes); `weights` (b, n) says how often each row counts in each of b
    resamples. Every class must have weight in every resample."""
    predicted = probabilities.argmax(1)
    f1, recall = class_scores(labels, predicted, weights, classes)
    accuracy = weights @ (predicted == labels) / weights.sum(1)
    auroc = np.mean([ranking(labels == c, probabilities[:, c], weights) for c in range(classes)], axis=0)
    error = calibration_error(labels, probabilities, weights)
    last = [recall[:, list(minority)].mean(1)] if minority else []
    return np.column_stack([f1.mean(1), recall.mean(1), accuracy, auroc, error, f1, recall, *last])


def class_scores(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """F1 and recall of each class, float64 (b, classes) each; 0 where a class has no weight."""
    eye = np.eye(classes)
    true, guess = eye[labels], eye[predicted]
    hits, true_rows, guessed_rows = weights @ (true * guess), weights @ true, weights @ guess
    return 2 * hits / np.maximum(true_rows + guessed_rows, 1e-12), hits / np.maximum(true_rows, 1e-12)


def ranking(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, (b,): how likely a positive row's score exceeds a negative one's, ties counting half.

    Both kinds must have weight in every resample."""
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.inf))  # last row of each run of equal scores
    weights, positive = weights[:, order], positive[order]
    above, below = (per_run(np.where(side, weights, 0.0), ends) for side in (positive, ~positive))
    wins = above * (below.cumsum(1) - below / 2)
    return wins.sum(1) / (above.sum(1) * below.sum(1))


def per_run(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of the columns of (b, n) from one end to the next, (b, number of ends)."""
    return np.diff(values.cumsum(1)[:, ends], axis=1, prepend=0.0)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error, (b,): mean gap of confidence and accuracy over 15 bins of equally many rows (Nguyen
    and O'Connor 2015), rows binned by the confidence in the predicted class."""
    confidence = probabilities.max(1)
    gap = confidence - (probabilities.argmax(1) == labels)
    return np.abs(weights @ (in_bins(confidence) * gap[:, None])).sum(1) / weights.sum(1)


def calibration_floor(probabilities: np.ndarray, rng: np.random.Generator, draws: int = 200) -> float:
    """The calibration error to expect, on these rows, of a classifier whose confidence is its accuracy: it is above 0,
    the more so the fewer the rows."""
    confidence = probabilities.max(1)
    gaps = confidence - (rng.random((draws, len(confidence))) < confidence)
    return float(np.abs(gaps @ in_bins(confidence)).sum(1).mean() / len(confidence))


def in_bins(confidence: np.ndarray) -> np.ndarray:
    """Which of the 15 bins each row is in, as 0 or 1: (n, bins)."""
    rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    return np.eye(BINS)[rank * BINS // len(confidence)]


def resampled_rows(
    labels: np.ndarray, classes: int, count: int, rng: np.random.Generator, persons: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield weights (b, n) in chunks: ones, then `count` rows of how often each row is drawn, replacing, within its
    class.

    Where it is known whose a row is, `persons` (n,), persons are drawn with all their rows (Field and Welsh 2007),
    each within the rarest of their classes; a draw that lacks a class is made again.
    """
    who = np.arange(len(labels)) if persons is None else np.unique(persons, return_inverse=True)[1]
    home = labels if persons is None else rarest_class(labels, who, classes)
    strata = [found for c in range(classes) if len(found := np.flatnonzero(home == c))]
    present = [labels == c for c in np.unique(labels)]
    yield np.ones((1, len(labels)))
    for start in range(0, count, CHUNK):
        weights = np.zeros((min(CHUNK, count - start), len(labels)))
        left = np.arange(len(weights))
        for _ in range(MOST_DRAWS):
            weights[left] = drawn(strata, len(home), len(left), rng)[:, who]
            left = np.flatnonzero(~np.all([weights[:, rows].any(1) for rows in present], axis=0))
            if not len(left):
                break
        weights[left] = 1  # classes that so few persons share are not resampled
        yield weights


def rarest_class(labels: np.ndarray, who: np.ndarray, classes: int) -> np.ndarray:
    """For each person the one of their classes that the fewest persons have: ints (persons,)."""
    has = np.zeros((who.max() + 1, classes), dtype=bool)
    has[who, labels] = True
    return np.where(has, has.sum(0), len(who) + 1).argmin(1)


def drawn(strata: list[np.ndarray], units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit is drawn within its stratum, (count, units)."""
    weights = np.zeros((count, units))
    for members in strata:
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=count)
    return weights


def resampled_seeds(seeds: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the seeds, float64 (1 + count, seeds), each row of sum 1, the first of equal ones."""
    drawn, equal = max(seeds - 1, 1), np.full(seeds, 1 / seeds)
    return np.concatenate([equal[None], rng.multinomial(drawn, equal, size=count) / drawn])


def bootstrap(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    classes: int,
    seed: int = 0,
    minority: Sequence[int] = (),
    persons: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Resampled scores of every arm, float64 (1 + RESAMPLES, columns of `scores`); row 0 holds the scores themselves.

    `probabilities` maps an arm to (seeds, n, classes), seed i of one arm belonging to seed i of the others. All arms
    see the same rows and seeds in the same resample, so that differences of their results are paired.

    Raises:
        ValueError: a class without a test row.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise ValueError(
            f"classes {np.flatnonzero(counts == 0).tolist()} have no test row; their F1 cannot be measured"
        )
    rng = np.random.default_rng(seed)
    seeds = len(next(iter(probabilities.values())))
    shares = resampled_seeds(seeds, RESAMPLES, rng)
    parts: dict[str, list[np.ndarray]] = {arm: [] for arm in probabilities}
    start = 0
    for weights in resampled_rows(labels, classes, RESAMPLES, rng, persons):
        share = shares[start : start + len(weights)]
        start += len(weights)
        for arm, runs in probabilities.items():
            by_seed = np.stack([scores(labels, run, weights, classes, minority) for run in runs], axis=1)
            parts[arm].append(np.einsum("bs,bsm->bm", share, by_seed))
    return {arm: np.concatenate(chunks) for arm, chunks in parts.items()}


def visible_gain(
    labels: np.ndarray, probabilities: np.ndarray, test_labels: np.ndarray, classes: int
) -> dict[str, Any]:
    """The smallest gain in macro-F1 over an arm that the test split can show with as many seeds, told before test is
    scored: from how far the arm's trainings differ on validation rows, drawn as many a class as test has.

    `labels` (n,) and `probabilities` (seeds, n, classes) are of the real validation rows; of the test labels only the
    number of each class is used.

    Returns:
        `value` (5 % two-sided, 80 % power), `enough`: whether that is at most VISIBLE, `n` test rows, `seeds`.
    """
    rng, wanted = np.random.default_rng(0), np.bincount(test_labels, minlength=classes)
    weights = np.zeros((1 + VISIBLE_RESAMPLES, len(labels)))
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        weights[0, own] = wanted[number] / len(own)
        weights[1:, own] = rng.multinomial(wanted[number], np.full(len(own), 1 / len(own)), size=VISIBLE_RESAMPLES)
    by_seed = [class_scores(labels, run.argmax(1), weights, classes)[0].mean(1) for run in probabilities]
    value = visible(np.stack(by_seed, axis=1), len(probabilities), wanted)
    return {"value": value, "enough": value <= VISIBLE, "n": len(test_labels), "seeds": len(probabilities)}


def measured(resampled: np.ndarray, name: str = "value") -> dict[str, Any]:
    """One column of `bootstrap`, or a difference of two, as it stands in results: the value itself (row 0), called
    `name`, and its percentile interval (the rest)."""
    low, high = percentile_interval(resampled[1:], CONFIDENCE)
    return {name: float(resampled[0]), "interval": [low, high], "confidence": CONFIDENCE}


def p_value(resampled: np.ndarray) -> float:
    """Two-sided p of a difference's being 0: twice the smaller share of resamples on one side of 0, those at 0 counted
    on both; never below 2 / (resamples + 1)."""
    below, above = (resampled[1:] <= 0).sum(), (resampled[1:] >= 0).sum()
    return min(1.0, float(2 * (min(below, above) + 1) / len(resampled)))


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
    judged = [record for record in records if record["metric"] in JUDGED]
    for record, corrected in zip(judged, holm([record["p"] for record in judged]), strict=True):
        record["p_holm"] = corrected
        record["verdict"] = verdict(record["difference"], corrected, record["seeds"])
        record["sentence"] = comparison_sentence(record, len(judged), test.noun)
    return records


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
    return (
        f"{' - '.join(record['arms'])}, {record['metric']}: {record['difference']:+.3f} ({CONFIDENCE:.0%} interval "
        f"{low:+.3f} to {high:+.3f}; p {record['p']:.3f}{corrected}; {record['n']} test {noun}s, "
        f"{seeds} seed{'s' * (seeds > 1)}{gain}): {record['verdict']}"
    )


def label_agreement(
    source: str, synthetic: LabelledRows, predicted: np.ndarray, test: LabelledRows, on_test: np.ndarray
) -> list[dict[str, Any]]:
    """One record a class and one of the mean of the measured classes ("overall").

    `predicted` and `on_test` are ints (seeds, n): what classifiers that were trained on real samples alone say of the
    synthetic set named `source` and of the real test split, one row a seed.

    Returns:
        Records: `value`, the share of the class's synthetic samples that the classifiers give its label; `floor`,
        that of the real test samples; `chance`, that of all synthetic samples, whatever their label; `interval`, and
        `difference` and `difference_interval` of value - floor (bootstrap over samples and seeds); `n`, `n_real`,
        `seeds`; `flag`:

        - "mixed up": the interval lies below the middle between chance and floor;
        - "below real": the difference's interval lies below zero;
        - "agrees": neither;
        - "cannot tell": the classifiers know the real class no better than chance, or fewer than 10 samples.
    """
    rng, seeds, noun = np.random.default_rng(0), len(predicted), test.noun
    shares = resampled_seeds(seeds, AGREEMENT_RESAMPLES, rng)
    records: list[dict[str, Any]] = []
    parts, chances = [], []

    def record(label: str, n: int, n_real: int, found: dict[str, Any]) -> dict[str, Any]:
        return {"source": source, "label": label, "n": n, "n_real": n_real, "seeds": seeds, **found}

    for number, name in enumerate(test.label_names):
        mine, real = synthetic.labels == number, test.labels == number
        n, n_real = int(mine.sum()), int(real.sum())
        if min(n, n_real) < MIN_ROWS:
            records.append(record(name, n, n_real, no_agreement(f"fewer than {MIN_ROWS} {noun}s")))
            continue
        found = resampled_share((predicted == number)[:, mine], shares, rng)
        floor = resampled_share((on_test == number)[:, real], shares, rng, persons_in(test, real))
        parts.append((found, floor))
        chances.append(float((predicted == number).mean()))
        records.append(record(name, n, n_real, agreement_of(found, floor, chances[-1], noun)))
    sizes = len(synthetic.labels), len(test.labels)
    if not parts:
        return [*records, record(OVERALL, *sizes, no_agreement("no class could be measured"))]
    found, floor = np.mean(parts, axis=0)
    return [record(OVERALL, *sizes, agreement_of(found, floor, float(np.mean(chances)), noun)), *records]


def persons_in(test: LabelledRows, rows: np.ndarray) -> np.ndarray | None:
    """Whose the test rows in the mask `rows` are; None where that is not known."""
    return None if test.persons is None else test.persons[rows]


def resampled_share(
    agrees: np.ndarray, shares: np.ndarray, rng: np.random.Generator, persons: np.ndarray | None = None
) -> np.ndarray:
    """Share of True in (seeds, n), mean of the seeds, for resampled samples (or persons) and seeds: (1 + RESAMPLES,),
    first the share itself; `shares` are the weights of the seeds, (1 + RESAMPLES, seeds)."""
    one_class = np.zeros(agrees.shape[1], dtype=np.int64)
    weights = np.concatenate(list(resampled_rows(one_class, 1, AGREEMENT_RESAMPLES, rng, persons)))
    weights /= weights.sum(1, keepdims=True)
    return (shares * (weights @ agrees.T)).sum(1)


def agreement_of(found: np.ndarray, floor: np.ndarray, chance: float, noun: str) -> dict[str, Any]:
    """Value, floor, chance, difference and flag from resampled agreements (1 + RESAMPLES,)."""
    value, real, gap = measured(found), measured(floor), measured(found - floor)
    if real["interval"][0] <= chance:
        flag, note = "cannot tell", f"the classifiers know this class of real {noun}s no better than chance"
    elif value["interval"][1] < (chance + real["value"]) / 2:
        flag, note = MIXED_UP, f"nearer to shuffled labels than to real {noun}s"
    elif gap["interval"][1] < 0:
        flag, note = "below real", f"clearly less often than with real {noun}s"
    else:
        flag, note = "agrees", ""
    return {
        **value,
        "floor": real["value"],
        "floor_interval": real["interval"],
        "chance": chance,
        "difference": gap["value"],
        "difference_interval": gap["interval"],
        "flag": flag,
        "note": note,
    }


def no_agreement(why: str) -> dict[str, Any]:
    names = ("value", "interval", "floor", "floor_interval", "chance", "difference", "difference_interval")
    return {**dict.fromkeys(names), "confidence": CONFIDENCE, "flag": "cannot tell", "note": why}


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
