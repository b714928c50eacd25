"""A text-to-image model whose prompts are classes: Stable Diffusion 1.5, 2.1, XL and their kin behind the calls of a
class-conditioned DDPM, so that the same training, drawing and judging serve both.

    prompted = PromptedPipeline(StableDiffusionPipeline.from_pretrained(…), {0: "mild", 1: "severe"}, prompts)
    prompted([0, 0, 1], generator=generators, output_type="pt").images

A run of `clinsynth train text-to-image-lora` is a folder of:

    pytorch_lora_weights.safetensors   the U-Net's LoRA, as diffusers' `load_lora_weights` takes it
    learned_embeds.safetensors         textual inversion: `clip_l`, and `clip_g` of a second encoder, (classes, width)
    text_to_image.json                 base model and revision, classes, prompts, and what else it takes to repeat
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import _collate_lora_metadata
from safetensors.torch import load_file
from torch import nn

from clinsynth.models.text_to_image_base import (
    add_inversion,
    cast_lora,
    freeze,
    image_to_image,
    lora_weights,
    open_base,
    read_inversion,
    write_tensors,
)
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.run_folder import atomic_write, read_json

LORA, INVERSION, FACTS = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors", "text_to_image.json"
Embedded = tuple[torch.Tensor, torch.Tensor | None]
"""Prompts as the network takes them: (classes + 1, tokens, width), and pooled (classes + 1, width) or None."""


class PromptedUnet(nn.Module):
    """A text-conditioned U-Net seen as a class-conditioned one.

    Args:
        unet: `UNet2DConditionModel`.
        embeddings: (classes + 1, tokens, width), the prompts' and last the empty prompt's.
        pooled: (classes + 1, width) for a network of the XL kind, which is also told the image's side in pixels.
        side: of images, in pixels.
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

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor,
        embedded: Embedded | None = None,
    ) -> Any:
        """The network's output for latents (b, c, h, w), timesteps (b,) and labels (b,); `classes` is the null one.

        `embedded` takes the place of the prompts' own, as while textual inversion is trained.
        """
        embeddings, pooled = (self.embeddings, self.pooled) if embedded is None else embedded
        prompts = embeddings[class_labels].to(self.dtype)
        conditions = self.conditions(class_labels, pooled)
        return self.unet(sample.to(self.dtype), timestep, prompts, added_cond_kwargs=conditions)

    def conditions(self, labels: torch.Tensor, pooled: torch.Tensor | None) -> dict[str, torch.Tensor] | None:
        """What a network of the XL kind gets besides: pooled prompts; sizes before, cut and after, all the same."""
        if pooled is None:
            return None
        sizes = torch.tensor([self.side, self.side, 0, 0, self.side, self.side], device=labels.device)
        return {
            "text_embeds": pooled[labels].to(self.dtype),
            "time_ids": sizes.to(self.dtype).expand(len(labels), -1),
        }


