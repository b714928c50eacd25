"""The forward process of a diffusion model, its loss, one training step, and its fast sampler."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.stream import StepInputs


class Process(Protocol):
    """What a step lowers."""

    def loss(self, network: nn.Module, batch: StepInputs, /) -> torch.Tensor:
        """A scalar, the mean over the batch."""


@dataclass(frozen=True)
class DDPMProcess:
    """The forward process of a DDPM, and what its network learns of it: the noise, or the velocity.

    Whatever has these attributes and methods can be trained in its place: a noise level is a whole number below
    `num_train_timesteps` everywhere else, and what it means is the process's alone.

    Attributes:
        scheduler: its noise schedule and prediction type.
        min_snr_gamma: γ of the loss weights (Hang et al. 2023), None to weigh all noise levels alike.
    """

    scheduler: DDPMScheduler
    min_snr_gamma: float | None = None

    @classmethod
    def of(cls, pipeline: Any, min_snr_gamma: float | None = None) -> Self:
        """The process that the network of `pipeline` is trained with, whatever it is sampled with."""
        return cls(DDPMScheduler.from_config(pipeline.scheduler.config), min_snr_gamma)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return int(self.scheduler.config["num_train_timesteps"])

    def target(self, batch: StepInputs) -> torch.Tensor:
        """What the network is to predict, (b, c, h, w)."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            return self.scheduler.get_velocity(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        return batch.noise

    def weigh(self, losses: torch.Tensor, batch: StepInputs) -> torch.Tensor:
        """The images' losses, (b,), each times min(SNR, γ)/SNR, for v-prediction min(SNR, γ)/(SNR + 1)."""
        if self.min_snr_gamma is None:
            return losses
        snr = compute_snr(self.scheduler, batch.timesteps)
        velocity = self.scheduler.config["prediction_type"] == "v_prediction"
        return losses * snr.clamp(max=self.min_snr_gamma) / (snr + 1 if velocity else snr)

    def predict(self, unet: nn.Module, batch: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's prediction, (b, c, h, w), and its mean squared error by image, (b,)."""
        noisy = self.scheduler.add_noise(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        moves = {} if batch.views is None else {"views": batch.views}
        prediction = unet(noisy, batch.timesteps, class_labels=batch.labels, **moves).sample.float()
        return prediction, (prediction - self.target(batch)).square().mean(dim=(1, 2, 3))

    def image_losses(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """Mean squared error of the prediction by image, (b,), without weights."""
        return self.predict(unet, batch)[1]

    def loss(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """What training lowers: the weighted mean of the images' losses, a scalar."""
        return self.weigh(self.image_losses(unet, batch), batch).mean()


def build_scheduler(args: DDPMArguments, furthest: float = 1.0) -> DDPMScheduler:
    """The forward process of images whose encoded values are within ±`furthest`."""
    return DDPMScheduler(
        num_train_timesteps=args.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2" if args.beta_schedule == "cosine" else "linear",
        rescale_betas_zero_snr=args.beta_schedule == "zero_snr",
        timestep_spacing="trailing",
        prediction_type=args.prediction_type,
        clip_sample_range=furthest,
    )


def lognormal_density(scheduler: DDPMScheduler, mean: float = -1.2, std: float = 1.2) -> torch.Tensor:
    """The probability of each timestep, float64 (T,), under which ln σ is normal; σ² is the ratio of noise to signal.

    With it, standardised images and v-prediction, training is that of EDM (Karras et al. 2022, Table 1, whose mean and
    deviation these are): its preconditioned network is then minus the velocity, and its loss weight 1.
    """
    signal = scheduler.alphas_cumprod.double()
    log_sigma = ((1 - signal) / signal).log() / 2
    density = torch.exp(-(((log_sigma - mean) / std) ** 2) / 2) * torch.gradient(log_sigma)[0]
    density = density.nan_to_num(0.0, 0.0, 0.0)  # a last step of pure noise has σ = ∞
    return density / density.sum()


def timestep_density(args: DDPMArguments, scheduler: DDPMScheduler) -> torch.Tensor | None:
    """What `TrainingStream` draws timesteps by, as --noise_levels says."""
    return lognormal_density(scheduler) if args.noise_levels == "lognormal" else None


def train_step(
    accelerator: Accelerator,
    unet: nn.Module,
    process: Process,
    optimizer: torch.optim.Optimizer,
    parts: list[StepInputs],
    max_grad_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step on this process's parts of the global batch; returns its mean loss and gradient norm, scalars
    on the device."""
    total = torch.zeros((), device=accelerator.device)
    for i, part in enumerate(parts):
        wait_for_more = accelerator.no_sync(unet) if i < len(parts) - 1 else nullcontext()
        with wait_for_more:
            loss = process.loss(unet, part) / len(parts)
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(unet.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return accelerator.reduce(total, "mean"), norm


def to_fast(scheduler: DDPMScheduler) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) on the noise schedule of `scheduler`, steps spaced as in Karras et al. 2022.

    A schedule that ends in all but pure noise, as the cosine one, keeps its even steps: most of the others would be
    spent there.
    """
    signal = scheduler.alphas_cumprod[-1]
    bounded = bool((1 - signal).sqrt() < 200 * signal.sqrt())
    return DPMSolverMultistepScheduler.from_config(scheduler.config, use_karras_sigmas=bounded)
