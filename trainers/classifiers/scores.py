"""Scores of class probabilities on weighted test rows: F1, recalls, AUROC, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15
MAIN = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "ece")
MINORITY = "minority_recall"


def minority_classes(train_labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """The classes with fewer train rows than the average one."""
    counts = np.bincount(train_labels, minlength=classes)
    return tuple(np.flatnonzero(counts < counts.mean()).tolist())


def metric_names(label_names: list[str], minority: Sequence[int] = ()) -> list[str]:
    """The columns of `scores`, in order."""
    own = [*MAIN, *(f"f1 {name}" for name in label_names), *(f"recall {name}" for name in label_names)]
    return [*own, MINORITY] if minority else own


def scores(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, classes: int, minority: Sequence[int] = ()
) -> np.ndarray:
    """Macro-F1, balanced accuracy, accuracy, AUROC (one class against the rest, mean of the classes), calibration
    error, each class's F1 and each class's recall: float64 (b, 5 + 2 * classes); with classes named in `minority` one
    column more, the mean of their recalls.

    `labels` are ints (n,), `probabilities` (n, classes); `weights` (b, n) says how often each row counts in each of b
    resamples. Every class must have weight in every resample."""
    predicted = probabilities.argmax(1)
    f1, recall = class_scores(labels, predicted, weights, classes)
    accuracy = weights @ (predicted == labels) / weights.sum(1)
    auroc = np.mean([ranking(labels == c, probabilities[:, c], weights) for c in range(classes)], axis=0)
    error = calibration_error(labels, probabilities, weights)
    last = [recall[:, list(minority)].mean(1)] if minority else []
    return np.column_stack([f1.mean(1), recall.mean(1), accuracy, auroc, error, f1, recall, *last])


def class_scores(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """F1 and recall of each class, float64 (b, classes) each; 0 where a class has no weight."""
    eye = np.eye(classes)
    true, guess = eye[labels], eye[predicted]
    hits, true_rows, guessed_rows = weights @ (true * guess), weights @ true, weights @ guess
    return 2 * hits / np.maximum(true_rows + guessed_rows, 1e-12), hits / np.maximum(true_rows, 1e-12)


def ranking(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, (b,): how likely a positive row's score exceeds a negative one's, ties counting half.

    Both kinds must have weight in every resample."""
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.inf))  # last row of each run of equal scores
    weights, positive = weights[:, order], positive[order]
    above, below = (per_run(np.where(side, weights, 0.0), ends) for side in (positive, ~positive))
    wins = above * (below.cumsum(1) - below / 2)
    return wins.sum(1) / (above.sum(1) * below.sum(1))


def per_run(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of the columns of (b, n) from one end to the next, (b, number of ends)."""
    return np.diff(values.cumsum(1)[:, ends], axis=1, prepend=0.0)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error, (b,): mean gap of confidence and accuracy over 15 bins of equally many rows (Nguyen
    and O'Connor 2015), rows binned by the confidence in the predicted class."""
    confidence = probabilities.max(1)
    gap = confidence - (probabilities.argmax(1) == labels)
    return np.abs(weights @ (in_bins(confidence) * gap[:, None])).sum(1) / weights.sum(1)


def calibration_floor(probabilities: np.ndarray, rng: np.random.Generator, draws: int = 200) -> float:
    """The calibration error to expect, on these rows, of a classifier whose confidence is its accuracy: it is above 0,
    the more so the fewer the rows."""
    confidence = probabilities.max(1)
    gaps = confidence - (rng.random((draws, len(confidence))) < confidence)
    return float(np.abs(gaps @ in_bins(confidence)).sum(1).mean() / len(confidence))


def in_bins(confidence: np.ndarray) -> np.ndarray:
    """Which of the 15 bins each row is in, as 0 or 1: (n, bins)."""
    rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    return np.eye(BINS)[rank * BINS // len(confidence)]
