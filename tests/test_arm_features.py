"""Arms in feature space: last layers on a body that is left alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import macro_f1
from clinsynth.models.image_classifiers import (
    build_small_resnet,
    load_image_classifier_to_train,
    predict,
    save_image_classifier,
)
from clinsynth.trainers.classifiers.rows import shrunk_spread
from tests.arm_studies import FAST, NAMES, brightness_data, brightness_splits, only, run_arms


@pytest.fixture
def real() -> dict[str, ImageArrays]:
    return brightness_splits()


def test_a_new_last_layer_gives_what_it_was_trained_to_give(real, tmp_path: Path):
    """The head on scaled features, put into the classifier, scores on validation pictures as it did in training."""
    settings = {**FAST, "seeds": 1, "epochs": 6, "arms": ["real_features"]}
    run = run_arms(real, None, tmp_path, **settings)["runs"][1]
    model = load_image_classifier_to_train(str(tmp_path / run["folder"] / "model"), NAMES, 0)
    predicted = predict(model, real["validation"].images).argmax(1)
    assert macro_f1(real["validation"].labels, predicted, len(NAMES)) == pytest.approx(run["validation_macro_f1"])
    control = load_image_classifier_to_train(str(only(tmp_path, "real", 0) / "model"), NAMES, 0)
    body, same = (dict(m.base_model.state_dict()) for m in (model, control))
    assert all(torch.equal(body[name], same[name]) for name in body)
    assert not torch.equal(model.classifier[1].weight, control.classifier[1].weight)


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A trained classifier, as far as an arm in feature space can tell."""
    save_image_classifier(build_small_resnet(len(NAMES), channels=1), NAMES, tmp_path / "body")
    return tmp_path / "body"


def frozen(body: Path, **changes) -> dict:
    """Settings of a study that trains last layers on `body`."""
    settings = {**FAST, "model": str(body), "features_from": "model", "control": "real_features", "epochs": 20}
    return {**settings, "arms": ["composite_features"], "learning_rates": [0.05, 0.02], **changes}


def test_last_layers_on_a_pretrained_body_are_compared_without_training_it(real, body: Path, tmp_path: Path):
    """Synthetic pictures with mixed-up labels hurt there, too; the body stays as it came."""
    bright = brightness_data(60, 9)
    wrong = replace(bright, labels=(bright.labels + 1) % 3)
    results = run_arms(real, {"good": bright, "wrong": wrong}, tmp_path / "arms", **frozen(body))
    assert {run["arm"] for run in results["runs"]} == {
        "real_features",
        "composite_features-good",
        "composite_features-wrong",
    }
    scores = {r["arm"]: r["value"] for r in results["arms"] if r["metric"] == "macro_f1"}
    assert scores["composite_features-wrong"] < scores["composite_features-good"] - 0.3
    before = load_image_classifier_to_train(str(body), NAMES, 0).base_model.state_dict()
    for run in results["runs"]:
        trained = load_image_classifier_to_train(str(tmp_path / "arms" / run["folder"] / "model"), NAMES, 0)
        after = trained.base_model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        kept = load_file(tmp_path / "arms" / run["folder"] / "test.safetensors")["probabilities"]
        assert np.allclose(kept, predict(trained, real["test"].images), atol=1e-6)


def test_features_of_a_pretrained_body_are_computed_once_for_all_arms_and_seeds(real, body: Path, tmp_path: Path):
    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("arms/features/*/*.safetensors")}

    sets = {"a": brightness_data(60, 9), "b": brightness_data(30, 10)}
    run_arms(real, sets, tmp_path / "arms", **frozen(body, seeds=1))
    first = kept()
    assert len(first) == 5  # three real splits, two synthetic sets
    arms = ["composite_features", "smote_features", "balanced_features"]
    run_arms(real, sets, tmp_path / "arms", **frozen(body, seeds=2, arms=arms, balance_to=6))
    assert kept() == first
    run_arms(real, sets | {"b": brightness_data(30, 11)}, tmp_path / "arms", **frozen(body, seeds=1))
    assert first.items() < kept().items() and len(kept()) == 6
    other = frozen(body, seeds=1, epochs=3, cache_dir=tmp_path / "arms")
    run_arms(real, sets, tmp_path / "other", **other)  # another study that shares them
    assert len(kept()) == 6 and not (tmp_path / "other" / "features").exists()
    with pytest.raises(ValueError, match=r"--cache_dir .*config.json cannot be written to"):
        run_arms(real, sets, tmp_path / "other", **{**other, "cache_dir": body / "config.json"})


def test_pictures_whose_label_the_last_layer_doubts_are_left_out_when_asked(real, body: Path, tmp_path: Path):
    bright = brightness_data(60, 9)
    half = replace(bright, labels=(bright.labels + (np.arange(60) < 30)) % 3)
    settings = frozen(body, seeds=1, keep_agreeing=True, epochs=60)
    (run,) = (
        run
        for run in run_arms(real, half, tmp_path / "arms", **settings)["runs"]
        if run["arm"] == "composite_features"
    )
    assert 20 <= run["synthetic_rows"] <= 40 and "of 60 synthetic images kept" in run["notes"][0]


def test_a_body_without_trained_weights_is_refused(real, body: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="--features_from model takes the trained body of --model; leave --from_sc"):
        run_arms(real, brightness_data(6, 9), tmp_path / "arms", **frozen(body, from_scratch=True))


def test_a_feature_that_is_constant_in_few_rows_is_not_blown_up_in_others():
    """Divided by its own spread alone it would be millions where it varies, and drown all others."""
    values = np.random.default_rng(0).normal(0, 0.3, (40, 64)).astype(np.float32)
    usual = shrunk_spread(values)
    assert usual == pytest.approx(np.sqrt(2) * 0.3, rel=0.2)
    values[:, 3] = 0
    spread = shrunk_spread(values)
    assert spread[3] == pytest.approx(0.3, rel=0.05) and spread[:3] == pytest.approx(usual[:3], rel=0.02)
