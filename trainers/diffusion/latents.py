"""What a network is given in place of pixels: scaled images, or latents of an autoencoder (Rombach et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.arguments import FromScratchArguments

BATCH = 16


def scale_images(images: torch.Tensor) -> torch.Tensor:
    """Images, uint8, in [-1, 1]; latents, which have a floating type, as they are; both float32."""
    return images.float() if images.is_floating_point() else images.float() / 127.5 - 1


def load_autoencoder(source: str) -> AutoencoderKL:
    """The autoencoder that --latent names, frozen.

    Raises:
        ValueError: there is none.
    """
    try:
        vae = AutoencoderKL.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--latent {source} is no folder or Hub repository of diffusers' AutoencoderKL ({error}); train one with "
            "`clinsynth train autoencoder`"
        ) from error
    return vae.requires_grad_(False).eval()  # type: ignore[no-any-return]


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Latents (n, c, h, w) on the CPU, the means, of images, uint8 (n, channels, side, side)."""
    parts = [scale_images(torch.from_numpy(images[at : at + BATCH])) for at in range(0, len(images), BATCH)]
    return torch.cat([vae.encode(part.to(vae.device)).latent_dist.mode().float().cpu() for part in parts])  # type: ignore[union-attr]


def encode_all(pipeline: Any, train: ImageArrays, args: FromScratchArguments) -> ImageArrays:
    """What the network of a latent `pipeline` sees of the images of `train`, float32, also mirrored as `args` say."""
    views = [train.images]
    for axis in [axis for axis, on in ((3, args.horizontal_flip), (2, args.vertical_flip)) if on]:
        views += [np.flip(images, axis).copy() for images in views]
    encoded = [
        pipeline.encode(scale_images(torch.from_numpy(images[at : at + BATCH])).to(pipeline.vae.device)).cpu().numpy()
        for images in views
        for at in range(0, len(images), BATCH)
    ]
    return replace(
        train, images=np.concatenate(encoded), labels=np.tile(train.labels, len(views)), groups={}, persons=None
    )


def latent_moments(latents: torch.Tensor) -> tuple[list[float], list[float], float]:
    """Mean and standard deviation by channel of latents (n, c, h, w), and the furthest that one standardised lies."""
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)).clamp(min=1e-3)
    furthest = ((latents - mean[:, None, None]) / std[:, None, None]).abs().max()
    return mean.tolist(), std.tolist(), float(furthest)
