"""The losses of a GAN, and the augmentation that keeps its discriminator from learning a small data set by heart."""

import torch
from torch import nn
from torch.nn import functional as F


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
