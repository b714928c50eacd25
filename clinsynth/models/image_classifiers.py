"""What goes into an image classifier and comes out: loaded and saved models, their inputs, batches and training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import (
    FitResult,
    FitSettings,
    classification_loss,
    fit_classifier,
    known_targets,
    load_to_train,
    load_trained,
    save_network,
)
from clinsynth.models.weights import explained_where_unloadable

BILINEAR = 2  # PIL's number for it
BATCH_SIZE = 256
CPU_PIXELS = 4 * 224**2  # of a batch: clinsynth/models/image_encoders.py says why so few
WANTED = "the folder or Hub id of an image classifier with its"


def build_small_resnet(
    num_labels: int, channels: int, *, input_size: int = 64, seed: int = 0
) -> ResNetForImageClassification:
    """A ResNet of basic layers (He et al. 2016), 80,000 parameters, its random weights depending on `seed` alone.

    It takes floats (n, channels, s, s) in [-1, 1]. Its stem divides the side by four, which leaves little of small
    images: `model_inputs` enlarges them to `input_size`, which is kept in its configuration."""
    config = ResNetConfig(
        num_channels=channels, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic"
    )
    config.update({"num_labels": num_labels, "input_size": input_size})
    config.update({"image_mean": [0.5] * channels, "image_std": [0.5] * channels})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNetForImageClassification(config)


def load_image_classifier(
    flag: str, source: str, device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A trained classifier that `predict` takes, float32, on `device`, and its image processor.

    Args:
        flag: what errors call the folder or Hub id `source`.

    Raises:
        ValueError: it cannot be loaded, or has no trained last layer.
    """
    hint = f"give {WANTED} preprocessor_config.json (best-real of `clinsynth train image-classifier`)"
    with explained_where_unloadable(flag, source, hint):
        processor = AutoImageProcessor.from_pretrained(source)
    model = load_trained(AutoModelForImageClassification, flag, source, hint, device)
    return with_inputs_of(model, processor), processor


def load_image_classifier_to_train(
    source: str, label_names: list[str], seed: int, from_scratch: bool = False, side: int = 64
) -> PreTrainedModel:
    """Any `AutoModelForImageClassification` by folder or Hub id, as `load_to_train` has it.

    The side, mean and standard deviation that its image processor asks for are noted in `model.config` for
    `model_inputs`; a processor that crops is followed in its crop's size, without the crop. From scratch, images are
    taken in [-1, 1] at the configuration's `image_size`, or at `side` where the architecture takes any."""
    hint = f"give small-resnet, or {WANTED} {'config.json' if from_scratch else 'preprocessor_config.json'}"
    model = load_to_train(AutoModelForImageClassification, source, hint, label_names, seed, from_scratch)
    if from_scratch:
        return with_plain_inputs(model, side)
    with explained_where_unloadable("--model", source, hint):
        return with_inputs_of(model, AutoImageProcessor.from_pretrained(source))


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


def save_image_classifier(model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
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
    """uint8 images (n, channels, r, r) as float inputs with the model's own number of channels (grey is repeated),
    side (bilinear) and normalisation, on the model's device."""
    config = model.config
    pixels = torch.tensor(np.ascontiguousarray(images)).to(model.device, torch.float32) / 255
    if pixels.shape[1] == 1 and config.num_channels == 3:
        pixels = pixels.repeat(1, 3, 1, 1)
    if pixels.shape[1] != config.num_channels:
        raise ValueError(
            f"the model takes images of {config.num_channels} channel(s), got {pixels.shape[1]}; "
            f"give --channels {config.num_channels}"
        )
    side = config.input_size
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=pixels.shape[-1] > side)
    mean, std = (pixels.new_tensor(v).view(1, -1, 1, 1) for v in (config.image_mean, config.image_std))
    return (pixels - mean) / std


