"""The preference trainer on a tiny model: what it leaves, that stopping changes nothing, and that the guard guards."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import UNET, flags_of, kill_when, same_weights, tiny_unet
from preference_runs import any_classifier, arguments, first_stage, write_preferences  # noqa: F401 (fixtures)
from safetensors.torch import load_file

from clinsynth.data.images import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.models.classifiers import FitSettings
from clinsynth.models.generators import load_pipeline
from clinsynth.models.image_classifiers import build_small_resnet, fit_image_classifier, save_image_classifier
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.preference.model import FrozenAdapter, add_adapter, add_reference, merged
from clinsynth.trainers.preference.pairs import pixels_of, read_pairs
from clinsynth.trainers.preference.step import PreferenceLoss, both_predictions, dpo_loss, join
from clinsynth.trainers.stream import StepInputs
from clinsynth.trainers.train_preference import main
from clinsynth.trainers.training_state import checkpoints


@pytest.fixture(scope="module")
def sees_darkness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was taught what is too dark to be any grade, by noise around two levels."""
    rng = np.random.default_rng(0)
    level, spread = np.repeat([128, 40], 30)[:, None, None, None], rng.uniform(5, 60, (60, 1, 1, 1))
    images = np.clip(rng.normal(level, spread, (60, 1, 28, 28)), 0, 255).astype(np.uint8)
    labels = np.concatenate([np.arange(30) % 5, np.full(30, 5)])
    names = [*GRADES, "too dark"]
    network = build_small_resnet(6, 1, input_size=28)
    settings = FitSettings(epochs=10, batch_size=20, learning_rate=5e-3, seed=0)
    train = ImageArrays(images, labels, names)
    fit_image_classifier(network, train, None, settings)
    folder = tmp_path_factory.mktemp("judge") / "sees-darkness"
    folder.mkdir()
    save_image_classifier(network, names, folder)
    return folder


@pytest.fixture(scope="module")
def preferences(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the model's own ancestral pictures, of which a biased judge prefers the darker one."""
    return write_preferences(model, tmp_path_factory.mktemp("preferences"))


@pytest.mark.parametrize("method", ["diffusion-dpo", "kto", "reward", "d3po"])
def test_each_method_leaves_a_loadable_model_its_pairs_and_numbers(
    method: str, model: Path, classifier: Path, tmp_path: Path
) -> None:
    main(arguments(model, tmp_path / "run", method=method, judge_model=str(classifier)))
    records = read_metrics(tmp_path / "run")
    steps = [record for record in records if record["step"]]
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4] and "held_out_share" in records[0]
    if method in ("diffusion-dpo", "d3po"):
        assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert steps[0]["drift"] < 1e-11 < steps[-1]["drift"]  # the first step starts at the reference
    assert {"held_out_passed", "judge_share", "fidelity", "frechet"} <= records[-1].keys()
    known = json.loads((tmp_path / "run" / "preferences" / "pairs" / "preferences.json").read_text())
    assert known["judge"] == "classifier" and known["pairs"] == 5 * 3 and known["outcomes"]["preferred"] == 15
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert pipe("grade 1", num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)
    assert not same_weights(tmp_path / "run", model) and same_weights(tmp_path / "run", tmp_path / "run/checkpoint-4")


@pytest.mark.parametrize(("method", "rank"), [("diffusion-dpo", 0), ("d3po", 0), ("diffusion-dpo", 2)])
def test_stop_and_resume_equals_no_stop(
    method: str, rank: int, model: Path, preferences: Path, tmp_path: Path
) -> None:
    settings = {"method": method, "preferences": str(preferences), "lora_rank": rank}
    main(arguments(model, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    (tmp_path / "stopped" / "model_index.json").unlink()
    main(arguments(model, tmp_path / "stopped", **settings))
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "stopped")


def test_a_killed_run_goes_on_from_its_candidates_and_checkpoints(
    model: Path, classifier: Path, tmp_path: Path
) -> None:
    args = arguments(model, tmp_path / "run", judge_model=str(classifier), train_steps=16, guard_steps=500)
    kill_when(lambda: checkpoints(tmp_path / "run"), "train", "preference", *flags_of(args))
    assert not (tmp_path / "run" / "model_index.json").exists(), "the run ended before it was killed"
    pairs = tmp_path / "run" / "preferences" / "pairs" / "preferences.json"
    written = pairs.stat().st_mtime_ns
    main(args)
    assert (tmp_path / "run" / "model_index.json").exists() and pairs.stat().st_mtime_ns == written
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(17))


