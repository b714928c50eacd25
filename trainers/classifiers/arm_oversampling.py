"""Over-sampling of short classes with imbalanced-learn: random, SMOTE (Chawla et al. 2002), Borderline-SMOTE (Han et
al. 2005) and ADASYN (He et al. 2008), on any rows: pixels or features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clinsynth.data.images import ImageArrays
from clinsynth.seeds import derive_seed
from clinsynth.trainers.classifiers.arm_data import ArmRefusedError, S, shortage

if TYPE_CHECKING:
    from imblearn.over_sampling.base import BaseOverSampler

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
