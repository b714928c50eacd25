"""D3PO: preferences on the steps of a sampler's path (Yang et al. 2024), each step with the time it was made at.

The path is ancestral DDIM sampling (η = 1; Song et al. 2021, Eq. 12): x at the next time is normal around a mean that
the network decides, with a spread that it does not. So log p of a step is −|x' − mean|² / (2 spread²).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn
from tqdm.auto import tqdm

from clinsynth.trainers.diffusion.model import DDPMProcess, StepInputs


@dataclass(frozen=True)
class Paths:
    """Whole paths: `latents` float32 (n, steps + 1, c, h, w), from noise to image, made at `times` int64 (steps,).

    `latents[:, i]` is the input of the network at `times[i]`, and `latents[:, i + 1]` what was drawn from it.
    """

    latents: torch.Tensor
    times: torch.Tensor

    @property
    def last_step(self) -> int:
        """The number of steps that are drawn at random: the one that ends at the image is not."""
        return len(self.times) - 1


def sampling_times(scheduler: DDPMScheduler, steps: int) -> torch.Tensor:
    """`steps` times evenly spread from T − 1 downwards, int64."""
    total = scheduler.config["num_train_timesteps"]
    return torch.linspace(total, 0, steps + 1)[:-1].round().long() - 1


def step_distribution(
    scheduler: DDPMScheduler, prediction: torch.Tensor, latents: torch.Tensor, times: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (b, c, h, w) and spread (b, 1, 1, 1) of the step from `times` to `after` (b,), -1 being the image."""
    alphas = scheduler.alphas_cumprod.to(latents.device)
    now = alphas[times].view(-1, 1, 1, 1)
    then = torch.where(after < 0, torch.ones_like(alphas[times]), alphas[after.clamp(min=0)]).view(-1, 1, 1, 1)
    if scheduler.config["prediction_type"] == "v_prediction":
        image = now.sqrt() * latents - (1 - now).sqrt() * prediction
        noise = now.sqrt() * prediction + (1 - now).sqrt() * latents
    else:
        noise = prediction
        image = (latents - (1 - now).sqrt() * noise) / now.sqrt()
    variance = (1 - then) / (1 - now) * (1 - now / then)
    mean = then.sqrt() * image + (1 - then - variance).clamp(min=0).sqrt() * noise
    return mean, variance.clamp(min=0).sqrt()


@torch.no_grad()
def sample_paths(
    unet: nn.Module, scheduler: DDPMScheduler, labels: list[int], seeds: list[int], steps: int, batch_size: int = 64
) -> Paths:
    """A path for each label, on the CPU, with one random generator a path: it depends on its own seed alone."""
    times = sampling_times(scheduler, steps)
    device = next(unet.parameters()).device
    config: Any = unet.config
    shape = (steps + 1, config["in_channels"], config["sample_size"], config["sample_size"])
    found = []
    for first in tqdm(range(0, len(labels), batch_size), desc="paths", leave=False):
        part = slice(first, first + batch_size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds[part]]
        path = follow_path(
            unet, scheduler, torch.stack(noise).to(device), torch.tensor(labels[part], device=device), times
        )
        found.append(path.cpu())
    return Paths(torch.cat(found), times)