def test_a_judge_that_prefers_dark_pictures_is_caught_and_stops_the_run(
    model: Path, sees_darkness: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "preferences": str(write_preferences(model, tmp_path, dim=True)),
        "held_out": "classifier",
        "held_out_model": str(sees_darkness),
        "fidelity_weight": 0.0,
        "beta": 100.0,
        "learning_rate": 3e-3,
        "lr_warmup_steps": 0,
        "train_steps": 100,
        "guard_steps": 5,
        "checkpointing_steps": 5,
        "checkpoints_total_limit": 100,
    }
    main(arguments(model, tmp_path / "run", **settings))
    records = read_metrics(tmp_path / "run")
    looks = [record for record in records if "held_out_share" in record]
    assert looks[0]["held_out_share"] > 0.15  # a fifth for each grade, where nothing looks too dark
    assert "the judge is being gamed" in looks[-1]["stopped"] and looks[-1]["step"] < 100
    assert looks[-1]["implicit_accuracy"] > 0.5  # the preference was learned, and that is what did the harm
    accepted = looks[-2]["step"]
    assert same_weights(tmp_path / "run", tmp_path / f"run/checkpoint-{accepted}" if accepted else model)
    main(arguments(model, tmp_path / "run", **settings))
    assert read_metrics(tmp_path / "run") == records  # a stopped run is not trained further


def test_shuffled_pairs_teach_nothing_that_holds_for_others(model: Path, tmp_path: Path) -> None:
    """Trained on half of the prompts, a model prefers the winners of the other half only where these have a reason."""
    reason = write_preferences(model, tmp_path / "reason", dim=True)
    shuffled = write_preferences(model, tmp_path / "shuffled", dim=True, shuffled=True)
    assert accuracy_on_others(model, reason) > 0.8
    assert 0.2 < accuracy_on_others(model, shuffled) < 0.8


def accuracy_on_others(model: Path, preferences: Path) -> float:
    """The implicit accuracy on the pairs of two prompts after 20 steps of Diffusion-DPO on those of three others."""
    rows = read_pairs(preferences, unpaired=False)
    labels, prompts = torch.tensor(rows["label"][:]), torch.tensor(rows["prompt"][:])
    pipeline, reference = load_pipeline(str(model)), load_pipeline(str(model)).unet
    pixels = (pixels_of(rows[side]).float() / 127.5 - 1 for side in ("chosen", "rejected"))
    chosen, rejected = map(pipeline.encode, pixels)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3)
    generator, process = torch.Generator().manual_seed(0), DDPMProcess.of(pipeline)

    def preference(part: torch.Tensor) -> PreferenceLoss:
        noise = torch.randn(chosen[part].shape, generator=generator)
        times = torch.randint(200, 900, (len(part),), generator=generator)
        winner, loser = (StepInputs(side[part], labels[part], noise, times) for side in (chosen, rejected))
        errors, before, _ = both_predictions(pipeline.unet, reference, process, join(winner, loser))
        return dpo_loss(*errors.chunk(2), *before.chunk(2), 100.0)

    seen, others = torch.nonzero(prompts < 3).flatten(), torch.nonzero(prompts >= 3).flatten()
    for _ in range(20):
        preference(seen).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(np.mean([preference(others).numbers["implicit_accuracy"] for _ in range(10)]))


def test_a_ddpm_is_trained_by_an_adapter_and_saved_without(model: Path, preferences: Path, tmp_path: Path) -> None:
    settings = {"preferences": str(preferences), "lora_rank": 2, "learning_rate": 1e-2}
    main(arguments(model, tmp_path / "run", **settings))
    steps = [record for record in read_metrics(tmp_path / "run") if record["step"]]
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and steps[0]["drift"] < 1e-11 < steps[-1]["drift"]
    before, after = (load_file(folder / UNET) for folder in (model, tmp_path / "run"))
    assert before.keys() == after.keys()
    for name, weight in after.items():
        changed = (weight - before[name]).flatten(1) if weight.ndim > 1 else weight - before[name]
        adapted = name.endswith(".weight") and weight.ndim > 1 and "class_embedding" not in name
        assert bool(changed.any()) == adapted, name
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert pipe("grade 1", num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)


def test_an_adapter_and_its_merged_network_compute_the_same(model: Path) -> None:
    for network in (load_pipeline(str(model)).unet, tiny_unet("context_unet").train()):
        add_adapter(network, rank=2)
        add_reference(network)
        for name, parameter in network.named_parameters():
            if "lora_B.default" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        config = network.config
        shape = (2, config.in_channels, config.sample_size, config.sample_size)
        inputs = (torch.randn(shape), torch.tensor([5, 900]))
        with torch.no_grad():
            adapted, before = (
                call(*inputs, torch.tensor([0, 2])).sample for call in (network, FrozenAdapter(network))
            )
            plain = merged(network)(*inputs, torch.tensor([0, 2])).sample
        assert torch.allclose(adapted, plain, atol=1e-4) and not torch.allclose(adapted, before, atol=1e-2)


def test_the_learning_rate_falls_to_nothing_where_asked(model: Path, preferences: Path, tmp_path: Path) -> None:
    settings = {"preferences": str(preferences), "lr_scheduler": "cosine", "lr_warmup_steps": 1}
    main(arguments(model, tmp_path / "run", **settings))
    newest = tmp_path / "run" / "checkpoint-4" / "training_state" / "state.json"
    assert json.loads(newest.read_text())["lr_scheduler"]["_last_lr"] == [0.0]
