"""Scores of arms, the bootstrap of their difference, Holm's correction, subgroups, and label agreement."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.classifiers import resampling
from clinsynth.trainers.classifiers.agreement import label_agreement
from clinsynth.trainers.classifiers.groups import subgroup_records
from clinsynth.trainers.classifiers.resampling import bootstrap, measured, resampled_seeds
from clinsynth.trainers.classifiers.scores import calibration_error, calibration_floor, metric_names, scores
from clinsynth.trainers.classifiers.statistics import (
    arm_records,
    comparison_records,
    effect,
    holm,
    judge_together,
    p_value,
    verdict,
)

NAMES = ["dark", "medium", "bright"]


def guesses(labels: np.ndarray, accuracy: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Classes (seeds, n), right with the given probability."""
    right = rng.random((seeds, len(labels))) < accuracy
    return np.where(right, labels, (labels + rng.integers(1, 3, right.shape)) % 3)


def sure(predicted: np.ndarray) -> np.ndarray:
    """Probabilities (…, 3) of 1 for the classes in `predicted`."""
    return np.eye(3)[predicted]


def gaps(labels: np.ndarray, arm: np.ndarray, control: np.ndarray, seed: int = 0) -> np.ndarray:
    """Resampled differences in macro-F1."""
    resampled = bootstrap(labels, {"composite": sure(arm), "real": sure(control)}, 3, seed)
    return resampled["composite"][:, 0] - resampled["real"][:, 0]


def interval(resampled: np.ndarray) -> list[float]:
    return measured(resampled)["interval"]


def judge(resampled: np.ndarray, seeds: int = 3) -> str:
    return verdict(resampled[0], p_value(resampled), seeds)


def held_out_set(labels: np.ndarray, **groups: np.ndarray) -> ImageArrays:
    return ImageArrays(np.zeros((len(labels), 1, 2, 2), np.uint8), labels, NAMES, groups)


def records_of(labels: np.ndarray, arms: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> list[dict]:
    test = held_out_set(labels)
    resampled = bootstrap(labels, arms, 3)
    return comparison_records(resampled, pairs, arm_records(resampled, test, arms), test)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, weights = rng.integers(0, 3, 50), rng.integers(1, 4, 50)
    probabilities = rng.dirichlet(np.ones(3), 50).round(1)  # rounded: with ties
    probabilities /= probabilities.sum(1, keepdims=True)
    again, guessed = labels.repeat(weights), probabilities.repeat(weights, axis=0)
    found = scores(labels, probabilities, weights[None].astype(float), 3)[0]
    f1 = f1_score(again, guessed.argmax(1), average=None)
    accuracies = [score(again, guessed.argmax(1)) for score in (balanced_accuracy_score, accuracy_score)]
    assert np.allclose(found[:3], [f1.mean(), *accuracies])
    assert found[3] == pytest.approx(roc_auc_score(again, guessed, multi_class="ovr", average="macro"))
    assert np.allclose(found[5:], [*f1, *recall_score(again, guessed.argmax(1), average=None)])
    assert len(metric_names(NAMES)) == len(found)


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    n = 3000
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, n)
    probabilities = np.column_stack([confidence, 1 - confidence])
    once = np.ones((1, n))
    calibrated = (rng.random(n) >= confidence).astype(int)
    right_in_half = rng.integers(0, 2, n)
    low, high = (calibration_error(labels, probabilities, once)[0] for labels in (calibrated, right_in_half))
    assert low == pytest.approx(calibration_floor(probabilities, rng), abs=0.015) and low > 0
    assert high == pytest.approx(0.25, abs=0.03)
    assert calibration_floor(probabilities[:100], rng) > 2 * calibration_floor(probabilities, rng)


def test_identical_arms_show_no_difference():
    labels = np.arange(120) % 3
    arm = guesses(labels, 0.6, 3, np.random.default_rng(0))
    found = gaps(labels, arm, arm)
    assert measured(found) == {"value": 0, "interval": [0, 0], "confidence": 0.95}
    assert p_value(found) == 1 and judge(found) == "no evidence"


def test_a_clearly_better_arm_helps_and_a_worse_one_hurts():
    labels, rng = np.arange(300) % 3, np.random.default_rng(0)
    good, bad = guesses(labels, 0.8, 3, rng), guesses(labels, 0.5, 3, rng)
    better, worse = gaps(labels, good, bad), gaps(labels, bad, good)
    assert interval(better)[0] > 0.1 and judge(better) == "helps" and p_value(better) < 2 / 2001
    assert interval(worse)[1] < -0.1 and judge(worse) == "hurts"
    assert judge(better, seeds=1) == "too few seeds to tell"


