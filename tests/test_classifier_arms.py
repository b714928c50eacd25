"""Arms, their resumption, and the statistics of their difference."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score

from clinsynth.arguments import parse
from clinsynth.data.arrays import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.trainers import arm_statistics
from clinsynth.trainers.arm_data import arm_rows, load_synthetic
from clinsynth.trainers.arm_statistics import Interval, bootstrap, comparison_records, interval, scores, verdict
from clinsynth.trainers.classifier_arms import run_arms
from clinsynth.trainers.train_image_classifier import ImageClassifierArguments, main

NAMES = ["dark", "medium", "bright"]
TRAINER = Path(__file__).parent.parent / "trainers" / "train_image_classifier.py"
DATA = ["--dataset=phantom-fundus?train=60&validation=10&test=20", "--resolution=28", "--min_class_size=1"]
FAST = {"seeds": 2, "epochs": 2, "batch_size": 8, "progress": False}


def brightness_data(rows: int, seed: int) -> ImageArrays:
    """Noise whose mean tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    images = rng.normal(60 + 60 * labels[:, None, None, None], 20, (rows, 1, 12, 12))
    return ImageArrays(images.clip(0, 255).astype(np.uint8), labels, NAMES)


@pytest.fixture
def real() -> dict[str, ImageArrays]:
    return {name: brightness_data(n, i) for i, (name, n) in enumerate(dict(train=12, validation=6, test=15).items())}


