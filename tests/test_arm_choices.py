"""How the synthetic samples of an arm are taken: ratios and weights, soft labels, a band; best by validation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arm_studies import FAST, brightness_data, brightness_splits, only, run_arms, settings

from clinsynth.models.classifiers import balancing_weights, classification_loss
from clinsynth.trainers.classifiers.arms import Arm, Band, Choice
from clinsynth.trainers.classifiers.kinds import ImageClassifiers
from clinsynth.trainers.classifiers.teacher import folds, taught
from clinsynth.trainers.classifiers.training import choose_rows
from clinsynth.trainers.classifiers.trainings import Trainings


def test_the_loss_of_shares_is_that_of_labels_where_they_are_0_and_1():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(8, 3, generator=rng), torch.arange(8) % 3
    weight, shares = torch.tensor([0.5, 1.0, 3.0]), torch.eye(3)[labels]
    for by_class in (None, weight):
        expected = F.cross_entropy(logits, labels, weight=by_class)
        assert classification_loss(logits, labels, by_class) == expected
        assert classification_loss(logits, shares, by_class) == pytest.approx(expected.item(), abs=1e-6)
    half = torch.cat([shares[:4], 0.5 * shares[4:]])
    first, last = (F.cross_entropy(logits[part], labels[part]) for part in (slice(4), slice(4, 8)))
    assert classification_loss(logits, half, None) == pytest.approx((2 * first + last).item() / 3, abs=1e-6)
    train = brightness_data(6, 0)
    counted = np.eye(3, dtype=np.float32)[train.labels] * np.array([1, 1, 0.5], np.float32)
    assert balancing_weights(train, counted).tolist() == pytest.approx([5 / 6, 5 / 6, 5 / 3])


def test_of_several_ratios_and_weights_the_best_by_validation_is_kept(tmp_path: Path):
    tried = {"synthetic_ratio": "0.5,1", "synthetic_weight": [0.3, 1.0]}
    arms = ["real", "duplicate_real", "composite"]
    results = run_arms(
        brightness_splits(), brightness_data(30, 9), tmp_path, **{**FAST, **tried, "seeds": 1}, arms=arms
    )
    for run in results["runs"]:
        lines = (only(tmp_path, run["arm"], 0) / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == FAST["epochs"] * {"real": 1, "duplicate_real": 2, "composite": 4}[run["arm"]]
        best = max(json.loads(line)["validation_macro_f1"] for line in lines)
        assert run["validation_macro_f1"] == best
        assert run["synthetic_rows"] == round(12 * (run["synthetic_ratio"] or 0))
        assert run["synthetic_weight"] in ((0.3, 1.0) if run["arm"] == "composite" else (1.0,))


def test_a_teacher_softens_labels_and_finds_the_wrong_ones(tmp_path: Path):
    """Half of the synthetic samples have the label of another class, and a fifth are nothing like real ones."""
    real, made = brightness_splits(), brightness_data(30, 9)
    real["validation"] = brightness_data(24, 1)
    wrong, far = np.arange(30) % 2 == 0, np.arange(30) >= 24
    labels = np.where(wrong, (made.labels + 1) % 3, made.labels)
    images = np.where(far[:, None, None, None], np.uint8(255) * (np.indices((12, 12)).sum(0) % 2), made.images)
    set_ = replace(made, images=images.astype(np.uint8), labels=labels)
    flags = {**FAST, "seeds": 1, "epochs": 15, "learning_rates": 5e-3, "soft_labels": 0.5, "keep_band": "0.3-1@0.9"}
    results = run_arms(real, set_, tmp_path, **flags)
    args = settings(**flags, output_dir=str(tmp_path))
    trainings = Trainings(ImageClassifiers(), args, real, {"": [set_]}, tmp_path, tmp_path, False)
    (band,) = args.bands
    assert band == Band(0.3, 1.0, 0.9)
    rows = choose_rows(trainings, Arm("composite"), 0, Choice(weight=0.5, band=band))
    (run,) = (run for run in results["runs"] if run["arm"] == "composite")
    assert run["keep_band"] == "0.3-1@0.9" and len(rows.data.labels) == 12 + run["synthetic_rows"]
    assert f"{run['synthetic_rows']} of 30 synthetic images kept, in the band" in rows.notes[0]
    kept = np.array([any((row == image).all() for row in rows.data.images[12:]) for image in set_.images])
    assert kept.sum() == run["synthetic_rows"] and not kept[far].any()
    assert kept[~wrong & ~far].mean() > 0.5 > kept[wrong & ~far].mean()
    assert rows.targets is not None
    assert np.allclose(rows.targets.sum(1), [1] * 12 + [0.5] * kept.sum())
    said = taught(trainings, "", 0)[kept]
    assert np.allclose(rows.targets[12:], 0.5 * (0.5 * np.eye(3)[labels[kept]] + 0.5 * said), atol=1e-6)


def test_no_training_of_the_teacher_has_seen_all():
    labels = np.array([0] * 7 + [1] * 4 + [2])
    parts = folds(labels, seed=0)
    assert all(part[-1] for part in parts)  # the only row of its class
    assert (np.sum(parts, axis=0)[:-1] == 2).all() and all(len(np.unique(labels[part])) == 3 for part in parts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"synthetic_ratio": "0.5,x"}, "--synthetic_ratio must be numbers, as 0.25,0.5, got 0.5,x"),
        ({"synthetic_weight": 1.5}, "--synthetic_weight must be above 0 and at most 1, got 1.5"),
        ({"soft_labels": 2.0}, "--soft_labels must be between 0 and 1, got 2.0"),
        ({"keep_band": "0.9-0.1@1"}, "--keep_band must be LOW-HIGH@NEAR .*, got 0.9-0.1@1"),
        ({"calibrate": "all"}, "--calibrate must be none or prior or threshold, got all"),
    ],
)
def test_errors_name_the_flag_and_the_value(flags: dict, message: str):
    with pytest.raises(ValueError, match=message):
        settings(**flags)


def test_seeds_take_the_sets_of_several_generators_in_turn(tmp_path: Path):
    first, second = brightness_data(30, 9), brightness_data(24, 8)
    arms = ["real", "duplicate_real", "composite"]
    results = run_arms(brightness_splits(), {"ddpm": [first, second]}, tmp_path, **{**FAST, "epochs": 1}, arms=arms)
    made = {(run["arm"], run["seed"]): run["synthetic_rows"] for run in results["runs"]}
    assert [made["composite-ddpm", 0], made["composite-ddpm", 1], made["duplicate_real", 1]] == [30, 24, 24]
    whole = next(record for record in results["label_agreement"] if record["label"] == "overall")
    assert whole["n"] == 54 and "2 sets of ddpm" in "".join(results["notes"])
    wrong = {"--seeds 2 are fewer than the sets": {"ddpm": [first] * 3}}
    wrong["different number of sets"] = {"ddpm": [first, second], "gan": [first] * 4}
    for message, sets in wrong.items():
        with pytest.raises(ValueError, match=message):
            run_arms(brightness_splits(), sets, tmp_path, **FAST, arms=arms)
