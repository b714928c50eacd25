"""The losses that turn preferences into gradients of a diffusion model.

Errors are those of `diffusion_loss.predict`: the mean square of the noise (or velocity) that the network misses,
by picture. The reference is the model before training; its errors carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from clinsynth.trainers.diffusion.model import StepInputs, predict


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss, a scalar with gradient, and what is logged of it."""

    loss: torch.Tensor
    numbers: dict[str, float]


def both_predictions(
    unet: nn.Module, reference: nn.Module, scheduler: DDPMScheduler, batch: StepInputs
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Errors (b,) of model and reference on one batch, and the drift: mean square of the difference of predictions."""
    prediction, errors = predict(unet, scheduler, batch)
    with torch.no_grad():
        before, reference_errors = predict(reference, scheduler, batch)
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
    """Diffusion-KTO (Li et al. 2024) for unpaired pictures; `signs` (b,) is 1 for a desirable one, -1 for another.

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
            "or a judge that tells these pictures apart"
        )
    return weights / means
