"""Real text-to-image pipelines of tiny size with random weights: everything of Stable Diffusion but its knowledge."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as Unet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH = 16
"""Of text embeddings and attention."""


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with one token for each printable character, alone or at a word's end."""
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=32)


def tiny_text_encoder(kind: type = CLIPTextModel) -> Any:
    """Two layers; the vocabulary and the end token are those of `tiny_tokenizer`."""
    tokens = len(tiny_tokenizer())
    return kind(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    ).eval()


def tiny_vae() -> AutoencoderKL:
    """Pictures are twice as wide and high as their latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    ).eval()


def tiny_unet(**changes: Any) -> Unet:
    """Latents of 16 x 16, so pictures of 32 x 32."""
    settings: dict[str, Any] = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "cross_attention_dim": WIDTH,
    }
    return Unet(**settings | changes).eval()


def tiny_stable_diffusion(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A `StableDiffusionPipeline` as 1.5 (epsilon) or 2.1 (v_prediction) has it, saved in `folder`."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=tiny_unet(),
        scheduler=tiny_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def tiny_stable_diffusion_xl(folder: Path) -> Path:
    """A `StableDiffusionXLPipeline`: two text encoders, and a network that is also told the sizes of the picture."""
    torch.manual_seed(0)
    times = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        text_encoder_2=tiny_text_encoder(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=tiny_unet(cross_attention_dim=2 * WIDTH, projection_class_embeddings_input_dim=WIDTH + 6 * 4, **times),
        scheduler=tiny_scheduler("epsilon"),
    )
    pipe.save_pretrained(folder)
    return folder


def tiny_scheduler(prediction_type: str) -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )
