"""The GAN trainer: its losses, what it writes, that stopping a run changes nothing, and generating from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DiffusionPipeline
from helpers import clinsynth, flags_of, generators, kill_when, same_weights, write_npz
from safetensors.torch import load_file

from clinsynth.data.images import load_image_arrays
from clinsynth.run_folder import read_metrics
from clinsynth.scripts import generate_images
from clinsynth.scripts.generate_images import GenerateImagesArguments
from clinsynth.trainers.gan import step as gan_step
from clinsynth.trainers.gan.arguments import GANArguments
from clinsynth.trainers.gan.step import (
    Discriminator,
    GANState,
    cut_out,
    diff_augment,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    translate,
)
from clinsynth.trainers.stream import TrainingStream
from clinsynth.trainers.train_gan import main
from clinsynth.trainers.training_state import checkpoints

LOSSES = ["dcgan", "wgan_gp", "hinge"]
GENERATOR = "generator/diffusion_pytorch_model.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "data.npz")


def arguments(data: Path, output_dir: Path, **changes: Any) -> GANArguments:
    """A run of six steps of networks of 4 channels."""
    settings: dict[str, Any] = {
        "dataset": str(data),
        "output_dir": str(output_dir),
        "width": 4,
        "latent_dim": 8,
        "train_steps": 6,
        "train_batch_size": 8,
        "log_steps": 1,
        "checkpointing_steps": 3,
        "validation_steps": 0,
    }
    return GANArguments(**settings | changes)


def build(args: GANArguments) -> tuple[GANState, Any, Any]:
    """State, pipeline and stream, as the trainer makes them."""
    train = load_image_arrays(args)["train"]
    stream = TrainingStream.of(train, args, torch.device("cpu"))
    return *gan_step.build_state(args, train, stream, torch.device("cpu")), stream


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_changes_both_networks_and_leaves_a_loadable_checkpoint(loss: str, data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", loss=loss)
    main(args)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert pipe(["0", 2], output_type="np").images.shape == (2, 28, 28, 1)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-6"]
    records = read_metrics(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(1, 7))
    assert ("gradient_penalty" in records[0]) == (loss == "wgan_gp")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
    assert same_weights(tmp_path / "run", tmp_path / "run" / "checkpoint-6", GENERATOR)

    state, _, _ = build(args)
    folder = tmp_path / "run" / "checkpoint-6" / "training_state"
    for network, name in ((state.model, "model"), (state.discriminator, "discriminator")):
        after = load_file(folder / f"{name}.safetensors")
        still = [key for key, before in network.named_parameters() if torch.equal(before, after[key])]
        assert still in ([], ["score.bias"])  # which a difference of scores leaves out


def test_the_generator_learns_the_classes_brightness(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=150, width=8, train_batch_size=16, learning_rate=2e-3))
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code=True)
    images = pipe([0, 1, 2], num_images_per_class=8, generator=generators(*range(24)), output_type="np").images
    levels = 255 * images.reshape(3, -1).mean(axis=1)  # the data's are 60, 120 and 180
    assert levels[0] + 20 < levels[1] < levels[2] - 20


def test_losses_follow_their_formulas() -> None:
    real, fake = torch.tensor([2.0, -0.5]), torch.tensor([-3.0, 0.25])
    cross_entropy = -torch.log(real.sigmoid()).mean() - torch.log(1 - fake.sigmoid()).mean()
    assert torch.isclose(discriminator_loss("dcgan", real, fake), cross_entropy)
    assert torch.isclose(generator_loss("dcgan", fake), -torch.log(fake.sigmoid()).mean())
    assert float(discriminator_loss("hinge", real, fake)) == pytest.approx((0 + 1.5) / 2 + (0 + 1.25) / 2)
    assert float(discriminator_loss("wgan_gp", real, fake)) == pytest.approx(-1.375 - 0.75)
    assert float(generator_loss("hinge", fake)) == float(generator_loss("wgan_gp", fake)) == pytest.approx(1.375)


class LinearCritic(torch.nn.Module):
    """x ↦ s_y · w · x: its gradient at every x of class y is s_y w."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (1 + labels) * (images.flatten(1) @ self.weight)


