"""What goes into an image classifier and comes out: loaded and saved models, inputs, batches, class weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clinsynth.data.labels import first_of

BILINEAR = 2  # PIL's number for it


def load_pretrained_classifier(
    name_or_path: str, label_names: list[str], seed: int, from_scratch: bool = False, side: int = 64
) -> PreTrainedModel:
    """Any `AutoModelForImageClassification` by path or Hub id, with a new last layer (drawn from `seed`) where its own
    has another number of classes; with `from_scratch` only its architecture, all weights drawn from `seed`.

    The side, mean and standard deviation that its image processor asks for are noted in `model.config` for
    `model_inputs`; a processor that crops is followed in its crop's size, without the crop. From scratch, pictures are
    taken in [-1, 1] at the configuration's `image_size`, or at `side` where the architecture takes any."""
    names = label_config(label_names)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if from_scratch:
                config = AutoConfig.from_pretrained(name_or_path, **names)
                return with_plain_inputs(AutoModelForImageClassification.from_config(config), side)
            processor = AutoImageProcessor.from_pretrained(name_or_path)
            model = AutoModelForImageClassification.from_pretrained(
                name_or_path, **names, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {name_or_path} cannot be loaded ({error}); give small-resnet, or the folder or Hub id of an "
            f"image classifier with its {'config.json' if from_scratch else 'preprocessor_config.json'}"
        ) from error
    return with_inputs_of(model, processor)


def with_plain_inputs(model: PreTrainedModel, side: int) -> PreTrainedModel:
    """`model` with inputs in [-1, 1], of its configuration's image size or, where it has none, of `side`."""
    channels = getattr(model.config, "num_channels", 3)
    model.config.num_channels = channels
    model.config.input_size = getattr(model.config, "image_size", side)
    model.config.image_mean = model.config.image_std = [0.5] * channels
    return model


def with_inputs_of(model: PreTrainedModel, processor: Any) -> PreTrainedModel:
    """`model` with inputs as its image processor makes them."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    scale = 255 * processor.rescale_factor
    channels = getattr(model.config, "num_channels", 3)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    model.config.num_channels = channels
    model.config.input_size = size["height"] if "height" in size else size["shortest_edge"]
    model.config.image_mean = (np.broadcast_to(mean, channels) / scale).tolist()
    model.config.image_std = (np.broadcast_to(std, channels) / scale).tolist()
    return model


def with_input_size(model: PreTrainedModel, side: int, name: str) -> PreTrainedModel:
    """`model` with inputs of `side` pixels; an error where its architecture is built for another side."""
    model.config.input_size = side
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, model.config.num_channels, side, side, device=model.device))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--input_size {side} does not suit --model {name} ({error}); leave it out") from error
    return model


def save_classifier(model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
    """Write model and image processor, so that `transformers.pipeline("image-classification", folder)` takes them."""
    save_network(model, label_names, folder)
    side = model.config.input_size
    ViTImageProcessorPil(
        size={"height": side, "width": side},
        resample=BILINEAR,
        image_mean=model.config.image_mean,
        image_std=model.config.image_std,
    ).save_pretrained(folder)


def model_inputs(model: PreTrainedModel, images: np.ndarray) -> torch.Tensor:
    """uint8 pictures (n, channels, r, r) as float inputs with the model's own number of channels (grey is repeated),
    side (bilinear) and normalisation, on the model's device."""
    config = model.config
    pixels = torch.tensor(np.ascontiguousarray(images)).to(model.device, torch.float32) / 255
    if pixels.shape[1] == 1 and config.num_channels == 3:
        pixels = pixels.repeat(1, 3, 1, 1)
    if pixels.shape[1] != config.num_channels:
        raise ValueError(
            f"the model takes pictures of {config.num_channels} channel(s), got {pixels.shape[1]}; "
            f"give --channels {config.num_channels}"
        )
    side = config.input_size
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=pixels.shape[-1] > side)
    mean, std = (pixels.new_tensor(v).view(1, -1, 1, 1) for v in (config.image_mean, config.image_std))
    return (pixels - mean) / std


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


def load_class_model(flag: str, name: str) -> Any:
    """An image classifier that `clinsynth.trainers.train_image_classifier.predict` takes.

    Raises:
        ValueError: it cannot be loaded.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        model: Any = AutoModelForImageClassification.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{flag} {name} cannot be loaded ({error}); give the folder or Hub id of an image classifier with its "
            "preprocessor_config.json (best-real of `clinsynth train image-classifier`)"
        ) from error
    network: Any = with_inputs_of(model, processor)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def class_numbers(flag: str, model: Any, names: list[str]) -> list[int]:
    """The classifier's number of each of `names`.

    Raises:
        ValueError: it does not know one of them.
    """
    known = {name: int(number) for number, name in model.config.id2label.items()}
    for name in names:
        if name not in known:
            raise ValueError(f"{flag} has the classes {first_of(known)}, without {name!r}; give one that has it")
    return [known[name] for name in names]
