"""What training changes of a text-to-image pipeline: the LoRA of its U-Net, and the embeddings of learned words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
"""Components by the names that files of learned words usually have for them."""


def freeze(pipe: Any) -> None:
    """Take all gradients off."""
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False)


def cast_lora(unet: Any, dtype: torch.dtype) -> None:
    """Have the LoRA's weights in `dtype`."""
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def set_trainable(unet: Any) -> None:
    """Give the LoRA's weights, and no others, gradients, for which they become float32."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
    cast_lora(unet, torch.float32)


def lora_weights(unet: Any) -> dict[str, torch.Tensor]:
    """The adapter "default" of a U-Net by diffusers' names."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    return found


def add_words(pipe: Any, tokens: list[str], rows: Mapping[str, torch.Tensor]) -> None:
    """Add learned words to the tokenizers, and their embeddings (words, width) to the text encoders."""
    for key, (encoder, tokenizer) in ENCODERS.items():
        if key in rows:
            parts = {"text_encoder": pipe.components[encoder], "tokenizer": pipe.components[tokenizer]}
            pipe.load_textual_inversion(rows[key], token=list(tokens), **parts)


def read_words(pipe: Any, tokens: list[str]) -> dict[str, torch.Tensor]:
    """The embeddings of learned words: the inverse of `add_words`."""
    found = {}
    for key, (encoder, tokenizer) in ENCODERS.items():
        if encoder in pipe.components:
            numbers = pipe.components[tokenizer].convert_tokens_to_ids(list(tokens))
            found[key] = pipe.components[encoder].get_input_embeddings().weight[numbers]
    return found


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A .safetensors file."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
