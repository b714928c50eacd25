"""Arms in feature space: a new last layer on features of the train pictures, the rest of the classifier left alone.

With resampled features this is classifier re-training (Kang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from clinsynth.data.arrays import ImageArrays
from clinsynth.trainers.classifier_fit import fit
from clinsynth.trainers.classifier_inputs import balancing_weights
from clinsynth.trainers.train_image_classifier import FitResult, in_batches, macro_f1


def last_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer that gives the classes' logits.

    Raises:
        ValueError: the model has none.
    """
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.num_labels]
    if not layers:
        raise ValueError(
            f"--model {type(model).__name__} ends in no linear layer; leave the arms in feature space out of --arms"
        )
    return layers[-1]


def head_inputs(model: PreTrainedModel, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """What the last layer sees, float32 (n, d), of uint8 pictures (n, channels, r, r)."""
    seen: list[torch.Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def compute(pixels: torch.Tensor) -> torch.Tensor:
        seen.clear()
        model(pixels)
        return seen[0]

    try:
        return in_batches(model, images, batch_size, compute)
    finally:
        hook.remove()


def fit_head(
    model: PreTrainedModel,
    features: np.ndarray,
    labels: np.ndarray,
    real: dict[str, ImageArrays],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    class_weights: bool,
    seed: int,
    steps_per_epoch: int,
    progress: str | None,
    on_epoch: Callable[[dict[str, float]], None],
) -> FitResult:
    """Train `model`'s last layer anew on `features` (n, d) of the train pictures, real ones and those made of them,
    and put it into `model`; the epoch is chosen on features of the real validation pictures."""
    mean, spread = features.mean(0), features.std(0) + 1e-6

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((rows - mean) / spread).to(model.device, torch.float32)

    train, targets = scaled(features), torch.as_tensor(labels, device=model.device)
    validation = scaled(head_inputs(model, real["validation"].images))
    classes = len(real["train"].label_names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(features.shape[1], classes).to(model.device)
    rows_as_data = ImageArrays(features, labels, real["train"].label_names)
    weight = balancing_weights(rows_as_data).to(model.device) if class_weights else None

    def score() -> float:
        with torch.inference_mode():
            predicted = head(validation).argmax(1).cpu().numpy()
        return macro_f1(real["validation"].labels, predicted, classes)

    result = fit(
        head,
        lambda rows: F.cross_entropy(head(train[rows]), targets[rows], weight=weight),
        score,
        rows=len(labels),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        progress=progress,
        on_epoch=on_epoch,
    )
    install(head, model, mean, spread)
    return result


def install(head: torch.nn.Linear, model: PreTrainedModel, mean: np.ndarray, spread: np.ndarray) -> None:
    """Put `head`, which takes (features - mean) / spread, in the place of `model`'s last layer, which takes features
    as they are."""
    layer = last_layer(model)
    shift, scale = (torch.from_numpy(v).to(layer.weight) for v in (mean, spread))
    with torch.no_grad():
        weight = head.weight / scale
        layer.weight.copy_(weight)
        layer.bias.copy_(head.bias - weight @ shift)
