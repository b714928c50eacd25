"""What one training step of a diffusion model sees, its forward process and loss, and its network.

Every draw of step k is a function of (seed, k) alone, made for the global batch and then cut into parts. So a resumed
run sees what an uninterrupted one sees, and two processes or accumulated half batches see what one large batch sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from clinsynth.pipelines.class_conditioned_ddpm import ContextUnet
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DiffusionArguments


@dataclass(frozen=True)
class StepInputs:
    """One part of a global batch, on the training device: images in [-1, 1] or latents (b, c, h, w), labels, noise and
    timesteps."""

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


class TrainingStream:
    """The endless, shuffled stream of training images, with everything random about a step.

    Args:
        images: uint8 (n, channels, height, width), on the training device; floats, such as latents, are taken as they
            are.
        labels: int64 (n,).
        num_classes: real classes; class dropout replaces a label by `num_classes`.
        num_train_timesteps: T; timesteps are drawn uniformly from [0, T).
        class_dropout: probability of the null class.
        class_balanced: draw every class equally often instead of every image once an epoch.
        horizontal_flip: mirror half of the images left to right; off unless the anatomy allows it.
        vertical_flip: mirror half of them top to bottom.
        seed: of all draws.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        num_train_timesteps: int,
        class_dropout: float = 0.1,
        class_balanced: bool = False,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        seed: int = 0,
    ):
        self.images, self.labels = images, labels
        self.num_classes, self.num_train_timesteps = num_classes, num_train_timesteps
        self.class_dropout, self.class_balanced, self.seed = class_dropout, class_balanced, seed
        self.flips = [axis for axis, on in ((3, horizontal_flip), (2, vertical_flip)) if on]

    def epoch_order(self, epoch: int) -> torch.Tensor:
        """The image numbers of an epoch: a permutation, or n draws with equal class probability."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, epoch))
        count = len(self.labels)
        if not self.class_balanced:
            return torch.randperm(count, generator=generator)
        weights = 1.0 / torch.bincount(self.labels.cpu()).clamp(min=1)[self.labels.cpu()].double()
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def indices(self, first: int, count: int) -> torch.Tensor:
        """Image numbers at positions first … first + count − 1 of the stream, on the CPU."""
        size = len(self.labels)
        epochs = range(first // size, (first + count - 1) // size + 1)
        order = torch.cat([self.epoch_order(epoch) for epoch in epochs])
        start = first - epochs[0] * size
        return order[start : start + count]

    def step(self, step: int, batch_size: int, parts: int = 1) -> list[StepInputs]:
        """The global batch of step `step`, cut into `parts` of equal size (batch_size is a multiple of it)."""
        return self.inputs(step, self.indices(step * batch_size, batch_size), parts)

    def poisson_indices(self, step: int, sample_rate: float) -> torch.Tensor:
        """Image numbers of step `step`, each drawn with probability `sample_rate` on its own; may be none."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 4, step))
        draws = torch.rand(len(self.labels), generator=generator, dtype=torch.float64)
        return torch.nonzero(draws < sample_rate).flatten()

    def poisson_step(self, step: int, sample_rate: float, largest: int) -> list[StepInputs]:
        """A Poisson batch, cut into parts of at most `largest` images; where none was drawn, one empty part."""
        index = self.poisson_indices(step, sample_rate)
        return self.inputs(step, index, max(1, -(-len(index) // largest)))

    def inputs(self, step: int, index: torch.Tensor, parts: int) -> list[StepInputs]:
        """The images number `index` (b,) with everything random about them in step `step`, cut into `parts`."""
        device, batch_size = self.images.device, len(index)
        index = index.to(device)
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, 1, step))
        images = scale_images(self.images[index])
        noise = torch.randn(images.shape, generator=generator, device=device)
        timesteps = torch.randint(self.num_train_timesteps, (batch_size,), generator=generator, device=device)
        dropped = torch.rand(batch_size, generator=generator, device=device) < self.class_dropout
        for axis in self.flips:
            mirrored = torch.rand(batch_size, generator=generator, device=device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(axis), images)
        labels = self.labels[index].masked_fill(dropped, self.num_classes)
        cut = zip(*(tensor.chunk(parts) for tensor in (images, labels, noise, timesteps)), strict=True)
        return [StepInputs(*tensors) for tensors in cut]


def scale_images(images: torch.Tensor) -> torch.Tensor:
    """Images, uint8, in [-1, 1]; latents, which have a floating type, as they are; both float32."""
    return images.float() if images.is_floating_point() else images.float() / 127.5 - 1


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

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return int(self.scheduler.config["num_train_timesteps"])

    def network_inputs(self, batch: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The noisy images (b, c, h, w) and their times (b,), as the network takes them."""
        noisy = self.scheduler.add_noise(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        return noisy, batch.timesteps

    def target(self, batch: StepInputs) -> torch.Tensor:
        """What the network is to predict, (b, c, h, w)."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            return self.scheduler.get_velocity(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        return batch.noise

    def weigh(self, losses: torch.Tensor, batch: StepInputs) -> torch.Tensor:
        """The images' losses, (b,), each times min(SNR, γ)/SNR for epsilon and min(SNR, γ)/(SNR + 1) for v-prediction."""
        if self.min_snr_gamma is None:
            return losses
        snr = compute_snr(self.scheduler, batch.timesteps)
        velocity = self.scheduler.config["prediction_type"] == "v_prediction"
        return losses * snr.clamp(max=self.min_snr_gamma) / (snr + 1 if velocity else snr)

    def predict(self, unet: nn.Module, batch: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's prediction, (b, c, h, w), and its mean squared error by image, (b,)."""
        noisy, times = self.network_inputs(batch)
        prediction = unet(noisy, times, class_labels=batch.labels).sample.float()
        return prediction, (prediction - self.target(batch)).square().mean(dim=(1, 2, 3))

    def image_losses(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """Mean squared error of the prediction by image, (b,), without weights."""
        return self.predict(unet, batch)[1]

    def loss(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """What training lowers: the weighted mean of the images' losses, a scalar."""
        return self.weigh(self.image_losses(unet, batch), batch).mean()


def build_unet(
    args: DiffusionArguments, resolution: int, channels: int, num_classes: int
) -> ContextUnet | UNet2DModel:
    """The untrained network; its last class, number `num_classes`, is the null class.

    Raises:
        ValueError: the backbone does not work at `resolution`.
    """
    if args.backbone == "context_unet":
        return ContextUnet(resolution, channels, channels, num_classes, args.width, args.num_train_timesteps)
    levels = max(3, math.ceil(math.log2(resolution / 8)) + 1)  # down to 8 pixels or less
    if resolution % 2 ** (levels - 1):
        raise ValueError(
            f"--resolution {resolution} cannot be halved {levels - 1} times, which the network does; "
            f"use a multiple of {2 ** (levels - 1)}"
        )
    return UNet2DModel(
        sample_size=resolution,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(args.width * min(2**level, 4) for level in range(levels)),
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        layers_per_block=1,
        attention_head_dim=2 * args.width,  # two heads at the bottom; more are slower on a CPU
        norm_num_groups=8,
        num_class_embeds=num_classes + 1,
    )


def build_scheduler(args: DiffusionArguments) -> DDPMScheduler:
    """The forward process."""
    return DDPMScheduler(
        num_train_timesteps=args.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2" if args.beta_schedule == "cosine" else "linear",
        rescale_betas_zero_snr=args.beta_schedule == "zero_snr",
        timestep_spacing="trailing",
        prediction_type=args.prediction_type,
    )


def resolve_precision(mixed_precision: str) -> str:
    """`"auto"` to bf16 where the device computes in it natively, else to no mixed precision."""
    if mixed_precision != "auto":
        return mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"