def test_gradient_penalty_is_what_a_hand_computes() -> None:
    critic = LinearCritic(torch.tensor([3.0, 0.0, 4.0, 0.0]))  # of norm 5
    real, fake = torch.randn(2, 2, 1, 2, 2)
    penalty = gradient_penalty(critic, real, fake, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert float(penalty.detach()) == pytest.approx(((5 - 1) ** 2 + (10 - 1) ** 2) / 2)
    penalty.backward()
    # d/dw of (|w| − 1)² is 2(|w| − 1) w/|w|, and with the factor 2 of class 1 it is 2 · 2(2|w| − 1) w/|w|
    expected = (2 * 4 + 2 * 2 * 9) / 2 * torch.tensor([0.6, 0.0, 0.8, 0.0])
    assert torch.allclose(critic.weight.grad, expected)


def test_gradient_penalty_looks_between_the_images() -> None:
    seen: list[torch.Tensor] = []

    class Remembers(LinearCritic):
        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach())
            return super().forward(images, labels)

    real, fake = torch.ones(64, 1, 2, 2), -torch.ones(64, 1, 2, 2)
    gradient_penalty(Remembers(torch.ones(4)), real, fake, torch.zeros(64), torch.Generator().manual_seed(0))
    level = seen[0].flatten(1)
    assert torch.allclose(level, level[:, :1].expand(64, 4))  # one share a pair
    assert level.min() < -0.8 and level.max() > 0.8 and level.abs().max() <= 1


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    critic = Discriminator(32, 1, num_classes=3, width=8, norm="spectral")
    images, labels = torch.randn(4, 1, 32, 32), torch.zeros(4, dtype=torch.long)
    for _ in range(60):  # one power iteration each
        critic(images, labels)
    layers = [critic.features[0], critic.features[2], critic.features[4], critic.score, critic.class_score]
    with torch.no_grad():
        norms = [float(torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)) for layer in layers]
    assert norms == pytest.approx([1.0] * 5, abs=0.05)


def test_the_critic_of_wgan_gp_scores_each_image_alone() -> None:
    torch.manual_seed(0)
    critic = Discriminator(28, 1, num_classes=3, width=4, norm="none")
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 2])
    assert torch.allclose(critic(images, labels)[:1], critic(images[:1], labels[:1]), atol=1e-6)
    assert not torch.isclose(critic(images[:1], labels[:1]), critic(images[:1], labels[1:2]))


