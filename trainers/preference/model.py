"""What preference training asks of a model, of a DDPM on pixels as of a text-to-image model on latents.

Samples are what the network is trained on: encoded images, or latents.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from tqdm.auto import tqdm

from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.models.weights import hash_weights
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.latents import scale_images

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Pipeline = ClassConditionedDDPMPipeline | PromptedPipeline
"""A model that is trained on preferences."""


def is_prompted(pipeline: Pipeline) -> TypeIs[PromptedPipeline]:
    """Whether this is a text-to-image model, which works on latents, and not one on pixels."""
    return isinstance(pipeline, PromptedPipeline)


def network_of(pipeline: Pipeline) -> Any:
    """The network as diffusers knows it, within that of a text-to-image pipeline the U-Net."""
    return pipeline.unet.unet if is_prompted(pipeline) else pipeline.unet


def to_device(pipeline: Pipeline, device: torch.device, half: bool) -> None:
    """Move a pipeline, and have it make no more of its memory than it needs.

    With `half` the frozen weights of a text-to-image model become bfloat16; its adapter's stay float32.
    """
    if is_prompted(pipeline):
        pipeline.pipe.vae.enable_slicing()  # one image at a time
        if half:
            to_half(pipeline)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)


def to_half(pipeline: PromptedPipeline) -> None:
    """Make all weights of a text-to-image pipeline bfloat16 but those of adapters."""
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            for name, tensor in (*part.named_parameters(), *part.named_buffers()):
                if ".lora_" not in name and tensor.is_floating_point():
                    tensor.data = tensor.data.to(torch.bfloat16)


@torch.no_grad()
def to_samples(pipeline: Pipeline, images: torch.Tensor, device: torch.device, batch_size: int) -> torch.Tensor:
    """Images, uint8 (n, c, side, side), as the network is trained on them, float32 on `device`: what `TrainingStream`
    takes as it is. Made here once, of `batch_size` images at a time."""
    parts = tqdm(images.split(batch_size), desc="latents", leave=False, disable=not is_prompted(pipeline))
    return torch.cat([pipeline.encode(scale_images(part)).to(device, torch.float32) for part in parts])


@torch.no_grad()
def to_images(pipeline: Pipeline, samples: torch.Tensor) -> torch.Tensor:
    """Images (n, c, side, side) in [0, 1] of samples (n, c, h, w)."""
    return (pipeline.decode(samples) / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]


def with_scheduler(pipeline: Pipeline, scheduler: Any) -> Any:
    """The same networks behind another sampler."""
    changed = copy.copy(pipeline)
    if is_prompted(pipeline):
        changed.pipe = copy.copy(pipeline.pipe)
        changed.pipe.scheduler = scheduler
    else:
        changed.scheduler = scheduler
    return changed


def describe_model(pipeline: Pipeline) -> dict[str, Any]:
    """What an image depends on besides sampler and seed, as generation.json has it."""
    if not is_prompted(pipeline):
        return {"weights_sha256": hash_weights(pipeline.unet)}
    weights: Any = pipeline  # those of its adapter, and its learned words
    return {
        "weights_sha256": hash_weights(weights),
        "guidance_scale": pipeline.guidance_scale,
        **pipeline.origin(),
    }


def on_path(pipeline: Pipeline, unet: nn.Module) -> nn.Module:
    """`unet`, the pipeline's own or its reference, as the steps of a sampler's path see it: with guidance, if any."""
    if not is_prompted(pipeline) or pipeline.guidance_scale == 1:
        return unet
    return Guided(unet, pipeline.num_classes, pipeline.guidance_scale)


class Guided(nn.Module):
    """A class-conditioned network under classifier-free guidance (Ho & Salimans 2022): u + s (c − u).

    Args:
        unet: the network.
        null: number of the null class, whose prediction is u.
        scale: s.
    """

    def __init__(self, unet: nn.Module, null: int, scale: float):
        super().__init__()
        self.unet, self.null, self.scale = unet, null, scale

    @property
    def config(self) -> Any:
        """The network's own."""
        return self.unet.config

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> UNet2DOutput:
        """The guided prediction, in one call of the network on twice the batch."""
        both = torch.cat([class_labels, torch.full_like(class_labels, self.null)])
        prediction = self.unet(torch.cat([sample] * 2), torch.cat([timestep] * 2), class_labels=both).sample
        conditional, unconditional = prediction.chunk(2)
        return UNet2DOutput(sample=unconditional + self.scale * (conditional - unconditional))


TRAINED, REFERENCE = "default", "reference"


def prepare_adapter(pipeline: Pipeline, rank: int, seed: int) -> bool:
    """Whether an adapter is trained: a text-to-image model's own, or one of `rank` that a DDPM gets here, 0 for none.

    If so all else is frozen, and the adapter as it is now is kept beside it as the reference.
    """
    if not is_prompted(pipeline):
        if not rank:
            return False
        torch.manual_seed(derive_seed(seed, 17))
        add_adapter(pipeline.unet, rank)
    add_reference(network_of(pipeline))
    return True


def adapter_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of a network that adapters are in, by name."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer))


def add_adapter(network: nn.Module, rank: int) -> None:
    """A new adapter in all linear layers and convolutions; until it is trained it changes nothing (Hu et al. 2021)."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    exactly = "|".join(map(re.escape, names))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly), network, TRAINED)


def add_reference(network: Any) -> None:
    """Freeze all but the trained adapter, and keep what that one is now as the adapter `reference`."""
    config = replace(network.peft_config[TRAINED], lora_dropout=0.0)
    known = get_peft_model_state_dict(network, adapter_name=TRAINED)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that this is a second adapter
        inject_adapter_in_model(config, network, REFERENCE)
    for name, parameter in network.named_parameters():
        if f".{REFERENCE}." in name:  # made in the precision of frozen weights, and what it is to hold may be finer
            parameter.data = parameter.data.float()
    set_peft_model_state_dict(network, known, adapter_name=REFERENCE)
    network.requires_grad_(False)
    switch([layer for _, layer in adapter_layers(network)], TRAINED)


def switch(layers: list[Any], name: str) -> None:
    """Make the adapter `name` the one that computes; gradients flow into the trained one alone."""
    for layer in layers:
        layer.set_adapter(name, inference_mode=name != TRAINED)


class FrozenAdapter(nn.Module):
    """A network as it was before training, behind the same call, without gradient.

    Args:
        unet: the network that is called, which holds both adapters.
    """

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet
        self.layers = [layer for _, layer in adapter_layers(unet)]

    @property
    def config(self) -> Any:
        """The network's own."""
        return self.unet.config

    @torch.no_grad()
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        """The network's output with the first-stage adapter."""
        switch(self.layers, REFERENCE)
        try:
            return self.unet(sample, timestep, class_labels=class_labels)
        finally:
            switch(self.layers, TRAINED)


def merged(network: Any) -> Any:
    """A plain network that computes what this one does with its trained adapter."""
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in adapter_layers(network):
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(TRAINED)
    # diffusers takes what a network was given by position for its class's defaults, and would leave it out
    config = {name: value for name, value in network.config.items() if name != "_use_default_values"}
    plain = type(network).from_config(config)
    plain.load_state_dict(weights)
    return plain


class SavedMerged:
    """Saves a class-conditioned pipeline whose network has adapters as one of a plain network."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline

    def save_pretrained(self, folder: Path) -> None:
        """Write the pipeline's folder."""
        pipeline = self.pipeline
        whole = copy.copy(pipeline)
        whole.unet = merged(pipeline.unet)
        whole.save_pretrained(folder)
