"""The base model of a text-to-image LoRA: Stable Diffusion 1.5, 2.1 and XL, from a folder or the Hub.

Weights are safetensors alone and no code of the repository is run. The safety checker stays out: it was made to look
for nudity, and blackens medical images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save_file

from clinsynth.models.weights import explained_where_unloadable
from clinsynth.run_folder import read_json

STABLE_DIFFUSION, STABLE_DIFFUSION_XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
KNOWN = STABLE_DIFFUSION, STABLE_DIFFUSION_XL
NETWORKS = "unet", "vae", "text_encoder", "text_encoder_2"
LEFT_OUT = {"feature_extractor": None, "image_encoder": None}
BASES = "a folder or Hub id of Stable Diffusion 1.5, 2.1 or XL"


def open_base(model: str, revision: str | None = None, dtype: str = "float32", side: int | None = None) -> Any:
    """The text-to-image pipeline of a base model, its scheduler the noise schedule it was trained with.

    Args:
        model: folder or Hub id.
        revision: commit, branch or tag on the Hub.
        dtype: name of the torch type of all networks.
        side: of its images in pixels; default: its own.

    Raises:
        ValueError: it is not there, not of the known kinds, has no safetensors, or cannot draw images of `side`.
    """
    diffusers.utils.logging.disable_progress_bar()  # of loading, where each network has one
    transformers.utils.logging.disable_progress_bar()
    folder = find_base(model, revision)
    name = check_base(model, folder)
    checker = {"safety_checker": None, "requires_safety_checker": False}
    extra = checker if name == STABLE_DIFFUSION else {"add_watermarker": False}
    with explained_where_unloadable("--model", model, "copy it anew"):
        pipe = getattr(diffusers, name).from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, **LEFT_OUT, **extra
        )
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise ValueError(
            f"--model {model} has a network of {pipe.unet.config.in_channels} input channels, so it fills in parts of "
            f"given images; give {BASES}"
        )
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if side is not None:
        draw_side(model, pipe, side)
    return pipe


def find_base(model: str, revision: str | None = None) -> Path:
    """The folder of a base model; one on the Hub is downloaded, without weights in other forms than safetensors."""
    if not model or Path(model).is_dir():
        return Path(model)
    try:
        found = diffusers.DiffusionPipeline.download(
            model, revision=revision, use_safetensors=True, safety_checker=None, **LEFT_OUT
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        at = f" at --revision {revision}" if revision else ""
        raise ValueError(
            f"--model {model}{at} is neither a folder nor a text-to-image repository in reach: {error}"
        ) from error
    return Path(found)


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the Hub's cache holds; None of another folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def check_base(model: str, folder: Path) -> str:
    """The name of the pipeline's class.

    Raises:
        ValueError: it is no text-to-image pipeline of a known kind, brings code, or lacks safetensors.
    """
    if (folder / "text_to_image.json").exists():
        raise ValueError(f"--model {model} is itself a LoRA on a base model; give {BASES}")
    index = read_json(folder / "model_index.json")
    if not index:
        raise ValueError(f"--model {model} holds no text-to-image pipeline (no model_index.json); give {BASES}")
    name = index.get("_class_name")
    if name not in KNOWN:
        raise ValueError(f"--model {model} is a {name}, not one of {', '.join(KNOWN)}; give {BASES}")
    for part, value in index.items():
        if isinstance(value, list) and part not in ("safety_checker", *LEFT_OUT):
            if value[0] not in ("diffusers", "transformers"):
                raise ValueError(f"--model {model} brings code of its own for {part}, which is not run; give {BASES}")
    for part in NETWORKS:
        if part in index and not list((folder / part).glob("*.safetensors")):
            raise ValueError(
                f"--model {model} has no .safetensors in {part}, and .bin files are refused since they can run code; "
                "give a copy with safetensors, such as the one that `pipe.save_pretrained(folder)` writes"
            )
    return str(name)


def draw_side(model: str, pipe: Any, side: int) -> None:
    """Have a pipeline draw images of `side` pixels unless told otherwise."""
    factor = pipe.vae_scale_factor
    least = factor * 2 ** (len(pipe.unet.config.down_block_types) - 1)
    if side < least or side % least:
        raise ValueError(f"--resolution must be a multiple of {least} for --model {model}, got {side}")
    pipe.unet.register_to_config(sample_size=side // factor)
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = side // factor


def image_to_image(pipe: Any) -> Any:
    """The image-to-image pipeline of the same networks and scheduler."""
    size = pipe.unet.config.sample_size
    if type(pipe).__name__ == STABLE_DIFFUSION:
        found: Any = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    else:
        zeros = pipe.config.force_zeros_for_empty_prompt
        found = diffusers.StableDiffusionXLImg2ImgPipeline(
            **pipe.components, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
    pipe.unet.register_to_config(sample_size=size)  # which the pipelines of old networks set to 64
    return found


ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
"""Components by the names that files of textual inversion usually have for them."""


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
    from peft.utils import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    return found


def add_inversion(pipe: Any, tokens: list[str], rows: Mapping[str, torch.Tensor]) -> None:
    """Add the tokens of textual inversion to the tokenizers, and their embeddings (tokens, width) to the encoders."""
    for key, (encoder, tokenizer) in ENCODERS.items():
        if key in rows:
            parts = {"text_encoder": pipe.components[encoder], "tokenizer": pipe.components[tokenizer]}
            pipe.load_textual_inversion(rows[key], token=list(tokens), **parts)


def read_inversion(pipe: Any, tokens: list[str]) -> dict[str, torch.Tensor]:
    """The embeddings of these tokens: the inverse of `add_inversion`."""
    found = {}
    for key, (encoder, tokenizer) in ENCODERS.items():
        if encoder in pipe.components:
            numbers = pipe.components[tokenizer].convert_tokens_to_ids(list(tokens))
            found[key] = pipe.components[encoder].get_input_embeddings().weight[numbers]
    return found


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A .safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
