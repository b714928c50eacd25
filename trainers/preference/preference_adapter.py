"""LoRA adapters in preference training: the one that is trained, and the one it began as, which is the reference.

One network serves both: the reference is a second adapter, switched to for its pass and back.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from clinsynth.seeds import derive_seed
from clinsynth.trainers.preference.model import is_prompted, network_of

TRAINED, REFERENCE = "default", "reference"


def prepare_adapter(pipeline: Any, rank: int, seed: int) -> bool:
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

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline

    def save_pretrained(self, folder: Path) -> None:
        """Write the pipeline's folder."""
        pipeline = self.pipeline
        type(pipeline)(merged(pipeline.unet), pipeline.scheduler, pipeline.id2label).save_pretrained(folder)
