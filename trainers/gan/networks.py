"""The losses of a GAN, and the augmentation that keeps its discriminator from learning a small data set by heart."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from clinsynth.pipelines.class_conditioned_gan import DCGANGenerator
from clinsynth.pipelines.class_conditioned_gan.dcgan_generator import WIDEST, levels_of
from clinsynth.trainers.gan.arguments import AdversarialArguments


def discriminator_loss(loss: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """What the discriminator lowers, a scalar, from its scores (batch,) of real and generated images.

    Args:
        loss: "dcgan": cross entropy (Goodfellow et al. 2014, equation 1); "wgan_gp": negative Wasserstein estimate
            (Gulrajani et al. 2017, equation 3, without the penalty); "hinge" (Miyato et al. 2018, equation 16).
    """
    if loss == "dcgan":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if loss == "wgan_gp":
        return fake.mean() - real.mean()
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_loss(loss: str, fake: torch.Tensor) -> torch.Tensor:
    """What the generator lowers, a scalar: non-saturating cross entropy for "dcgan", else the negative score."""
    return F.softplus(-fake).mean() if loss == "dcgan" else -fake.mean()


def gradient_penalty(
    critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """E (‖∇ critic(x)‖ − 1)² at random points x between pairs of a real and a generated image of one class.

    Equation 3 of Gulrajani et al. 2017 without its factor λ; a scalar whose gradient reaches the critic's weights.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, labels).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def diff_augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random colour, translation by up to 1/8 and a cutout of half the side, each image its own (Zhao et al. 2020).

    Real and generated images go through it alike before the discriminator sees them, so that the generator is not
    led to imitate it. Differentiable in `images`, (n, channels, size, size) in [-1, 1].
    """
    return cut_out(translate(change_colours(images, generator), generator), generator)


def change_colours(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness by ±0.5, saturation by a factor of 0 to 2, contrast by one of 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return level + (images - level) * (contrast + 0.5)


def translate(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by whole pixels, up to 1/8 of the side in each direction; what comes in is 0."""
    count, channels, size, _ = images.shape
    reach = size // 8
    shifts = torch.randint(2 * reach + 1, (2, count, 1), generator=generator, device=images.device)
    rows, columns = torch.arange(size, device=images.device) + shifts
    padded = F.pad(images, [reach] * 4)
    rows = rows[:, None, :, None].expand(count, channels, size, padded.shape[3])
    columns = columns[:, None, None, :].expand(count, channels, size, size)
    return padded.gather(2, rows).gather(3, columns)


def cut_out(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Set a square of half the side to 0, its centre anywhere in the image."""
    count, _, size, _ = images.shape
    centres = torch.randint(size, (2, count, 1), generator=generator, device=images.device)
    offsets = torch.arange(size, device=images.device) - centres
    rows, columns = (offsets >= -(size // 4)) & (offsets < size // 4)
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


NORMS = {"dcgan": "batch", "wgan_gp": "none", "hinge": "spectral"}


def build_networks(
    args: AdversarialArguments, resolution: int, channels: int, num_classes: int
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