def predict(model: PreTrainedModel, images: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Class probabilities, float32 (n, classes), of uint8 images (n, channels, r, r)."""
    return in_batches(model, images, lambda pixels: model(pixels).logits.softmax(-1), batch_size)


def pooled_features(model: PreTrainedModel, images: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """The features that the last layer sees, float32 (n, d), of uint8 images (n, channels, r, r); for classifiers
    whose body pools, such as ResNet (the small one: d = 64) and MobileNet."""
    return in_batches(model, images, lambda pixels: model.base_model(pixels).pooler_output.flatten(1), batch_size)


def in_batches(
    model: PreTrainedModel,
    images: np.ndarray,
    compute: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """`compute` of the model's inputs, float32 (n, …), in evaluation mode and without gradients.

    A CPU takes fewer at once where they are large: MobileNetV2 at 224 px needs 41 ms an image by fours, 105 by 64."""
    if len(images) == 0:
        raise ValueError("there are no images to classify; give at least one")
    if model.device.type == "cpu":
        batch_size = min(batch_size, max(1, CPU_PIXELS // model.config.input_size**2))
    model.eval()
    with torch.inference_mode():
        parts = [
            compute(model_inputs(model, images[start : start + batch_size])).float().cpu().numpy()
            for start in range(0, len(images), batch_size)
        ]
    return np.concatenate(parts)


def fit_image_classifier(
    model: PreTrainedModel,
    train: ImageArrays,
    validation: ImageArrays | None,
    settings: FitSettings,
    flips: bool = False,
) -> FitResult:
    """Train `model` in place on random views of the images, with `strong` ones mixed up as well; `flips` mirrors them
    at random, too. See `fit_classifier`."""

    targets = known_targets(train, settings, model.device)

    def loss_of(rows: np.ndarray, weight: torch.Tensor | None) -> torch.Tensor:
        pixels = model_inputs(model, train.images[rows])
        if settings.views == "strong":
            return mixup_loss(model, strong_views(pixels, flips), targets[rows], weight)
        if settings.views == "light":
            pixels = random_views(pixels, flips)
        return classification_loss(model(pixels).logits, targets[rows], weight)

    def predicted() -> np.ndarray:
        assert validation is not None
        return predict(model, validation.images)

    return fit_classifier(model, train, validation, loss_of, predicted, settings)


NOISE = 0.15  # largest standard deviation; normalised pixels have about 1
ERASED = 0.25  # side of the erased square as a share of the image's
MIXUP_ALPHA = 0.2


def random_views(pixels: torch.Tensor, flips: bool, strength: float = 1.0) -> torch.Tensor:
    """Each image of (n, c, s, s) turned by up to 10 degrees, scaled and shifted by up to 6 %, its contrast and
    brightness changed by up to 15 %, all times `strength`; with `flips` mirrored left-right and up-down with
    probability 1/2 each."""
    n = len(pixels)
    angle, scale, right, down = (torch.rand(4, n) * 2 - 1) * strength
    angle, scale = angle * math.pi / 18, 1 + 0.06 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # Shifts are in half sides: affine_grid's coordinates run from -1 to 1.
    affine = torch.stack([cos, -sin, 0.12 * right, sin, cos, 0.12 * down], dim=1).view(n, 2, 3)
    if flips:
        affine[:, :, :2] *= torch.randint(0, 2, (n, 1, 2)) * 2 - 1
    grid = F.affine_grid(affine.to(pixels.device), list(pixels.shape), align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    gain, offset = (0.15 * strength * (torch.rand(2, n, 1, 1, 1) * 2 - 1)).to(pixels.device)
    return views * (1 + gain) + offset


def strong_views(pixels: torch.Tensor, flips: bool) -> torch.Tensor:
    """`random_views` at twice the strength, half of them with noise, half of them with an erased square."""
    views, n = random_views(pixels, flips, strength=2.0), len(pixels)
    amount = NOISE * torch.rand(n, 1, 1, 1) * torch.randint(0, 2, (n, 1, 1, 1))
    views = views + (amount * torch.randn(views.shape)).to(pixels.device)
    side = max(1, round(ERASED * pixels.shape[-1]))
    top, left = torch.randint(0, pixels.shape[-1] - side + 1, (2, n, 1))
    places = torch.arange(pixels.shape[-1])
    rows, columns = ((start <= places) & (places < start + side) for start in (top, left))
    erased = (rows[:, :, None] & columns[:, None, :])[:, None] & (torch.rand(n, 1, 1, 1) < 0.5)
    return views.masked_fill(erased.to(pixels.device), 0.0)  # 0 is the mean of normalised pixels


def mixup_loss(
    model: torch.nn.Module, pixels: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    """Cross-entropy of images that are each blended with another one of the batch, shares ~ Beta(0.2, 0.2), against
    both their labels in the same shares; classes weighted by `weight` (classes,)."""
    share = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample().item()
    partner = torch.randperm(len(pixels)).to(pixels.device)
    logits = model(share * pixels + (1 - share) * pixels[partner]).logits
    own, other = (classification_loss(logits, target, weight) for target in (targets, targets[partner]))
    return share * own + (1 - share) * other
