"""What a checkpoint's own files say of the model: kind, classes, size, the hash of its weights, how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from clinsynth.models.generators import class_of
from clinsynth.run_folder import read_json

TIED = "tie_word_embeddings"
TEXT_TO_IMAGE_FILE = "text_to_image.json"


@dataclass(frozen=True)
class Kind:
    """What all generators of a kind have in common.

    Attributes:
        name: in the words of a card.
        task, library: of the Hub: what for, and by what it is loaded.
        works: what the method rests on.
        limits: what is known of each without any evidence.
    """

    name: str
    task: str
    library: str
    works: Sequence[str]
    limits: Sequence[str] = ()


KINDS = {
    name: Kind(**values)
    for name, values in yaml.safe_load(
        resources.files(__package__).joinpath("kinds.yaml").read_text(encoding="utf-8")
    ).items()
}
DIFFUSION, GAN, TEXT, TEXT_TO_IMAGE = (KINDS[name] for name in ("diffusion", "gan", "text", "text-to-image"))
OF_COMPONENT = {"unet": DIFFUSION, "generator": GAN}
"""The kind of a pipeline by the component that model_index.json names."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained generator.

    Attributes:
        labels: the class names, in order.
        network: name of the network's class.
        config: the network's own; of a text-to-image LoRA text_to_image.json.
        patch_size: side of the squares of pixels that are channels to the network.
        autoencoder: the configuration of that whose latents it draws; empty where it draws pixels.
        weights: the folder of its .safetensors.
    """

    kind: Kind
    labels: list[str]
    network: str
    config: dict[str, Any]
    weights: Path
    patch_size: int = 1
    autoencoder: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Height and width of its images in pixels."""
        latent = 2 ** (len(self.autoencoder.get("block_out_channels", [0])) - 1)
        return (
            latent * self.patch_size * int(self.config["resolution" if self.kind is TEXT_TO_IMAGE else "sample_size"])
        )

    @property
    def colour(self) -> str:
        channels = self.autoencoder.get("out_channels") or self.config.get("out_channels", 3) // self.patch_size**2
        return "grey" if channels == 1 else "colour"

    @property
    def prompts(self) -> list[list[str]]:
        """Class and prompt of each, of a text-to-image LoRA; empty of another."""
        if self.kind is not TEXT_TO_IMAGE:
            return []
        return [[label, self.config["prompts"][str(number)]] for number, label in enumerate(self.labels)]


def read_checkpoint(folder: Path) -> Checkpoint:
    """What the checkpoint in `folder` is."""
    if facts := read_json(folder / TEXT_TO_IMAGE_FILE):
        return Checkpoint(TEXT_TO_IMAGE, labels_of(facts), facts["base_class"], facts, folder)
    index = read_json(folder / "model_index.json")
    for component, kind in OF_COMPONENT.items():
        if component in index:
            part = folder / component
            config, patch_size = read_json(part / "config.json"), index.get("patch_size", 1)
            vae = read_json(folder / "vae" / "config.json")
            network = class_of(index, component) or "a network without a name"
            return Checkpoint(kind, labels_of(index), network, config, part, patch_size, vae)
    config, task = read_json(folder / "config.json"), read_json(folder / "task.json")
    if config and task:
        return Checkpoint(TEXT, list(task["labels"]), (config.get("architectures") or [""])[0], config, folder)
    raise ValueError(
        f"{folder} holds no finished checkpoint (model_index.json, or config.json and task.json); give the "
        "--output_dir of a training run that has ended"
    )


def labels_of(facts: dict[str, Any]) -> list[str]:
    """The class names of `id2label`, in the order of their numbers.

    Raises:
        ValueError: it holds something else than numbers and names.
    """
    named = facts.get("id2label", {})
    if not (isinstance(named, dict) and all(number.isdecimal() for number in named)):
        raise ValueError(f"id2label of the checkpoint must be names by number, got {str(named)[:80]}; copy it anew")
    return [str(label) for _, label in sorted(named.items(), key=lambda item: int(item[0]))]


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
    return bool(hash_saved_weights(checkpoint, generator.get("dtype", "float32")) == expected)


def hash_saved_weights(checkpoint: Checkpoint, dtype: str) -> str:
    """`clinsynth.models.weights.hash_weights` of the network once it is loaded in `dtype`."""
    import torch
    from safetensors import safe_open

    from clinsynth.models.weights import hash_tensors

    files = [safe_open(path, "pt") for path in checkpoint.weights.glob("*.safetensors")]
    places = {name: file for file in files for name in file.keys()}
    return hash_tensors((name, places[name].get_tensor(name).to(getattr(torch, dtype))) for name in sorted(places))
