"""The parts of a text-to-image LoRA's training: base model and prompts, adapter and words, latents, validation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from clinsynth.data.images import ImageSplits
from clinsynth.models import text_to_image_base
from clinsynth.models.text_to_image import INVERSION, PromptedPipeline
from clinsynth.plain_yaml import read_yaml
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.latents import scale_images
from clinsynth.trainers.diffusion.process import DDPMProcess, to_fast
from clinsynth.trainers.stream import TrainingStream
from clinsynth.trainers.text_to_image.arguments import TextToImageLoraArguments
from clinsynth.trainers.validation import draw_images, save_grid

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def open_base_of(args: TextToImageLoraArguments) -> tuple[Any, dict[str, Any]]:
    """The base pipeline of --model, frozen, and what text_to_image.json says of it."""
    pipe = text_to_image_base.open_base(args.model, args.revision, side=args.resolution)
    text_to_image_base.freeze(pipe)
    local = Path(args.model).is_dir()
    commit = None if local else text_to_image_base.commit_of(text_to_image_base.find_base(args.model, args.revision))
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
    """The base model behind the classes `names`; with --textual_inversion_steps a token of each is in it.

    Raises:
        ValueError: prompts that cannot be, or too long.
    """
    tokens = class_tokens(names) if args.textual_inversion_steps else None
    prompts = class_prompts(args.prompt_template, args.prompts, names, tokens)
    if tokens:
        begin_tokens(pipe, tokens, names)
        text_to_image_base.freeze(pipe)  # enlarged embeddings are new
    check_lengths(pipe, prompts, names)
    facts = {**facts, "tokens": tokens}
    return PromptedPipeline(pipe, dict(enumerate(names)), prompts, args.guidance_scale, facts)


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
    text_to_image_base.set_trainable(unet)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()


def target_modules(args: TextToImageLoraArguments) -> list[str]:
    """The layers' names of --target_modules."""
    return [name.strip() for name in args.target_modules.split(",")]


class LearnedRows(nn.Module):
    """An embedding whose last rows, from number `first` on, are the trained `rows` (tokens, width)."""

    def __init__(self, embedding: nn.Embedding, first: int, rows: nn.Parameter):
        super().__init__()
        self.embedding, self.first, self.rows = embedding, first, rows

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        known = self.embedding(numbers)
        learned = self.rows[(numbers - self.first).clamp(min=0)].to(known.dtype)
        return torch.where((numbers >= self.first)[..., None], learned, known)


class TextualInversion(nn.Module):
    """Textual inversion (Gal et al. 2022): the U-Net behind prompts with a token of each class, whose embeddings alone
    have gradients.

    Args:
        prompted: its tokenizers and text encoders know the tokens already; its networks are frozen.
        tokens: of the classes, the last of each vocabulary.
    """

    def __init__(self, prompted: PromptedPipeline, tokens: list[str]):
        super().__init__()
        self.prompted, self.unet = prompted, prompted.unet
        self.rows = nn.ParameterDict()
        for key, (encoder, tokenizer) in text_to_image_base.ENCODERS.items():
            if encoder in prompted.components:
                first = prompted.components[tokenizer].convert_tokens_to_ids(tokens[0])
                embedding = prompted.components[encoder].get_input_embeddings()
                self.rows[key] = nn.Parameter(embedding.weight[first : first + len(tokens)].detach().float().clone())
                prompted.components[encoder].set_input_embeddings(LearnedRows(embedding, first, self.rows[key]))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> Any:
        """As `PromptedUnet`, its prompts embedded anew."""
        return self.unet(sample, timestep, class_labels, embedded=self.prompted.embed_prompts())

    def save_pretrained(self, folder: Path) -> None:
        """Write the embeddings as they are now."""
        text_to_image_base.write_tensors(folder / INVERSION, dict(self.rows))

    @torch.no_grad()
    def settle(self) -> None:
        """Put the embeddings as they are now into the text encoders for good, and embed the prompts with them."""
        for key, rows in self.rows.items():
            encoder = self.prompted.components[text_to_image_base.ENCODERS[key][0]]
            part = encoder.get_input_embeddings()
            part.embedding.weight[part.first : part.first + len(rows)] = rows.to(part.embedding.weight.dtype)
            encoder.set_input_embeddings(part.embedding)
        self.unet.embeddings, self.unet.pooled = self.prompted.embed()


