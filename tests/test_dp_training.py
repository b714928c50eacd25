"""DP-SGD: clipping by hand, Poisson batches, the accountant's epsilon, and a run that is stopped and goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from helpers import tiny_unet, write_npz

from clinsynth.run_folder import read_metrics
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.privacy import PrivacyPlan, PrivateTraining, plan_privacy
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.stream import StepInputs, TrainingStream
from clinsynth.trainers.train_ddpm import main

opacus = pytest.importorskip("opacus", reason="needs the extra privacy")


def arguments(data: Path, output_dir: Path, **changes: Any) -> DDPMArguments:
    """A run of four private steps of a network of 8 channels."""
    settings: dict[str, Any] = {
        "dataset": str(data),
        "output_dir": str(output_dir),
        "width": 8,
        "train_steps": 4,
        "train_batch_size": 6,
        "lr_warmup_steps": 0,
        "log_steps": 1,
        "checkpointing_steps": 2,
        "validation_steps": 0,
        "dp_epsilon": 2.0,
    }
    return DDPMArguments(**settings | changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "data.npz")


def stream(images: int = 12) -> TrainingStream:
    """Random pictures of 28 px in three classes."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (images, 1, 28, 28), generator=generator).to(torch.uint8)
    return TrainingStream(pictures, torch.arange(images) % 3, num_classes=3, num_train_timesteps=1000)


def private(model: torch.nn.Module, noise: float, clip: float = 0.5, images: int = 12) -> PrivateTraining:
    """Training by plain gradient descent at rate 1, so that the change of the weights is minus the gradient."""
    plan = PrivacyPlan(8.0, 1e-3, noise, clip, 0.5, 10)
    return PrivateTraining(model.train(), torch.optim.SGD(model.parameters(), lr=1.0), plan, images, secret=1)


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("backbone", ["unet2d", "context_unet"])
@pytest.mark.parametrize("largest", [100, 2])
def test_the_step_is_the_mean_of_clipped_gradients(backbone: str, largest: int) -> None:
    process, clip = DDPMProcess(DDPMScheduler()), 0.5
    parts = stream().poisson_step(3, 0.5, largest)
    model = tiny_unet(backbone).train()
    expected: Any = 0
    norms = []
    for image in range(sum(len(part.images) for part in parts)):
        whole = [torch.cat([getattr(p, k) for p in parts]) for k in ("images", "labels", "noise", "timesteps")]
        one = StepInputs(*(tensor[image : image + 1] for tensor in whole))
        gradient = flat(torch.autograd.grad(process.loss(model, one), list(model.parameters())))
        norms.append(float(gradient.norm()))
        expected = expected + gradient * min(1.0, clip / norms[-1])
    assert max(norms) > clip
    before = flat(model.parameters())
    loss, norm = private(model, noise=0.0, clip=clip).train_step(parts, process, 3)
    change = before - flat(model.parameters())
    assert torch.allclose(change, expected / 6, rtol=1e-4, atol=1e-6)
    assert float(norm) == pytest.approx(float(expected.norm()) / 6, rel=1e-4)
    assert np.isfinite(loss)


def test_an_empty_batch_is_noise_of_the_planned_size_which_depends_on_the_step() -> None:
    parts = stream().poisson_step(0, 0.0, 4)
    assert [len(part.images) for part in parts] == [0]
    changes = []
    for step in (0, 0, 1):
        model = tiny_unet()
        before = flat(model.parameters())
        loss, _ = private(model, noise=2.0, clip=0.5).train_step(parts, DDPMProcess(DDPMScheduler()), step)
        changes.append(before - flat(model.parameters()))
        assert loss == 0
    assert float(changes[0].std()) == pytest.approx(2.0 * 0.5 / 6, rel=0.05)
    assert torch.equal(changes[0], changes[1]) and not torch.allclose(changes[0], changes[2])


def test_the_secret_is_drawn_anew_in_every_process() -> None:
    plan = PrivacyPlan(8.0, 1e-3, 1.0, 1.0, 0.5, 10)
    drawn = {
        PrivateTraining(model, torch.optim.SGD(model.parameters()), plan, 12).secret
        for model in (tiny_unet().train(), tiny_unet().train())
    }
    assert len(drawn) == 2 and min(drawn) > 2**64


