"""DP-SGD for the DDPM (Abadi et al. 2016): each image's gradient clipped, the sum noised; what it guarantees and what
it does not is told in `privacy_plan`.

A step draws each image with one probability on its own (Poisson sampling), so batches differ in size and may be empty.
Gradients of each image and clipping are opacus'. Which images, at which noise levels, and the noise on the gradient
are functions of (secret, step). The secret is drawn from the system's entropy when the process starts and is stored
nowhere: known draws would void the guarantee. So a resumed run is as valid as an uninterrupted one, every step being
counted, but does not end with the same bits, and two runs with one --seed differ.
"""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import StepInputs, diffusion_loss
from clinsynth.trainers.diffusion.privacy import PrivacyPlan, check_same_plan, write_privacy

SECRET_BITS = 128


class PrivateTraining:
    """What takes the steps of a DP-SGD run.

    Args:
        model: the network; gets opacus' hooks, its parameters stay its own.
        optimizer: of `model`; learns from the noised gradients.
        plan: noise, clipping and sampling.
        images: number of training images.
        secret: what all draws derive from; None draws it from the system's entropy, which the guarantee needs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: PrivacyPlan,
        images: int,
        secret: int | None = None,
    ):
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        self.plan = plan
        self.secret = secrets.randbits(SECRET_BITS) if secret is None else secret
        self.batch_size = plan.sample_rate * images
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(contiguous)
        self.network = GradSampleModule(model, loss_reduction="sum")
        self.optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=self.batch_size,  # the drawn number itself is private
        )

    def train_step(
        self, parts: list[StepInputs], scheduler: DDPMScheduler, step: int, min_snr_gamma: float | None
    ) -> tuple[float, float]:
        """One optimizer step on the batch drawn for step `step`, cut into `parts` to save memory.

        Returns its summed loss over the expected batch size, which is not private, and the norm of the noised
        gradient, which is.
        """
        device = next(self.network.parameters()).device
        self.optimizer.generator = torch.Generator(device).manual_seed(derive_seed(self.secret, 5, step))
        total = 0.0
        for part in parts[:-1]:
            self.optimizer.signal_skip_step()
            total += self.backward(part, scheduler, min_snr_gamma)
            self.optimizer.step()  # clips and adds up only
            self.optimizer.zero_grad()
        total += self.backward(parts[-1], scheduler, min_snr_gamma)
        self.optimizer.step()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.optimizer.params])
        self.optimizer.zero_grad()
        return total / self.batch_size, float(norm)

    def backward(self, part: StepInputs, scheduler: DDPMScheduler, min_snr_gamma: float | None) -> float:
        """Leave each image's gradient in its parameter's `grad_sample`; returns the summed loss."""
        count = len(part.images)
        if count == 0:
            for parameter in self.optimizer.params:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
            return 0.0
        loss = diffusion_loss(self.network, scheduler, part, min_snr_gamma) * count
        with warnings.catch_warnings():  # layers that take time, class or image, none of which wants a gradient
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            loss.backward()
        return float(loss.detach())


def contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Bring a layer's inputs to row-major order: opacus 1.6 computes wrong gradients of a convolution on any other,
    as attention leaves it (its `unfold2d` takes the strides of a row-major image for granted)."""
    return tuple(tensor.contiguous() for tensor in inputs)


def build_private_training(
    state: Any, plan: PrivacyPlan, images: int, accelerator: Accelerator, output_dir: Path
) -> PrivateTraining:
    """What trains `state` (a `TrainingState`, new or resumed) by `plan`; brings `privacy.json` up to date.

    Raises:
        ValueError: several processes, or a resumed run whose plan was another.
    """
    if accelerator.num_processes > 1:
        raise ValueError(
            f"--dp_epsilon trains on one process, got {accelerator.num_processes}; start it without a launcher, with "
            "a larger --gradient_accumulation_steps instead"
        )
    if state.step:
        check_same_plan(output_dir, plan)
    write_privacy(output_dir, plan, state.step)
    return PrivateTraining(state.model, state.optimizer, plan, images)
