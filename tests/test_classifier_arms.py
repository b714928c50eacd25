"""Arms: which there are, their pictures, their trainings and what they show."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.classifiers.arms import ARMS, ROUND_TRIP, Arm, augmentation, choose_controls, resolve_arms
from clinsynth.trainers.classifiers.results import results_as_text
from clinsynth.trainers.classifiers.rows import ArmRefusedError, arm_rows
from tests.arm_studies import FAST, NAMES, brightness_data, brightness_splits, only, run_arms, written


@pytest.fixture
def real() -> dict[str, ImageArrays]:
    return brightness_splits()


def test_every_arm_has_its_control_and_its_augmentation():
    arms = resolve_arms(["smote_features", "composite", "smote"], "real_strong", ["ddpm", "gan"], ARMS)
    assert [arm.name for arm in arms] == [
        "real_strong",
        "real_features",
        "smote_features",
        "composite-ddpm",
        "composite-gan",
        "smote",
    ]
    named = choose_controls(arms, {}, "real_strong", False)
    controls = {arm.name: named.of(arm) for arm in arms}
    assert controls["smote_features"] == "real_features" and controls["real_features"] == "real_strong"
    assert {augmentation(arm, "real_strong", True) for arm in arms if not arm.in_features} == {"strong"}
    assert augmentation(Arm("real"), "real_strong", True) == "light"
    assert augmentation(Arm("composite"), "real", True) == "light"
    assert augmentation(Arm("smote_features"), "real_strong", True) == "none"
    with pytest.raises(ValueError, match="--control must be one of real, real_strong, real_features, got smote"):
        resolve_arms(["real"], "smote", [], ARMS)


def test_arms_run_resume_and_take_equally_many_steps(real, tmp_path: Path):
    synthetic = brightness_data(30, 9)
    first = run_arms(real, synthetic, tmp_path, **{**FAST, "seeds": 1})
    assert len(first["runs"]) == 2
    kept = written(tmp_path)
    results = run_arms(real, synthetic, tmp_path, **FAST)
    assert kept.items() <= written(tmp_path).items() and len(written(tmp_path)) == 4
    assert {(r["arm"], r["seed"]) for r in results["runs"]} == {(a, s) for a in ("real", "composite") for s in (0, 1)}
    assert {r["steps"] for r in results["runs"]} == {4}
    assert {r["synthetic_rows"] for r in results["runs"] if r["arm"] == "composite"} == {30}
    json.dumps(results)
    macro = {r["arm"]: r for r in results["arms"] if r["metric"] == "macro_f1"}
    gap = next(r for r in results["comparisons"] if r["metric"] == "macro_f1")["difference"]
    assert gap == pytest.approx(macro["composite"]["value"] - macro["real"]["value"])
    assert macro["real"]["value"] == pytest.approx(np.mean(macro["real"]["per_seed"]))
    assert (tmp_path / results["best_model"]["composite"] / "model.safetensors").exists()


def test_the_test_split_changes_no_weight(real, tmp_path: Path):
    """Validation alone chooses: with other test pictures the same model comes out."""
    run_arms(real, None, tmp_path / "a", arms=["real"], **FAST)
    run_arms({**real, "test": brightness_data(9, 77)}, None, tmp_path / "b", arms=["real"], **FAST)
    first, second = (only(tmp_path / name, "real", 0) / "model/model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_the_learning_rate_is_the_best_on_validation(real, tmp_path: Path):
    settings = {**FAST, "seeds": 1, "arms": ["real"], "epochs": 8}
    results = run_arms(real, None, tmp_path, learning_rates=[1e-7, 5e-3], **settings)
    assert results["runs"][0]["learning_rate"] == 5e-3
    lines = (only(tmp_path, "real", 0) / "metrics.jsonl").read_text().splitlines()
    by_rate = {1e-7: 0.0, 5e-3: 0.0}
    for record in map(json.loads, lines):
        rate = record["learning_rate"]
        by_rate[rate] = max(by_rate[rate], record["validation_macro_f1"])
    assert len(lines) == 16 and results["runs"][0]["validation_macro_f1"] == by_rate[5e-3] > by_rate[1e-7]


def rows_of(real: ImageArrays, synthetic: ImageArrays, kind: str, seed: int = 0, **changes) -> ImageArrays:
    return arm_rows(real, synthetic, Arm(kind), **{"ratio": None, "balance_to": None, "seed": seed, **changes})


def test_synthetic_ratio_caps_the_composite_arm(real):
    synthetic = brightness_data(30, 9)
    rows = rows_of(real["train"], synthetic, "composite", ratio=0.5)
    assert len(rows.labels) == 12 + 6 and (rows.images[:12] == real["train"].images).all()
    other = rows_of(real["train"], synthetic, "composite", ratio=0.5, seed=1)
    assert not np.array_equal(rows.images, other.images)
    assert len(rows_of(real["train"], synthetic, "composite", ratio=9).labels) == 42
    assert rows_of(real["train"], synthetic, "synthetic", ratio=0.5) is synthetic


def test_the_balanced_arm_fills_up_short_classes_alone(real):
    train, synthetic = real["train"].take(np.array([0, 3, 6, 9, 1, 4, 2])), brightness_data(30, 9)
    rows = rows_of(train, synthetic, "balanced")
    assert np.bincount(rows.labels).tolist() == [4, 4, 4] and (rows.images[:7] == train.images).all()
    assert np.bincount(rows_of(train, synthetic, "balanced", balance_to=9).labels).tolist() == [9, 9, 9]
    scarce = rows_of(train, synthetic.take(np.array([1, 2, 5, 8])), "balanced")
    assert np.bincount(scarce.labels).tolist() == [4, 3, 4]
    with pytest.raises(ArmRefusedError, match="no synthetic image to add"):
        rows_of(real["train"], synthetic, "balanced")
    with pytest.raises(ArmRefusedError, match="holds no image of bright"):
        rows_of(train, synthetic.take(np.array([0, 1])), "synthetic")


def test_every_arm_runs_with_equally_many_steps_and_a_refused_one_says_why(tmp_path: Path):
    """Dark has 12 pictures, bright 3: too few for the usual five neighbours."""
    everything = brightness_data(36, 0)
    order = np.concatenate([np.flatnonzero(everything.labels == c)[:n] for c, n in ((0, 12), (1, 8), (2, 3))])
    real = {"train": everything.take(order), "validation": brightness_data(6, 1), "test": brightness_data(30, 2)}
    sexes = np.where(np.arange(30) < 24, "f", "m")
    real["test"] = replace(real["test"], groups={"sex": sexes})
    settings = {**FAST, "arms": list(ARMS), "control": "real_strong"}
    sets = {"": brightness_data(30, 9), ROUND_TRIP: brightness_data(12, 0)}
    results = run_arms(real, sets, tmp_path, **settings)
    refused = {record["arm"]: record["reason"] for record in results["refused"]}
    kept = [arm for arm in ARMS if arm not in refused]
    assert set(refused) <= {"adasyn", "adasyn_features", "borderline_smote", "borderline_smote_features"}
    assert {run["steps"] for run in results["runs"]} == {2 * 3}
    rows = {run["arm"]: (run["train_rows"], run["synthetic_rows"]) for run in results["runs"]}
    assert rows["real_strong"] == (23, 0) and rows["synthetic"] == (30, 30) and rows["composite"] == (53, 30)
    assert rows["balanced"] == rows["smote"] == rows["random_oversampling_features"] == (36, 13)
    assert rows["pretrain_finetune"] == (53, 30) and rows["real_features"] == (23, 0)
    assert {name: rows[f"{name}_features"] for name in ("synthetic", "composite", "balanced", "duplicate_real")} == {
        "synthetic": (30, 30),
        "composite": (53, 30),
        "duplicate_real": (53, 30),
        "balanced": (36, 13),
    }
    assert any("smote: bright has 3 rows, so 2 neighbours, not 5" in note for note in results["notes"])
    pairs = {record["arm"]: record["arms"][1] for record in results["comparisons"]}
    assert set(pairs) == set(kept) - {"real_strong"} and pairs["smote"] == "real_strong"
    assert pairs["smote_features"] == pairs["composite_features"] == "real_features"
    for record in results["comparisons"]:
        assert ("verdict" in record) == (record["metric"] in ("macro_f1", "balanced_accuracy"))
        assert "p_holm" not in record or record["p_holm"] >= record["p"]
    assert all(np.sum(results["confusion"][arm]) == pytest.approx(30) for arm in kept)
    history = next(run["history"] for run in results["runs"] if run["arm"] == "pretrain_finetune")
    assert [record["step"] for record in history] == [3, 6] and [record["epoch"] for record in history] == [1, 2]
    groups = {(r["arm"], r["group"]): r for r in results["subgroups"]}
    assert groups["smote", "f"]["n"] == 24 and groups["smote", "m"]["value"] is None
    assert "too small" in groups["smote", "m"]["note"]
    assert json.loads(json.dumps(results)) == results
    before = written(tmp_path)
    again = run_arms(real, sets, tmp_path, **{**settings, "arms": ["real", "smote"]})
    assert written(tmp_path) == before and {r["arm"] for r in again["runs"]} == {"real_strong", "real", "smote"}


def test_mixed_up_labels_hurt_and_are_flagged(tmp_path: Path):
    """A generator that mixes classes up: its pictures are as good as real ones, their labels are not theirs."""
    real = {name: brightness_data(n, i) for i, (name, n) in enumerate(dict(train=60, validation=30, test=90).items())}
    good, rng = brightness_data(90, 9), np.random.default_rng(0)
    sets = {
        "good": good,
        "shuffled": replace(good, labels=rng.permutation(good.labels)),
        "swapped": replace(good, labels=(good.labels + 1) % 3),
    }
    settings = {**FAST, "seeds": 3, "epochs": 10, "batch_size": 16, "learning_rates": [3e-3]}
    results = run_arms(real, sets, tmp_path, **settings, arms=["real", "synthetic"])
    found = {r["arm"]: r for r in results["comparisons"] if r["metric"] == "macro_f1"}
    assert found["synthetic-swapped"]["verdict"] == "hurts" and found["synthetic-swapped"]["p_holm"] < 0.05
    assert found["synthetic-shuffled"]["difference"] < -0.1
    assert found["synthetic-good"]["difference"] > -0.1
    flags = {(r["source"], r["label"]): r["flag"] for r in results["label_agreement"]}
    for source in ("shuffled", "swapped"):
        assert {flags[source, label] for label in ("overall", *NAMES)} == {"mixed up"}
    assert "mixed up" not in {flags["good", label] for label in ("overall", *NAMES)}
    printed = results_as_text(results, "picture")
    assert "labels of the synthetic set shuffled: overall agrees with the control in" in printed
    marked = {r["arm"] for r in results["comparisons"] if r.get("labels") == "mixed up"}
    assert marked == {"synthetic-shuffled", "synthetic-swapped"}
    judged_metrics = 2
    assert printed.count("; the labels of its synthetic set are mixed up") == judged_metrics * len(marked)


def test_only_agreeing_pictures_are_kept_when_asked(real, tmp_path: Path):
    synthetic = brightness_data(30, 9)
    wrong = replace(synthetic, labels=(synthetic.labels + (np.arange(30) < 15)) % 3)
    real["test"] = brightness_data(45, 7)  # labels are held against ten test pictures a class or more
    settings = {**FAST, "seeds": 1, "epochs": 15, "learning_rates": [5e-3], "keep_agreeing": True}
    results = run_arms(real, wrong, tmp_path, **settings)
    (composite,) = (run for run in results["runs"] if run["arm"] == "composite")
    agreed = sum(r["n"] * r["value"] for r in results["label_agreement"] if r["label"] != "overall")
    assert composite["synthetic_rows"] == round(agreed) and 10 <= composite["synthetic_rows"] <= 20
    assert f"{round(agreed)} of 30 synthetic images kept" in composite["notes"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["real", "fake"]}, "--arms must be among real, real_strong, .*, got fake"),
        ({"synthetic": None}, "--arms composite need synthetic samples; give --synthetic"),
        ({"synthetic_names": ["a", "b", "c"]}, r"label names differ: train has \['dark', .* synthetic has \['a'"),
        ({"synthetic_side": 16}, "images differ: .* synthetic has .*--resolution"),
        ({"test_rows": [0, 1, 3, 4]}, "test split holds no image of bright"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"learning_rates": [-1.0]}, "--learning_rates must be"),
        ({"synthetic_ratio": -1.0}, "--synthetic_ratio must be above 0, got -1.0"),
        ({"balance_to": 0}, "--balance_to must be at least 1, got 0"),
        ({"from_scratch": True}, "--from_scratch needs a --model other than small-resnet"),
        ({"features_from": "somewhere"}, "--features_from must be control or model, got somewhere"),
        ({"control": "real_features"}, "--control real_features trains no body .* add --features_from model"),
        ({"epochs": 1, "arms": ["pretrain_finetune"]}, "--epochs must be at least 2 for pretrain_finetune, got 1"),
    ],
)
def test_bad_input_is_named(real, tmp_path: Path, change: dict, message: str):
    synthetic: ImageArrays | None = brightness_data(6, 9)
    change = dict(change)
    if "synthetic" in change:
        synthetic = change.pop("synthetic")
    if "synthetic_names" in change:
        synthetic = replace(synthetic, label_names=change.pop("synthetic_names"))
    if "synthetic_side" in change:
        side = change.pop("synthetic_side")
        synthetic = replace(synthetic, images=np.zeros((6, 1, side, side), np.uint8))
    if "test_rows" in change:
        rows = change.pop("test_rows")
        real["test"] = replace(real["test"], images=real["test"].images[rows], labels=real["test"].labels[rows])
    with pytest.raises(ValueError, match=message):
        run_arms(real, synthetic, tmp_path, **{**FAST, **change})


def test_other_data_in_the_same_folder_repeats_what_depends_on_it(real, tmp_path: Path):
    settings = {**FAST, "seeds": 1, "epochs": 1}
    first = run_arms(real, brightness_data(6, 9), tmp_path, **settings)
    before = written(tmp_path)
    second = run_arms(real, brightness_data(6, 10), tmp_path, **settings)
    assert before.items() < written(tmp_path).items()
    folders = [{run["arm"]: run["folder"] for run in results["runs"]} for results in (first, second)]
    assert folders[0]["real"] == folders[1]["real"] and folders[0]["composite"] != folders[1]["composite"]
