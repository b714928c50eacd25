"""What a card says of a text-to-image LoRA: its base model, its prompts, and how it is loaded with stock diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clinsynth.hub_cards.checkpoint import Checkpoint
from clinsynth.hub_cards.tables import Table
from clinsynth.private_words import hub_id, shorten
from clinsynth.run_folder import read_json

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
