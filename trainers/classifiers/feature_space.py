"""Arms in feature space: a new last layer on features of the train samples, the rest of the classifier left alone.

With resampled features this is classifier re-training (Kang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import FitResult, FitSettings, Read, fit_classifier, last_layer
from clinsynth.seeds import derive_seed
from clinsynth.trainers.classifiers.arms import ArmRefusedError, Medium, S, Samples, shortage

if TYPE_CHECKING:
    from imblearn.over_sampling.base import BaseOverSampler


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
    model: PreTrainedModel, train: Features, validation: Features, settings: FitSettings, class_weights: bool
) -> FitResult:
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

    result = fit_classifier(head, train, validation, loss_of, predicted, settings, class_weights)
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


NEIGHBOURS = 5  # the usual number of all three methods
SURROUNDING = 10  # Borderline-SMOTE's m: neighbours of any class that tell which rows lie at the border


def oversample_pictures(
    train: ImageArrays, method: str, balance_to: int | None, seed: int
) -> tuple[ImageArrays, list[str]]:
    """`train` and after it the pictures that `method` makes of its pixels, rounded to uint8; and `oversample`'s notes.

    Raises:
        ArmRefusedError: as `oversample` does.
    """
    pixels = train.images.reshape(len(train.labels), -1).astype(np.float32)
    rows, labels, notes = oversample(pixels, train.labels, train.label_names, method, balance_to, seed)
    images = rows.round().clip(0, 255).astype(np.uint8).reshape(-1, *train.images.shape[1:])
    return train.followed_by(ImageArrays(images, labels, train.label_names)), notes


def repeat_samples(train: S, balance_to: int | None, seed: int) -> tuple[S, list[str]]:
    """`train` and after it samples of its short classes again, drawn at random; and `oversample`'s notes.

    Raises:
        ArmRefusedError: as `oversample` does.
    """
    numbers = np.arange(len(train.labels))[:, None]
    rows, _, notes = oversample(numbers, train.labels, train.label_names, "random_oversampling", balance_to, seed)
    return train.followed_by(train.take(rows[:, 0])), notes


def oversample(
    rows: np.ndarray, labels: np.ndarray, names: list[str], method: str, balance_to: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """New rows (m, d) that bring the short classes of `rows` (n, d) to the size of the largest, or to `balance_to`;
    their labels (m,); and notes on what was not done as asked.

    One class after another, each with as many neighbours as it allows: at most its own rows less one.

    Raises:
        ArmRefusedError: no class is short, or one is too small for the method, or nothing could be made.
    """
    notes: list[str] = []
    made, made_labels = [rows[:0]], [labels[:0]]
    short = shortage(labels, len(names), balance_to)
    if not short.any():
        raise ArmRefusedError("no class is short of rows, so there is nothing to over-sample")
    for number in np.flatnonzero(short):
        size = int((labels == number).sum())
        neighbours = min(NEIGHBOURS, size - 1)
        if method != "random_oversampling":
            if neighbours < 1:
                raise ArmRefusedError(f"{method} needs two train rows a class, {names[number]} has {size}")
            if neighbours < NEIGHBOURS:
                notes.append(
                    f"{method}: {names[number]} has {size} rows, so {neighbours} neighbours, not {NEIGHBOURS}"
                )
        target = {int(number): size + int(short[number])}
        sampler = build_sampler(method, target, neighbours, len(labels), derive_seed(seed, int(number)) % 2**32)
        new = resample(sampler, rows, labels)
        if len(new) == 0:
            notes.append(f"{method}: nothing made of {names[number]}: none of its rows lies near enough other classes")
        made.append(new)
        made_labels.append(np.full(len(new), number))
    if sum(map(len, made)) == 0:
        raise ArmRefusedError(f"{method} made nothing: no short class lies near enough others")
    return np.concatenate(made), np.concatenate(made_labels), notes


def build_sampler(method: str, target: dict[int, int], neighbours: int, rows: int, seed: int) -> BaseOverSampler:
    """The imbalanced-learn sampler of a method that brings the class in `target` to the size given there.

    Raises:
        ValueError: imbalanced-learn is not installed.
    """
    try:
        from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE, RandomOverSampler
    except ImportError as error:
        raise ValueError(
            f"the over-sampling arms need imbalanced-learn ({error}); pip install imbalanced-learn"
        ) from error
    common = {"sampling_strategy": target, "random_state": seed}
    if method == "random_oversampling":
        return RandomOverSampler(**common)
    if method == "smote":
        return SMOTE(**common, k_neighbors=neighbours)
    if method == "borderline_smote":
        return BorderlineSMOTE(**common, k_neighbors=neighbours, m_neighbors=min(SURROUNDING, rows - 1))
    return ADASYN(**common, n_neighbors=neighbours)


def resample(sampler: BaseOverSampler, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows that `sampler` adds, which it puts after the given ones; none where its method has none to make."""
    try:
        return sampler.fit_resample(rows, labels)[0][len(rows) :]
    except (RuntimeError, ValueError) as error:
        # ADASYN's words where no row of the class has a neighbour of another one, or where all shares round to 0
        if "majority" in str(error) or "No samples will be generated" in str(error):
            return rows[:0]
        raise
