"""What each arm is trained on: synthetic sets, the rows of an arm of them, over-sampling of short classes, features.

Arms in feature space train a new last layer on features of the train samples and leave the rest of the classifier
alone; with resampled features this is classifier re-training (Kang et al. 2020).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from clinsynth.data.labels import LabelledRows, LabelledSamples
from clinsynth.models.classifiers import (
    FitResult,
    FitSettings,
    Read,
    classification_loss,
    fit_classifier,
    known_targets,
    last_layer,
)
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.sets import load_labelled
from clinsynth.trainers.classifiers.arms import GAUSSIAN, Arm

if TYPE_CHECKING:
    from imblearn.over_sampling.base import BaseOverSampler

S = TypeVar("S", bound=LabelledSamples)
R = TypeVar("R", bound=LabelledRows)

NEIGHBOURS = 5  # the usual number of all three methods
SURROUNDING = 10  # Borderline-SMOTE's m: neighbours of any class that tell which rows lie at the border


class ArmRefusedError(ValueError):
    """An arm that this data does not allow; a study goes on without it and says why."""


def load_synthetic_sets(spec: str | None, like: S) -> dict[str, Sequence[S]]:
    """The sets of `--synthetic` by name, in the form of `like`; errors are those of `load_synthetic`."""
    folders = parse_sets(spec) if spec else {}
    return {name: [load_synthetic(folder, like) for folder in own] for name, own in folders.items()}


def parse_sets(spec: str) -> dict[str, list[str]]:
    """`--synthetic`: a folder or Hub id, or several as name=folder,name=folder; a name that comes again has several.

    Raises:
        ValueError: a folder twice.
    """
    parts = spec.split(",")
    if Path(spec).exists() or not all(re.match(r"\w+=.", part) for part in parts):
        return {"": [spec]}
    found: dict[str, list[str]] = {}
    for name, folder in (part.split("=", 1) for part in parts):
        if folder in found.setdefault(name, []):
            raise ValueError(f"--synthetic gives {name}={folder} twice; several sets of a name are different ones")
        found[name].append(folder)
    return found


def joined(sets: Sequence[R]) -> R:
    """The rows of all sets, one set after another."""
    return functools.reduce(lambda first, other: first.followed_by(other), sets)


def load_synthetic(spec: str, like: S) -> S:
    """The synthetic samples of a folder or Hub id (all splits), in the form of `like`.

    Raises:
        ValueError: not readable, or without the columns image (or text) and label (a `ClassLabel`).
    """
    return like.read_like(load_labelled(spec, like.column, like.made_by))


def check_data(real: Mapping[str, S], synthetic: Mapping[str, S]) -> None:
    """Make sure that all sets have samples, of the same classes and form, and the test split every class.

    Raises:
        ValueError: which set does not, with a hint.
    """
    train = real["train"]
    for name, data in {**real, **{f"synthetic {name}".strip(): data for name, data in synthetic.items()}}.items():
        if len(data.labels) == 0:
            raise ValueError(f"the {name} set holds no {train.noun}; give at least one a class")
        if data.label_names != train.label_names:
            raise ValueError(
                f"label names differ: train has {train.label_names}, {name} has {data.label_names}; "
                "make names and order the same in both"
            )
        train.check_like(data, name)
    counts = np.bincount(real["test"].labels, minlength=len(train.label_names))
    missing = [name for name, count in zip(train.label_names, counts, strict=True) if count == 0]
    if missing:
        raise ValueError(
            f"the test split holds no {train.noun} of {', '.join(missing)}: no classifier can be judged on it; move "
            "some there or leave the class out"
        )


def hash_sets(*sets: LabelledSamples) -> str:
    """Hash of label names, samples and labels: 16 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(sets[0].label_names).encode())
    for data in sets:
        for part in data.content():
            digest.update(part)
        digest.update(data.labels.tobytes())
    return digest.hexdigest()[:16]


