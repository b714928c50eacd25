"""What decides: the plan before test is read, the gap closed, the worst groups, and truths that are planted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arm_studies import FAST, NAMES, brightness_data, brightness_splits, run_arms

from clinsynth.data.images import ImageArrays
from clinsynth.models.image_classifiers import build_small_resnet, save_image_classifier
from clinsynth.trainers.classifiers import results as stating
from clinsynth.trainers.classifiers.groups import subgroup_changes, worst_groups
from clinsynth.trainers.classifiers.registration import FILE
from clinsynth.trainers.classifiers.resampling import bootstrap
from clinsynth.trainers.classifiers.results import read_ceiling
from clinsynth.trainers.classifiers.statistics import gap_records


def answers(labels: np.ndarray, right: float | np.ndarray, seed: int, seeds: int = 3) -> np.ndarray:
    """Probabilities (seeds, n, 3) of 1, right with the given probability of each row."""
    rng = np.random.default_rng(seed)
    wrong = (labels + rng.integers(1, 3, (seeds, len(labels)))) % 3
    return np.eye(3)[np.where(rng.random((seeds, len(labels))) < right, labels, wrong)]


def test_the_gap_is_closed_by_a_share_with_an_interval():
    labels = np.arange(600) % 3
    shares = {"real": 0.5, "half way": 0.65, "ceiling": 0.8}
    resampled = bootstrap(
        labels, {name: answers(labels, right, i) for i, (name, right) in enumerate(shares.items())}, 3
    )
    top = resampled.pop("ceiling")
    (record,) = gap_records(resampled, [("half way", "real")], top)
    assert record["value"] == pytest.approx(0.5, abs=0.1) and record["way"] == pytest.approx(0.3, abs=0.05)
    assert record["interval"][0] < 0.5 < record["interval"][1] and "half way closes" in record["sentence"]
    (none,) = gap_records(resampled, [("half way", "real")], resampled["real"])
    assert none["value"] is None and "no gap to close" in none["note"]


def test_the_worst_group_and_the_gap_are_told():
    labels, old = np.arange(600) % 3, np.arange(600) < 300
    test = ImageArrays(np.zeros((600, 1, 2, 2), np.uint8), labels, NAMES, {"age": np.where(old, "old", "young")})
    runs = {
        "real": answers(labels, np.where(old, 0.5, 0.9), 0),
        "composite": answers(labels, np.where(old, 0.8, 0.9), 1),
    }
    changes = {change["group"]: change for change in subgroup_changes(test, runs, [("composite", "real")])}
    assert changes["old"]["difference"] == pytest.approx(0.3, abs=0.06) and changes["old"]["interval"][0] > 0.2
    low, high = changes["young"]["interval"]
    assert low < 0 < high
    (record,) = worst_groups(list(changes.values()))
    assert record["group"] == "old" and record["control_gap"] == pytest.approx(0.4, abs=0.06)
    assert record["gap"] == pytest.approx(0.1, abs=0.06) and "old is where real is worst" in record["sentence"]


def test_a_plan_is_written_before_test_is_scored_and_scored_once(tmp_path: Path, monkeypatch):
    seen = []

    def watched(*given, **more):
        seen.append(json.loads((tmp_path / FILE).read_text())["plans"])
        return bootstrap(*given, **more)

    monkeypatch.setattr(stating, "bootstrap", watched)
    real, made = brightness_splits(), brightness_data(30, 9)
    flags = {**FAST, "seeds": 1, "epochs": 1}
    first = run_arms(real, made, tmp_path, **flags)
    ((plan,),) = seen  # once, and the choices were there
    assert plan["arms"] == ["real", "composite"] and plan["metrics"] == ["macro_f1", "balanced_accuracy"]
    assert plan["chosen"]["control"] == first["control"] == "real"
    assert plan["chosen"]["calibration"] == first["calibration"] and "Holm" in plan["rule"]
    assert run_arms(real, made, tmp_path, **flags) == first and len(seen[-1]) == 1
    more = run_arms(real, made, tmp_path, **flags, arms=["real", "composite", "synthetic"])
    assert [len(plan["arms"]) for plan in seen[-1]] == [2, 3]
    assert "the plan was changed after test had been read, 1 time; last in arms" in more["notes"][-1]


def test_the_ceiling_is_another_run_on_the_same_test_samples(tmp_path: Path):
    real = brightness_splits()
    flags = {**FAST, "epochs": 3, "learning_rates": 5e-3, "arms": ["real", "real_strong"]}
    everything = {**real, "train": brightness_data(45, 0)}
    (tmp_path / "all").mkdir()
    top = run_arms(everything, None, tmp_path / "all", **flags)
    (tmp_path / "all" / "results.json").write_text(json.dumps(top))
    results = run_arms(real, None, tmp_path / "few", **flags, ceiling=str(tmp_path / "all"))
    (record,) = results["gap_closed"]
    macro = {r["arm"]: r["value"] for r in [*results["arms"]] if r["metric"] == "macro_f1"}
    best = next(r["value"] for r in top["arms"] if (r["arm"], r["metric"]) == (top["control"], "macro_f1"))
    assert record["arms"] == ["real_strong", "real"] and record["way"] == pytest.approx(best - macro["real"])
    other = {**real, "test": replace(real["test"], labels=real["test"].labels[::-1].copy())}
    for splits, seeds, message in ((real, 3, "has 2 trainings"), (other, 2, "another test split")):
        with pytest.raises(ValueError, match=message):
            read_ceiling(str(tmp_path / "all"), splits["test"], seeds)


def test_planted_truths_are_found(tmp_path: Path):
    """A perfect generator (other real samples) helps nine real ones, the same with shuffled labels hurts, and the
    train samples themselves give nothing beyond real ones again. Last layers on a random body: seconds for all."""
    save_image_classifier(build_small_resnet(3, 3), NAMES, tmp_path / "body")
    real = {name: grey_data(n, i) for i, (name, n) in enumerate(dict(train=9, validation=150, test=300).items())}
    perfect, few = grey_data(300, 9), real["train"]
    sets = {
        "perfect": perfect,
        "shuffled": replace(perfect, labels=np.random.default_rng(0).permutation(perfect.labels)),
        "duplicate": few.take(np.arange(300) % len(few.labels)),
    }
    results = run_arms(
        real,
        sets,
        tmp_path / "run",
        **{"seeds": 3, "epochs": 150, "batch_size": 12, "learning_rates": 1e-2, "choose_control": True},
        **{"model": str(tmp_path / "body"), "features_from": "model", "control": "real_features"},
        arms=["duplicate_real_features", "composite_features"],
    )
    found = {r["arm"].partition("-")[2]: r for r in results["comparisons"] if r["metric"] == "macro_f1"}
    assert found["perfect"]["verdict"] == "helps" and found["shuffled"]["verdict"] == "hurts"
    value = {r["arm"]: r["value"] for r in results["arms"] if r["metric"] == "macro_f1"}
    beyond = value["composite_features-duplicate"] - value["duplicate_real_features"]
    assert abs(beyond) < results["visible_gain"]["value"] < found["perfect"]["difference"]
    assert found["duplicate"]["verdict"] == "no evidence"
    told = {record["source"]: record for record in results["forecast"]}
    assert told["shuffled"]["reading"] == "unlikely to help" and told["shuffled"]["agreement"] == "mixed up"
    assert told["perfect"]["difference"] > 0 and told["duplicate"]["reading"] != "likely to help"


def grey_data(rows: int, seed: int) -> ImageArrays:
    """Noise of any strength, whose mean tells the class but for a spread of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    mean = 110 + 18 * labels[:, None, None] + rng.normal(0, 6, (rows, 1, 1))
    images = mean + rng.uniform(5, 50, (rows, 1, 1)) * rng.normal(0, 1, (rows, 12, 12))
    return ImageArrays(images.clip(0, 255).astype(np.uint8)[:, None], labels, NAMES)
