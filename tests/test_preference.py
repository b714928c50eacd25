"""The maths of preferences: rules, losses and paths against hand computations."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import tiny_pipeline
from PIL import Image

from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.preference.candidates import predicted_shares
from clinsynth.trainers.preference.pairs import (
    BOTH_LOSE,
    BOTH_WIN,
    PREFERRED,
    TIE,
    Candidate,
    check_pairs,
    count_pairs,
    make_pairs,
    outcome_of,
    read_pairs,
    signed_images,
    write_pairs,
)
from clinsynth.trainers.preference.step import (
    both_predictions,
    dpo_loss,
    join,
    kto_loss,
    reward_loss,
    reward_weights,
    sample_paths,
    sampling_times,
    step_distribution,
    step_errors,
)
from clinsynth.trainers.stream import StepInputs


def candidates(*shares: float, per_prompt: int = 2) -> list[Candidate]:
    return [
        Candidate(row, 0, row // per_prompt, 100 + row, share, f"of row {row}") for row, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("higher", "lower", "outcome"),
    [(2, 0, BOTH_LOSE), (2, 2, BOTH_LOSE), (5, 5, BOTH_WIN), (4, 4, BOTH_WIN), (3, 3, BOTH_WIN), (3, 2, PREFERRED),
     (5, 4, PREFERRED), (5, 0, PREFERRED)],
)  # fmt: skip
def test_the_papers_rule_on_totals_of_five(higher: int, lower: int, outcome: str) -> None:
    assert outcome_of(higher / 5, lower / 5, "magic", 0.0) == outcome


def test_the_margin_rule() -> None:
    assert outcome_of(0.8, 0.4, "margin", 0.4) == PREFERRED and outcome_of(0.8, 0.41, "margin", 0.4) == TIE
    assert outcome_of(0.8, 0.8, "margin", 0.0) == TIE and outcome_of(0.2, 0.0, "margin", 0.0) == PREFERRED


def test_all_candidates_of_a_prompt_are_paired_and_no_others() -> None:
    pairs = make_pairs(candidates(0.2, 1.0, 0.6, 0.6, 0.0, 1.0, per_prompt=3), "margin", 0.0)
    rows = {(pair.chosen.row, pair.rejected.row) for pair in pairs if pair.outcome == PREFERRED}
    assert rows == {(1, 0), (2, 0), (1, 2), (3, 4), (5, 3), (5, 4)}
    assert count_pairs(pairs, ["a"])["outcomes"] == {PREFERRED: 6}


def test_no_usable_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"of 2 pairs none prefers one image \(2 tie\)"):
        check_pairs(make_pairs(candidates(0.4, 0.4, 0.8, 0.8), "margin", 0.0), unpaired=False)
    with pytest.raises(ValueError, match=r"each prompt has one candidate; give --candidates 2"):
        check_pairs(make_pairs(candidates(0.4, 0.8, per_prompt=1), "magic", 0.0), unpaired=False)
    both = make_pairs(candidates(0.2, 0.4, 1.0, 1.0), "magic", 0.0)
    check_pairs(both, unpaired=True)
    with pytest.raises(ValueError, match=r"1 both_lose, 1 both_win"):
        check_pairs(both, unpaired=False)


def write_data_set(folder: Path, *shares: float, rule: Any = "magic") -> Any:
    pictures = [Image.fromarray(np.full((8, 8), 20 * row, np.uint8)) for row in range(len(shares))]
    images = Dataset.from_dict({"image": pictures}, features=Features(image=ImageFeature()))
    facts = {"judge": "measure", "checklist": "phantom-fundus", "checklist_version": 1}
    write_pairs(folder, make_pairs(candidates(*shares), rule, 0.0), images, ["a"], facts)
    return read_pairs(folder, unpaired=True)


def test_a_preference_data_set_names_pictures_scores_and_judge(tmp_path: Path) -> None:
    rows = write_data_set(tmp_path / "pairs", 0.2, 0.8, 0.6, 0.6, rule="margin")
    assert len(rows) == 1  # the tie is dropped
    row = rows[0]
    assert (np.asarray(row["chosen"]).max(), np.asarray(row["rejected"]).max()) == (20, 0)
    assert (row["chosen_share"], row["rejected_share"], row["chosen_seed"]) == (0.8, 0.2, 101)
    assert (row["chosen_reasons"], row["rejected_reasons"]) == ("of row 1", "of row 0")
    assert (row["judge"], row["checklist"], row["prompt"]) == ("measure", "phantom-fundus version 1", 0)
    assert '"tie": 1' in (tmp_path / "pairs" / "preferences.json").read_text()


def test_unpaired_pictures_have_the_sign_of_their_outcome_once(tmp_path: Path) -> None:
    rows = write_data_set(tmp_path / "pairs", 0.6, 0.8, 0.2, 0.0, 1.0, 1.0)
    images, labels, signs = signed_images(rows)
    assert {int(i.max()) // 20: int(s) for i, s in zip(images, signs, strict=True)} == {
        1: 1, 0: -1, 2: -1, 3: -1, 4: 1, 5: 1,
    }  # fmt: skip
    assert labels.tolist() == [0] * 6


def test_a_data_set_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Dataset.from_dict({"image": [1]}).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="has no column 'chosen'"):
        read_pairs(tmp_path, unpaired=False)
    with pytest.raises(ValueError, match=r"--preferences .*nowhere cannot be read"):
        read_pairs(tmp_path / "nowhere", unpaired=False)


def test_dpo_loss_against_equation_14() -> None:
    winner, loser = torch.tensor([0.2, 0.5], requires_grad=True), torch.tensor([0.4, 0.3], requires_grad=True)
    winner_before, loser_before = torch.tensor([0.3, 0.4]), torch.tensor([0.35, 0.4])
    found = dpo_loss(winner, loser, winner_before, loser_before, beta=10.0)
    inside = [-5 * ((0.2 - 0.3) - (0.4 - 0.35)), -5 * ((0.5 - 0.4) - (0.3 - 0.4))]
    assert found.loss.item() == pytest.approx(np.mean([math.log(1 + math.exp(-x)) for x in inside]))
    assert found.numbers == {"margin": pytest.approx(-0.025), "implicit_accuracy": 0.5}
    found.loss.backward()
    assert winner.grad is not None and loser.grad is not None
    assert (winner.grad > 0).all() and (loser.grad < 0).all()  # descent lowers the winner's error
    share = 1 / (1 + math.exp(inside[0]))
    assert float(winner.grad[0]) == pytest.approx(5 * share / 2)


def test_losses_at_the_reference_and_without_beta() -> None:
    same = torch.tensor([0.3, 0.7], requires_grad=True)
    for beta in (1e-8, 2500.0):
        assert float(dpo_loss(same, same * 2, same.detach(), same.detach() * 2, beta).loss.detach()) == pytest.approx(
            math.log(2)
        )
    away = dpo_loss(same + 5, same, same.detach(), same.detach(), beta=1e-8)
    away.loss.backward()
    assert float(away.loss.detach()) == pytest.approx(math.log(2), abs=1e-6) and float(same.grad.abs().max()) < 1e-7
    assert float(kto_loss(same.detach(), same.detach(), torch.tensor([1.0, -1.0]), 100.0).loss) == 0.5


def test_kto_loss_by_hand_and_its_direction() -> None:
    errors, before = torch.tensor([0.2, 0.5], requires_grad=True), torch.tensor([0.3, 0.3])
    found = kto_loss(errors, before, torch.tensor([1.0, -1.0]), beta=4.0)
    gains = [2 * 0.1, 2 * -0.2]  # their mean is below 0: the anchor is 0
    expected = 1 - np.mean([1 / (1 + math.exp(-gains[0])), 1 / (1 + math.exp(gains[1]))])
    assert float(found.loss.detach()) == pytest.approx(expected) and found.numbers["implicit_accuracy"] == 1.0
    found.loss.backward()
    assert errors.grad is not None and errors.grad[0] > 0 > errors.grad[1]


def test_reward_weights_have_mean_one_in_each_class() -> None:
    shares, labels = torch.tensor([0.2, 1.0, 0.6, 0.6]), torch.tensor([0, 0, 1, 1])
    weights = reward_weights(shares, labels, temperature=0.4)
    assert weights[2:].tolist() == [1.0, 1.0] and float(weights[:2].mean()) == pytest.approx(1.0)
    assert float(weights[1] / weights[0]) == pytest.approx(math.exp(2.0))
    assert float(reward_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5])).loss) == 2.5
    with pytest.raises(ValueError, match="all 4 candidates score as the others of their class"):
        reward_weights(torch.tensor([0.2, 0.2, 0.6, 0.6]), labels, temperature=0.4)


def test_a_reward_model_says_how_far_it_can_be_trusted(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, prompts, shares = np.arange(80) % 2, np.arange(80) // 4, generator.random(80)
    level = 40 + 160 * np.where(
        labels == 0, shares, 1 - shares
    )  # what is good is bright in one class, dark in another
    images = np.clip(generator.normal(level[:, None, None, None], 10, (80, 1, 8, 8)), 0, 255).astype(np.uint8)
    found = predicted_shares(images, labels, shares, prompts, tmp_path / "model", seed=0)
    facts = json.loads((tmp_path / "model" / "reward.json").read_text())
    assert facts["held_out"] == 16 and facts["held_out_error"] < 0.8 * facts["error_of_class_means"]
    held_out = prompts % 5 == 4
    error = np.sqrt(np.square(found - shares)[held_out].mean())
    assert error == pytest.approx(facts["held_out_error"], rel=1e-4)
    assert np.array_equal(predicted_shares(images, labels, shares, prompts, tmp_path / "model", seed=0), found)
    shuffled = generator.permutation(shares)
    with pytest.raises(ValueError, match=r"the reward model learned nothing: .* or --reward judge"):
        predicted_shares(images, labels, shuffled, prompts, tmp_path / "shuffled", seed=0)


def batch(pipeline: Any, count: int = 2) -> StepInputs:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 1, 28, 28)
    images = torch.rand(shape, generator=generator) * 2 - 1
    noise = torch.randn(shape, generator=generator)
    return StepInputs(images, torch.arange(count) % 3, noise, torch.tensor([10, 700])[:count])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_errors_are_those_of_training_and_the_start_is_log_two(prediction_type: str) -> None:
    pipeline = tiny_pipeline(prediction_type=prediction_type)
    first = batch(pipeline)
    second = StepInputs(-first.images, first.labels, first.noise, first.timesteps)
    process = DDPMProcess(pipeline.scheduler)
    errors, before, drift = both_predictions(pipeline.unet, pipeline.unet, process, join(first, second))
    assert torch.allclose(errors[:2], process.image_losses(pipeline.unet, first), atol=1e-6)
    assert torch.allclose(errors[2:], process.image_losses(pipeline.unet, second), atol=1e-6)
    assert drift == 0 and errors.requires_grad and not before.requires_grad
    loss = dpo_loss(*errors.chunk(2), *before.chunk(2), 2500.0).loss
    assert float(loss.detach()) == pytest.approx(math.log(2))


def test_a_step_along_the_gradient_prefers_the_winner() -> None:
    pipeline = tiny_pipeline()
    reference, process = tiny_pipeline().unet, DDPMProcess(pipeline.scheduler)
    first = batch(pipeline)
    both = join(first, StepInputs(-first.images, first.labels, first.noise, first.timesteps))
    optimizer = torch.optim.SGD(pipeline.unet.parameters(), lr=1e-3)
    for _ in range(3):
        errors, before, _ = both_predictions(pipeline.unet, reference, process, both)
        found = dpo_loss(*errors.chunk(2), *before.chunk(2), 100.0)
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    errors, before, drift = both_predictions(pipeline.unet, reference, process, both)
    assert dpo_loss(*errors.chunk(2), *before.chunk(2), 100.0).numbers["margin"] > 0 and drift > 0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_paths_step_is_that_of_diffusers_ancestral_ddim(prediction_type: str) -> None:
    from diffusers import DDIMScheduler

    pipeline = tiny_pipeline(prediction_type=prediction_type)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == sampling_times(pipeline.scheduler, 10).tolist()
    generator = torch.Generator().manual_seed(0)
    latents, prediction, noise = (torch.randn((1, 1, 28, 28), generator=generator) for _ in range(3))
    for now, after in ((999, 899), (499, 399), (199, 99)):
        step = scheduler.step(prediction, now, latents, eta=1.0, variance_noise=noise).prev_sample
        times = (torch.tensor([now]), torch.tensor([after]))
        mean, spread = step_distribution(pipeline.scheduler, prediction, latents, *times)
        assert torch.allclose(mean + spread * noise, step, atol=1e-4)


def test_a_paths_steps_are_scored_at_the_times_they_were_made() -> None:
    pipeline = tiny_pipeline()
    seeds = [derive_seed(0, number) for number in range(2)]
    paths = sample_paths(pipeline.unet, pipeline.scheduler, [0, 2], seeds, steps=4)
    alone = sample_paths(pipeline.unet, pipeline.scheduler, [2], seeds[1:], steps=4)
    assert torch.allclose(paths.latents[1], alone.latents[0], rtol=1e-3, atol=1e-3) and paths.last_step == 3
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        for number in range(paths.last_step):
            steps = torch.full((2,), number)
            _, error = step_errors(pipeline.unet, pipeline.scheduler, paths, torch.arange(2), steps, labels)
            noise = [torch.randn((5, 1, 28, 28), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            drawn = torch.stack([one[number + 1].square().mean() / 2 for one in noise])
            assert torch.allclose(error, drawn, atol=1e-3)  # what was drawn is the noise, if time and latent match


def test_predictions_do_not_change_what_they_are_given() -> None:
    pipeline = tiny_pipeline()
    inputs = batch(pipeline)
    before = inputs.images.clone()
    DDPMProcess(pipeline.scheduler).predict(pipeline.unet, inputs)
    assert torch.equal(inputs.images, before)
