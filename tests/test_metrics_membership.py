"""Membership inference: a generator that has learnt its images by heart is caught, an untrained one is not accused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from helpers import LABELS, tiny_pipeline, tiny_unet_of, write_npz
from sklearn.metrics import roc_auc_score

from clinsynth.data.images import ImageArrays
from clinsynth.metrics.privacy.attack import Attack, area, area_interval, describe_tpr, found_at, run_attack
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator
from clinsynth.scripts.audit_membership import AttackMembershipArguments, main
from clinsynth.study.membership import (
    choose_timesteps,
    denoising_losses,
    membership_inference,
    roughness_scores,
    thin_out,
)
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.stream import TrainingStream

QUICK: dict[str, Any] = {"timesteps": [150, 300, 450], "noises": 2, "replicates": 50}


def patterns(count: int, seed: int, scale: int = 256) -> ImageArrays:
    """Pictures of 8 px of random squares, in three classes."""
    squares = np.random.default_rng(seed).integers(0, scale, (count, 1, 4, 4)).astype(np.uint8)
    return ImageArrays(squares.repeat(2, 2).repeat(2, 3), np.arange(count) % 3, list(LABELS.values()))


def small_pipeline() -> ClassConditionedDDPMPipeline:
    """An untrained generator of 8 px that predicts the velocity."""
    torch.manual_seed(0)
    unet = tiny_unet_of(side=8, channels=1, block_out_channels=(16, 32), attention_head_dim=16)
    return ClassConditionedDDPMPipeline(unet, DDPMScheduler(prediction_type="v_prediction"), LABELS)


def learn_by_heart(pipeline: ClassConditionedDDPMPipeline, arrays: ImageArrays, steps: int) -> None:
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)
    stream = TrainingStream(images, labels, 3, 1000)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=4e-3)
    pipeline.unet.train()
    for step in range(steps):
        DDPMProcess(pipeline.scheduler).loss(pipeline.unet, stream.step(step, 16)[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
    pipeline.unet.eval()


def test_memorised_images_are_found_and_an_untrained_generator_gives_none_away() -> None:
    members, others, pipeline = patterns(16, 0), patterns(64, 1), small_pipeline()
    untrained = membership_inference(pipeline, members, others, **QUICK)
    assert untrained["interval"][0] < 0.5 < untrained["interval"][1]
    learn_by_heart(pipeline, members, 240)
    record = membership_inference(pipeline, members, others, **QUICK)
    assert record["value"] > 0.8 and record["interval"][0] > 0.5
    for control in ("floor", "control"):
        assert record[control]["interval"][0] < 0.5 < record[control]["interval"][1]
    assert record["rows_members"] == 16 and record["n_members"] == 8
    assert record["tpr"][0]["value"] is None and record["tpr"][1]["value"] > 0
    assert len(record["by_candidate"]) == 2 * (3 + 1) and record["chosen"]["timestep"] in (150, 300, 450, "mean")
    assert json.loads(json.dumps(record))["value"] == record["value"]
    assert membership_inference(pipeline, members, others, **QUICK) == record


def test_splits_that_differ_by_themselves_are_shown_by_the_control() -> None:
    record = membership_inference(small_pipeline(), patterns(48, 0, scale=30), patterns(48, 1), **QUICK)
    assert record["control"]["interval"][0] > 0.5
    assert record["floor"]["interval"][0] < 0.5 < record["floor"]["interval"][1]


def test_copies_of_members_are_left_out_and_counted() -> None:
    members, others = patterns(48, 0), patterns(48, 1)
    others.images[[3, 7]] = members.images[[5, 6]]
    record = membership_inference(small_pipeline(), members, others, **QUICK)
    assert record["equal_rows_dropped"] == 2 and "2 held-out rows" in record["note"]
    record = membership_inference(small_pipeline(), members, members, **QUICK)
    assert record["value"] is None and "got 0 after 48 held-out rows equal to" in record["note"]


@pytest.mark.parametrize("backbone", ["unet2d", "context_unet"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_of_an_image_does_not_depend_on_its_batch(backbone: str, prediction_type: str) -> None:
    pipeline = tiny_pipeline(backbone, prediction_type=prediction_type)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28)).astype(np.uint8)
    arrays = ImageArrays(pixels, np.array([0, 1, 2, 0, 1]), list(LABELS.values()))
    (whole,), (parts,) = (denoising_losses(pipeline, [arrays], [50, 500], 2, 0, size, False) for size in (5, 2))
    assert whole.shape == (5, 2, 2) and (whole > 0).all()
    assert np.allclose(whole, parts, rtol=1e-4)
    assert not np.allclose(whole[:, 0], whole[:, 1]), "class and null class must differ"


def test_the_area_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.normal(0.5, 1, 40).round(1), generator.normal(0, 1, 60).round(1)
    truth = np.repeat([1, 0], [40, 60])
    assert area(members, others) == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    from scipy.stats import norm

    generator = np.random.default_rng(0)
    for shift in (0.0, 1.0):
        truth = norm.cdf(shift / 2**0.5)
        inside = 0
        for _ in range(1000):
            value = area(generator.normal(shift, 1, 20), generator.normal(0, 1, 30))
            low, high = area_interval(value, 20, 30)
            inside += low <= truth <= high
        assert 930 <= inside <= 985
    assert area_interval(1.0, 8, 29)[0] < 0.95 and area_interval(1.0, 8, 29)[1] == 1
    assert area_interval(0.0, 8, 29)[0] == 0 < area_interval(0.0, 8, 29)[1]


def test_choosing_among_many_useless_candidates_does_not_look_like_a_leak() -> None:
    generator = np.random.default_rng(0)
    values = []
    for seed in range(40):
        scores = [generator.normal(size=(40, 30)), generator.normal(size=(40, 30))]
        attack = run_attack(scores, [np.arange(40) % 2] * 2, seed)
        values.append(area(attack.members, attack.others))
    assert abs(np.mean(values) - 0.5) < 0.05  # the best on its own half would be about 0.68


def test_true_positives_are_counted_above_the_allowed_false_ones() -> None:
    others, members = np.arange(100.0), np.array([97.5, 98.5, 99.5, 10.0])
    assert found_at(members, others, 0.01) == 0.5  # one of the others, 99, may pass: the threshold is 98
    assert found_at(members, others, 0.0) == 0.25
    record = describe_tpr(Attack(0, members, others, []), 0.01, 0, 100)
    assert record["interval"][0] < 0.5 < record["interval"][1]
    assert describe_tpr(Attack(0, members, others[:50], []), 0.01, 0, 100)["value"] is None


def test_rows_are_thinned_out_with_their_label_mix() -> None:
    labels = np.repeat([0, 1], [300, 100])
    kept = thin_out(np.arange(400), labels, 40, seed=0)
    assert len(set(kept)) == 40 and (labels[kept] == 1).sum() == 10


def test_roughness_tells_flat_from_rough() -> None:
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    images[1, 0, ::2] = 100
    scores = roughness_scores(images)
    assert scores[0, 0] == 0 < scores[1, 0] and np.array_equal(scores[:, 0], -scores[:, 1])


def test_default_noise_levels_scale_with_the_generators() -> None:
    assert choose_timesteps(small_pipeline(), None) == [20, 50, 100, 200, 300, 450, 600, 800]
    with pytest.raises(ValueError, match=r"timesteps must be in \[0, 1000\)"):
        choose_timesteps(small_pipeline(), [1000])


def test_what_does_not_fit_the_generator_is_named() -> None:
    arrays = patterns(20, 0)
    with pytest.raises(ValueError, match="noises must be at least 1, got 0"):
        membership_inference(small_pipeline(), arrays, arrays, noises=0)
    with pytest.raises(ValueError, match=r"members have shape \(1, 8, 8\).* the generator makes \(1, 28, 28\)"):
        membership_inference(tiny_pipeline(), arrays, arrays)
    other = ImageArrays(arrays.images, arrays.labels, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"non-members have the classes \['a', 'b', 'c'\]"):
        membership_inference(small_pipeline(), arrays, other)


def test_a_generator_without_a_denoiser_gets_a_record_that_says_so() -> None:
    gan = ClassConditionedGANPipeline(DCGANGenerator(28, 1, num_classes=3, latent_dim=16, width=4), LABELS)
    record = membership_inference(gan, patterns(20, 0), patterns(20, 1))
    assert (
        record["value"] is None
        and "not applicable: ClassConditionedGANPipeline has no denoising loss" in record["note"]
    )


def test_the_command_attacks_what_the_run_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_npz(tmp_path / "data.npz")
    with np.load(data) as arrays:
        np.savez(data, **(dict(arrays) | {f"test_{k}": arrays[f"train_{k}"][::-1] for k in ("images", "labels")}))
    with np.load(data) as arrays:
        np.savez(data, **(dict(arrays) | {"test_images": 255 - arrays["test_images"]}))
    pipeline = tiny_pipeline()
    pipeline = ClassConditionedDDPMPipeline(pipeline.unet, pipeline.scheduler, {i: str(i) for i in range(3)})
    pipeline.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(f"dataset: {data}\nfew_shot: null\nseed: 0\n")
    flags = {"model": str(tmp_path / "run"), "output_dir": str(tmp_path / "audit"), "noises": 1}
    main(AttackMembershipArguments(dataset=str(data), **flags))
    record = json.loads((tmp_path / "audit" / "membership.json").read_text())
    assert record["rows_members"] == 18 and record["n_non_members"] == 9
    assert "membership inference: AUC" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--few_shot is 3, but --model .* was trained with None"):
        main(AttackMembershipArguments(dataset=str(data), few_shot=3, **flags))