def test_pairing_narrows_the_interval():
    labels, rng = np.arange(300) % 3, np.random.default_rng(0)
    control = guesses(labels, 0.6, 3, rng)
    arm = np.where(rng.random(control.shape) < 0.05, labels, control)  # the same answers, a few put right
    paired = interval(gaps(labels, arm, control))
    unpaired = interval(gaps(labels, arm, guesses(labels, 0.6, 3, rng)))
    assert paired[0] > 0 and np.ptp(paired) < 0.5 * np.ptp(unpaired)


def test_intervals_cover_the_true_difference_about_as_often_as_they_say(monkeypatch):
    """Simulated arms whose trainings differ by chance as well: of 95 % intervals not much fewer may miss, and no more
    p-values may be below 5 %."""
    monkeypatch.setattr(resampling, "RESAMPLES", 200)
    rng, covered, rejected = np.random.default_rng(0), 0, 0
    for trial in range(120):
        labels = np.arange(150) % 3
        arms = [
            np.concatenate([guesses(labels, 0.6 + rng.normal(0, 0.03), 1, rng) for _ in range(3)]) for _ in range(2)
        ]
        resampled = gaps(labels, *arms, seed=trial)
        covered += interval(resampled)[0] <= 0 <= interval(resampled)[1]
        rejected += p_value(resampled) < 0.05
    assert covered / 120 >= 0.90 and rejected / 120 <= 0.10


def test_a_class_without_a_test_row_cannot_be_scored():
    with pytest.raises(ValueError, match=r"classes \[2\] have no test row"):
        bootstrap(np.array([0, 1, 1]), {"real": np.zeros((1, 3, 3))}, 3)


def test_generators_are_a_level_above_seeds():
    """Seeds of one generator agree and the two differ: nothing but the generators is uncertain, by half of their
    difference (the standard error of a mean of two)."""
    by_seed, generators = np.array([0.6, 0.8, 0.6, 0.8, 0.6, 0.8]), [0, 1, 0, 1, 0, 1]
    shares = resampled_seeds(6, 20_000, np.random.default_rng(0), generators)
    assert shares.sum(1) == pytest.approx(1) and shares[0] == pytest.approx(1 / 6)
    assert (shares[1:] @ by_seed).std() == pytest.approx(0.1, rel=0.02)
    alone = resampled_seeds(6, 20_000, np.random.default_rng(0))
    assert (alone[1:] @ by_seed).std() == pytest.approx(by_seed.std(ddof=1) / np.sqrt(6), rel=0.02)
    uneven = resampled_seeds(5, 20_000, np.random.default_rng(0), [0, 1, 0, 1, 0])
    assert uneven[1:].mean(0) == pytest.approx(1 / 5, abs=0.01)


def test_holm_is_the_one_worked_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, of which the last may not fall."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []


def test_the_p_of_a_rare_difference_is_that_of_its_spread():
    """Counted 0.046; of 2,000 normal ones 4 spreads away none crosses 0, and counting alone would say 0.001."""
    rng = np.random.default_rng(0)
    two, four = (np.concatenate([[far], rng.normal(far, 1, 2000)]) for far in (2.0, 4.0))
    assert p_value(two) == pytest.approx(0.046, abs=0.012)
    assert p_value(four) == pytest.approx(6.3e-5, rel=0.3)


def test_verdicts_of_a_study_are_corrected_over_all_its_classifiers():
    records = [{"metric": "macro_f1", "arms": ["composite", "real"], "difference": 0.1, "interval": [0.01, 0.2]}]
    records[0] |= {"p": 0.02, "n": 100, "seeds": 3, "relative_gain": None, "labels": "mixed up"}
    judge_together(records, "picture")
    assert records[0]["verdict"] == "helps"
    assert records[0]["sentence"].endswith("helps; the labels of its synthetic set are mixed up")
    others = [{**records[0], "p": 0.5} for _ in range(3)]
    judge_together([*records, *others], "picture")
    assert records[0]["p_holm"] == pytest.approx(0.08) and records[0]["verdict"] == "no evidence"
    assert "0.080 after Holm over 4 comparisons" in records[0]["sentence"]


