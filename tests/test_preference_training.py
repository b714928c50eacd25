"""The preference trainer on a tiny model: what it leaves, that stopping changes nothing, and that the guard guards."""

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from helpers import one_thread
from safetensors.torch import load_file

from clinsynth.data.arrays import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.pictures import to_picture
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.run_folder import read_metrics
from clinsynth.scripts.checkpoint import load_pipeline
from clinsynth.trainers.classifier_inputs import save_classifier
from clinsynth.trainers.diffusion_loss import StepInputs
from clinsynth.trainers.preference_candidates import Scored, pair_candidates, sample_by_path
from clinsynth.trainers.preference_data import rewards_of
from clinsynth.trainers.preference_guard import Guard
from clinsynth.trainers.preference_loss import PreferenceLoss, both_predictions, dpo_loss, join
from clinsynth.trainers.preference_pairs import Candidate, make_pairs, read_pairs, write_pairs
from clinsynth.trainers.preference_step import pixels_of
from clinsynth.trainers.train_image_classifier import build_small_resnet, fit_classifier
from clinsynth.trainers.train_preference import PreferenceArguments, main
from clinsynth.trainers.training_state import checkpoints

DATA = "phantom-fundus?size=28&train=40&validation=10&test=10"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained first-stage model of the five grades at 28 px, grey."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=6,
    )
    folder = tmp_path_factory.mktemp("model") / "first"
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    ClassConditionedDDPMPipeline(unet, scheduler, dict(enumerate(GRADES))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of the five grades, as good as any where only the mechanics count."""
    folder = tmp_path_factory.mktemp("judge") / "classifier"
    folder.mkdir()
    save_classifier(build_small_resnet(5, 1, input_size=28), GRADES, folder)
    return folder


@pytest.fixture(scope="module")
def sees_darkness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was taught what is too dark to be any grade, by noise around two levels."""
    rng = np.random.default_rng(0)
    level, spread = np.repeat([128, 40], 30)[:, None, None, None], rng.uniform(5, 60, (60, 1, 1, 1))
    images = np.clip(rng.normal(level, spread, (60, 1, 28, 28)), 0, 255).astype(np.uint8)
    labels = np.concatenate([np.arange(30) % 5, np.full(30, 5)])
    names = [*GRADES, "too dark"]
    network = build_small_resnet(6, 1, input_size=28)
    settings: dict[str, Any] = {"class_weights": False, "augment": False, "seed": 0}
    train = ImageArrays(images, labels, names)
    fit_classifier(network, train, None, epochs=10, batch_size=20, learning_rate=5e-3, **settings)
    folder = tmp_path_factory.mktemp("judge") / "sees-darkness"
    folder.mkdir()
    save_classifier(network, names, folder)
    return folder


@pytest.fixture(scope="module")
def preferences(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the model's own ancestral pictures, of which a biased judge prefers the darker one."""
    return write_preferences(model, tmp_path_factory.mktemp("preferences"))


def write_preferences(
    model: Path, folder: Path, dim: bool = False, by_lot: bool = False, steps: int = 3, judge: str = "dark"
) -> Path:
    """Pairs by darkness, or by lot, of pictures that the model drew; `dim`: each of a prompt darkened otherwise."""
    labels, seeds = [number // 4 for number in range(20)], list(range(20))
    images, _ = sample_by_path(load_pipeline(str(model)), steps)(labels, seeds)
    if dim:
        images = (images * np.tile([1.0, 0.4, 0.8, 0.6], 5)[:, None, None, None]).astype(np.uint8)
    shares = np.random.default_rng(0).random(20) if by_lot else 1 - images.mean((1, 2, 3)) / 255
    found = [Candidate(row, labels[row], row // 4, seeds[row], float(shares[row])) for row in range(20)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=GRADES))
    pictures = {"image": [to_picture(image) for image in images], "label": labels}
    facts = {"judge": judge, "checklist": "phantom-fundus", "checklist_version": 1}
    pairs = make_pairs(found, "margin", 0.0)
    write_pairs(folder / "pairs", pairs, Dataset.from_dict(pictures, features=features), GRADES, facts)
    return folder / "pairs"


def arguments(first_stage: Path, output_dir: Path, **changes: Any) -> PreferenceArguments:
    """A run of four steps, watched by the measuring judge, which trusts itself with every item."""
    settings: dict[str, Any] = {
        "dataset": DATA,
        "model": str(first_stage),
        "output_dir": str(output_dir),
        "held_out": "measure",
        "judge": "classifier",
        "least_kappa": -1.0,
        "held_out_least_kappa": -1.0,
        "min_class_size": 1,
        "calibration_pictures": 5,
        "train_steps": 4,
        "train_batch_size": 4,
        "prompts": 1,
        "candidates": 3,
        "pair_rule": "margin",
        "num_inference_steps": 3,
        "guard_steps": 2,
        "guard_images": 2,
        "fidelity_tolerance": 10.0,
        "log_steps": 1,
        "checkpointing_steps": 2,
    }
    return PreferenceArguments(**settings | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    left, right = weights(first), weights(second)
    return all(torch.equal(left[name], right[name]) for name in left)


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
    assert {"held_out_passed", "judge_share", "fidelity"} <= records[-1].keys()
    known = json.loads((tmp_path / "run" / "preferences" / "pairs" / "preferences.json").read_text())
    assert known["judge"] == "classifier" and known["pairs"] == 5 * 3 and known["outcomes"]["preferred"] == 15
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert pipe("grade 1", num_inference_steps=2, output_type="np").images.shape == (1, 28, 28, 1)
    assert not same_weights(tmp_path / "run", model) and same_weights(tmp_path / "run", tmp_path / "run/checkpoint-4")


@pytest.mark.parametrize("method", ["diffusion-dpo", "d3po"])
def test_stop_and_resume_equals_no_stop(method: str, model: Path, preferences: Path, tmp_path: Path) -> None:
    settings = {"method": method, "preferences": str(preferences)}
    main(arguments(model, tmp_path / "whole", **settings))
    AcceleratorState._reset_state(reset_partial_state=True)
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
    flags = [f"--{k}={v}" for k, v in dataclasses.asdict(args).items() if v is not None]
    command = [sys.executable, "-m", "clinsynth", "train", "preference", *flags]
    process = subprocess.Popen(command, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not checkpoints(tmp_path / "run"):
        assert process.poll() is None, "the process ended before its first checkpoint"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
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
    AcceleratorState._reset_state(reset_partial_state=True)
    main(arguments(model, tmp_path / "run", **settings))
    assert read_metrics(tmp_path / "run") == records  # a stopped run is not trained further


def test_pairs_by_lot_teach_nothing_that_holds_for_others(model: Path, tmp_path: Path) -> None:
    """Trained on half of the prompts, a model prefers the winners of the other half only where these have a reason."""
    reason = write_preferences(model, tmp_path / "reason", dim=True)
    lot = write_preferences(model, tmp_path / "lot", dim=True, by_lot=True)
    assert accuracy_on_others(model, reason) > 0.8
    assert 0.2 < accuracy_on_others(model, lot) < 0.8


def accuracy_on_others(model: Path, preferences: Path) -> float:
    """The implicit accuracy on the pairs of two prompts after 20 steps of Diffusion-DPO on those of three others."""
    rows = read_pairs(preferences, unpaired=False)
    chosen, rejected = (pixels_of(rows, side).float() / 127.5 - 1 for side in ("chosen", "rejected"))
    labels, prompts = torch.tensor(rows["label"][:]), torch.tensor(rows["prompt"][:])
    pipeline, reference = load_pipeline(str(model)), load_pipeline(str(model)).unet
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)

    def preference(part: torch.Tensor) -> PreferenceLoss:
        noise = torch.randn(len(part), 1, 28, 28, generator=generator)
        times = torch.randint(200, 900, (len(part),), generator=generator)
        winner, loser = (StepInputs(side[part], labels[part], noise, times) for side in (chosen, rejected))
        errors, before, _ = both_predictions(pipeline.unet, reference, pipeline.scheduler, join(winner, loser))
        return dpo_loss(*errors.chunk(2), *before.chunk(2), 100.0)

    seen, others = torch.nonzero(prompts < 3).flatten(), torch.nonzero(prompts >= 3).flatten()
    for _ in range(20):
        preference(seen).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(np.mean([preference(others).numbers["implicit_accuracy"] for _ in range(10)]))


def test_scored_candidates_are_kept_where_no_pair_could_be_made(model: Path, classifier: Path, tmp_path: Path) -> None:
    settings = {"judge_model": str(classifier), "train_steps": 1}
    with pytest.raises(ValueError, match="none prefers one picture"):
        main(arguments(model, tmp_path / "run", margin=1.0, **settings))
    AcceleratorState._reset_state(reset_partial_state=True)
    scores = next((tmp_path / "run" / "preferences" / "scores" / "data").glob("*.parquet"))
    written = scores.stat().st_mtime_ns
    main(arguments(model, tmp_path / "run", margin=0.0, **settings))
    assert scores.stat().st_mtime_ns == written and (tmp_path / "run" / "model_index.json").exists()
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ValueError, match=r"--margin is 0.1, but the run in .* was started with 0.0"):
        main(arguments(model, tmp_path / "run", margin=0.1, **settings))


def scored_by_brightness(count: int, without: set[int]) -> Scored:
    """Grey pictures whose share is their brightness, four a prompt; the judge gave no scores to `without`."""
    levels = np.random.default_rng(0).uniform(20, 230, count)
    pictures = [to_picture(np.full((1, 28, 28), level, np.uint8)) for level in levels]
    columns = {"image": pictures, "label": [row // 4 % 5 for row in range(count)], "seed": list(range(count))}
    features = Features(image=ImageFeature(), label=ClassLabel(names=GRADES), seed=Value("int64"))
    shares = [math.nan if row in without else float(level / 255) for row, level in enumerate(levels)]
    return Scored(Dataset.from_dict(columns, features=features), shares, ["no scores: not JSON"] * count)


def test_candidates_without_scores_are_left_out_and_counted(model: Path, tmp_path: Path) -> None:
    args = arguments(model, tmp_path, judge_model="x", candidates=4)
    facts = {"judge": "vlm", "checklist": "phantom-fundus", "checklist_version": 1}
    pair_candidates(args, scored_by_brightness(20, {0, 5}), facts, tmp_path / "pairs")
    known = json.loads((tmp_path / "pairs" / "preferences.json").read_text())
    assert known["unscored"] == 2 and known["pairs"] == 3 * 6 + 2 * 3
    rows = read_pairs(tmp_path / "pairs", unpaired=False)
    assert not {0, 5} & {*rows["chosen_row"], *rows["rejected_row"]}
    with pytest.raises(ValueError, match=r"gave scores to none of 20 candidates \(no scores: not JSON\); mend it"):
        pair_candidates(args, scored_by_brightness(20, set(range(20))), facts, tmp_path / "none")


def test_a_reward_model_weighs_the_candidates_that_were_scored(model: Path, tmp_path: Path) -> None:
    changes = {"method": "reward", "reward": "model", "judge_model": "x", "candidates": 4}
    args = arguments(model, tmp_path, **changes)
    images, rewards = rewards_of(args, scored_by_brightness(160, {7}), tmp_path)
    shares = torch.tensor([share for share in scored_by_brightness(160, {7}).shares if not math.isnan(share)])
    assert len(images) == len(rewards) == 159 and float(torch.corrcoef(torch.stack([rewards, shares]))[0, 1]) > 0.8
    assert (tmp_path / "reward_model" / "reward.json").exists()


def test_the_judge_that_made_the_preferences_does_not_watch(model: Path, tmp_path: Path) -> None:
    pairs = write_preferences(model, tmp_path, judge="measure")
    with pytest.raises(ValueError, match=r"those of the judge measure, which as --held_out can see no gaming"):
        main(arguments(model, tmp_path / "run", preferences=str(pairs)))


def test_d3po_refuses_pairs_that_its_model_did_not_draw(model: Path, tmp_path: Path) -> None:
    pairs = write_preferences(model, tmp_path, steps=4)
    with pytest.raises(ValueError, match=r"chosen pictures are not those that --model .* draws in 3 ancestral steps"):
        main(arguments(model, tmp_path / "run", method="d3po", preferences=str(pairs)))


def guard_record(**changes: Any) -> dict[str, Any]:
    return {"finite": 1.0, "held_out_share": 0.5, "held_out_half_width": 0.1, "fidelity": 0.04} | changes


def test_what_the_guard_objects_to() -> None:
    guard = Guard(None, None, None, 2, 3, tolerance=0.05, seed=0)  # type: ignore[arg-type]
    before = guard_record()
    assert guard.objection(before, guard_record(held_out_share=0.41, fidelity=0.0419)) is None
    assert "fell from 0.500 to 0.390" in str(guard.objection(before, guard_record(held_out_share=0.39)))
    assert "rose from 0.0400 to 0.0500" in str(guard.objection(before, guard_record(fidelity=0.05)))
    assert "not finite" in str(guard.objection(before, guard_record(finite=0.9)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "--model is missing"),
        ({"candidates": 0}, "--candidates must be above 0, got 0"),
        ({"margin": 2.0}, r"--margin must be in \[0, 1\], got 2.0"),
        ({"judge": "measure"}, "--held_out measure is the judge that is learned from"),
        ({"judge_model": None}, "--judge classifier needs --judge_model"),
        ({"guard_images": 1}, "--guard_images must be at least 2"),
        ({"method": "d3po", "num_inference_steps": 1}, "--method d3po needs --num_inference_steps 2"),
        ({"method": "reward", "preferences": "x"}, "--method reward learns from all scored candidates"),
        ({"reward": "model"}, "--reward model is for --method reward; got --method diffusion-dpo"),
        ({"ema_decay": 1.0}, r"--ema_decay must be in \[0, 1\), got 1.0"),
        ({"held_out": "expert", "held_out_model": "x"}, "--held_out must be measure, classifier or clip, got expert"),
        ({"judge_endpoint": "http://127.0.0.1:1/v1"}, "--judge_endpoint is for --judge vlm; got --judge classifier"),
        ({"candidates": 1}, "each prompt has one candidate"),
        ({"margin": 1.0}, "none prefers one picture"),
        ({"label_names": "a,b,c,d,e"}, "has the cl"),
    ],
)
def test_bad_settings_are_named(
    changes: dict[str, Any], message: str, model: Path, classifier: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(model, tmp_path / "run", **{"judge_model": str(classifier)} | changes))
