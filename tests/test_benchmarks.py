"""The yardsticks of the benchmarks themselves, at tiny size."""

import dataclasses
import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from helpers import tiny_pipeline, tiny_unet_of, write_npz

from benchmarks import gpu, guidance, recipe, scale
from benchmarks.equal_time import EqualTimeArguments, build_training, resume, save
from benchmarks.samplers import (
    ancestral_step,
    build_peer,
    choose_dim,
    count_parameters,
    draw_all,
    labels_like,
    nearest_timesteps,
    paper_noise_levels,
    peer_sampler,
    sample_as_paper,
)
from benchmarks.score import blurred, gaussian_noise_like
from benchmarks.timing import compare, table
from clinsynth.arguments import parse
from clinsynth.data.images import ImageArrays
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.gan.arguments import GANArguments


def test_paper_levels_are_its_schedule() -> None:
    levels = paper_noise_levels()
    scheduler: Any = DDPMScheduler(num_train_timesteps=400, beta_schedule="linear")
    reference = scheduler.alphas_cumprod
    torch.testing.assert_close(levels.float(), reference, rtol=1e-4, atol=1e-6)
    assert levels[-1].sqrt().item() == pytest.approx(0.13, abs=0.01)  # the share of signal left at the last step
    assert torch.equal(nearest_timesteps(levels, reference), torch.arange(400))


