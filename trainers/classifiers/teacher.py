"""What a teacher of real samples says of synthetic ones, and how near these lie to real ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist

from clinsynth.run_folder import kept_arrays
from clinsynth.trainers.classifiers.arms import REAL_FEATURES, Arm
from clinsynth.trainers.classifiers.fits import fit_rows, fit_settings
from clinsynth.trainers.classifiers.rows import BodyFeatures, S, hash_sets
from clinsynth.trainers.classifiers.trainings import Trainings

FOLDS = 3


def taught(trainings: Trainings[S], source: str, seed: int) -> np.ndarray:
    """What classifiers that are trained as the control is, each without a third of the real train samples, say of
    a synthetic set, their mean: (n, classes), kept beside the control."""
    folder, train = trainings.folder(trainings.control, seed), trainings.real["train"]

    def compute() -> dict[str, np.ndarray]:
        rate = json.loads((folder / "result.json").read_text())["learning_rate"]
        settings = replace(fit_settings(trainings, trainings.control, seed, rate, folder), on_epoch=None)
        seen, found = trainings.seen(trainings.control, train, seed), []
        for part in folds(train.labels, seed):
            _, model = fit_rows(trainings, trainings.control, seed, seen.take(np.flatnonzero(part)), settings)
            found.append(trainings.predict(trainings.control, seed, model, trainings.made(source, seed)))
        return {"probabilities": np.stack(found).mean(0)}

    path = folder / f"teacher-{hash_sets(trainings.made(source, seed))}.safetensors"
    return kept_arrays(path, compute)["probabilities"]


def nearness(trainings: Trainings[S], source: str, seed: int) -> np.ndarray:
    """For each synthetic sample the share of the real validation samples that lie nearer to the real train samples
    of their class than it does to those of its own, in the features of the control's body: (n,)."""
    body = Arm(REAL_FEATURES)
    train, known, made = (
        trainings.seen(body, data, seed)
        for data in (trainings.real["train"], trainings.real["validation"], trainings.made(source, seed))
    )
    assert isinstance(train, BodyFeatures) and isinstance(known, BodyFeatures) and isinstance(made, BodyFeatures)
    usual = np.sort(to_nearest(known, train))
    return np.searchsorted(usual, to_nearest(made, train), side="left") / len(usual)


def folds(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Three masks (n,) that each leave out a third of the rows of every class; a class of one row is in all."""
    part = np.empty(len(labels), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        part[own] = np.arange(len(own)) % FOLDS if len(own) > 1 else FOLDS
    return [part != number for number in range(FOLDS)]


def to_nearest(rows: BodyFeatures, train: BodyFeatures) -> np.ndarray:
    """Euclidean distance of each row to the nearest of its class in `train`, (n,)."""
    found = np.empty(len(rows.labels))
    for label in np.unique(rows.labels):
        own = rows.labels == label
        found[own] = cdist(rows.values[own], train.values[train.labels == label]).min(1)
    return found
