"""What a checkpoint's own files say of the model: kind, classes, size, the hash of its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.hub_cards.render import Table
from clinsynth.private_words import hub_id, shorten
from clinsynth.run_folder import read_json

DIFFUSION, GAN, TEXT = "diffusion", "GAN", "text"
TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class Checkpoint:
    """A trained generator.

    Attributes:
        kind: DIFFUSION, GAN or TEXT.
        labels: the class names, in order.
        network: name of the network's class.
        config: the network's own.
        weights: the folder of its .safetensors.
    """

    kind: str
    labels: list[str]
    network: str
    config: dict[str, Any]
    weights: Path

    @property
    def size(self) -> int:
        """Height and width of its pictures in pixels."""
        return int(self.config["sample_size"])

    @property
    def colour(self) -> str:
        return "grey" if self.config["out_channels"] == 1 else "colour"


def read_checkpoint(folder: Path) -> Checkpoint:
    """What the checkpoint in `folder` is.

    Raises:
        ValueError: there is no finished checkpoint of clinsynth.
    """

    adapter = read_text_to_image(folder)
    if adapter is not None:
        return adapter
    index = read_json(folder / "model_index.json")
    component = "unet" if "unet" in index else "generator"
    if component in index:
        config = read_json(folder / component / "config.json")
        labels = [label for _, label in sorted(index.get("id2label", {}).items(), key=lambda item: int(item[0]))]
        kind = DIFFUSION if component == "unet" else GAN
        return Checkpoint(kind, labels, index[component][1], config, folder / component)
    config, task = read_json(folder / "config.json"), read_json(folder / "task.json")
    if config and task:
        return Checkpoint(TEXT, list(task["labels"]), (config.get("architectures") or [""])[0], config, folder)
    raise ValueError(
        f"{folder} holds no finished checkpoint (model_index.json, or config.json and task.json); give the "
        "--output_dir of a training run that has ended"
    )


def count_parameters(checkpoint: Checkpoint) -> int:
    """Numbers in the checkpoint's weights."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in sorted(checkpoint.weights.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total


def check_weights(checkpoint: Checkpoint, generator: dict[str, Any], where: Path) -> None:
    """Raise a ValueError where the samples that were measured come from other weights than the checkpoint's.

    Args:
        generator: part of generation.json; without a hash of weights nothing can be told.
        where: the evidence, for the message.
    """
    if not may_have_made(checkpoint, generator):
        raise ValueError(
            f"evidence {where} is about other weights ({generator['weights_sha256'][:12]}…) than the checkpoint's; "
            "give the evidence on samples of this checkpoint, or leave it out"
        )


def may_have_made(checkpoint: Checkpoint, generator: dict[str, Any]) -> bool:
    """Whether the weights are those that `generator` of generation.json names, or that cannot be told."""
    expected = generator.get("weights_sha256")
    if expected is None or checkpoint.config.get(TIED):  # a tied head is hashed, but not in the file
        return True
    return bool(hash_weights(checkpoint, generator.get("dtype", "float32")) == expected)


def hash_weights(checkpoint: Checkpoint, dtype: str) -> str:
    """`clinsynth.models.weights.hash_weights` of the network once it is loaded in `dtype`."""
    import torch
    from safetensors import safe_open

    from clinsynth.models.weights import hash_tensors

    files = [safe_open(path, "pt") for path in checkpoint.weights.glob("*.safetensors")]
    places = {name: file for file in files for name in file.keys()}
    return hash_tensors((name, places[name].get_tensor(name).to(getattr(torch, dtype))) for name in sorted(places))


TEXT_TO_IMAGE = "text-to-image LoRA"
FILE = "text_to_image.json"
BASE = "path/of/the/base/model"
"""What a snippet loads where the base model is not on the Hub."""
WORDS = """
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

words = load_file(hf_hub_download({place}, "learned_embeds.safetensors"))
"""
WORDS_OF = """pipe.load_textual_inversion(
    words["{key}"], token={tokens}, text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer}
)
"""
SNIPPET = """\
import torch
from diffusers import DPMSolverMultistepScheduler, {kind}

pipe = {kind}.from_pretrained({base}{checker})
pipe.load_lora_weights({place})
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
{words}image = pipe(
    {prompt},
    height={side},
    width={side},
    guidance_scale={guidance:g},
    num_inference_steps=25,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save("synthetic.png")"""


def read_text_to_image(folder: Path) -> Checkpoint | None:
    """The LoRA in `folder`; None of another checkpoint. Its `config` is text_to_image.json."""
    facts = read_json(folder / FILE)
    if not facts:
        return None
    labels = [label for _, label in sorted(facts["id2label"].items(), key=lambda item: int(item[0]))]
    config = {**facts, "sample_size": facts["resolution"], "out_channels": 3}
    return Checkpoint(TEXT_TO_IMAGE, labels, facts["base_class"], config, folder)


def lora_snippet(facts: dict[str, Any], folder: Path, place: str) -> str:
    """Python that draws a picture of the first class with stock diffusers."""
    xl = "XL" in facts["base_class"]
    words = ""
    if facts["tokens"]:
        words = WORDS.format(place=json.dumps(place)).lstrip("\n")
        parts = [("clip_l", "text_encoder", "tokenizer"), *([("clip_g", "text_encoder_2", "tokenizer_2")] * xl)]
        for key, encoder, tokenizer in parts:
            tokens = json.dumps(facts["tokens"], ensure_ascii=False)
            words += WORDS_OF.format(key=key, tokens=tokens, encoder=encoder, tokenizer=tokenizer)
    return SNIPPET.format(
        kind=facts["base_class"],
        base=json.dumps(hub_id(facts["base"], folder) or BASE),
        checker="" if xl else ", safety_checker=None",
        place=json.dumps(place),
        words=words,
        prompt=json.dumps(facts["prompts"]["0"], ensure_ascii=False),
        side=facts["resolution"],
        guidance=facts["guidance_scale"],
    )


def prompt_table(checkpoint: Checkpoint) -> Table:
    """The prompt of each class; no rows of another checkpoint."""
    columns = ["class", "prompt, which is all that the model was told of a training picture"]
    if checkpoint.kind != TEXT_TO_IMAGE:
        return Table("", columns, [])
    prompts = checkpoint.config["prompts"]
    return Table("", columns, [[label, prompts[str(i)]] for i, label in enumerate(checkpoint.labels)])


def published_facts(path: Path) -> bytes:
    """text_to_image.json without the place of a base model on this machine."""
    facts = read_json(path)
    facts["base"] = hub_id(facts["base"], path.parent) or shorten(facts["base"])
    return f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode()