def test_ancestral_step_is_the_schedulers_mean() -> None:
    scheduler: Any = DDPMScheduler(num_train_timesteps=400, clip_sample=False)
    levels = scheduler.alphas_cumprod.double()
    x, prediction = torch.randn(2, 3, 1, 8, 8)
    for kind in ("epsilon", "v_prediction"):
        scheduler.register_to_config(prediction_type=kind)
        ours = ancestral_step(x, prediction, 0.0, float(levels[100]), float(levels[99]), kind)
        generator = torch.Generator().manual_seed(0)
        theirs = scheduler.step(prediction, 100, x, generator=generator).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        theirs = theirs - scheduler._get_variance(100) ** 0.5 * noise
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_epsilon_and_velocity_of_the_same_network_take_the_same_step() -> None:
    x, epsilon = torch.randn(2, 3, 1, 8, 8)
    level, previous = 0.3, 0.32
    clean = (x - (1 - level) ** 0.5 * epsilon) / level**0.5
    velocity = level**0.5 * epsilon - (1 - level) ** 0.5 * clean
    a = ancestral_step(x, epsilon, 0.0, level, previous, "epsilon")
    b = ancestral_step(x, velocity, 0.0, level, previous, "v_prediction")
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_paper_sampler_evaluates_twice_a_step_and_follows_the_seed() -> None:
    torch.manual_seed(0)
    unet, calls = tiny_unet_of(side=8, channels=1, classes=2), []
    unet.register_forward_pre_hook(lambda _, a, k: calls.append(k["class_labels"].tolist()), with_kwargs=True)
    settings: dict[str, Any] = {
        "noise_levels": paper_noise_levels(10),
        "timesteps": torch.arange(10),
        "prediction_type": "epsilon",
    }
    draws = [
        sample_as_paper(unet, torch.tensor([0, 1]), 2, **settings, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert calls[:2] == [[0, 1], [2, 2]] and len(calls) == 60
    assert draws[0].shape == (2, 1, 8, 8) and torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_peer_samples_and_its_size_can_be_matched() -> None:
    if not (find_spec("denoising_diffusion_pytorch") and find_spec("einops")):
        pytest.skip("needs denoising-diffusion-pytorch and einops, see benchmarks/README.md")
    dim = choose_dim(100_000, 3, 1, (1, 2))
    diffusion = build_peer(
        dim, 3, channels=1, image_size=8, sampling_timesteps=3, dim_mults=(1, 2), class_dropout=0.5
    ).eval()
    assert abs(count_parameters(diffusion.model) / 100_000 - 1) < 0.35
    for guidance_scale in (1.0, 3.0):
        images = peer_sampler(diffusion, torch.tensor([0, 1, 2]), guidance_scale)()
        assert images.shape == (3, 1, 8, 8) and images.isfinite().all()


def test_noise_has_the_pixels_mean_and_covariance() -> None:
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(16, 16)) * 4
    real = np.clip(128 + generator.normal(size=(400, 16)) @ factor, 0, 255).round().astype(np.uint8)
    noise = gaussian_noise_like(real.reshape(400, 1, 4, 4), 20_000).reshape(-1, 16)
    scale = np.abs(np.cov(real.T)).max()
    assert np.abs(noise.mean(0) - real.mean(0)).max() < 1.0
    assert np.abs(np.cov(noise.T) - np.cov(real.T)).max() < 0.05 * scale


def test_blur_mixes_pixels_of_one_channel_of_one_picture_only() -> None:
    image = np.zeros((2, 3, 17, 17), np.uint8)
    image[0, 1, 8, 8] = 255
    smooth = blurred(image)
    assert smooth[1].max() == smooth[0, 0].max() == 0
    assert smooth[0, 1, 8, 8] == round(255 / (2 * np.pi * 1.5**2))


def test_labels_keep_the_shares_and_batches_are_not_drawn_twice(tmp_path: Path) -> None:
    labels = labels_like(np.repeat([0, 1, 2], [486, 128, 66]), 100)
    assert np.bincount(labels).tolist() == [71, 19, 10]
    drawn: list[int] = []

    def draw(part: np.ndarray, start: int) -> np.ndarray:
        drawn.append(start)
        return np.full((len(part), 1, 2, 2), start, np.uint8)

    first, _ = draw_all(draw, labels, tmp_path, batch_size=40)
    (tmp_path / "000040.npz").unlink()
    second, _ = draw_all(draw, labels, tmp_path, batch_size=40)
    assert drawn == [0, 40, 80, 40] and np.array_equal(first, second) and len(first) == 100
    with pytest.raises(ValueError, match="other labels"):
        draw_all(draw, labels[::-1], tmp_path, batch_size=40)


def test_comparison_alternates_scales_and_judges() -> None:
    order: list[str] = []
    result = compare(
        "what",
        ("A", lambda: order.append("a")),
        ("B", lambda: order.append("b")),
        repeats=3,
        goal=(">=", 1e-9),
        scale=(4, 2),
    )
    assert order == ["a", "b"] * 4 and len(result.ratios("wall")) == 3
    assert result.record()["met_wall"] and "| what | A | B |" in table([result], "wall")


@pytest.mark.parametrize("arm", ["unet2d", "gan", "denoising_diffusion_pytorch"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path, arm: Any) -> None:
    if arm == "denoising_diffusion_pytorch" and not all(
        map(find_spec, ("denoising_diffusion_pytorch", "einops", "ema_pytorch"))
    ):
        pytest.skip("needs denoising-diffusion-pytorch, einops and ema-pytorch, see benchmarks/README.md")
    small = {"peer_batch_size": 4, "trainer_flags": "--width 8 --train_batch_size 4"}
    args = EqualTimeArguments(arm=arm, name="name", output_dir=str(tmp_path), **small)
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 32, 32), dtype=np.uint8)
    data = {"train": ImageArrays(images, np.arange(12) % 2, ["a", "b"])}
    straight, first, second = (build_training(args, data, tmp_path) for _ in range(3))
    for training in (straight, straight, first):
        training.step()
    save(first, tmp_path, 1.5)
    assert resume(second, tmp_path) == 1.5 and second.steps == 1
    second.step()
    for a, b in zip(straight.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_row_of_the_recipe_is_a_trainer_of_its_own() -> None:
    settings = {name: parse(DDPMArguments, shlex.split(flags)) for name, flags in recipe.CHANGES.items()}
    default = settings.pop("default")
    assert default == DDPMArguments() and all(other != default for other in settings.values())
    gans = [parse(GANArguments, shlex.split(flags)) for flags in recipe.GANS.values()]
    assert gans[0] == GANArguments() and all(gan not in gans[:i] for i, gan in enumerate(gans))
    before = settings["the default before"]
    assert (before.patch_size, before.noise_levels, before.standardise) == (1, "uniform", False)
    row = {"frechet": 12.34, "test": None, "facts": {"steps": 7, "cpu_seconds": 99.6}}
    assert recipe.table({"a row": row}).splitlines()[-1] == "| a row | 12.3 |  | 7 | 100 |  |"


def test_guidance_rows_are_chosen_on_validation(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(guide=pipe.unet)
    pipe.save_pretrained(tmp_path / "model")
    data = write_npz(tmp_path / "data.npz")
    args = guidance.GuidanceArguments(
        model=str(tmp_path / "model"),
        output_dir=str(tmp_path / "out"),
        dataset=str(data),
        scales="2",
        intervals="0,1;0,0",
        num_inference_steps=2,
        n=9,
    )
    guidance.main(args)
    rows = json.loads((tmp_path / "out" / "guidance.json").read_text())["rows"]
    assert list(rows) == [
        "real validation",
        "no guidance",
        "class 2 from 0 to 1",
        "class 2 from 0 to 0",
        "auto 2 from 0 to 1",
        "auto 2 from 0 to 0",
    ]
    # the network as its own guide, and guidance in no step, change nothing
    plain = rows["no guidance"]["frechet"]
    assert rows["auto 2 from 0 to 1"]["frechet"] == pytest.approx(plain, rel=1e-3)
    assert rows["class 2 from 0 to 0"]["frechet"] == plain != rows["class 2 from 0 to 1"]["frechet"]
    assert all(0 <= row["agreement"] <= 1 for row in rows.values())
    assert guidance.table(rows).splitlines()[2].startswith("| real validation |  | ")


def test_the_rows_of_a_gpu_are_measured_in_one_go(tmp_path: Path) -> None:
    args = gpu.GPUArguments(
        output_dir=str(tmp_path / "out"),
        dataset=str(write_npz(tmp_path / "data.npz")),
        resolution=28,
        trainer_flags="--width 8 --train_batch_size 4",
        ways="float32;bf16, channels last",
        seconds=0.01,
        minutes=0.002,
        batch_sizes="4",
        num_inference_steps=2,
        n=9,
    )
    gpu.main(args)
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]
    assert [title.split(",")[0] for title in rows] == ["training"] * 2 + ["training for 0.002 minutes"] + [
        "drawing"
    ] * 2
    assert not [row for row in rows.values() if "failed" in row or "left out" in row]
    assert rows["training, float32"]["steps a second"] > 0
    reached = rows["training for 0.002 minutes"]
    assert reached["steps"] > 0 and reached["Fréchet distance to test"] > 0
    assert reached["way"] == "bf16, channels last"
    gpu.main(dataclasses.replace(args, budget=0.0, output_dir=str(tmp_path / "none")))
    rows = json.loads((tmp_path / "none" / "gpu.json").read_text())["rows"]
    assert all(row == {"left out": "the budget is spent"} for row in rows.values())


def test_evidence_is_measured_at_growing_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each work in this process; of the queries that are copies both searches find the right row."""
    pytest.importorskip("faiss", reason="needs FAISS, which `pip install clinsynth[large]` brings")
    monkeypatch.setattr("clinsynth.metrics.nearest.INDEXED_ROWS", 10)
    features = tmp_path / "features.npy"
    scale.write_features(features, 1200, 80)
    found = {work: scale.child(features, work, 1200) for work in scale.WORK}
    assert [found[work]["copies"] for work in scale.WORK] == [None, 1, 1]
    assert found["copies by index"]["recall"] >= 0.99 and found["copies by every row"]["recall"] is None
    assert scale.exponent([{"rows": n, "seconds": 3.0 * n**2} for n in (10, 100, 1000)]) == pytest.approx(2)
    assert scale.exponent([{"rows": 10, "seconds": 1.0}]) is None
    assert not scale.is_feasible("copies by every row", 10**6) and scale.is_feasible("frechet", 10**6)
