"""The parts of a saved classifier that pictures and texts share: names of its classes, configuration, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from transformers import PreTrainedModel


def label_config(label_names: list[str]) -> dict[str, Any]:
    """The entries of a transformers configuration that name the classes."""
    return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}


def save_network(model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
    """Write config.json, with the classes' names, and model.safetensors into `folder`."""
    model.config.update(label_config(label_names))
    model.config.architectures = [type(model).__name__]
    # Not model.save_pretrained: among several processes it writes the weights of the first one only, and here every
    # process has a model of its own.
    model.config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
