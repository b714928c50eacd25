"""The parts of a text-to-image LoRA's training: base model and prompts, the adapter, and what a step changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.models.text_to_image_base import commit_of, find_base, open_base
from clinsynth.models.text_to_image_weights import freeze, set_trainable
from clinsynth.seeds import derive_seed
from clinsynth.trainers.text_to_image.text_to_image_prompts import check_lengths, class_prompts, learned_words
from clinsynth.trainers.text_to_image.text_to_image_words import LearnedWords, begin_words
from clinsynth.trainers.training_state import LoraState

if TYPE_CHECKING:
    from clinsynth.trainers.train_text_to_image_lora import TextToImageLoraArguments

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def open_base_of(args: TextToImageLoraArguments) -> tuple[Any, dict[str, Any]]:
    """The base pipeline of --model, frozen, and what text_to_image.json says of it."""
    pipe = open_base(args.model, args.revision, side=args.resolution)
    freeze(pipe)
    local = Path(args.model).is_dir()
    commit = None if local else commit_of(find_base(args.model, args.revision))
    facts = {
        "base": str(Path(args.model).resolve()) if local else args.model,
        "revision": commit or args.revision,
        "base_class": type(pipe).__name__,
        "prediction_type": pipe.scheduler.config["prediction_type"],
        "rank": args.rank,
        "target_modules": target_modules(args),
    }
    return pipe, facts


def build_prompted(
    args: TextToImageLoraArguments, pipe: Any, facts: dict[str, Any], names: list[str]
) -> PromptedPipeline:
    """The base model behind the classes `names`; with --textual_inversion_steps their words are in it.

    Raises:
        ValueError: prompts that cannot be, or too long.
    """
    words = learned_words(names) if args.textual_inversion_steps else None
    prompts = class_prompts(args.prompt_template, args.prompts, names, words)
    if words:
        begin_words(pipe, words, names)
        freeze(pipe)  # enlarged embeddings are new
    check_lengths(pipe, prompts, names)
    facts = {**facts, "tokens": words}
    return PromptedPipeline(pipe, dict(enumerate(names)), prompts, args.guidance_scale, facts)


def compute_in(prompted: PromptedPipeline, precision: str) -> None:
    """Have the frozen networks in the type of mixed precision: half the memory."""
    if precision in TYPES:
        prompted.pipe.to(TYPES[precision])


def words_of(prompted: PromptedPipeline) -> LearnedWords:
    """The learned words of a pipeline that `build_prompted` made, to be trained."""
    return LearnedWords(prompted, prompted.facts["tokens"])


def add_lora(args: TextToImageLoraArguments, prompted: PromptedPipeline) -> None:
    """Give the U-Net the adapter "default", which alone has gradients, in float32; it changes nothing yet.

    Raises:
        ValueError: the network has no layers of these names.
    """
    from peft import LoraConfig

    unet = prompted.pipe.unet
    torch.manual_seed(derive_seed(args.seed, 2))
    config = LoraConfig(
        r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=target_modules(args)
    )
    try:
        unet.add_adapter(config, adapter_name="default")
    except ValueError as error:
        raise ValueError(
            f"--target_modules {args.target_modules}: {error}; to_q,to_k,to_v,to_out.0 is usual"
        ) from error
    set_trainable(unet)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()


def target_modules(args: TextToImageLoraArguments) -> list[str]:
    """The layers' names of --target_modules."""
    return [name.strip() for name in args.target_modules.split(",")]


def build_state(
    args: TextToImageLoraArguments, model: Any, learning_rate: float, steps: int, accelerator: Accelerator
) -> LoraState:
    """The state of what has gradients in `model`, before the first step."""
    model.to(accelerator.device).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=args.weight_decay)
    schedule = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=steps
    )
    ema = EMAModel(trained, decay=args.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    return LoraState(model, ema, optimizer, schedule, accelerator.scaler)
