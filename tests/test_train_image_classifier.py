"""The image classifier: what goes in, what training does, what is saved, the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2Model,
    ViTConfig,
    pipeline,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clinsynth.arguments import parse
from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import FitResult, FitSettings, balancing_weights, endless_batches, last_layer
from clinsynth.models.image_classifiers import (
    build_small_resnet,
    fit_image_classifier,
    load_image_classifier,
    load_image_classifier_to_train,
    mixup_loss,
    model_inputs,
    pooled_features,
    predict,
    random_views,
    save_image_classifier,
    strong_views,
)
from clinsynth.trainers.classifiers.kinds import ImageClassifiers
from clinsynth.trainers.classifiers.rows import features_of
from clinsynth.trainers.train_image_classifier import ImageClassifierArguments, main
from tests.arm_studies import NAMES, TRAINER, brightness_data, settings


def small_model(seed: int = 0, channels: int = 1):
    return build_small_resnet(3, channels, input_size=24, seed=seed)


def fit(model, train, validation=None, **changes) -> FitResult:
    usual = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "seed": 0, "class_weights": True, "views": "light"}
    return fit_image_classifier(model, train, validation, FitSettings(**{**usual, **changes}))


def test_training_learns_and_keeps_the_best_epoch():
    model, validation = small_model(), brightness_data(30, 1)
    result = fit(model, brightness_data(60, 0), validation, epochs=12)
    assert result.best_macro_f1 == max(record["validation_macro_f1"] for record in result.history) > 0.8
    assert result.history[result.best_epoch - 1]["validation_macro_f1"] == result.best_macro_f1
    again = (predict(model, validation.images).argmax(1) == validation.labels).mean()
    assert again > 0.8
    assert result.steps == 12 * 4 == result.history[-1]["step"]


def test_best_weights_are_restored():
    """With a validation split that a diverging run fits best at first, the last weights are not those kept."""
    train, validation = brightness_data(60, 0), brightness_data(30, 1)
    model = small_model()
    result = fit(model, train, validation, epochs=4, learning_rate=0.3, views="none")
    from sklearn.metrics import f1_score

    predicted = predict(model, validation.images).argmax(1)
    assert f1_score(validation.labels, predicted, average="macro") == pytest.approx(result.best_macro_f1)
    assert len({record["validation_macro_f1"] for record in result.history}) > 1


def test_result_depends_on_the_seed_alone():
    weights = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        model = small_model(seed)
        state = torch.get_rng_state()
        fit(model, brightness_data(32, 0), seed=seed, epochs=1)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(model.classifier[1].weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loss_that_is_not_finite_names_its_step():
    model = small_model()
    with torch.no_grad():
        model.classifier[1].bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"nan at step 1; give smaller --learning_rates"):
        fit(model, brightness_data(32, 0))


def test_class_weights_balance_the_loss():
    data = ImageArrays(np.zeros((10, 1, 8, 8), np.uint8), np.array([0] * 7 + [1] * 2 + [2]), NAMES)
    weights = balancing_weights(data)
    counts = torch.tensor([7.0, 2.0, 1.0])
    assert torch.allclose(weights * counts, torch.full((3,), 10 / 3))
    with pytest.raises(ValueError, match="no image of bright"):
        balancing_weights(ImageArrays(data.images[:9], data.labels[:9], NAMES))


def test_batches_are_full_and_pass_over_all_rows_evenly():
    torch.manual_seed(0)
    batches = endless_batches(10, 4)
    rows = np.concatenate([next(batches) for _ in range(10)])
    assert (np.bincount(rows, minlength=10) == 4).all()
    assert set(rows[:10]) == set(range(10))


def test_inputs_have_the_models_channels_side_and_range():
    images = np.stack([np.zeros((1, 12, 12)), np.full((1, 12, 12), 255)]).astype(np.uint8)
    pixels = model_inputs(small_model(channels=3), images)
    assert pixels.shape == (2, 3, 24, 24)
    assert (pixels[0] == -1).all() and (pixels[1] == 1).all()
    with pytest.raises(ValueError, match="--channels 1"):
        model_inputs(small_model(channels=1), images.repeat(3, axis=1))


def test_random_views_move_little_and_mirror_only_when_asked():
    torch.manual_seed(0)
    picture = torch.zeros(64, 1, 32, 32)
    picture[:, :, 4:12, 12:20] = 1.0  # a block at the top
    rows = torch.arange(32.0).view(1, 32, 1)

    def heights(views):
        mass = (views[:, 0] - views[:, 0].amin((1, 2), keepdim=True)).clamp(min=0)
        return (mass * rows).sum((1, 2)) / mass.sum((1, 2))

    still, mirrored = heights(random_views(picture, flips=False)), heights(random_views(picture, flips=True))
    assert (still - 7.5).abs().max() < 5 and still.std() > 0.3
    assert 10 < (mirrored > 16).sum() < 54


def test_strong_views_move_more_erase_and_stay_pictures():
    torch.manual_seed(0)
    pictures = torch.ones(64, 3, 32, 32)
    strong = strong_views(pictures, flips=False)
    assert strong.shape == pictures.shape and torch.isfinite(strong).all()
    erased = (strong == 0).flatten(1).sum(1)
    assert set(erased.tolist()) == {0, 3 * 8 * 8} and 16 < (erased > 0).sum() < 48
    light = random_views(pictures, flips=False)
    assert (strong[erased == 0] - 1).abs().mean() > 1.5 * (light - 1).abs().mean()
    torch.manual_seed(0)
    assert torch.equal(strong, strong_views(pictures, flips=False))


def test_mixup_of_equal_labels_is_cross_entropy():
    model, pixels = small_model().eval(), torch.zeros(8, 1, 24, 24)  # equal pictures: a blend is the same again
    labels, weight = torch.full((8,), 2), torch.tensor([1.0, 2.0, 3.0])
    plain = torch.nn.functional.cross_entropy(model(pixels).logits, labels, weight=weight)
    assert torch.allclose(mixup_loss(model, pixels, labels, weight), plain)


def test_strong_training_learns():
    model, validation = small_model(), brightness_data(30, 1)
    result = fit(model, brightness_data(60, 0), validation, epochs=15, views="strong")
    assert result.best_macro_f1 > 0.7


def test_probabilities_and_features_do_not_depend_on_the_batch():
    model, images = small_model(channels=3), brightness_data(7, 0).images
    assert np.allclose(predict(model, images), predict(model, images, batch_size=3), atol=1e-6)
    assert predict(model, images).dtype == np.float32
    assert np.allclose(predict(model, images).sum(1), 1, atol=1e-5)
    assert pooled_features(model, images, batch_size=4).shape == (7, model.config.hidden_sizes[-1])
    with pytest.raises(ValueError, match="no images"):
        predict(model, images[:0])


def test_a_saved_classifier_loads_with_plain_transformers(tmp_path: Path):
    model = small_model(channels=3)
    save_image_classifier(model, NAMES, tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    pixels = brightness_data(1, 0).images[0, 0]
    ours = predict(model, pixels[None, None])[0]
    theirs = {r["label"]: r["score"] for r in pipeline("image-classification", str(tmp_path))(Image.fromarray(pixels))}
    assert list(theirs) == [NAMES[i] for i in ours.argsort()[::-1]]
    assert np.allclose([theirs[name] for name in NAMES], ours, atol=0.02)  # PIL resizes in 8 bits
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.id2label == dict(enumerate(NAMES))


def test_a_pretrained_classifier_gets_a_new_head_and_its_own_inputs(tmp_path: Path):
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35, num_labels=5)
    MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
    means = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    ViTImageProcessorPil(size={"height": 32, "width": 32}, **means).save_pretrained(tmp_path)
    model = load_image_classifier_to_train(str(tmp_path), NAMES, seed=3)
    pixels = model_inputs(model, np.full((1, 1, 12, 12), 255, np.uint8))
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([3.0, 5 / 3, 1.0]))
    assert predict(model, brightness_data(2, 0).images).shape == (2, 3)
    other = load_image_classifier_to_train(str(tmp_path), NAMES, seed=3)
    assert torch.equal(model.classifier.weight, other.classifier.weight)


def test_an_architecture_is_trained_from_scratch(tmp_path: Path):
    """The weights on disk are not used, nor is an image processor needed."""
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35, num_labels=5)
    pretrained = MobileNetV2ForImageClassification(config)
    pretrained.save_pretrained(tmp_path)
    models = [load_image_classifier_to_train(str(tmp_path), NAMES, seed, from_scratch=True) for seed in (3, 3, 4)]
    stems = [model.base_model.conv_stem.first_conv.convolution.weight for model in models]
    assert torch.equal(stems[0], stems[1]) and not torch.equal(stems[0], stems[2])
    assert not torch.equal(stems[0], pretrained.base_model.conv_stem.first_conv.convolution.weight)
    pixels = model_inputs(models[0], np.full((1, 1, 12, 12), 255, np.uint8))
    assert pixels.shape == (1, 3, 32, 32) and (pixels == 1).all()
    assert predict(models[0], brightness_data(2, 0).images).shape == (2, 3)


def test_images_enter_at_the_size_that_is_asked_for(tmp_path: Path):
    data = brightness_data(2, 0)
    for side, expected in ((None, 64), (24, 24)):
        classifiers = ImageClassifiers(input_size=side)
        classifiers.save(classifiers.build(settings(), data, seed=0), NAMES, tmp_path / str(side))
        loaded = classifiers.load(tmp_path / str(side))
        assert model_inputs(loaded, data.images).shape == (2, 3, expected, expected)
    assert ImageClassifiers().identity("light") != ImageClassifiers(input_size=64).identity("light")
    with pytest.raises(ValueError, match="--input_size must be at least 16 pixels, got 8"):
        ImageClassifiers(input_size=8)


def test_an_architecture_of_one_size_refuses_another(tmp_path: Path):
    ViTConfig(image_size=32, hidden_size=8, num_attention_heads=1, num_hidden_layers=1).save_pretrained(tmp_path)
    args, data = settings(model=str(tmp_path), from_scratch=True), brightness_data(2, 0)
    assert ImageClassifiers().build(args, data, seed=0).config.input_size == 32
    with pytest.raises(ValueError, match=r"--input_size 16 does not suit --model .*leave it out"):
        ImageClassifiers(input_size=16).build(args, data, seed=0)


def test_the_last_layer_is_found_with_what_goes_into_it():
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35, num_labels=3)
    config.update({"input_size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    for model in (MobileNetV2ForImageClassification(config), small_model(channels=3)):
        data = brightness_data(70, 0)  # in more than one batch
        features = features_of(ImageClassifiers().outputs, model, data).values
        logits = torch.from_numpy(features) @ last_layer(model).weight.T + last_layer(model).bias
        assert np.allclose(logits.softmax(1).detach(), predict(model, data.images), atol=1e-6)


def test_a_real_pretrained_classifier_is_loaded(shared_data: Path):
    """ImageNet's MobileNetV2 with a new last layer of three classes."""
    folder = shared_data.parent / "models" / "mobilenet_v2_imagenet"
    if not folder.is_dir():
        pytest.skip("needs the weights in ../shared/models, which are not here")
    model = load_image_classifier_to_train(str(folder), NAMES, seed=0)
    assert last_layer(model).weight.shape == (3, 1280) and model.config.input_size == 224
    assert features_of(ImageClassifiers().outputs, model, brightness_data(2, 0, channels=3)).values.shape == (2, 1280)