def begin_tokens(pipe: Any, tokens: list[str], names: list[str]) -> None:
    """Add a token for each class, which at first means what the class's name does: the mean of its tokens."""
    rows = {}
    for key, (encoder, tokenizer) in text_to_image_base.ENCODERS.items():
        if encoder in pipe.components:
            weight = pipe.components[encoder].get_input_embeddings().weight.detach()
            found = [pipe.components[tokenizer](name, add_special_tokens=False).input_ids for name in names]
            rows[key] = torch.stack([weight[numbers].mean(dim=0) for numbers in found])
    text_to_image_base.add_inversion(pipe, tokens, rows)


LABEL = "{label}"
"""Stands in a prompt for the class's name, or for its token."""


def class_prompts(template: str, own: str | None, names: list[str], tokens: list[str] | None = None) -> dict[int, str]:
    """Class number to prompt.

    Args:
        template: for the classes that `own` does not name.
        own: the value of --prompts, LABEL=PROMPT,LABEL=PROMPT or a YAML file of LABEL: PROMPT.
        names: of the classes.
        tokens: what stands for them instead, with textual inversion.

    Raises:
        ValueError: an unknown class, an empty prompt, one without a place for the token, two alike.
    """
    if LABEL not in template:
        raise ValueError(f"--prompt_template must hold {LABEL}, got {template!r}; write 'a picture of {LABEL}'")
    given = {}
    if own:
        given = read_prompts(own) if own.endswith((".yaml", ".yml")) else parse_prompts(own, names)
    for name, prompt in given.items():
        if name not in names:
            raise ValueError(f"--prompts names the class {name!r}; the classes are {', '.join(names)}")
        if not prompt:
            raise ValueError(f"--prompts: the prompt of {name} is empty; say what its images show")
    prompts: dict[int, str] = {}
    for number, name in enumerate(names):
        prompt = given.get(name, template)
        if tokens and LABEL not in prompt:
            raise ValueError(
                f"--prompts: the prompt of {name} must hold {LABEL}, where --textual_inversion_steps puts the learned "
                f"word, got {prompt!r}"
            )
        prompt = prompt.replace(LABEL, tokens[number] if tokens else name)
        if prompt in prompts.values():  # no model could tell them apart
            same = names[list(prompts.values()).index(prompt)]
            raise ValueError(f"--prompts: {same} and {name} have the same prompt {prompt!r}; give each its own")
        prompts[number] = prompt
    return prompts


def parse_prompts(text: str, names: list[str]) -> dict[str, str]:
    """Class name to prompt; a comma within a prompt is part of it, unless a class name and = follow."""
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = re.split(rf"(?:^|,)\s*({known})\s*=", text)
    found = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    strange = [part for part in (parts[0], *found.values()) if "=" in part]
    if strange or not found:
        raise ValueError(
            f"--prompts: {(strange or [text])[0]!r} is not LABEL=PROMPT of a class; the classes are "
            f"{', '.join(names)}; prompts that hold a = go into a YAML file"
        )
    return found


def read_prompts(path: str) -> dict[str, str]:
    """The YAML file of --prompts."""
    try:
        found = read_yaml(Path(path))
    except ValueError as error:
        raise ValueError(f"--prompts {error}; give a YAML file of LABEL: PROMPT") from error
    if not isinstance(found, dict) or not all(isinstance(prompt, str) for prompt in found.values()):
        raise ValueError(f"--prompts {path} must be a YAML file of LABEL: PROMPT, each prompt a text")
    return {str(name): prompt.strip() for name, prompt in found.items()}