def arm_rows(real: R, synthetic: R, arm: Arm, *, ratio: float | None, balance_to: int | None, seed: int) -> R:
    """The train samples of an arm of synthetic ones (of pretrain_finetune: those of its first half), or the features
    of these, real ones first; drawn by `seed` without replacement where not all synthetic ones are taken.

    Raises:
        ArmRefusedError: no synthetic sample to add, or one class without any where there are no real ones.
    """
    rows = np.random.default_rng(seed).permutation(len(synthetic.labels))
    classes = len(real.label_names)
    if arm.rows in ("synthetic", "pretrain_finetune"):
        counts = np.bincount(synthetic.labels, minlength=classes)
        if not counts.all():
            missing = ", ".join(np.array(real.label_names)[counts == 0])
            raise ArmRefusedError(f"the synthetic set holds no {real.noun} of {missing}")
        return synthetic
    if arm.rows == "composite":
        wanted = len(rows) if ratio is None else round(ratio * len(real.labels))
        if arm.ratio is not None and wanted > len(rows):
            raise ArmRefusedError(f"{ratio:g} a real one are {wanted}, and the synthetic set holds {len(rows)}")
        rows = np.sort(rows) if ratio is None else rows[:wanted]
    else:
        short = shortage(real.labels, classes, balance_to)
        rows = np.concatenate([rows[synthetic.labels[rows] == c][: short[c]] for c in range(classes)])
    if len(rows) == 0:
        raise ArmRefusedError(f"there is no synthetic {real.noun} to add")
    return real.followed_by(synthetic.take(rows))


def shortage(labels: np.ndarray, classes: int, balance_to: int | None) -> np.ndarray:
    """How many rows each class lacks of `balance_to`, or of the largest class: ints (classes,), 0 or more."""
    counts = np.bincount(labels, minlength=classes)
    return np.maximum(0, (balance_to or counts.max()) - counts)