def follow_path(
    unet: nn.Module, scheduler: DDPMScheduler, noise: torch.Tensor, labels: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """The path that starts at `noise[:, 0]` and takes its steps' noise from the rest, (b, steps + 1, c, h, w)."""
    path = [noise[:, 0]]
    following = [*times.tolist()[1:], -1]
    for number, (time, after) in enumerate(zip(times.tolist(), following, strict=True)):
        now = torch.full_like(labels, time)
        prediction = unet(path[-1], now, class_labels=labels).sample.float()
        mean, spread = step_distribution(scheduler, prediction, path[-1], now, torch.full_like(labels, after))
        path.append(mean + spread * noise[:, number + 1])
    return torch.stack(path, dim=1)


def step_errors(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    paths: Paths,
    rows: torch.Tensor,
    steps: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction, and −log p of step number `steps` (b,) of the paths `rows` (b,), a mean over pixels, (b,)."""
    device = labels.device
    times = paths.times.to(device)
    latents, drawn = paths.latents[rows, steps].to(device), paths.latents[rows, steps + 1].to(device)
    steps = steps.to(device)
    prediction = unet(latents, times[steps], class_labels=labels).sample.float()
    mean, spread = step_distribution(scheduler, prediction, latents, times[steps], times[steps + 1])
    return prediction, ((drawn - mean) / spread).square().mean(dim=(1, 2, 3)) / 2


class PreferenceLoss(NamedTuple):
    """A loss, a scalar with gradient, and what is logged of it."""

    loss: torch.Tensor
    numbers: dict[str, float]


def both_predictions(
    unet: nn.Module, reference: nn.Module, process: DDPMProcess, batch: StepInputs
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Errors (b,) of model and reference on one batch, and the drift: mean square of the difference of predictions."""
    prediction, errors = process.predict(unet, batch)
    with torch.no_grad():
        before, reference_errors = process.predict(reference, batch)
        drift = float((prediction.detach() - before).square().mean())
    return errors, reference_errors, drift


def join(first: StepInputs, second: StepInputs) -> StepInputs:
    """Two batches as one."""
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return StepInputs(*(torch.cat(pair) for pair in pairs))


def dpo_loss(
    winner: torch.Tensor, loser: torch.Tensor, winner_before: torch.Tensor, loser_before: torch.Tensor, beta: float
) -> PreferenceLoss:
    """Diffusion-DPO (Wallace et al. 2023, Eq. 14) from the errors (b,) of model and reference (`…_before`).

    −log σ(−β/2 [(winner − winner_before) − (loser − loser_before)]): β takes in the paper's T and ω, and
    the errors are means over pixels, as in its code (β 2000 to 5000). It is log 2 where the model is the reference.
    """
    margin = (loser - loser_before) - (winner - winner_before)
    lead = margin.detach()
    numbers = {"margin": float(lead.mean()), "implicit_accuracy": float((lead > 0).float().mean())}
    return PreferenceLoss(-F.logsigmoid(0.5 * beta * margin).mean(), numbers)


def kto_loss(errors: torch.Tensor, before: torch.Tensor, signs: torch.Tensor, beta: float) -> PreferenceLoss:
    """Diffusion-KTO (Li et al. 2024) for unpaired images; `signs` (b,) is 1 for a desirable one, -1 for another.

    1 − σ(sign · (g − z)), g = β/2 (before − errors) being the gain over the reference and z its batch mean from 0 on,
    without gradient, which stands for the divergence from the reference.
    """
    gain = 0.5 * beta * (before - errors)
    anchor = gain.mean().clamp(min=0).detach()
    right = ((gain * signs) > 0).float()
    margin = (before - errors).detach() * signs
    numbers = {"margin": float(margin.mean()), "implicit_accuracy": float(right.mean())}
    return PreferenceLoss((1 - torch.sigmoid(signs * (gain - anchor))).mean(), numbers)


def reward_loss(errors: torch.Tensor, weights: torch.Tensor) -> PreferenceLoss:
    """Reward-weighted denoising: the errors (b,) under weights (b,) of mean 1 over the data set."""
    return PreferenceLoss((errors * weights).mean(), {})


def reward_weights(shares: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp(share / temperature), scaled to a mean of 1 within each class, so that no class gains over another.

    Args:
        shares: (n,), checklist shares in [0, 1].
        labels: int64 (n,).

    Raises:
        ValueError: the shares are the same within every class.
    """
    weights = torch.exp((shares - shares.max()) / temperature)
    means = torch.stack([weights[labels == label].mean() for label in labels])
    if torch.allclose(weights, means):
        raise ValueError(
            f"all {len(shares)} candidates score as the others of their class; give more --prompts or --candidates, "
            "or a judge that tells these images apart"
        )
    return weights / means
