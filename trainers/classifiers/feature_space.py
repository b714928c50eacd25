"""Arms in feature space: a new last layer on features of the train samples, the rest of the classifier left alone.

With resampled features this is classifier re-training (Kang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from clinsynth.data.labels import LabelledRows
from clinsynth.models.classifiers import FitResult, FitSettings, Read, fit_classifier, last_layer
from clinsynth.trainers.classifiers.rows import S, oversample

BATCH = 64  # samples between two steps of the progress bar


@dataclass(frozen=True)
class Features(LabelledRows):
    """What the last layer sees of samples; see `LabelledRows`.

    Attributes:
        values: float32 (n, d).
    """

    noun: ClassVar[str] = "row"
    rows_in: ClassVar[str] = "values"

    values: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    groups: dict[str, np.ndarray] = field(default_factory=dict)


def features_of(
    outputs: Callable[[PreTrainedModel, S, Read], np.ndarray],
    model: PreTrainedModel,
    data: S,
    progress: str | None = None,
) -> Features:
    """The features of `data` in the body of `model`.

    Args:
        outputs: what it is that is read of the logits of each batch, once after each pass, float32 (n, …).
        progress: name of the bar; None shows none.
    """
    numbers = np.arange(len(data.labels))
    values = []
    with tqdm(total=len(numbers), desc=progress, unit=data.noun, disable=progress is None) as bar:
        for rows in np.split(numbers, numbers[BATCH::BATCH]):
            values.append(seen_by_last_layer(model, partial(outputs, model, data.take(rows))))
            bar.update(len(rows))
    return Features(np.concatenate(values), data.labels, data.label_names)


def oversample_features(train: Features, method: str, balance_to: int | None, seed: int) -> tuple[Features, list[str]]:
    """Features that fill up the short classes of `train`, and notes; as `oversample` has it."""
    values, labels, notes = oversample(train.values, train.labels, train.label_names, method, balance_to, seed)
    return Features(values, labels, train.label_names), notes


def seen_by_last_layer(model: PreTrainedModel, outputs: Callable[[Read], np.ndarray]) -> np.ndarray:
    """What the last layer sees while `outputs` runs the model and has the logits of each batch read."""
    seen: list[torch.Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        return outputs(lambda logits: seen.pop())
    finally:
        hook.remove()


def head_probabilities(model: PreTrainedModel, features: Features) -> np.ndarray:
    """Class probabilities, float32 (n, classes), that the last layer of `model` gives for features of its body."""
    layer = last_layer(model)
    with torch.inference_mode():
        logits = layer(torch.from_numpy(features.values).to(layer.weight))
        return logits.softmax(-1).float().cpu().numpy()


def fit_head(model: PreTrainedModel, train: Features, validation: Features, settings: FitSettings) -> FitResult:
    """Train `model`'s last layer anew on features of the train samples, real ones and those made of them, and put it
    into `model`; the epoch is chosen on features of the real validation samples."""
    mean, spread = train.values.mean(0), train.values.std(0) + 1e-6

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((rows - mean) / spread).to(model.device, torch.float32)

    inputs, targets = scaled(train.values), torch.as_tensor(train.labels, device=model.device)
    held_out = scaled(validation.values)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = torch.nn.Linear(inputs.shape[1], len(train.label_names)).to(model.device)

    def loss_of(rows: np.ndarray, weight: torch.Tensor | None) -> torch.Tensor:
        return F.cross_entropy(head(inputs[rows]), targets[rows], weight=weight)

    def predicted() -> np.ndarray:
        with torch.inference_mode():
            return head(held_out).cpu().numpy()

    result = fit_classifier(head, train, validation, loss_of, predicted, settings)
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
