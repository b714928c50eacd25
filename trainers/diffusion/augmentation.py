"""Augmentation that does not leak: the network is told how each image was moved, and draws with "not at all".

The small kin of EDM's augmentation pipe (Karras et al. 2022, appendix F.2). Moved views make up for what a few
hundred images lack in number; how they were moved is part of the condition, and zero when images are drawn, which
therefore come out unmoved. What is published is the plain network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

VIEW = 7
"""Numbers that say how an image was moved: mirrored left to right, top to bottom; cosine of the angle less 1, sine;
binary logarithm of the zoom; shift to the right and down in half sides. All zero: not at all."""
ZOOM, SHIFT = 0.2, 0.25
"""Standard deviations of the last three."""


def draw_views(count: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """How `count` images are to be moved, (count, VIEW), on the device of `generator`.

    Each kind of move is tried with `probability`, on its own; of the mirrors half do nothing.
    """
    device = generator.device
    tried = torch.rand(5, count, generator=generator, device=device) < probability
    mirrored = tried[:2] & (torch.rand(2, count, generator=generator, device=device) < 0.5)
    angle = tried[2] * (2 * torch.rand(count, generator=generator, device=device) - 1) * torch.pi
    zoom = tried[3] * torch.randn(count, generator=generator, device=device) * ZOOM
    shift = tried[4] * torch.randn(2, count, generator=generator, device=device) * SHIFT
    return torch.stack([*mirrored.float(), angle.cos() - 1, angle.sin(), zoom, *shift], dim=1)


def move_images(images: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Images (n, c, side, side) in [-1, 1], mirrored, then turned, zoomed and shifted as `views` (n, VIEW) say.

    What comes in at the border is mirrored there. An image that is not moved stays as it is to the last bit.
    """
    grid = F.affine_grid(back(views), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return torch.where(views.any(dim=1)[:, None, None, None], moved.clamp(-1, 1), images)


def back(views: torch.Tensor) -> torch.Tensor:
    """The maps, (n, 2, 3), from points of the moved images to those of the images, both in [-1, 1]."""
    right_left, top_bottom, less_cos, sin, zoom, right, down = views.T
    cos, size = less_cos + 1, torch.exp2(-zoom)
    turned = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)
    mirror = torch.stack([1 - 2 * right_left, 1 - 2 * top_bottom], dim=1)
    linear = mirror[:, :, None] * turned * size[:, None, None]
    return torch.cat([linear, -linear @ torch.stack([right, down], dim=1)[:, :, None]], dim=2)


class AugmentedUnet(nn.Module):
    """A UNet2DModel in training, whose embedding of the time is shifted by how its images were moved.

    The shift is linear without a constant, so that the network alone draws as this one does with zeros.

    Args:
        unet: the network.
    """

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet
        self.embed_views = nn.Linear(VIEW, unet.time_embedding.linear_2.out_features, bias=False)
        self.shift: torch.Tensor | None = None
        unet.time_embedding.register_forward_hook(self.add_shift)

    def add_shift(self, _: nn.Module, __: Any, embedding: torch.Tensor) -> torch.Tensor:
        """The embedding, shifted within a call of this network, and as it is in a call of `unet`."""
        return embedding if self.shift is None else embedding + self.shift

    def forward(self, *inputs: Any, views: torch.Tensor, **named: Any) -> Any:
        """The network's output on images that were moved so, (n, VIEW); the rest as it takes it."""
        self.shift = self.embed_views(views)
        try:
            return self.unet(*inputs, **named)
        finally:
            self.shift = None
