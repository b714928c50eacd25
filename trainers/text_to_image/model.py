"""The parts of a text-to-image LoRA's training: base model and prompts, the adapter, and what a step changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from clinsynth.models.text_to_image import WORDS, PromptedPipeline
from clinsynth.models.text_to_image_base import (
    ENCODERS,
    add_words,
    commit_of,
    find_base,
    freeze,
    open_base,
    set_trainable,
    write_tensors,
)
from clinsynth.seeds import derive_seed
from clinsynth.trainers.text_to_image.arguments import PromptedArguments
from clinsynth.trainers.training_state import LoraState

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def open_base_of(args: PromptedArguments) -> tuple[Any, dict[str, Any]]:
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


def build_prompted(args: PromptedArguments, pipe: Any, facts: dict[str, Any], names: list[str]) -> PromptedPipeline:
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


def add_lora(args: PromptedArguments, prompted: PromptedPipeline) -> None:
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


def target_modules(args: PromptedArguments) -> list[str]:
    """The layers' names of --target_modules."""
    return [name.strip() for name in args.target_modules.split(",")]


def build_state(
    args: PromptedArguments, model: Any, learning_rate: float, steps: int, accelerator: Accelerator
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


class RowsBehind(nn.Module):
    """An embedding whose last rows, from number `first` on, are the trained `rows` (words, width)."""

    def __init__(self, embedding: nn.Embedding, first: int, rows: nn.Parameter):
        super().__init__()
        self.embedding, self.first, self.rows = embedding, first, rows

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        known = self.embedding(numbers)
        learned = self.rows[(numbers - self.first).clamp(min=0)].to(known.dtype)
        return torch.where((numbers >= self.first)[..., None], learned, known)


class LearnedWords(nn.Module):
    """The U-Net behind prompts with learned words: only their embeddings have gradients.

    Args:
        prompted: its tokenizers and text encoders know the words already; its networks are frozen.
        tokens: the words, the last of each vocabulary.
    """

    def __init__(self, prompted: PromptedPipeline, tokens: list[str]):
        super().__init__()
        self.prompted, self.unet = prompted, prompted.unet
        self.rows = nn.ParameterDict()
        for key, (encoder, tokenizer) in ENCODERS.items():
            if encoder in prompted.components:
                first = prompted.components[tokenizer].convert_tokens_to_ids(tokens[0])
                embedding = prompted.components[encoder].get_input_embeddings()
                self.rows[key] = nn.Parameter(embedding.weight[first : first + len(tokens)].detach().float().clone())
                prompted.components[encoder].set_input_embeddings(RowsBehind(embedding, first, self.rows[key]))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        """As `PromptedUnet`, its prompts embedded anew."""
        return self.unet(sample, timestep, class_labels, embedded=self.prompted.embed_words())

    def save_pretrained(self, folder: Path) -> None:
        """Write the words as they are now."""
        write_tensors(folder / WORDS, dict(self.rows))

    @torch.no_grad()
    def settle(self) -> None:
        """Put the words as they are now into the text encoders for good, and embed the prompts with them."""
        for key, rows in self.rows.items():
            encoder = self.prompted.components[ENCODERS[key][0]]
            part = encoder.get_input_embeddings()
            part.embedding.weight[part.first : part.first + len(rows)] = rows.to(part.embedding.weight.dtype)
            encoder.set_input_embeddings(part.embedding)
        self.unet.embeddings, self.unet.pooled = self.prompted.embed()


def begin_words(pipe: Any, tokens: list[str], names: list[str]) -> None:
    """Add a word for each class, which at first means what the class's name does: the mean of its tokens."""
    rows = {}
    for key, (encoder, tokenizer) in ENCODERS.items():
        if encoder in pipe.components:
            weight = pipe.components[encoder].get_input_embeddings().weight.detach()
            found = [pipe.components[tokenizer](name, add_special_tokens=False).input_ids for name in names]
            rows[key] = torch.stack([weight[numbers].mean(dim=0) for numbers in found])
    add_words(pipe, tokens, rows)


LABEL = "{label}"
"""Stands in a prompt for the class's name, or for its learned word."""


def class_prompts(template: str, own: str | None, names: list[str], words: list[str] | None = None) -> dict[int, str]:
    """Class number to prompt.

    Args:
        template: for the classes that `own` does not name.
        own: the value of --prompts, LABEL=PROMPT,LABEL=PROMPT or a YAML file of LABEL: PROMPT.
        names: of the classes.
        words: what stands for them instead, where words are learned.

    Raises:
        ValueError: an unknown class, an empty prompt, one without a place for the learned word, two alike.
    """
    if LABEL not in template:
        raise ValueError(f"--prompt_template must hold {LABEL}, got {template!r}; write 'a picture of {LABEL}'")
    given = parse_prompts(own, names) if own else {}
    prompts = {}
    for number, name in enumerate(names):
        prompt = given.get(name, template)
        if words and LABEL not in prompt:
            raise ValueError(
                f"--prompts: the prompt of {name} must hold {LABEL}, where --textual_inversion_steps puts the learned "
                f"word, got {prompt!r}"
            )
        prompts[number] = prompt.replace(LABEL, words[number] if words else name)
    check_different(prompts, names)
    return prompts


def parse_prompts(text: str, names: list[str]) -> dict[str, str]:
    """Class name to prompt; a comma within a prompt is part of it, unless a class name and = follow."""
    if text.endswith((".yaml", ".yml")):
        return read_prompts(Path(text), names)
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = re.split(rf"(?:^|,)\s*({known})\s*=", text)
    found = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    strange = [part for part in (parts[0], *found.values()) if "=" in part]
    if strange or not found:
        raise ValueError(
            f"--prompts: {(strange or [text])[0]!r} is not LABEL=PROMPT of a class; the classes are "
            f"{', '.join(names)}; prompts that hold a = go into a YAML file"
        )
    return check_prompts(found, names)


def read_prompts(path: Path, names: list[str]) -> dict[str, str]:
    """The YAML file of --prompts."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--prompts {path} cannot be read ({error}); give a YAML file of LABEL: PROMPT") from error
    if not isinstance(found, dict) or not all(isinstance(prompt, str) for prompt in found.values()):
        raise ValueError(f"--prompts {path} must be a YAML file of LABEL: PROMPT, each prompt a text")
    return check_prompts({str(name): prompt.strip() for name, prompt in found.items()}, names)


def check_prompts(found: dict[str, str], names: list[str]) -> dict[str, str]:
    """The prompts themselves, all of known classes and none empty."""
    for name, prompt in found.items():
        if name not in names:
            raise ValueError(f"--prompts names the class {name!r}; the classes are {', '.join(names)}")
        if not prompt:
            raise ValueError(f"--prompts: the prompt of {name} is empty; say what its pictures show")
    return found


def check_different(prompts: dict[int, str], names: list[str]) -> None:
    """Raise a `ValueError` where two classes have the same prompt, which no model could tell apart."""
    first: dict[str, int] = {}
    for number, prompt in prompts.items():
        if prompt in first:
            raise ValueError(
                f"--prompts: {names[first[prompt]]} and {names[number]} have the same prompt {prompt!r}; "
                "give each its own"
            )
        first[prompt] = number


def check_lengths(pipe: Any, prompts: dict[int, str], names: list[str]) -> None:
    """Raise a `ValueError` where a prompt is longer than what a text encoder reads; the rest would be cut off."""
    for component in ("tokenizer", "tokenizer_2"):
        tokenizer = pipe.components.get(component)
        for number, prompt in prompts.items():
            if tokenizer is None:
                continue
            count, most = len(tokenizer(prompt).input_ids), tokenizer.model_max_length
            if count > most:
                raise ValueError(
                    f"the prompt of {names[number]} has {count} tokens, {count - most} more than the {most} that "
                    f"--model reads, so its end would be lost; shorten it: {prompt!r}"
                )


def learned_words(names: list[str]) -> list[str]:
    """A new word for each class: `<0-mild>`."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names]
    return [f"<{number}-{slug}>" if slug else f"<{number}>" for number, slug in enumerate(slugs)]