def check_lengths(pipe: Any, prompts: dict[int, str], names: list[str]) -> None:
    """Raise a `ValueError` where a prompt is longer than what a text encoder reads; the rest would be cut off."""
    tokenizers = [pipe.components[name] for name in ("tokenizer", "tokenizer_2") if pipe.components.get(name)]
    for tokenizer in tokenizers:
        for number, prompt in prompts.items():
            count, most = len(tokenizer(prompt).input_ids), tokenizer.model_max_length
            if count > most:
                raise ValueError(
                    f"the prompt of {names[number]} has {count} tokens, {count - most} more than the {most} that "
                    f"--model reads, so its end would be lost; shorten it: {prompt!r}"
                )


def class_tokens(names: list[str]) -> list[str]:
    """A new word for each class: `<0-mild>`."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names]
    return [f"<{number}-{slug}>" if slug else f"<{number}>" for number, slug in enumerate(slugs)]


PIXELS_AT_ONCE = 2**21
"""That the autoencoder gets, in float32: 8 images of 512 pixels a side."""
VALIDATED_AT_ONCE, MOST_VALIDATED = 8, 256
STEPS = 25


def latent_stream(args: TextToImageLoraArguments, images: ImageSplits, prompted: PromptedPipeline) -> TrainingStream:
    """The train split as latents on the training device; a mirrored image counts as a further one."""
    flips = [axis for axis, on in ((3, args.horizontal_flip), (2, args.vertical_flip)) if on]
    latents, labels = encode_images(images, "train", prompted, flips)
    total = prompted.scheduler.config["num_train_timesteps"]
    return TrainingStream(
        latents, labels, prompted.num_classes, total, args.class_dropout, args.class_balanced, seed=args.seed
    )


def encode_images(
    images: ImageSplits, split: str, prompted: PromptedPipeline, flips: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, float32 (n, c, h, w), and labels (n,), of each image as it is and under all of `flips` (axes)."""
    variants: list[list[int]] = [[]]
    for axis in flips:
        variants += [[*variant, axis] for variant in variants]
    latents, labels = [], []
    size = max(1, PIXELS_AT_ONCE // prompted.side**2)
    total = -(-len(images.splits[split]) // size)
    for batch in tqdm(images.batches(split, size), total=total, desc=f"encode {split}", leave=False):
        pixels = scale_images(torch.from_numpy(batch.images))
        for variant in variants:
            latents.append(prompted.encode(pixels.flip(variant)).float())
            labels.append(torch.from_numpy(batch.labels).to(prompted.device))
    return torch.cat(latents), torch.cat(labels)


class LatentValidation:
    """Draws a grid of images and measures the loss on real validation images, always with the same random numbers.

    Args:
        args: seed, and images a class.
        images: the data set.
        prompted: the model that is trained.
        output_dir: of the grids.
    """

    def __init__(
        self, args: TextToImageLoraArguments, images: ImageSplits, prompted: PromptedPipeline, output_dir: Path
    ):
        self.prompted, self.output_dir = prompted, output_dir
        self.seed, self.columns = args.seed, args.validation_pictures
        self.process = DDPMProcess(prompted.scheduler)
        latents, labels = encode_images(images, "validation", prompted, [])
        total, seed = self.process.num_train_timesteps, derive_seed(args.seed, 17)
        self.stream = TrainingStream(latents, labels, prompted.num_classes, total, class_dropout=0.0, seed=seed)
        self.count = min(MOST_VALIDATED, len(labels))

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_loss`."""
        save_grid(self.draw_grid(), self.columns, self.output_dir, step)
        size = min(VALIDATED_AT_ONCE, self.count)
        batches = [self.stream.step(number, size)[0] for number in range(self.count // size)]
        losses = [float(self.process.loss(self.prompted.unet, batch)) for batch in batches]
        return {"validation_loss": sum(losses) / len(losses)}

    def draw_grid(self) -> np.ndarray:
        """Images of all classes, uint8 (classes x columns, 3, side, side), with DPM-Solver++."""
        schedule = self.prompted.scheduler
        self.prompted.scheduler = to_fast(schedule)
        labels = np.repeat(np.arange(self.prompted.num_classes), self.columns)
        images = draw_images(self.prompted, labels, self.seed, STEPS, batch=self.columns)
        self.prompted.scheduler = schedule
        return images