def with_repeats(train: R, labels: np.ndarray, seed: int) -> R:
    """`train`, and after it for each of `labels` a row of this class again, drawn by `seed`: all of a class before one
    comes twice.

    Raises:
        ArmRefusedError: a class without a row.
    """
    rng, drawn = np.random.default_rng(seed), []
    for number, count in enumerate(np.bincount(labels, minlength=len(train.label_names))):
        own = np.flatnonzero(train.labels == number)
        if count and not len(own):
            raise ArmRefusedError(f"the train split holds no {train.noun} of {train.label_names[number]}")
        turns = -(-count // max(len(own), 1))
        drawn.append(np.concatenate([own[:0], *(rng.permutation(own) for _ in range(turns))])[:count])
    return train.followed_by(train.take(np.concatenate(drawn)))


def repeated(train: R, balance_to: int | None, seed: int) -> tuple[R, list[str]]:
    """Rows of the short classes of `train` again, drawn at random; and notes; errors and notes are `oversample`'s."""
    numbers = np.arange(len(train.labels))[:, None]
    rows, _, notes = oversample(numbers, train.labels, train.label_names, "random_oversampling", balance_to, seed)
    return train.take(rows[:, 0]), notes


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
                few = f"{names[number]} has {size} rows, so {neighbours} neighbours, not {NEIGHBOURS}"
                notes.append(f"{method}: {few}")
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
    """The imbalanced-learn sampler of a method that brings the class in `target` to the size given there."""
    try:
        from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE, RandomOverSampler
    except ImportError as error:
        raise ValueError(
            f"the over-sampling arms need imbalanced-learn ({error}); pip install imbalanced-learn"
        ) from error
    kind, settings = {
        "random_oversampling": (RandomOverSampler, {}),
        "smote": (SMOTE, {"k_neighbors": neighbours}),
        "borderline_smote": (BorderlineSMOTE, {"k_neighbors": neighbours, "m_neighbors": min(SURROUNDING, rows - 1)}),
        "adasyn": (ADASYN, {"n_neighbors": neighbours}),
    }[method]
    return kind(sampling_strategy=target, random_state=seed, **settings)


def resample(sampler: BaseOverSampler, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows that `sampler` adds, which it puts after the given ones; none where its method has none to make."""
    try:
        return sampler.fit_resample(rows, labels)[0][len(rows) :]
    except (RuntimeError, ValueError) as error:
        # ADASYN's words where no row of the class has a neighbour of another one, or where all shares round to 0
        if "majority" in str(error) or "No samples will be generated" in str(error):
            return rows[:0]
        raise


BATCH = 64  # samples between two steps of the progress bar


@dataclass(frozen=True)
class BodyFeatures(LabelledRows):
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
    persons: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def features_of(
    outputs: Callable[[PreTrainedModel, S, Read], np.ndarray],
    model: PreTrainedModel,
    data: S,
    progress: str | None = None,
) -> BodyFeatures:
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
    return BodyFeatures(np.concatenate(values), data.labels, data.label_names)


def oversample_features(
    train: BodyFeatures, method: str, balance_to: int | None, seed: int
) -> tuple[BodyFeatures, list[str]]:
    """Features that fill up the short classes of `train`, and notes; as `oversample` has it."""
    if method == GAUSSIAN:
        return drawn_features(train, balance_to, seed), []
    values, labels, notes = oversample(train.values, train.labels, train.label_names, method, balance_to, seed)
    return BodyFeatures(values, labels, train.label_names), notes


def drawn_features(train: BodyFeatures, balance_to: int | None, seed: int) -> BodyFeatures:
    """Features that fill up the short classes of `train`, drawn from a normal distribution around each class's mean;
    its covariance is that of all classes together, shrunk (Ledoit and Wolf 2004), since a rare class has too few rows.

    Raises:
        ArmRefusedError: no class is short.
    """
    short = shortage(train.labels, len(train.label_names), balance_to)
    if not short.any():
        raise ArmRefusedError("no class is short of rows, so there is nothing to draw")
    own = [number for number in np.unique(train.labels) if short[number]]
    means = {number: train.values[train.labels == number].mean(0) for number in np.unique(train.labels)}
    within = train.values - np.stack([means[label] for label in train.labels])
    spread = ledoit_wolf(within, assume_centered=True)[0]
    rng, none = np.random.default_rng(seed), np.zeros(train.values.shape[1])
    rows = [means[number] + rng.multivariate_normal(none, spread, short[number], method="eigh") for number in own]
    labels = np.repeat(own, short[own])
    return BodyFeatures(np.concatenate(rows).astype(np.float32), labels, train.label_names)


def seen_by_last_layer(model: PreTrainedModel, outputs: Callable[[Read], np.ndarray]) -> np.ndarray:
    """What the last layer sees while `outputs` runs the model and has the logits of each batch read."""
    seen: list[torch.Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        return outputs(lambda logits: seen.pop())
    finally:
        hook.remove()


def head_probabilities(model: PreTrainedModel, features: BodyFeatures) -> np.ndarray:
    """Class probabilities, float32 (n, classes), that the last layer of `model` gives for features of its body."""
    layer = last_layer(model)
    with torch.inference_mode():
        logits = layer(torch.from_numpy(features.values).to(layer.weight))
        return logits.softmax(-1).float().cpu().numpy()


def fit_head(
    model: PreTrainedModel, train: BodyFeatures, validation: BodyFeatures, settings: FitSettings
) -> FitResult:
    """Train `model`'s last layer anew on features of the train samples, real ones and those made of them, and put it
    into `model`; the epoch is chosen on features of the real validation samples."""
    mean, spread = train.values.mean(0), shrunk_spread(train.values)

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((rows - mean) / spread).to(model.device, torch.float32)

    inputs, targets = scaled(train.values), known_targets(train, settings, model.device)
    held_out = scaled(validation.values)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = torch.nn.Linear(inputs.shape[1], len(train.label_names)).to(model.device)

    def loss_of(rows: np.ndarray, weight: torch.Tensor | None) -> torch.Tensor:
        return classification_loss(head(inputs[rows]), targets[rows], weight)

    def predicted() -> np.ndarray:
        with torch.inference_mode():
            return head(held_out).cpu().numpy()

    result = fit_classifier(head, train, validation, loss_of, predicted, settings)
    install(head, model, mean, spread)
    return result


def shrunk_spread(values: np.ndarray) -> np.ndarray:
    """What each feature (n, d) is divided by, (d,): the root of its variance and the mean variance of all.

    Among few rows a feature is often constant. Divided by its own spread alone it would be millions in other rows, and
    drown all others."""
    variance = values.var(0)
    return np.sqrt(variance + variance.mean()) + 1e-6


def install(head: torch.nn.Linear, model: PreTrainedModel, mean: np.ndarray, spread: np.ndarray) -> None:
    """Put `head`, which takes (features - mean) / spread, in the place of `model`'s last layer, which takes features
    as they are."""
    layer = last_layer(model)
    shift, scale = (torch.from_numpy(v).to(layer.weight) for v in (mean, spread))
    with torch.no_grad():
        weight = head.weight / scale
        layer.weight.copy_(weight)
        layer.bias.copy_(head.bias - weight @ shift)