class PromptedPipeline:
    """A text-to-image pipeline of diffusers that is asked for classes.

    Args:
        pipe: `StableDiffusionPipeline`, `StableDiffusionXLPipeline` or one that takes the same arguments.
        id2label: class number to name.
        prompts: class number to prompt.
        guidance_scale: of its images, 1 is without guidance (MAGIC: 5).
        facts: what `save_pretrained` writes of the base model and the LoRA.
    """

    def __init__(
        self,
        pipe: Any,
        id2label: Mapping[int, str],
        prompts: Mapping[int, str],
        guidance_scale: float = 5.0,
        facts: Mapping[str, Any] | None = None,
    ):
        self.pipe, self.id2label, self.prompts = pipe, dict(id2label), dict(prompts)
        self.guidance_scale, self.facts = guidance_scale, dict(facts or {})
        self.progress: dict[str, Any] = {}
        self.side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        embeddings, pooled = self.embed()
        self.unet = PromptedUnet(pipe.unet, embeddings, pooled, self.side)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels of its images."""
        return 3, self.side, self.side

    @property
    def num_classes(self) -> int:
        """Classes, the empty prompt not counted."""
        return len(self.id2label)

    label_ids = ClassConditionedDDPMPipeline.label_ids

    @property
    def scheduler(self) -> Any:
        """The noise schedule that the model was trained with, or the sampler that took its place."""
        return self.pipe.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.pipe.scheduler = scheduler

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
        self.progress = settings
        self.pipe.set_progress_bar_config(**settings)

    @torch.no_grad()
    def embed(self) -> Embedded:
        """The prompts and the empty one as the network takes them: (classes + 1, tokens, width), pooled or None."""
        return self.embed_prompts()

    def embed_prompts(self) -> Embedded:
        """`embed` with gradients; the empty prompt is what guidance takes for it, which of XL is all zeros."""
        prompts = [self.prompts[number] for number in sorted(self.id2label)]
        found = self.pipe.encode_prompt(
            prompt=prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        embeddings = torch.cat([found[0], found[1][:1]])
        return embeddings, torch.cat([found[2], found[3][:1]]) if len(found) > 2 else None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (n, c, h, w) of images (n, 3, side, side) in [-1, 1]: the means of the autoencoder's, scaled."""
        vae = self.pipe.vae
        means = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (means - shift) * vae.config.scaling_factor  # type: ignore[no-any-return]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`, about [-1, 1]."""
        vae = self.pipe.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        means = latents / vae.config.scaling_factor + shift
        return vae.decode(means.to(vae.device, vae.dtype)).sample.float()  # type: ignore[no-any-return]

    def __call__(self, labels: list[int], **settings: Any) -> Any:
        """Images of the classes `labels`; the rest as the text-to-image pipeline takes it.

        With `image` (n, 3, side, side) in [-1, 1] and `strength` as the image-to-image pipeline takes it.

        Raises:
            ValueError: a strength that leaves no step.
        """
        prompts = [self.prompts[label] for label in labels]
        settings = {"prompt": prompts, "guidance_scale": self.guidance_scale, **settings}
        image, strength = settings.pop("image", None), settings.pop("strength", 1.0)
        if image is None or strength == 1:  # at which nothing of the image is to be left
            return self.pipe(height=self.side, width=self.side, **settings)
        steps = settings.get("num_inference_steps", 50)
        if int(steps * strength) < 1:
            raise ValueError(
                f"--strength {strength} of --num_inference_steps {steps} is less than one step; raise one of them"
            )
        changing = image_to_image(self.pipe)
        changing.set_progress_bar_config(**self.progress)
        return changing(image=(image + 1) / 2, strength=strength, **settings)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that a run folder's .safetensors hold, by the names there."""
        learned = read_inversion(self.pipe, self.facts["tokens"]) if self.facts.get("tokens") else {}
        return learned | {f"unet.{name}": tensor for name, tensor in lora_weights(self.pipe.unet).items()}

    def origin(self) -> dict[str, Any]:
        """What generation.json says of it."""
        return {
            "network": self.facts["base_class"],
            "base_model": self.facts["base"],
            "base_revision": self.facts["revision"],
            "prompts": {self.id2label[number]: prompt for number, prompt in self.prompts.items()},
            "resolution": self.side,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write LoRA, textual inversion and facts into `folder`, not the base model."""
        save_text_to_image(self, Path(folder), self.facts)


def save_text_to_image(prompted: PromptedPipeline, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a run folder's files; the one that makes it loadable comes last.

    Args:
        prompted: its network has the adapter "default".
        facts: `base`, `revision`, `tokens` (of textual inversion, in the order of the classes, or none) and more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe = prompted.pipe
    if facts.get("tokens"):
        write_tensors(folder / INVERSION, read_inversion(pipe, facts["tokens"]))
    pipe.save_lora_weights(folder, lora_weights(pipe.unet), **_collate_lora_metadata({"unet": pipe.unet}))
    known = {
        "id2label": {str(number): name for number, name in prompted.id2label.items()},
        "prompts": {str(number): prompt for number, prompt in prompted.prompts.items()},
        "guidance_scale": prompted.guidance_scale,
        "resolution": prompted.side,
    }
    atomic_write(folder / FACTS, json.dumps({**facts, **known}, indent=2, ensure_ascii=False) + "\n")


def load_text_to_image(folder: str | Path, dtype: str = "float32") -> PromptedPipeline:
    """The pipeline of a run folder, its base model and the LoRA, which is the adapter "default".

    Args:
        dtype: name of the torch type that the networks compute in.

    Raises:
        ValueError: the folder is none of `train text-to-image-lora`, or its base model is not in reach.
    """
    folder = Path(folder)
    facts = read_json(folder / FACTS)
    if not facts:
        raise ValueError(f"{folder} holds no finished text-to-image LoRA (no {FACTS}); finish its training run")
    pipe = open_base(facts["base"], facts.get("revision"), dtype, facts["resolution"])
    if facts.get("tokens"):
        add_inversion(pipe, facts["tokens"], load_file(folder / INVERSION))
    pipe.load_lora_weights(folder, weight_name=LORA, adapter_name="default", use_safetensors=True)
    cast_lora(pipe.unet, getattr(torch, dtype))
    freeze(pipe)
    names = {int(number): name for number, name in facts["id2label"].items()}
    prompts = {int(number): prompt for number, prompt in facts["prompts"].items()}
    return PromptedPipeline(pipe, names, prompts, facts["guidance_scale"], facts)
