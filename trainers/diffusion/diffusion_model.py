"""The parts of a class-conditioned DDPM before training: network and forward process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from clinsynth.pipelines.class_conditioned_ddpm import ContextUnet

if TYPE_CHECKING:
    from clinsynth.trainers.train_ddpm import DDPMArguments


def build_unet(args: DDPMArguments, resolution: int, channels: int, num_classes: int) -> ContextUnet | UNet2DModel:
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


def build_scheduler(args: DDPMArguments) -> DDPMScheduler:
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
