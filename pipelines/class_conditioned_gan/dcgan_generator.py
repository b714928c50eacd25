"""DCGANGenerator, the generator of DCGAN (Radford et al. 2016), conditioned on a class.

This file is copied into every checkpoint that uses it: it imports nothing from clinsynth.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

WIDEST = 8  # times the width at full resolution: no layer has more channels


def levels_of(sample_size: int) -> tuple[int, int]:
    """How often a square of `sample_size` pixels is halved, and the side it then has: 32 to (3, 4), 28 to (2, 7).

    Raises:
        ValueError: the side does not end at 4 to 7 pixels, or is below 28.
    """
    levels, side = 0, sample_size
    while side > 7 and side % 2 == 0:
        levels, side = levels + 1, side // 2
    if sample_size < 28 or side > 7:
        raise ValueError(
            "the network doubles 4, 5, 6 or 7 px until it has the size of the images: it makes 28, 32, 40, 48, 56, "
            f"64, 80, 96, 112, 128, … px, got sample_size={sample_size}; choose the nearest of these"
        )
    return levels, side


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gain and bias are the class's (de Vries et al. 2017)."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        gain, bias = (table(classes)[:, :, None, None] for table in (self.gain, self.bias))
        return self.norm(x) * gain + bias


class DCGANGenerator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Noise and a class to an image: a projection to 4 … 7 px, then transposed convolutions that double the size.

    Against DCGAN the class is added: every batch normalisation has the gains and biases of the class.

    Args:
        sample_size: height and width in pixels: 4, 5, 6 or 7 times a power of two, at least 28.
        out_channels: channels of the images, 1 or 3.
        num_classes: classes.
        latent_dim: numbers of noise an image.
        width: channels at half the full resolution; they double with every halving, up to eight times.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        out_channels: int = 1,
        num_classes: int = 5,
        latent_dim: int = 128,
        width: int = 64,
    ):
        super().__init__()
        levels, self.side = levels_of(sample_size)
        channels = [width * min(2**level, WIDEST) for level in reversed(range(levels))]
        self.project = nn.Linear(latent_dim, channels[0] * self.side**2, bias=False)
        self.norms = nn.ModuleList(ConditionalBatchNorm(count, num_classes) for count in channels)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(channels[i], channels[i + 1], 4, 2, 1, bias=False) for i in range(levels - 1)
        )
        self.out = nn.ConvTranspose2d(channels[-1], out_channels, 4, 2, 1)
        for layer in (self.project, *self.ups, self.out):
            nn.init.normal_(layer.weight, std=0.02)  # DCGAN, section 4

    def forward(self, latents: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Images (batch, out_channels, sample_size, sample_size) in [-1, 1].

        Args:
            latents: (batch, latent_dim), standard normal.
            class_labels: (batch,) in [0, num_classes).
        """
        x = self.project(latents).unflatten(1, (-1, self.side, self.side))
        x = torch.relu(self.norms[0](x, class_labels))
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = torch.relu(norm(up(x), class_labels))
        return torch.tanh(self.out(x))
