"""A text-to-image model whose prompts are classes: Stable Diffusion 1.5, 2.1, XL and their kin behind the calls of a
class-conditioned DDPM, so that the same training, drawing and judging serve both.

    prompted = PromptedPipeline(StableDiffusionPipeline.from_pretrained(…), {0: "mild", 1: "severe"}, prompts)
    prompted([0, 0, 1], generator=generators, output_type="pt").images
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class PromptedUnet(nn.Module):
    """A text-conditioned U-Net seen as a class-conditioned one.

    Args:
        unet: `UNet2DConditionModel`.
        embeddings: (classes + 1, tokens, width), the prompts' and last the empty prompt's.
        pooled: (classes + 1, width) for a network of the XL kind, which is also told the picture's side in pixels.
        side: of pictures, in pixels.
    """

    embeddings: torch.Tensor
    pooled: torch.Tensor | None

    def __init__(self, unet: Any, embeddings: torch.Tensor, pooled: torch.Tensor | None, side: int):
        super().__init__()
        self.unet, self.side = unet, side
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("pooled", pooled, persistent=False)

    @property
    def config(self) -> Any:
        """The network's own: `sample_size` and `in_channels` are those of latents."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return self.unet.dtype  # type: ignore[no-any-return]

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        """The network's output for latents (b, c, h, w), timesteps (b,) and labels (b,); `classes` is the null one."""
        words = self.embeddings[class_labels].to(self.dtype)
        return self.unet(sample.to(self.dtype), timestep, words, added_cond_kwargs=self.conditions(class_labels))

    def conditions(self, labels: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """What a network of the XL kind gets besides: pooled prompts; sizes before, cut and after, all the same."""
        if self.pooled is None:
            return None
        sizes = torch.tensor([self.side, self.side, 0, 0, self.side, self.side], device=labels.device)
        return {
            "text_embeds": self.pooled[labels].to(self.dtype),
            "time_ids": sizes.to(self.dtype).expand(len(labels), -1),
        }


class PromptedPipeline:
    """A text-to-image pipeline of diffusers that is asked for classes.

    Args:
        pipe: `StableDiffusionPipeline`, `StableDiffusionXLPipeline` or one that takes the same arguments.
        id2label: class number to name.
        prompts: class number to prompt.
        guidance_scale: of its pictures, 1 is without guidance (MAGIC: 5).
    """

    def __init__(
        self, pipe: Any, id2label: Mapping[int, str], prompts: Mapping[int, str], guidance_scale: float = 5.0
    ):
        self.pipe, self.id2label, self.prompts = pipe, dict(id2label), dict(prompts)
        self.guidance_scale = guidance_scale
        self.side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.unet = PromptedUnet(pipe.unet, *self.embed(), self.side)

    @property
    def num_classes(self) -> int:
        """Classes, the empty prompt not counted."""
        return len(self.id2label)

    @property
    def scheduler(self) -> Any:
        """The noise schedule that the model was trained with, or the sampler that took its place."""
        return self.pipe.scheduler

    @property
    def components(self) -> dict[str, Any]:
        """The parts of the text-to-image pipeline by name."""
        return self.pipe.components  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.pipe.device  # type: ignore[no-any-return]

    def to(self, device: Any) -> PromptedPipeline:
        """Move all networks and the embedded prompts."""
        self.pipe.to(device)
        self.unet.to(device)
        return self

    def set_progress_bar_config(self, **settings: Any) -> None:
        """As that of every pipeline of diffusers."""
        self.pipe.set_progress_bar_config(**settings)

    @torch.no_grad()
    def embed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The prompts and the empty one as the network takes them: (classes + 1, tokens, width), pooled or None."""
        words = [*(self.prompts[number] for number in sorted(self.id2label)), ""]
        found = self.pipe.encode_prompt(
            prompt=words, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return found[0], found[2] if len(found) > 2 else None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (n, c, h, w) of pictures (n, 3, side, side) in [-1, 1]: the means of the autoencoder's, scaled."""
        vae = self.pipe.vae
        means = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (means - shift) * vae.config.scaling_factor  # type: ignore[no-any-return]

    def __call__(self, labels: list[int], **settings: Any) -> Any:
        """Pictures of the classes `labels`; the rest as the text-to-image pipeline takes it."""
        settings = {"guidance_scale": self.guidance_scale} | settings
        return self.pipe(prompt=[self.prompts[label] for label in labels], **settings)
