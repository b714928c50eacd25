"""Random views of training pictures and the loss on them: light for any arm, strong for the control of a study.

Strong: turns, shifts and changes of scale, contrast and brightness of twice the light size, noise, an erased square
(cutout, DeVries and Taylor 2017) and mixup (Zhang et al. 2018). All draws come from torch's global generator on the
CPU, so that one seed gives the same views on every device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

NOISE = 0.15  # largest standard deviation; normalised pixels have about 1
ERASED = 0.25  # side of the erased square as a share of the picture's
MIXUP_ALPHA = 0.2


def random_views(pixels: torch.Tensor, flips: bool, strength: float = 1.0) -> torch.Tensor:
    """Each picture of (n, c, s, s) turned by up to 10 degrees, scaled and shifted by up to 6 %, its contrast and
    brightness changed by up to 15 %, all times `strength`; with `flips` mirrored left-right and up-down with
    probability 1/2 each."""
    n = len(pixels)
    angle, scale, right, down = (torch.rand(4, n) * 2 - 1) * strength
    angle, scale = angle * math.pi / 18, 1 + 0.06 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # Shifts are in half sides: affine_grid's coordinates run from -1 to 1.
    affine = torch.stack([cos, -sin, 0.12 * right, sin, cos, 0.12 * down], dim=1).view(n, 2, 3)
    if flips:
        affine[:, :, :2] *= torch.randint(0, 2, (n, 1, 2)) * 2 - 1
    grid = F.affine_grid(affine.to(pixels.device), list(pixels.shape), align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    gain, offset = (0.15 * strength * (torch.rand(2, n, 1, 1, 1) * 2 - 1)).to(pixels.device)
    return views * (1 + gain) + offset


def strong_views(pixels: torch.Tensor, flips: bool) -> torch.Tensor:
    """`random_views` at twice the strength, half of them with noise, half of them with an erased square."""
    views, n = random_views(pixels, flips, strength=2.0), len(pixels)
    amount = NOISE * torch.rand(n, 1, 1, 1) * torch.randint(0, 2, (n, 1, 1, 1))
    views = views + (amount * torch.randn(views.shape)).to(pixels.device)
    side = max(1, round(ERASED * pixels.shape[-1]))
    top, left = torch.randint(0, pixels.shape[-1] - side + 1, (2, n, 1))
    places = torch.arange(pixels.shape[-1])
    rows, columns = ((start <= places) & (places < start + side) for start in (top, left))
    erased = (rows[:, :, None] & columns[:, None, :])[:, None] & (torch.rand(n, 1, 1, 1) < 0.5)
    return views.masked_fill(erased.to(pixels.device), 0.0)  # 0 is the mean of normalised pixels


def mixup_loss(
    model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    """Cross-entropy of pictures that are each blended with another one of the batch, shares ~ Beta(0.2, 0.2), against
    both their labels in the same shares; classes weighted by `weight` (classes,)."""
    share = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample().item()
    partner = torch.randperm(len(pixels)).to(pixels.device)
    logits = model(share * pixels + (1 - share) * pixels[partner]).logits
    own, other = (F.cross_entropy(logits, target, weight=weight) for target in (labels, labels[partner]))
    return share * own + (1 - share) * other
