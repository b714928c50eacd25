"""The DDPM trainer: what it writes, and that stopping, splitting and cutting a run changes nothing."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, DiffusionPipeline, EDMEulerScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput
from helpers import (
    REPOSITORY,
    UNET,
    clinsynth,
    flags_of,
    kill_when,
    run_python,
    same_weights,
    tiny_unet_of,
    write_npz,
)
from safetensors.torch import load_file
from warm_python import run_in_two

from clinsynth.data.images import load_image_arrays
from clinsynth.models.generators import load_pipeline
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.augmentation import VIEW, AugmentedUnet, draw_views, move_images
from clinsynth.trainers.diffusion.model import build_state, image_moments
from clinsynth.trainers.diffusion.network import CLASS_AXES
from clinsynth.trainers.diffusion.process import DDPMProcess, lognormal_density
from clinsynth.trainers.stream import StepInputs, TrainingStream
from clinsynth.trainers.train_ddpm import main
from clinsynth.trainers.training_state import checkpoints
from clinsynth.trainers.validation import Validation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "data.npz")


def arguments(data: Path, output_dir: Path, **changes: Any) -> DDPMArguments:
    """A run of eight steps of a network of 8 channels."""
    settings: dict[str, Any] = {
        "dataset": str(data),
        "output_dir": str(output_dir),
        "width": 8,
        "train_steps": 8,
        "train_batch_size": 8,
        "lr_warmup_steps": 2,
        "log_steps": 1,
        "checkpointing_steps": 4,
        "validation_steps": 0,
        "mixed_precision": "no",
    }
    return DDPMArguments(**settings | changes)


def losses(folder: Path) -> np.ndarray:
    return np.array([record["loss"] for record in read_metrics(folder)])


@pytest.mark.parametrize("backbone", ["unet2d", "context_unet"])
def test_a_run_leaves_a_loadable_checkpoint_and_its_record(backbone: str, data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", backbone=backbone))
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert pipe(["0", 2], num_inference_steps=2, output_type="np").images.shape == (2, 28, 28, 1)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-8"]
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, 9))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["diffusers"] and "git_commit" in environment
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
    assert same_weights(tmp_path / "run", tmp_path / "run" / "checkpoint-8")


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    settings = {"noise_levels": "uniform", "standardise": False, "learning_rate": 3e-3, "patch_size": 1}
    main(arguments(data, tmp_path / "run", train_steps=80, lr_scheduler="constant_with_warmup", **settings))
    course = losses(tmp_path / "run")
    assert course[-20:].mean() < 0.6 * course[:4].mean()


def test_checkpoints_hold_averaged_weights(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run"))
    checkpoint = tmp_path / "run" / "checkpoint-8"
    raw, averaged = load_file(checkpoint / "training_state" / "model.safetensors"), load_file(checkpoint / UNET)
    assert not torch.equal(raw["conv_in.weight"], averaged["conv_in.weight"])
    assert torch.allclose(raw["conv_in.weight"], averaged["conv_in.weight"], atol=0.02)


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    long = {"train_steps": 40, "class_balanced": True, "lr_scheduler": "cosine"}
    killed, whole = (arguments(data, tmp_path / name, **long) for name in ("killed", "whole"))
    kill_when((tmp_path / "killed" / "checkpoint-8").exists, "train", "ddpm", *flags_of(killed))
    assert not (tmp_path / "killed" / "model_index.json").exists(), "the run ended before it was killed"

    assert "resuming at step" in clinsynth("train", "ddpm", *flags_of(killed)).stdout
    clinsynth("train", "ddpm", *flags_of(whole))
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    assert np.array_equal(losses(tmp_path / "killed"), losses(tmp_path / "whole"))


def test_two_processes_on_half_batches_are_one(data: Path, tmp_path: Path) -> None:
    one, two = arguments(data, tmp_path / "one"), arguments(data, tmp_path / "two", train_batch_size=4)
    main(one)
    run_in_two(REPOSITORY / "trainers" / "train_ddpm.py", *flags_of(two))
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-5)


def test_accumulated_half_batches_are_one(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "one"))
    main(arguments(data, tmp_path / "halves", train_batch_size=4, gradient_accumulation_steps=2))
    assert np.allclose(losses(tmp_path / "one"), losses(tmp_path / "halves"), rtol=1e-5)


def test_accelerate_launch_runs_the_module_with_a_config_file(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(f"dataset: {data}\nwidth: 8\ntrain_steps: 2\ntrain_batch_size: 4\nvalidation_steps: 0\n")
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "-m")
    run_python(
        *launch, "clinsynth.trainers.train_ddpm", "--config", config, "--train_steps=3", f"--output_dir={tmp_path}/r"
    )
    assert (tmp_path / "r" / "checkpoint-3").is_dir()
    assert "train_steps: 3\n" in (tmp_path / "r" / "config.yaml").read_text()


def test_validation_keeps_the_best_and_draws_a_grid(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", validation_steps=4))
    records = [record for record in read_metrics(tmp_path / "run") if "validation_kid" in record]
    assert [record["step"] for record in records] == [4, 8]
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "step-0000004.png",
        "step-0000008.png",
    ]
    best = min(records, key=lambda record: record["validation_kid"])["step"]
    assert same_weights(tmp_path / "run", tmp_path / "run" / f"checkpoint-{best}")


def test_memorising_is_seen_and_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 20)
    noise = {split: rng.integers(0, 256, (40, 28, 28), dtype=np.uint8) for split in ("train", "val", "test")}
    columns = {f"{split}_images": images for split, images in noise.items()}
    np.savez(tmp_path / "noise.npz", **columns, **{f"{split}_labels": labels[:, None] for split in noise})
    args = arguments(tmp_path / "noise.npz", tmp_path / "run", validation_steps=2, checkpointing_steps=2)
    real = Validation.nearer_train
    found = []

    def copies_from_step_six(self: Validation, images: np.ndarray) -> dict[str, Any]:
        found.append(real(self, self.data["train"].images if len(found) == 2 else images))
        return found[-1]

    monkeypatch.setattr(Validation, "nearer_train", copies_from_step_six)
    main(args)
    assert [one["memorises"] for one in found] == [False, False, True] and found[2]["nearer_train"] > 0.9
    records = [record for record in read_metrics(tmp_path / "run") if "validation_kid" in record]
    assert [record["step"] for record in records] == [2, 4, 6] and records[-1]["stopped"] == "memorises"
    best = min(records[:2], key=lambda record: record["validation_kid"])["step"]
    assert same_weights(tmp_path / "run", tmp_path / "run" / "best")
    assert records[best // 2 - 1]["nearer_train"] <= records[best // 2 - 1]["nearer_train_chance"]
    assert "stopped at step 6" in capsys.readouterr().out
    main(args)
    assert len(found) == 3  # what was stopped stays so
    main(arguments(tmp_path / "noise.npz", tmp_path / "on", validation_steps=2, stop_memorising=False))
    assert read_metrics(tmp_path / "on")[-1]["step"] == 8


def test_a_run_with_augmentation_and_dropout_resumes_and_publishes_the_plain_network(
    data: Path, tmp_path: Path
) -> None:
    run, changes = tmp_path / "run", {"augment": 0.5, "dropout": 0.2, "checkpoints_total_limit": 9}
    main(arguments(data, run, **changes))
    shutil.copytree(run, tmp_path / "whole")
    shutil.rmtree(run / "checkpoint-8")
    main(arguments(data, run, **changes))
    assert same_weights(run, tmp_path / "whole")
    kept = load_file(run / "checkpoint-8" / "training_state" / "ema.safetensors")
    assert kept["embed_views.weight"].abs().max() > 0
    unet = load_pipeline(str(run)).unet  # of plain diffusers
    trained = AugmentedUnet(unet).eval()
    trained.load_state_dict(kept)
    sample, steps, labels = torch.randn(2, 1, 28, 28), torch.tensor([3, 500]), torch.tensor([0, 1])
    with torch.no_grad():
        plain = unet(sample, steps, class_labels=labels).sample
        unmoved = trained(sample, steps, class_labels=labels, views=torch.zeros(2, VIEW)).sample
        turned = trained(sample, steps, class_labels=labels, views=torch.ones(2, VIEW)).sample
        assert torch.equal(unet(sample, steps, class_labels=labels).sample, plain)
    assert torch.equal(unmoved, plain) and not torch.equal(turned, plain)


def test_images_are_moved_as_the_network_is_told() -> None:
    images = torch.rand(1, 2, 8, 8) * 2 - 1
    right, down = images.roll(2, 3)[..., 2:], images.roll(2, 2)[:, :, 2:]
    views = torch.tensor([[1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0, 0, -1, 1, 0, 0, 0], [0.0] * 7])
    moved = move_images(images.expand(4, -1, -1, -1), views)
    for found, expected in zip(moved, (images.flip(3), images.flip(2), images.rot90(-1, (2, 3)), images), strict=True):
        assert torch.allclose(found, expected[0], atol=1e-5)
    shifted = move_images(images.expand(2, -1, -1, -1), torch.tensor([[0.0] * 5 + [0.5, 0], [0.0] * 6 + [0.5]]))
    assert torch.allclose(shifted[0, ..., 2:], right, atol=1e-5) and torch.allclose(shifted[1, :, 2:], down, atol=1e-5)
    larger = move_images(images, torch.tensor([[0.0] * 4 + [1.0, 0, 0]]))
    assert larger.std() < images.std()  # a quarter of it, twice as large
    generator = torch.Generator().manual_seed(0)
    views = draw_views(4000, 0.2, generator)
    shares = views.ne(0).float().mean(dim=0)
    assert torch.allclose(shares, torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]), atol=0.03)
    assert not draw_views(10, 0.0, generator).any()


def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run")
    main(args)
    before = (tmp_path / "run" / UNET).read_bytes()
    main(args)
    assert (tmp_path / "run" / UNET).read_bytes() == before
    assert len(read_metrics(tmp_path / "run")) == 8


def test_a_run_is_not_continued_with_other_settings(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=2))
    with pytest.raises(ValueError, match=r"was begun with --learning_rate 0\.002, not 0\.1"):
        main(arguments(data, tmp_path / "run", train_steps=2, learning_rate=0.1))


def test_a_run_from_before_the_newest_flags_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(arguments(data, run))
    shutil.copytree(run, tmp_path / "whole")
    shutil.rmtree(run / "checkpoint-8")
    new = ("preset:", "latent:", "channels_last:", "guide_at:", "augment:", "dropout:")
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    before = [line for line in lines if not line.startswith(new)]
    assert len(before) == len(lines) - len(new)
    (run / "config.yaml").write_text("".join(before))
    main(arguments(data, run))
    assert same_weights(run, tmp_path / "whole")


@pytest.mark.parametrize("log_steps", [1, 50])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    log_steps: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_loss = DDPMProcess.loss

    def diverges(self: DDPMProcess, unet: Any, batch: Any) -> torch.Tensor:
        poison = float("nan") if (tmp_path / "run" / "checkpoint-4").exists() else 1.0
        return real_loss(self, unet, batch) * poison

    monkeypatch.setattr(DDPMProcess, "loss", diverges)
    with pytest.raises(FloatingPointError, match=r"diverged at step 5: loss nan.*checkpoint-4"):
        main(arguments(data, tmp_path / "run", log_steps=log_steps))
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4"]
    good = load_file(tmp_path / "run" / "checkpoint-4" / UNET)
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_an_unfinished_checkpoint_is_not_resumed_from(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=4))
    (tmp_path / "run" / "checkpoint-4").rename(tmp_path / "run" / ".checkpoint-4.tmp")
    (tmp_path / "run" / "checkpoint-6").mkdir()
    assert checkpoints(tmp_path / "run") == []


def test_a_damaged_checkpoint_is_named_and_without_it_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    optimizer = tmp_path / "run" / "checkpoint-8" / "training_state" / "optimizer.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"checkpoint-8 is damaged .*delete it, and the same command goes on from the"
    ):
        main(arguments(data, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    main(arguments(data, tmp_path / "run"))
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_the_guide_is_the_average_of_then_and_outlives_a_stop(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(arguments(data, run, guide_at=0.25, checkpointing_steps=2, checkpoints_total_limit=9))
    guide = load_file(run / "guide" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, guide[name]) for name, tensor in load_file(run / "checkpoint-2" / UNET).items())
    for step in (6, 8):
        shutil.rmtree(run / f"checkpoint-{step}")
    shutil.rmtree(run / "guide")
    main(arguments(data, run, guide_at=0.25, checkpointing_steps=2, checkpoints_total_limit=9))
    again = load_file(run / "guide" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in guide.items())


def test_channels_last_changes_no_step_but_its_speed(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "plain"))
    run = tmp_path / "run"
    main(arguments(data, run, channels_last=True))
    assert np.allclose(losses(run), losses(tmp_path / "plain"), rtol=1e-4)
    shutil.copytree(run, tmp_path / "whole")
    shutil.rmtree(run / "checkpoint-8")
    main(arguments(data, run, channels_last=True))
    assert same_weights(run, tmp_path / "whole")


def test_old_checkpoints_go(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=6, checkpointing_steps=1, checkpoints_total_limit=3))
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{step}" for step in (4, 5, 6)]


def test_tensorboard_gets_the_numbers(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=2, report_to="tensorboard"))
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_dry_run_prints_and_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(data, tmp_path / "run", dry_run=True))
    printed = capsys.readouterr().out
    assert "train_steps: 8" in printed and "18 images" in printed and "M parameters" in printed
    assert "git_commit" in printed and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_steps": 0}, "--train_steps must be above 0, got 0"),
        ({"class_dropout": 1.0}, r"--class_dropout must be in \[0, 1\), got 1.0"),
        ({"beta_schedule": "zero_snr", "prediction_type": "epsilon"}, "use --prediction_type v_prediction"),
        ({"ema_decay": 2.0}, r"--ema_decay must be in \[0, 1\), got 2.0"),
        ({"validation_steps": -1}, "--validation_steps must be at least 0, got -1"),
        ({"width": 12}, "--width must be a multiple of 8, got 12"),
        ({"resolution": 30}, "--resolution 30 cannot be halved 2 times"),
        ({"resolution": 96, "backbone": "context_unet"}, "28 to 64 px"),
        ({"augment": 0.1, "backbone": "context_unet"}, "--augment 0.1 is for --backbone unet2d"),
        ({"augment": 0.1, "dp_epsilon": 8.0}, "--augment cannot be used with --dp_epsilon"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(data, tmp_path / "run", **changes))


def test_an_unwritable_output_folder_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output_dir .*file/run cannot be written to"):
        main(arguments(data, tmp_path / "file" / "run"))


def stream(**settings: Any) -> TrainingStream:
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()
    labels = torch.tensor([0] * 8 + [1] * 2)
    return TrainingStream(images, labels, num_classes=2, num_train_timesteps=50, **settings)


def test_stream_shows_every_image_once_an_epoch() -> None:
    order = stream().indices(0, 30).reshape(3, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in order)
    assert not torch.equal(order[0], order[1])
    assert torch.equal(stream().indices(7, 9), order.flatten()[7:16])


def test_stream_balances_classes() -> None:
    balanced = stream(class_balanced=True)
    drawn = balanced.labels[balanced.indices(0, 2000)]
    assert 0.45 < drawn.float().mean() < 0.55


def test_stream_drops_classes_and_cuts_into_parts() -> None:
    whole, halves = stream(class_dropout=0.5).step(3, 512), stream(class_dropout=0.5).step(3, 512, parts=2)
    assert 0.4 < (whole[0].labels == 2).float().mean() < 0.6
    for name in ("images", "labels", "noise", "timesteps"):
        assert torch.equal(getattr(whole[0], name), torch.cat([getattr(part, name) for part in halves]))


def test_stream_flips_only_when_told() -> None:
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    settings = {"num_classes": 1, "num_train_timesteps": 5}
    plain = TrainingStream(picture, torch.zeros(1, dtype=torch.long), **settings).step(0, 1)[0].images
    flipped = TrainingStream(picture, torch.zeros(1, dtype=torch.long), **settings, horizontal_flip=True)
    seen = [flipped.step(step, 1)[0].images for step in range(20)]
    assert any(torch.equal(image, plain.flip(3)) for image in seen) and any(
        torch.equal(image, plain) for image in seen
    )
    assert all(torch.equal(image, plain) or torch.equal(image, plain.flip(3)) for image in seen)


def test_stream_encodes_what_it_has_mirrored() -> None:
    unet, scheduler = tiny_unet_of(side=2, channels=4), DDPMScheduler()
    pipe = ClassConditionedDDPMPipeline(unet, scheduler, None, [0.5], [0.1], patch_size=2)
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    settings: dict[str, Any] = {"num_classes": 1, "num_train_timesteps": 5, "horizontal_flip": True}
    labels = torch.zeros(1, dtype=torch.long)
    plain, encoded = (
        TrainingStream(picture, labels, **settings, **more).step(4, 1)[0] for more in ({}, {"encode": pipe.encode})
    )
    assert torch.equal(encoded.images, pipe.encode(plain.images))
    assert torch.equal(encoded.noise.flatten(), plain.noise.flatten()) and encoded.noise.shape == (1, 4, 2, 2)


def test_lognormal_noise_levels_are_those_of_edm() -> None:
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    density = lognormal_density(scheduler)
    assert density.sum() == pytest.approx(1)
    drawn = stream(density=density).step(0, 20_000)[0].timesteps
    signal = scheduler.alphas_cumprod[drawn]
    log_sigma = ((1 - signal) / signal).log() / 2
    assert log_sigma.mean() == pytest.approx(-1.2, abs=0.05) and log_sigma.std() == pytest.approx(1.2, abs=0.05)
    zero_snr = lognormal_density(DDPMScheduler(rescale_betas_zero_snr=True))
    assert zero_snr.isfinite().all() and zero_snr[-1] == 0


def test_v_prediction_of_standardised_images_is_edm() -> None:
    """The loss of our process is EDM's, weight and preconditioning by diffusers' scheduler included."""
    process = DDPMProcess(DDPMScheduler(prediction_type="v_prediction"))
    edm = EDMEulerScheduler(sigma_data=1.0)
    batch = StepInputs(torch.randn(6, 1, 4, 4), torch.zeros(6), torch.randn(6, 1, 4, 4), torch.arange(50, 950, 150))
    velocity = torch.randn(6, 1, 4, 4)

    def network(noisy: torch.Tensor, *_: Any, **__: Any) -> UNet2DOutput:
        return UNet2DOutput(sample=velocity)

    ours = process.image_losses(network, batch)
    signal = process.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    sigma = ((1 - signal) / signal).sqrt()
    noisy = batch.images + sigma * batch.noise
    assert torch.allclose(
        torch.stack([edm.precondition_inputs(x, s) for x, s in zip(noisy, sigma, strict=True)]),
        process.scheduler.add_noise(batch.images, batch.noise, batch.timesteps),
        atol=1e-5,
    )
    denoised = torch.stack(
        [edm.precondition_outputs(x, -v, s) for x, v, s in zip(noisy, velocity, sigma, strict=True)]
    )
    weighted = ((sigma**2 + 1) / sigma**2 * (denoised - batch.images) ** 2).mean(dim=(1, 2, 3))
    assert torch.allclose(ours, weighted, rtol=1e-3)


def test_images_are_standardised_but_for_private_ones(data: Path, tmp_path: Path) -> None:
    images = np.stack([np.full((1, 4, 4), level, dtype=np.uint8) for level in (0, 255, 255, 255)])
    assert image_moments(arguments(data, tmp_path), images) == ([0.5], [pytest.approx(0.866, abs=1e-3)])
    assert image_moments(arguments(data, tmp_path, dp_epsilon=8.0), images) == ([0.0], [0.5])
    assert image_moments(arguments(data, tmp_path, standardise=False), images) == ([0.0], [1.0])
    assert image_moments(arguments(data, tmp_path), images[1:])[1][0] > 0


@pytest.mark.parametrize("backbone", ["unet2d", "context_unet"])
def test_a_run_starts_from_another_ones_weights(backbone: str, data: Path, tmp_path: Path) -> None:
    first = arguments(data, tmp_path / "first", backbone=backbone, train_steps=2)
    main(first)
    source = load_pipeline(first.output_dir)
    whole = load_image_arrays(first)["train"]
    two = whole.take(np.flatnonzero(whole.labels < 2))
    fewer = dataclasses.replace(two, label_names=[whole.label_names[2], "another"])
    state, _ = build_state(dataclasses.replace(first, init_from=first.output_dir), fewer, Accelerator(cpu=True))
    own, theirs = state.model.state_dict(), source.unet.state_dict()
    same = {name for name in own if own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name])}
    assert own.keys() - same == CLASS_AXES.keys() & own.keys()
    if backbone == "unet2d":
        rows, known = own["class_embedding.weight"], theirs["class_embedding.weight"]
        assert all(torch.equal(rows[new], known[old]) for new, old in ((0, 2), (1, 3), (2, 3)))
    else:
        columns, known = own["class_embed1.0.weight"], theirs["class_embed1.0.weight"]
        assert torch.equal(columns[:, 0], known[:, 2])


def test_what_a_run_cannot_start_from_is_named(data: Path, tmp_path: Path) -> None:
    first = arguments(data, tmp_path / "first", train_steps=1)
    main(first)
    for changes, message in (
        ({"width": 16}, "of other shapes"),
        ({"prediction_type": "epsilon"}, "but --init_from"),
        ({"init_from": str(tmp_path)}, "^--init_from .* holds no finished checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            main(arguments(data, tmp_path / "second", **{"init_from": first.output_dir, **changes}))


def test_a_command_that_failed_at_once_does_not_bind_the_next(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        main(arguments(data, tmp_path / "run", resolution=30))
    main(arguments(data, tmp_path / "run", resolution=28, train_steps=1))
    assert (tmp_path / "run" / "model_index.json").exists()


def test_data_with_other_classes_does_not_continue_a_run(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=2))
    write_npz(data, classes=4)
    with pytest.raises(ValueError, match=r"checkpoint-2 does not fit the network.*other classes"):
        main(arguments(data, tmp_path / "run", train_steps=2))