def guesses(labels: np.ndarray, accuracy: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    right = rng.random((seeds, len(labels))) < accuracy
    return np.where(right, labels, (labels + rng.integers(1, 3, right.shape)) % 3)


def difference(labels: np.ndarray, arm: np.ndarray, control: np.ndarray, seed: int = 0) -> Interval:
    resampled = bootstrap(labels, {"composite": arm, "real": control}, 3, seed)
    return interval(resampled["composite"][:, 0] - resampled["real"][:, 0])


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    weights = rng.integers(1, 4, 50)
    repeated, guessed = labels.repeat(weights), predicted.repeat(weights)
    found = scores(labels, predicted, weights[None].astype(float), 3)[0]
    per_class = f1_score(repeated, guessed, average=None)
    assert np.allclose(found, [per_class.mean(), balanced_accuracy_score(repeated, guessed), *per_class])


def test_identical_arms_show_no_difference():
    labels = np.arange(120) % 3
    arm = guesses(labels, 0.6, 3, np.random.default_rng(0))
    found = difference(labels, arm, arm)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert verdict(found, seeds=3) == "no evidence"


def test_a_clearly_better_arm_helps_and_a_worse_one_hurts():
    labels, rng = np.arange(300) % 3, np.random.default_rng(0)
    good, bad = guesses(labels, 0.8, 3, rng), guesses(labels, 0.5, 3, rng)
    better, worse = difference(labels, good, bad), difference(labels, bad, good)
    assert better.low > 0.1 and verdict(better, seeds=3) == "helps"
    assert worse.high < -0.1 and verdict(worse, seeds=3) == "hurts"
    assert verdict(better, seeds=1) == "no evidence"


def test_pairing_narrows_the_interval():
    labels, rng = np.arange(300) % 3, np.random.default_rng(0)
    control = guesses(labels, 0.6, 3, rng)
    arm = np.where(rng.random(control.shape) < 0.05, labels, control)  # the same answers, a few put right
    paired = difference(labels, arm, control)
    shuffled = rng.permutation(300)
    unpaired = difference(labels, arm, guesses(labels, 0.6, 3, rng)[:, shuffled])
    assert paired.low > 0 and paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_intervals_cover_the_true_difference_about_as_often_as_they_say(monkeypatch):
    """Simulated arms whose trainings differ by chance as well: of 95 % intervals not much fewer may miss."""
    monkeypatch.setattr(arm_statistics, "RESAMPLES", 200)
    rng, covered = np.random.default_rng(0), 0
    for trial in range(120):
        labels = np.arange(150) % 3
        arms = [
            np.concatenate([guesses(labels, 0.6 + rng.normal(0, 0.03), 1, rng) for _ in range(3)]) for _ in range(2)
        ]
        found = difference(labels, *arms, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.90 <= covered / 120


def test_a_class_without_a_test_row_cannot_be_scored():
    with pytest.raises(ValueError, match=r"classes \[2\] have no test row"):
        bootstrap(np.array([0, 1, 1]), {"real": np.zeros((1, 3), int)}, 3)


def test_only_the_two_main_metrics_carry_a_verdict(real):
    arm = np.tile(real["test"].labels, (2, 1))
    records = comparison_records(bootstrap(real["test"].labels, {"composite": arm, "real": arm}, 3), real["test"], 2)
    assert [r["metric"] for r in records if "verdict" in r] == ["macro_f1", "balanced_accuracy"]
    assert [r["metric"] for r in records][2:] == ["f1 dark", "f1 medium", "f1 bright"]
    assert "+0.000 (95% interval +0.000 to +0.000; 15 test pictures, 2 seeds): no evidence" in records[0]["sentence"]


def test_arms_run_resume_and_take_equally_many_steps(real, tmp_path: Path):
    synthetic = brightness_data(30, 9)
    first = run_arms(real, synthetic, tmp_path, **{**FAST, "seeds": 1})
    assert len(first["runs"]) == 2
    kept = (tmp_path / "arms/real-seed0/result.json").stat().st_mtime_ns
    results = run_arms(real, synthetic, tmp_path, **FAST)
    assert (tmp_path / "arms/real-seed0/result.json").stat().st_mtime_ns == kept
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
    run_arms(real, None, tmp_path / "a", arms=("real",), **FAST)
    run_arms({**real, "test": brightness_data(9, 77)}, None, tmp_path / "b", arms=("real",), **FAST)
    model = "arms/real-seed0/model/model.safetensors"
    assert (tmp_path / "a" / model).read_bytes() == (tmp_path / "b" / model).read_bytes()


def test_the_learning_rate_is_the_best_on_validation(real, tmp_path: Path):
    settings = {**FAST, "seeds": 1, "arms": ("real",), "epochs": 8}
    results = run_arms(real, None, tmp_path, learning_rates=[1e-7, 5e-3], **settings)
    assert results["runs"][0]["learning_rate"] == 5e-3
    lines = (tmp_path / "arms/real-seed0/metrics.jsonl").read_text().splitlines()
    by_rate = {1e-7: 0.0, 5e-3: 0.0}
    for record in map(json.loads, lines):
        rate = record["learning_rate"]
        by_rate[rate] = max(by_rate[rate], record["validation_macro_f1"])
    assert len(lines) == 16 and results["runs"][0]["validation_macro_f1"] == by_rate[5e-3] > by_rate[1e-7]


def test_synthetic_ratio_caps_the_composite_arm(real):
    synthetic = brightness_data(30, 9)
    rows = arm_rows(real["train"], synthetic, "composite", 0.5, seed=0)
    assert len(rows.labels) == 12 + 6 and (rows.images[:12] == real["train"].images).all()
    assert not np.array_equal(rows.images, arm_rows(real["train"], synthetic, "composite", 0.5, seed=1).images)
    assert len(arm_rows(real["train"], synthetic, "composite", 9, seed=0).labels) == 42
    assert arm_rows(real["train"], synthetic, "real", 0.5, seed=0) is real["train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ("real", "fake")}, "arms must be among real, composite, got fake"),
        ({"synthetic": None}, "composite needs synthetic pictures; give --synthetic"),
        ({"synthetic_names": ["a", "b", "c"]}, r"label names differ: train has \['dark', .* synthetic has \['a'"),
        ({"synthetic_side": 16}, "pictures differ: .* synthetic has .*--resolution"),
        ({"test_rows": [0, 1, 3, 4]}, "test split holds no picture of bright"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"learning_rates": [-1.0]}, "--learning_rates must be"),
        ({"synthetic_ratio": -1.0}, "--synthetic_ratio must be above 0, got -1.0"),
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


def test_other_data_in_the_same_folder_is_refused(real, tmp_path: Path):
    settings = {**FAST, "seeds": 1, "epochs": 1}
    run_arms(real, brightness_data(6, 9), tmp_path, **settings)
    with pytest.raises(ValueError, match=r"composite-seed0 was trained with data .* another --output_dir"):
        run_arms(real, brightness_data(6, 10), tmp_path, **settings)


def write_synthetic(folder: Path, names: list[str], rows: int) -> None:
    (folder / "data").mkdir(parents=True)
    pictures = [Image.fromarray(np.full((28, 28), 20 * i, np.uint8)) for i in range(rows)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    data = Dataset.from_dict({"image": pictures, "label": [i % len(names) for i in range(rows)]}, features=features)
    data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def test_synthetic_folders_are_read_at_the_real_size(tmp_path: Path):
    write_synthetic(tmp_path / "set", NAMES, 6)
    like = ImageArrays(np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64), NAMES)
    found = load_synthetic(str(tmp_path / "set"), like)
    assert found.images.shape == (6, 3, 32, 32) and found.label_names == NAMES
    with pytest.raises(ValueError, match=r"--synthetic .*nowhere cannot be read"):
        load_synthetic(str(tmp_path / "nowhere"), like)


def test_a_killed_command_goes_on_to_the_same_result(tmp_path: Path, capsys):
    write_synthetic(tmp_path / "set", GRADES, 10)
    flags = [*DATA, "--seeds=2", "--epochs=2", f"--synthetic={tmp_path / 'set'}"]
    command = [sys.executable, str(TRAINER), *flags, f"--output_dir={tmp_path / 'killed'}"]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    done = tmp_path / "killed" / "arms" / "real-seed0" / "result.json"
    deadline = time.monotonic() + 120
    while not done.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = done.stat().st_mtime_ns
    printed = []
    for name in ("killed", "straight"):
        main(parse(ImageClassifierArguments, [*flags, f"--output_dir={tmp_path / name}"]))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "composite - real, macro_f1" in printed[0]
    assert done.stat().st_mtime_ns == kept
    for arm in ("real", "composite"):
        model = Path(f"best-{arm}", "model.safetensors")
        assert (tmp_path / "killed" / model).read_bytes() == (tmp_path / "straight" / model).read_bytes()


def test_two_processes_share_the_trainings_and_change_nothing(tmp_path: Path):
    flags = [*DATA, "--seeds=2", "--epochs=1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(TRAINER)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [*launch, *flags, f"--output_dir={tmp_path / 'two'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("real       macro_f1") == 1
    main(parse(ImageClassifierArguments, [*flags, f"--output_dir={tmp_path / 'one'}"]))
    for seed in (0, 1):
        model = f"arms/real-seed{seed}/model/model.safetensors"
        assert (tmp_path / "one" / model).read_bytes() == (tmp_path / "two" / model).read_bytes()