def test_the_verdict_is_the_one_after_the_correction(monkeypatch):
    """A borderline arm helps alone, and no more among ten others that do nothing."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    labels, rng = np.arange(150) % 3, np.random.default_rng(2)
    control = guesses(labels, 0.6, 3, rng)
    better = np.where(rng.random(control.shape) < 0.12, labels, control)
    arms = {"real": sure(control), "better": sure(better), **{f"same{i}": sure(control) for i in range(10)}}
    alone = records_of(labels, {name: arms[name] for name in ("real", "better")}, [("better", "real")])[0]
    among = records_of(labels, arms, [(name, "real") for name in arms if name != "real"])[0]
    assert alone["p"] == among["p"] <= alone["p_holm"] < among["p_holm"]
    assert alone["verdict"] == "helps"
    assert (among["verdict"] == "helps") == (among["p_holm"] < 0.05)
    assert "after Holm over 22 comparisons" in among["sentence"] and "over 2 comparisons" in alone["sentence"]
    assert alone["relative_gain"] > 0 and "% of the control" in alone["sentence"]


def test_only_the_two_main_metrics_carry_a_verdict():
    labels = np.arange(15) % 3
    arm = sure(np.tile(labels, (2, 1)))
    records = records_of(labels, {"composite": arm, "real": arm}, [("composite", "real")])
    assert [r["metric"] for r in records if "verdict" in r] == ["macro_f1", "balanced_accuracy"]
    assert [r["metric"] for r in records][2:] == ["accuracy", "auroc", "ece", "f1 dark", "f1 medium", "f1 bright"]
    assert records[0]["sentence"] == (
        "composite - real, macro_f1: +0.000 (95% interval +0.000 to +0.000; p 1.000, 1.000 after Holm over 2 "
        "comparisons; 15 test images, 2 seeds; +0.0 % of the control): no evidence"
    )


def test_the_effect_size_is_the_mean_over_the_spread_of_the_seeds():
    assert effect(np.array([0.01, 0.02, 0.03])) == {"effect_size": pytest.approx(2.0), "effect_note": ""}
    assert "2 seeds only" in effect(np.array([0.01, 0.02]))["effect_note"]
    assert effect(np.array([0.01]))["effect_size"] is None


def test_subgroups_name_the_worst_and_those_too_small():
    labels, rng = np.arange(120) % 3, np.random.default_rng(0)
    groups = np.array(["old"] * 50 + ["young"] * 50 + ["unknown"] * 15 + ["infant"] * 5)
    predicted = np.where(groups == "old", guesses(labels, 0.5, 2, rng), guesses(labels, 0.9, 2, rng))
    records = {r["group"]: r for r in subgroup_records(held_out_set(labels, age=groups), {"real": sure(predicted)})}
    old = [f1_score(labels[:50], run[:50], average="macro") for run in predicted]
    assert records["old"]["value"] == pytest.approx(np.mean(old)) and records["old"]["worst"]
    assert records["old"]["interval"][0] < records["old"]["value"] < records["old"]["interval"][1]
    assert not records["young"]["worst"] and records["young"]["value"] > 0.7
    assert records["infant"]["value"] is None and "too small to measure: 5" in records["infant"]["note"]


def agreement(labels: np.ndarray, predicted: np.ndarray, accuracy: float = 0.8) -> dict[str, dict]:
    rng, test = np.random.default_rng(1), np.arange(120) % 3
    on_test = guesses(test, accuracy, 3, rng)
    records = label_agreement("ddpm", held_out_set(labels), predicted, held_out_set(test), on_test)
    return {record["label"]: record for record in records}


def test_labels_agree_or_are_mixed_up():
    rng, true = np.random.default_rng(0), np.arange(150) % 3
    predicted = guesses(true, 0.8, 3, rng)
    good, shuffled = agreement(true, predicted), agreement(rng.permutation(true), predicted)
    assert good["overall"]["flag"] == "agrees" and good["overall"]["value"] == pytest.approx(0.8, abs=0.05)
    assert shuffled["overall"]["flag"] == "mixed up"
    assert shuffled["overall"]["value"] == pytest.approx(shuffled["overall"]["chance"], abs=0.07)
    low, high = shuffled["overall"]["interval"]
    assert low < shuffled["overall"]["value"] < high < shuffled["overall"]["floor_interval"][0]
    swapped = agreement(np.where(true == 0, 0, 3 - true), predicted)  # medium and bright change places
    assert swapped["dark"]["flag"] == "agrees" and swapped["bright"]["flag"] == "mixed up"
    assert agreement(true, guesses(true, 0.65, 3, rng))["overall"]["flag"] == "below real"


def test_weak_classifiers_and_few_pictures_cannot_tell():
    true = np.arange(150) % 3
    weak = agreement(true, guesses(true, 1 / 3, 3, np.random.default_rng(0)), accuracy=1 / 3)
    assert weak["overall"]["flag"] == "cannot tell"
    few = agreement(true[:6], np.tile(true[:6], (3, 1)))
    assert few["dark"]["value"] is None and "fewer than 10 images" in few["dark"]["note"]
    assert few["overall"]["value"] is None


def test_subgroups_stay_with_their_rows():
    data = held_out_set(np.arange(6) % 3, sex=np.array(list("fmfmfm")))
    assert data.take(np.array([4, 1])).groups["sex"].tolist() == ["f", "m"]
    assert replace(data, groups={}).take(np.array([True] + [False] * 5)).labels.tolist() == [0]
