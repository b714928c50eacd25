"""The parts of a class-conditional GAN before training: generator and discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from clinsynth.pipelines.class_conditioned_gan import DCGANGenerator
from clinsynth.pipelines.class_conditioned_gan.dcgan_generator import WIDEST, levels_of

if TYPE_CHECKING:
    from clinsynth.trainers.train_gan import GANArguments

NORMS = {"dcgan": "batch", "wgan_gp": "none", "hinge": "spectral"}


def build_networks(
    args: GANArguments, resolution: int, channels: int, num_classes: int
) -> tuple[DCGANGenerator, Discriminator]:
    """The untrained generator and the discriminator that goes with `args.loss`.

    Raises:
        ValueError: the networks do not work at `resolution`.
    """
    try:
        levels_of(resolution)
    except ValueError as error:
        raise ValueError(f"--resolution {resolution}: {error}") from error
    generator = DCGANGenerator(resolution, channels, num_classes, args.latent_dim, args.width)
    return generator, Discriminator(resolution, channels, num_classes, args.width, NORMS[args.loss])


class Discriminator(nn.Module):
    """Strided convolutions down to 4 … 7 px, and a score that depends on the class by projection.

    The convolutions are DCGAN's, the mirror of the generator's; the score of features h of class y is
    w·h + v_y·h (Miyato & Koyama 2018).

    Args:
        sample_size: height and width in pixels, as of `DCGANGenerator`.
        in_channels: channels of the images.
        num_classes: classes.
        width: channels at half the full resolution.
        norm: "batch" but for the first layer (Radford et al. 2016), "none" (a WGAN-GP's critic, whose penalty is on
            each image alone) or "spectral" in every layer (Miyato et al. 2018).
    """

    def __init__(self, sample_size: int, in_channels: int, num_classes: int, width: int, norm: str):
        super().__init__()
        levels, side = levels_of(sample_size)
        channels = [in_channels, *(width * min(2**level, WIDEST) for level in range(levels))]
        layers: list[nn.Module] = []
        for i in range(levels):
            layers.append(nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1))
            if norm == "batch" and i > 0:
                layers.append(nn.BatchNorm2d(channels[i + 1]))
            layers.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = nn.Linear(channels[-1] * side**2, 1)
        self.class_score = nn.Embedding(num_classes, channels[-1] * side**2)
        weighted = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]
        nn.init.normal_(self.class_score.weight, std=0.02)  # at 1, the default, the class alone would decide
        for layer in weighted:
            if norm == "batch":
                nn.init.normal_(layer.weight, std=0.02)  # DCGAN, section 4
            if norm == "spectral":
                spectral_norm(layer)

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Scores (batch,), higher for what looks real: of images (batch, channels, size, size) in about [-1, 1]."""
        features = self.features(images)
        return self.score(features)[:, 0] + (self.class_score(class_labels) * features).sum(dim=1)