def test_a_model_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--model .*nowhere cannot be loaded"):
        load_image_classifier_to_train(str(tmp_path / "nowhere"), NAMES, seed=0)


def test_a_network_without_a_trained_last_layer_is_only_good_to_train(tmp_path: Path):
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35)
    MobileNetV2Model(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert load_image_classifier_to_train(str(tmp_path), NAMES, seed=0).num_labels == 3
    with pytest.raises(ValueError, match=r"--class_model .* has no trained classifier on its network; train it first"):
        load_image_classifier("--class_model", str(tmp_path))


def test_the_command_trains_and_resumes(tmp_path: Path, capsys):
    flags = ["--dataset=phantom-fundus?train=40&validation=10&test=20", "--resolution=28", "--seeds=2", "--epochs=1"]
    arguments = parse(ImageClassifierArguments, [*flags, f"--output_dir={tmp_path / 'run'}", "--min_class_size=1"])
    main(arguments)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {(r["arm"], r["seed"]) for r in results["runs"]} == {
        (a, s) for a in ("real", "real_strong") for s in (0, 1)
    }
    assert {tuple(sorted(r["arms"])) for r in results["comparisons"]} == {("real", "real_strong")}
    assert (tmp_path / "run" / "best-real_strong" / "model.safetensors").exists()
    assert "macro_f1" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "arms").rglob("*.*")}
    main(arguments)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "arms").rglob("*.*")} == before
    arguments.epochs = 2  # other trainings, beside those that are there
    main(arguments)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "arms").rglob("*.*")}
    assert before.items() < after.items() and len(after) == 2 * len(before)


def test_the_file_runs_alone_and_a_dry_run_prints_the_settings():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRAINER), "--dry_run", "--epochs", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "epochs: 7" in done.stdout
