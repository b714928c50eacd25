"""ContextUnet, the denoiser of "An Integrated Approach to AI-Generated Content in e-health" (arXiv 2501.16348).

This file is copied into every checkpoint that uses it: it imports nothing from clinsynth.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn


def conv_norm_gelu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution, normalisation, GELU; the spatial size stays."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.GroupNorm(8, out_channels), nn.GELU())


def embed(in_features: int, out_features: int) -> nn.Sequential:
    """The two-layer perceptron that embeds time or class."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features))


class ConvBlock(nn.Module):
    """Two convolutions; with `residual`, the sum of both outputs over √2, which keeps their variance."""

    def __init__(self, in_channels: int, out_channels: int, residual: bool = False):
        super().__init__()
        self.conv1 = conv_norm_gelu(in_channels, out_channels)
        self.conv2 = conv_norm_gelu(out_channels, out_channels)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv1(x)
        second = self.conv2(first)
        return (first + second) / 2**0.5 if self.residual else second


class Up(nn.Module):
    """Doubles the size of concat(x, skip), then two blocks."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 2, 2),
            ConvBlock(out_channels, out_channels),
            ConvBlock(out_channels, out_channels),
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, skip], dim=1))


class ContextUnet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """U-Net whose decoder features are scaled by the class and shifted by the time.

    The class enters as one-hot c ⊙ M: the context mask M is zero for the null class (label `num_classes`), which is
    what class dropout trains and classifier-free guidance uses. Against the paper's network one thing is changed:
    batch normalisation is group normalisation, since running statistics over mixed classes and noise levels suit
    neither an average of weights (EMA) nor training on several processes. The parameter count is the same.

    Args:
        sample_size: height and width in pixels, 28 to 64, a multiple of 4.
        in_channels: channels of the noisy image.
        out_channels: channels of the prediction.
        num_classes: real classes; label `num_classes` is the null class.
        n_feat: width, a multiple of 8 (the paper's: 128).
        num_train_timesteps: T; the network sees the time as t/T.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 1,
        out_channels: int = 1,
        num_classes: int = 5,
        n_feat: int = 128,
        num_train_timesteps: int = 400,
    ):
        super().__init__()
        if not 28 <= sample_size <= 64 or sample_size % 4:
            raise ValueError(f"ContextUnet works at 28 to 64 px, in multiples of 4, got sample_size={sample_size}")
        self.num_classes, self.num_train_timesteps = num_classes, num_train_timesteps
        bottom = sample_size // 4
        self.init_conv = ConvBlock(in_channels, n_feat, residual=True)
        self.down1 = nn.Sequential(ConvBlock(n_feat, n_feat), nn.MaxPool2d(2))
        self.down2 = nn.Sequential(ConvBlock(n_feat, 2 * n_feat), nn.MaxPool2d(2))
        self.to_vec = nn.Sequential(nn.AvgPool2d(bottom), nn.GELU())
        self.time_embed1, self.time_embed2 = embed(1, 2 * n_feat), embed(1, n_feat)
        self.class_embed1, self.class_embed2 = embed(num_classes, 2 * n_feat), embed(num_classes, n_feat)
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(2 * n_feat, 2 * n_feat, bottom, bottom), nn.GroupNorm(8, 2 * n_feat), nn.ReLU()
        )
        self.up1 = Up(4 * n_feat, n_feat)
        self.up2 = Up(2 * n_feat, n_feat)
        self.out = nn.Sequential(
            nn.Conv2d(2 * n_feat, n_feat, 3, padding=1),
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, out_channels, 3, padding=1),
        )

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Predict the noise (or velocity) in `sample`; the call of diffusers' `UNet2DModel`.

        Args:
            sample: (batch, in_channels, sample_size, sample_size), noisy images in about [-1, 1].
            timestep: one for all or (batch,), in [0, num_train_timesteps).
            class_labels: (batch,) in [0, num_classes]; `num_classes` and None are the null class.
        """
        batch = sample.shape[0]
        time = torch.as_tensor(timestep, device=sample.device).to(sample.dtype).expand(batch)[:, None]
        time = time / self.num_train_timesteps
        context = self.masked_context(class_labels, sample)

        x = self.init_conv(sample)
        down1 = self.down1(x)
        down2 = self.down2(down1)
        up0 = self.up0(self.to_vec(down2))
        up1 = self.up1(as_map(self.class_embed1(context)) * up0 + as_map(self.time_embed1(time)), down2)
        up2 = self.up2(as_map(self.class_embed2(context)) * up1 + as_map(self.time_embed2(time)), down1)
        prediction = self.out(torch.cat([up2, x], dim=1))
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)

    def masked_context(self, class_labels: torch.Tensor | None, sample: torch.Tensor) -> torch.Tensor:
        """c ⊙ M, (batch, num_classes): one-hot classes, all zeros for the null class."""
        count = self.num_classes
        if class_labels is None:
            return sample.new_zeros(sample.shape[0], count)
        return nn.functional.one_hot(class_labels, count + 1)[:, :count].to(sample.dtype)


def as_map(vector: torch.Tensor) -> torch.Tensor:
    """(batch, features) to (batch, features, 1, 1)."""
    return vector[:, :, None, None]
