"""Corrections of what a classifier says, the same in every arm and chosen on validation samples alone.

A synthetic set changes the class mix, and with it how readily a classifier names a rare class. Such a moved threshold
looks like a gain in macro-F1 or accuracy where no sample taught anything. So every arm, the control included, may move
its own: log p(c) + offset(c), then divided by a temperature.

- none: no offsets, and no temperature;
- prior: t · log(share of class c in the real train split) with one t for all classes (Menon et al. 2021, arXiv
  2007.07314): below 0 it favours rare classes, above 0 common ones;
- threshold: those of prior, then one class after another moved to where macro-F1 is best.

What is best is the mean of an arm's seeds: a rare class has few validation samples, and one choice for all seeds is
less at their mercy than one for each. The temperature (Guo et al. 2017, arXiv 1706.04599) then makes the
log-likelihood best.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from transformers import PreTrainedModel

from clinsynth.models.classifiers import last_layer
from clinsynth.trainers.classifiers.arms import CALIBRATIONS
from clinsynth.trainers.classifiers.scores import class_scores

logger = logging.getLogger("clinsynth")

FACTORS = np.linspace(-2, 2, 17)
STEPS = np.linspace(-1, 1, 9)  # of an offset, natural logarithms
TEMPERATURES = np.geomspace(0.25, 4, 41)
ROUNDS = 2
LEAST = 1e-12


@dataclass(frozen=True)
class Correction:
    """What is done to the probabilities of an arm.

    Attributes:
        offsets: float64 (classes,), added to their logarithms.
        temperature: what these are then divided by.
        macro_f1: on validation after the correction, mean of the seeds.
        factor: `t` of prior; None without a correction by prior.
    """

    offsets: np.ndarray
    temperature: float
    macro_f1: float
    factor: float | None = None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Correction:
        """The correction of a record of results."""
        own = np.array(record["offsets"]), record["temperature"], record["validation_macro_f1"]
        return cls(*own, factor=record["factor"])

    @property
    def changes(self) -> bool:
        return bool(self.offsets.any()) or self.temperature != 1

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Corrected probabilities, of (…, classes); the very same where nothing is corrected."""
        return (
            softmax((logs(probabilities) + self.offsets) / self.temperature, axis=-1)
            if self.changes
            else probabilities
        )

    def apply_to(self, model: PreTrainedModel) -> None:
        """Put the correction into the last layer of `model`, whose own outputs are corrected from then on; one without
        bias cannot hold the offsets, and stays as it is, with a warning."""
        layer = last_layer(model)
        if layer.bias is None:
            logger.warning(
                "%s has a last layer without bias: it is kept as trained, not corrected", type(model).__name__
            )
            return
        with torch.no_grad():
            layer.bias.add_(torch.from_numpy(self.offsets).to(layer.bias)).div_(self.temperature)
            layer.weight.div_(self.temperature)


def choose_correction(method: str, probabilities: np.ndarray, labels: np.ndarray, prior: np.ndarray) -> Correction:
    """The correction of an arm.

    Args:
        method: one of CALIBRATIONS.
        probabilities: of the real validation samples, (seeds, n, classes).
        labels: theirs, ints (n,).
        prior: shares of the classes in the real train split, (classes,), all above 0.
    """
    assert method in CALIBRATIONS
    known = logs(probabilities)
    none = np.zeros(len(prior))
    if method == "none":
        return Correction(none, 1.0, pooled_macro_f1(known, labels, none))
    by_distance = FACTORS[np.argsort(np.abs(FACTORS), kind="stable")]  # of equals the one nearest to 0
    tried = [(pooled_macro_f1(known, labels, factor * np.log(prior)), factor) for factor in by_distance]
    best, factor = max(tried, key=lambda found: found[0])
    offsets = factor * np.log(prior)
    if method == "threshold":
        offsets, best = climb(known, labels, offsets, best)
    return Correction(offsets, best_temperature(known + offsets, labels), best, float(factor))


def climb(known: np.ndarray, labels: np.ndarray, offsets: np.ndarray, best: float) -> tuple[np.ndarray, float]:
    """Offsets moved class by class to where the pooled macro-F1 is best, and that macro-F1."""
    for _ in range(ROUNDS):
        for number in range(len(offsets)):
            for step in sorted(STEPS, key=abs):
                moved = offsets + step * (np.arange(len(offsets)) == number)
                found = pooled_macro_f1(known, labels, moved)
                if found > best + 1e-9:
                    offsets, best = moved, found
    return offsets, best


def pooled_macro_f1(known: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> float:
    """Macro-F1, mean of the seeds, of the classes that are first by `known` (seeds, n, classes) and `offsets`."""
    once, classes = np.ones((1, len(labels))), len(offsets)
    predicted = (known + offsets).argmax(2)
    return float(np.mean([class_scores(labels, run, once, classes)[0].mean() for run in predicted]))


def best_temperature(known: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes the mean log-likelihood of `labels` (n,) best under `known` (seeds, n, classes)."""

    def surprise(temperature: float) -> float:
        likely = softmax(known / temperature, axis=-1)[:, np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(likely, LEAST)).mean())

    return float(min(TEMPERATURES, key=surprise))


def logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), LEAST))
