"""Arms in feature space: a new last layer on features of the train samples, the rest of the classifier left alone.

With resampled features this is classifier re-training (Kang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from clinsynth.models.classifier_fitting import balancing_weights, fit
from clinsynth.models.classifier_result import FitResult, macro_f1
from clinsynth.trainers.classifiers.arm_medium import Medium, Samples

Read = Callable[[torch.Tensor], torch.Tensor]

BATCH = 64  # samples between two steps of the progress bar


@dataclass(frozen=True)
class Features:
    """What the last layer sees of samples: `values` float32 (n, d), with their `labels` (n,) and the class names."""

    noun: ClassVar[str] = "row"

    values: np.ndarray
    labels: np.ndarray
    label_names: list[str]

    def take(self, rows: np.ndarray) -> Features:
        """The rows at `rows` (numbers or a mask)."""
        return Features(self.values[rows], self.labels[rows], self.label_names)

    def followed_by(self, more: Features) -> Features:
        """These rows and after them those of `more`."""
        values, labels = np.concatenate([self.values, more.values]), np.concatenate([self.labels, more.labels])
        return Features(values, labels, self.label_names)


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


def features_of(medium: Medium[Any], model: PreTrainedModel, data: Samples, progress: str | None = None) -> Features:
    """The features of `data` in the body of `model`; `progress` names the bar, None shows none."""
    numbers = np.arange(len(data.labels))
    values = []
    with tqdm(total=len(numbers), desc=progress, unit=data.noun, disable=progress is None) as bar:
        for rows in np.split(numbers, numbers[BATCH::BATCH]):
            values.append(seen_by_last_layer(model, partial(medium.outputs, model, data.take(rows))))
            bar.update(len(rows))
    return Features(np.concatenate(values), data.labels, data.label_names)


def head_probabilities(model: PreTrainedModel, features: Features) -> np.ndarray:
    """Class probabilities, float32 (n, classes), that the last layer of `model` gives for features of its body."""
    layer = last_layer(model)
    with torch.inference_mode():
        logits = layer(torch.from_numpy(features.values).to(layer.weight))
        return logits.softmax(-1).float().cpu().numpy()


def seen_by_last_layer(model: PreTrainedModel, outputs: Callable[[Read], np.ndarray]) -> np.ndarray:
    """What the last layer sees while `outputs` runs the model and has the logits of each batch read."""
    seen: list[torch.Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        return outputs(lambda logits: seen.pop())
    finally:
        hook.remove()


def fit_head(
    model: PreTrainedModel,
    train: Features,
    validation: Features,
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
    """Train `model`'s last layer anew on features of the train samples, real ones and those made of them, and put it
    into `model`; the epoch is chosen on features of the real validation samples."""
    mean, spread = train.values.mean(0), train.values.std(0) + 1e-6

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((rows - mean) / spread).to(model.device, torch.float32)

    inputs, targets = scaled(train.values), torch.as_tensor(train.labels, device=model.device)
    held_out, classes = scaled(validation.values), len(train.label_names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(inputs.shape[1], classes).to(model.device)
    weight = balancing_weights(train).to(model.device) if class_weights else None

    def score() -> float:
        with torch.inference_mode():
            predicted = head(held_out).argmax(1).cpu().numpy()
        return macro_f1(validation.labels, predicted, classes)

    result = fit(
        head,
        lambda rows: F.cross_entropy(head(inputs[rows]), targets[rows], weight=weight),
        score,
        rows=len(targets),
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
