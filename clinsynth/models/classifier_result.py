"""What a training of a classifier reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class FitResult:
    """What one training did: `steps` optimizer steps in `seconds`; the epoch (from 1) whose weights the model holds
    and its macro-F1 on validation (nan without a validation split); `history` has one record an epoch."""

    steps: int
    seconds: float
    best_epoch: int
    best_macro_f1: float
    history: list[dict[str, float]]


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean of the classes' F1, labels and predictions ints (n,); a class in neither counts 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, labels=np.arange(classes), average="macro", zero_division=0))