def test_augmentation_shifts_and_cuts_and_lets_gradients_through() -> None:
    image = torch.arange(1.0, 257).reshape(1, 1, 16, 16).expand(50, 1, 16, 16)
    shifted = translate(image, torch.Generator().manual_seed(0))
    frame = torch.nn.functional.pad(image[:1], [2] * 4)
    shifts = [frame[0, :, dy : dy + 16, dx : dx + 16] for dy in range(5) for dx in range(5)]
    which = [[i for i, shift in enumerate(shifts) if torch.equal(picture, shift)] for picture in shifted]
    assert all(len(found) == 1 for found in which) and len({found[0] for found in which}) > 10
    cut = cut_out(image, torch.Generator().manual_seed(0))
    gone = (cut == 0).sum(dim=(1, 2, 3))
    assert gone.max() == 64 and gone.min() >= 16 and torch.equal(cut[cut != 0], image[cut != 0])

    pictures = torch.rand(6, 3, 16, 16, requires_grad=True)
    once, again = (diff_augment(pictures, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again) and not torch.allclose(once, pictures)
    once.sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def test_saved_statistics_are_those_of_the_averaged_weights(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run")
    state, _, stream = build(args)
    for _ in range(3):
        gan_step.train_step(args, state, stream)
        state.advance()
    live = [parameter.clone() for parameter in state.model.parameters()]
    with state.averaged_weights():
        draws = torch.Generator().manual_seed(1)
        latents = torch.randn(2048, 8, generator=draws)
        labels = state.statistics_labels.repeat(2)
        by_statistics = state.model(latents, labels)
        state.model.train()
        by_batch = state.model(latents, labels)
        state.model.eval()
        assert (by_statistics - by_batch).abs().mean() < 0.05 * by_batch.abs().mean()
    assert all(torch.equal(a, b) for a, b in zip(live, state.model.parameters(), strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(loss: str, data: Path, tmp_path: Path) -> None:
    settings = {"loss": loss, "class_balanced": True, "n_critic": 2}
    whole, parts = (arguments(data, tmp_path / name, **settings) for name in ("whole", "parts"))
    main(whole)
    with pytest.MonkeyPatch.context() as patch:
        real_step = gan_step.train_step

        def dies_at_five(args: GANArguments, state: GANState, stream: Any) -> dict[str, float]:
            if state.step == 5:
                raise KeyboardInterrupt
            return real_step(args, state, stream)

        patch.setattr(gan_step, "train_step", dies_at_five)
        with pytest.raises(KeyboardInterrupt):
            main(parts)
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-3"]
    main(parts)
    assert same_weights(tmp_path / "whole", tmp_path / "parts", GENERATOR)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    long = {"train_steps": 60, "checkpointing_steps": 10}
    killed, whole = (arguments(data, tmp_path / name, **long) for name in ("killed", "whole"))
    kill_when((tmp_path / "killed" / "checkpoint-10").exists, "train", "gan", *flags_of(killed))
    assert not (tmp_path / "killed" / "model_index.json").exists(), "the run ended before it was killed"
    assert "resuming at step" in clinsynth("train", "gan", *flags_of(killed)).stdout
    clinsynth("train", "gan", *flags_of(whole))
    assert same_weights(tmp_path / "killed", tmp_path / "whole", GENERATOR)


def test_validation_keeps_the_best_and_draws_a_grid(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", validation_steps=3))
    records = [record for record in read_metrics(tmp_path / "run") if "validation_kid" in record]
    assert [record["step"] for record in records] == [3, 6]
    grids = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert grids == ["step-0000003.png", "step-0000006.png"]
    best = min(records, key=lambda record: record["validation_kid"])["step"]
    assert same_weights(tmp_path / "run", tmp_path / "run" / f"checkpoint-{best}", GENERATOR)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(loss: str, fake: torch.Tensor) -> torch.Tensor:
        poison = float("nan") if (tmp_path / "run" / "checkpoint-3").exists() else 1.0
        return generator_loss(loss, fake) * poison

    monkeypatch.setattr(gan_step, "generator_loss", diverges)
    with pytest.raises(FloatingPointError, match=r"diverged at step 4: .*generator_loss nan.*checkpoint-3"):
        main(arguments(data, tmp_path / "run"))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "checkpoint-3" / GENERATOR).values())


def test_generate_images_takes_a_gan_checkpoint(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(arguments(data, tmp_path / "run"))
    caplog.set_level("INFO", logger="clinsynth")
    settings: dict[str, Any] = {"model": str(tmp_path / "run"), "counts": "0=3,2=2", "shard_size": 4}
    generate_images.main(GenerateImagesArguments(**settings, output_dir=str(tmp_path / "out")))
    assert "--scheduler and --num_inference_steps are not used" in caplog.text
    description = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert description["complete"] and description["produced"] == {"0": 3, "1": 0, "2": 2}
    generator = description["generator"]
    assert generator["network"] == "DCGANGenerator" and generator["num_inference_steps"] == 1
    assert generator["scheduler"] is None and generator["prediction_type"] is None
    rows = [row for path in sorted((tmp_path / "out" / "data").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [row["label"] for row in rows] == [0, 0, 0, 2, 2]

    with pytest.raises(ValueError, match=r"--guidance_scale is 2.0, but --model .* is a GAN, which knows no guidance"):
        generate_images.main(
            GenerateImagesArguments(**settings, output_dir=str(tmp_path / "guided"), guidance_scale=2.0)
        )
    assert not (tmp_path / "guided" / "generation.json").exists()


def test_dry_run_prints_and_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(data, tmp_path / "run", dry_run=True, loss="wgan_gp"))
    printed = capsys.readouterr().out
    assert "n_critic: 5" in printed and "learning_rate: 0.0001" in printed and "18 images" in printed
    assert "discriminator 0.0" in printed and not (tmp_path / "run").exists()


def test_each_loss_has_its_own_defaults_and_flags_win() -> None:
    assert [GANArguments(loss=loss).n_critic for loss in LOSSES] == [1, 5, 1]
    assert [GANArguments(loss=loss).beta1 for loss in LOSSES] == [0.5, 0.0, 0.5]
    args = GANArguments(loss="wgan_gp", learning_rate=3e-4, beta2=0.99)
    assert (args.learning_rate, args.discriminator_learning_rate, args.beta1, args.beta2) == (3e-4, 3e-4, 0.0, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_steps": 0}, "--train_steps must be above 0, got 0"),
        ({"n_critic": 0}, "--n_critic must be above 0, got 0"),
        ({"discriminator_learning_rate": -1.0}, "--discriminator_learning_rate must be above 0, got -1.0"),
        ({"beta1": 1.0}, r"--beta1 must be in \[0, 1\), got 1.0"),
        ({"gradient_penalty": -1.0}, "--gradient_penalty must be at least 0, got -1.0"),
        ({"resolution": 30}, "--resolution 30: .*28, 32, 40"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(data, tmp_path / "run", **changes))


def test_data_with_other_classes_does_not_continue_a_run(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", train_steps=2))
    write_npz(data, classes=4)
    with pytest.raises(ValueError, match=r"checkpoint-2 does not fit the network.*other classes"):
        main(arguments(data, tmp_path / "run", train_steps=2))


def test_several_processes_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"a GAN trains in one process.*but 2 were"):
        main(arguments(data, tmp_path / "run"))


def test_losses_are_finite_over_more_steps_than_an_epoch(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", loss="wgan_gp", train_steps=10))
    values = [value for record in read_metrics(tmp_path / "run") for value in record.values()]
    assert np.isfinite(values).all()