def test_poisson_batches_are_a_function_of_seed_and_step_with_the_planned_mean() -> None:
    source = stream(40)
    batches = [source.poisson_indices(step, 0.2) for step in range(400)]
    assert all(torch.equal(batch, source.poisson_indices(step, 0.2)) for step, batch in enumerate(batches))
    sizes = np.array([len(batch) for batch in batches])
    assert abs(sizes.mean() - 8) < 4 * np.sqrt(40 * 0.2 * 0.8 / 400)
    assert sizes.var() == pytest.approx(40 * 0.2 * 0.8, rel=0.3)
    drawn = torch.bincount(torch.cat(batches), minlength=40)
    assert drawn.min() > 40 and drawn.max() < 130  # each image about 80 times
    parts = source.poisson_step(7, 0.2, 3)
    assert max(len(part.images) for part in parts) <= 3
    assert sum(len(part.images) for part in parts) == sizes[7]


def test_the_plan_spends_what_the_accountant_says_and_no_more_than_the_target(tmp_path: Path) -> None:
    plan = plan_privacy(arguments(tmp_path, tmp_path, dp_epsilon=3.0, train_steps=50, train_batch_size=10), 200)
    accountant = opacus.accountants.PRVAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=plan.noise_multiplier, sample_rate=0.05)
    assert plan.delta == pytest.approx(200**-1.1)
    assert plan.spent(50) == accountant.get_epsilon(plan.delta)
    assert 2.9 < plan.spent(50) <= 3.0
    assert plan.spent(0) == 0 < plan.spent(10) < plan.spent(50)


def test_a_private_run_goes_on_and_counts_all_steps(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(arguments(data, run))
    whole = json.loads((run / "privacy.json").read_text())
    assert whole["steps"] == 4 and 1.9 < whole["epsilon"] <= 2 and whole["opacus_version"] == opacus.__version__

    for name in ("checkpoint-4", "model_index.json"):  # as a run that was killed after its second step
        path = run / name
        path.rename(tmp_path / name)
    main(arguments(data, run))
    assert json.loads((run / "privacy.json").read_text()) == whole
    records = read_metrics(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all("loss" not in record for record in records)
    spent = [record["epsilon"] for record in records if "epsilon" in record]
    assert len(spent) == 2 and 0 < spent[0] < spent[1] == whole["epsilon"]
    pipe = DiffusionPipeline.from_pretrained(run, trust_remote_code=True)
    assert pipe([0, 2], num_inference_steps=2, output_type="np").images.shape == (2, 28, 28, 1)

    write_npz(data, per_class=7)
    with pytest.raises(ValueError, match=r"was begun with delta .*has the data set"):
        main(arguments(data, run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dp_epsilon": 0.0}, r"--dp_epsilon must be in \(0, 100\], got 0.0"),
        ({"dp_epsilon": None, "dp_delta": 1e-5}, "--dp_delta 1e-05 needs --dp_epsilon"),
        ({"dp_delta": 2.0}, r"--dp_delta must be in \(0, 1\), got 2.0"),
        ({"dp_delta": 0.5}, "--dp_delta must be at most 1/n = 0.056 for n = 18"),
        ({"dp_max_grad_norm": 0.0}, "--dp_max_grad_norm must be above 0, got 0.0"),
        ({"mixed_precision": "fp16"}, "--mixed_precision must be no with --dp_epsilon, got fp16"),
        ({"compile": True}, "--compile cannot be used with --dp_epsilon"),
        ({"class_balanced": True}, "--class_balanced cannot be used with --dp_epsilon"),
        ({"validation_steps": 2}, "--validation_steps must be 0 with --dp_epsilon, got 2"),
        ({"train_batch_size": 10, "gradient_accumulation_steps": 2}, "at most the 18 training images .* got 20"),
    ],
)
def test_what_cannot_be_honoured_is_named(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments(data, tmp_path / "run", **changes))


def test_a_run_without_privacy_does_not_become_private_later(data: Path, tmp_path: Path) -> None:
    main(arguments(data, tmp_path / "run", dp_epsilon=None, train_steps=1, mixed_precision="no"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("dp_")))
    with pytest.raises(ValueError, match="has trained without --dp_epsilon"):
        main(arguments(data, tmp_path / "run", train_steps=1, mixed_precision="no"))
