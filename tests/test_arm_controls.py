"""Controls: one correction in every arm, real samples again, one control that is chosen before test is read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from arm_studies import FAST, brightness_data, brightness_splits, only, run_arms

from clinsynth.models.image_classifiers import build_small_resnet, predict
from clinsynth.trainers.classifiers.arms import ARMS, ROUND_TRIP, Arm, choose_controls, resolve_arms
from clinsynth.trainers.classifiers.calibration import choose_correction
from clinsynth.trainers.classifiers.resampling import visible_gain
from clinsynth.trainers.classifiers.rows import with_repeats
from clinsynth.trainers.classifiers.scores import class_scores

PRIOR = np.array([0.8, 0.1, 0.1])


def said(labels: np.ndarray, lean: np.ndarray, sharp: float, seed: int) -> np.ndarray:
    """Probabilities (2, n, 3) of two trainings that know something of `labels` and lean to some classes."""
    rng = np.random.default_rng(seed)
    logits = np.eye(3)[labels] * 1.5 + rng.normal(0, 1, (2, len(labels), 3)) + lean
    raised = np.exp(sharp * logits)
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    once = np.ones((1, len(labels)))
    return float(np.mean([class_scores(labels, run.argmax(1), once, 3)[0].mean() for run in probabilities]))


@pytest.mark.parametrize("lean", [np.log(PRIOR), -np.log(PRIOR)], ids=["to common classes", "to rare classes"])
def test_a_moved_threshold_is_moved_back(lean: np.ndarray):
    """Fitted on validation, judged on other rows: what was but a lean to some classes is gone."""
    labels, others = (np.random.default_rng(i).choice(3, 600, p=PRIOR) for i in (0, 1))
    plain, leaning = (choose_correction("prior", said(labels, by, 1, 2), labels, PRIOR) for by in (0 * lean, lean))
    assert leaning.factor is not None and plain.factor is not None
    assert np.sign(leaning.factor - plain.factor) == (-1 if lean[0] > lean[1] else 1)
    before, after = (said(others, lean, 1, 3), leaning.apply(said(others, lean, 1, 3)))
    assert macro_f1(others, after) > macro_f1(others, before) + 0.02
    assert macro_f1(others, after) == pytest.approx(macro_f1(others, plain.apply(said(others, 0, 1, 3))), abs=0.02)


def test_thresholds_move_one_class_alone_and_temperature_makes_honest():
    labels = np.random.default_rng(0).choice(3, 600, p=PRIOR)
    given = said(labels, np.array([0, -3, 0]), 3, 1)
    by_prior, by_class = (choose_correction(method, given, labels, PRIOR) for method in ("prior", "threshold"))
    assert by_class.macro_f1 > by_prior.macro_f1 and by_class.offsets[1] > by_class.offsets[2]
    assert by_class.macro_f1 == pytest.approx(macro_f1(labels, by_class.apply(given)))
    assert by_prior.temperature > 1.5  # the logits are three times too large
    none = choose_correction("none", given, labels, PRIOR)
    assert none.apply(given) is given and none.macro_f1 == pytest.approx(macro_f1(labels, given))


def test_a_corrected_model_says_what_its_scores_are_of():
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 1, 16, 16), np.uint8), np.arange(30) % 3
    model = build_small_resnet(3, 3)
    with torch.no_grad():
        before = predict(model, images)
    correction = choose_correction("threshold", before[None], labels, PRIOR)
    correction.apply_to(model)
    assert correction.changes and np.allclose(predict(model, images), correction.apply(before), atol=1e-5)


def test_real_samples_again_have_the_class_mix_of_the_synthetic_ones():
    train = brightness_data(12, 0)
    asked = np.array([0] * 9 + [2])
    whole = with_repeats(train, asked, seed=1)
    assert (whole.images[:12] == train.images).all()
    more, other = (rows.take(np.arange(12, 22)) for rows in (whole, with_repeats(train, asked, seed=2)))
    assert more.labels.tolist() == [0] * 9 + [2]
    of_class = {row.tobytes() for row in train.images[train.labels == 0]}
    times = [sum(row.tobytes() == one for row in more.images[:9]) for one in of_class]
    assert sorted(times) == [2, 2, 2, 3]
    assert not np.array_equal(more.images, other.images)


def test_the_control_is_the_best_real_only_arm_of_its_space():
    kinds = ["real", "duplicate_real", "composite", "real_features", "duplicate_real_features", "smote_features"]
    arms = resolve_arms(kinds, "real_strong", ["gan"], ARMS)
    scores = {arm.name: 0.5 for arm in arms} | {"duplicate_real": 0.6, "composite-gan": 0.9, "real_features": 0.4}
    chosen = choose_controls(arms, scores, "real_strong", True)
    against = {arm.name: chosen.of(arm) for arm in arms}
    assert against == {
        "real_strong": "duplicate_real",
        "real": "duplicate_real",
        "duplicate_real": None,
        "composite-gan": "duplicate_real",
        "real_features": "duplicate_real_features",
        "duplicate_real_features": "duplicate_real",
        "smote_features": "duplicate_real_features",
    }
    named = choose_controls(arms, scores, "real_strong", False)
    assert (named.whole, named.features) == ("real_strong", "real_features")
    only_features = resolve_arms(["real_features", "smote_features"], "real_features", [], ARMS)
    assert (
        choose_controls(only_features, dict.fromkeys(ARMS, 0.5), "real_features", True).of(Arm("real_features"))
        is None
    )
    with pytest.raises(ValueError, match="--arms duplicate_real need synthetic samples"):
        resolve_arms(["duplicate_real"], "real", [], ARMS)


def test_every_arm_is_corrected_and_test_labels_decide_nothing(tmp_path: Path):
    """With other test labels the same models, corrections and control come out."""
    real, made = brightness_splits(), brightness_data(30, 9)
    sets = {"": made, ROUND_TRIP: brightness_data(12, 0)}
    settings = {
        **FAST,
        "choose_control": True,
        "arms": ["real", "duplicate_real", ROUND_TRIP, "composite"],
        "synthetic_ratio": 1.5,
    }
    test = real["test"]
    changed = {**real, "test": replace(test, labels=np.random.default_rng(0).permutation(test.labels))}
    found = [run_arms(splits, sets, tmp_path / name, **settings) for name, splits in (("a", real), ("b", changed))]
    for key in ("calibration", "control", "features_control", "refused"):
        assert found[0][key] == found[1][key]
    assert found[0]["arms"] != found[1]["arms"]
    names = {record["arm"] for record in found[0]["calibration"]}
    assert names == {"real", "duplicate_real", ROUND_TRIP, "composite"}
    best = max(
        (record for record in found[0]["calibration"] if record["arm"] != "composite"),
        key=lambda record: record["validation_macro_f1"],
    )
    assert found[0]["control"] == best["arm"]
    assert any(note.startswith(f"control: {best['arm']}, the real-only arm") for note in found[0]["notes"])
    assert {record["arms"][1] for record in found[0]["comparisons"]} == {best["arm"]}
    rows = {run["arm"]: (run["train_rows"], run["synthetic_rows"]) for run in found[0]["runs"]}
    assert rows["duplicate_real"] == rows["composite"] == (30, 18) and rows[ROUND_TRIP] == (24, 12)
    assert {run["steps"] for run in found[0]["runs"]} == {4}
    # Trainings of before this was kept: what they say of validation samples is asked again, and is the same.
    path = only(tmp_path / "a", "composite", 0) / "validation.safetensors"
    path.unlink()
    assert run_arms(real, sets, tmp_path / "a", **settings)["calibration"] == found[0]["calibration"]
    other = run_arms(real, sets, tmp_path / "a", **settings | {"calibrate": "none", "choose_control": False})
    assert other["control"] == "real" and {record["temperature"] for record in other["calibration"]} == {1.0}


def test_what_can_be_seen_shrinks_with_rows_and_seeds_and_is_never_nothing():
    labels = np.random.default_rng(0).choice(3, 400, p=PRIOR)
    given = np.concatenate([said(labels, np.zeros(3), 1, seed) for seed in range(2)])
    few, many = (visible_gain(labels, given, np.repeat(labels, times), 3)["value"] for times in (1, 16))
    alone = visible_gain(labels, given[:1], labels, 3)["value"]
    assert many < 0.6 * few and few > 0.02 and alone > 0.02
    sure = np.eye(3)[labels][None].repeat(3, 0)
    assert visible_gain(labels, sure, np.arange(15) % 3, 3) == {
        "value": pytest.approx(2 / 15),
        "enough": False,
        "n": 15,
        "seeds": 3,
    }
