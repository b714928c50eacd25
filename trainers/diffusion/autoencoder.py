"""A small autoencoder of images, whose latents a DDPM is trained on where pixels are too many (Rombach et al. 2022).

It is diffusers' own `AutoencoderKL`; whatever other there is on the Hub may stand in its place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from clinsynth.trainers.diffusion.arguments import AutoencoderArguments
from clinsynth.trainers.diffusion.latents import BATCH, scale_images
from clinsynth.trainers.stream import StepInputs
from clinsynth.trainers.validation import save_grid

SHOWN = 8


def build_autoencoder(args: AutoencoderArguments, resolution: int, channels: int) -> AutoencoderKL:
    """The untrained autoencoder, of `args.factor` pixels a side to one latent.

    Raises:
        ValueError: the resolution is no multiple of the factor.
    """
    if resolution % args.factor:
        raise ValueError(f"--resolution {resolution} is no multiple of --factor {args.factor}; use 2, 4 or 8")
    levels = int(math.log2(args.factor)) + 1
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(args.width * min(2**level, 4) for level in range(levels)),
        layers_per_block=1,
        latent_channels=args.latent_channels,
        norm_num_groups=8,
        sample_size=resolution,
        mid_block_add_attention=False,
    )


class Autoencoding(nn.Module):
    """An autoencoder as it is trained: images in, and out again by way of noisy latents.

    Args:
        vae: the autoencoder.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (b, c, h, w) as they come out, and the divergence of their latents from white noise, (b,).

        Args:
            noise: of the images' shape or more; as many numbers of it as there are latents are used.
        """
        posterior = self.vae.encode(images).latent_dist  # type: ignore[union-attr]
        drawn = noise.flatten(1)[:, : posterior.mean[0].numel()].view(posterior.mean.shape)
        latents = posterior.mean + posterior.std * drawn
        return self.vae.decode(latents).sample, posterior.kl()  # type: ignore[union-attr]


class Reconstruction:
    """What training lowers: mean absolute error, and a little of the divergence, which keeps latents near white noise.

    Args:
        kl_weight: of the divergence, by number of the image.
    """

    def __init__(self, kl_weight: float):
        self.kl_weight = kl_weight

    def loss(self, autoencoding: nn.Module, batch: StepInputs) -> torch.Tensor:
        """The mean over a batch, a scalar."""
        found, divergence = autoencoding(batch.images, batch.noise)
        error = (found.float() - batch.images).abs().mean()
        return error + self.kl_weight * divergence.float().mean() / batch.images[0].numel()


class Compare:
    """Shows validation images before and after the autoencoder, and measures what is lost.

    Args:
        vae: the autoencoder.
        images: uint8 (n, channels, side, side) of the validation split.
        output_dir: `samples/` there gets a grid, images above what comes out.
    """

    def __init__(self, vae: AutoencoderKL, images: np.ndarray, output_dir: Path):
        self.vae, self.images, self.output_dir = vae, images, output_dir

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, Any]:
        """`validation_psnr`: the ratio of white's square to the mean squared error, in decibels; 30 looks alike."""
        parts = [scale_images(torch.from_numpy(part)) for part in np.array_split(self.images, self.batches)]
        found = torch.cat([self.vae(part.to(self.vae.device)).sample.float().cpu() for part in parts])  # type: ignore[union-attr]
        out = ((found.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        shown = np.concatenate([self.images[:SHOWN], out[:SHOWN]])
        save_grid(shown, len(shown) // 2, self.output_dir, step)
        error = np.mean((out.astype(np.float64) - self.images) ** 2)
        return {"validation_psnr": float(10 * np.log10(255**2 / max(error, 1e-9)))}

    @property
    def batches(self) -> int:
        """How many parts the images are taken in."""
        return -(-len(self.images) // BATCH)
