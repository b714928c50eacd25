"""The samples of a study's arms, pictures or texts: checked against each other, read, put together, told apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from clinsynth.data.sources import load_folder
from clinsynth.trainers.classifiers.arm_medium import Rows, Samples
from clinsynth.trainers.classifiers.arms import Arm

S = TypeVar("S", bound=Samples)
R = TypeVar("R", bound=Rows)


class ArmRefusedError(ValueError):
    """An arm that this data does not allow; a study goes on without it and says why."""


def check_data(real: Mapping[str, S], synthetic: S | Mapping[str, S] | None) -> None:
    """Make sure that all sets have samples, of the same classes and form, and the test split every class.

    Raises:
        ValueError: which set does not, with the mend.
    """
    train = real["train"]
    sets: dict[str, S] = as_sets(synthetic)
    others = {**real, **{f"synthetic {name}".strip(): data for name, data in sets.items()}}
    for name, data in others.items():
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


def as_sets(synthetic: S | Mapping[str, S] | None) -> dict[str, S]:
    """Synthetic sets by name; a single one has the empty name."""
    if synthetic is None:
        return {}
    return dict(synthetic) if isinstance(synthetic, Mapping) else {"": synthetic}


def parse_sets(spec: str) -> dict[str, str]:
    """`--synthetic`: a folder or Hub id, or several as name=folder,name=folder.

    Raises:
        ValueError: a name twice.
    """
    parts = spec.split(",")
    if Path(spec).exists() or not all(re.match(r"\w+=.", part) for part in parts):
        return {"": spec}
    named = [part.split("=", 1) for part in parts]
    if len({name for name, _ in named}) < len(named):
        raise ValueError(f"--synthetic gives a name twice, got {', '.join(name for name, _ in named)}")
    return {name: folder for name, folder in named}


def load_synthetic(spec: str, like: S) -> S:
    """The synthetic samples of a folder or Hub id (all splits), in the form of `like`.

    Raises:
        ValueError: not readable, or without the columns image (or text) and label (a `ClassLabel`).
    """
    from datasets import ClassLabel, concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        splits = load_folder(Path(spec)) if Path(spec).is_dir() else load_dataset(spec)
    except (DatasetGenerationError, OSError, ValueError) as error:
        if "corresponds to no data" in str(error):
            raise ValueError(f"--synthetic {spec} holds no {like.noun}; give at least one a class") from error
        raise ValueError(
            f"--synthetic {spec} cannot be read ({error}); give a folder that `{like.made_by}` wrote"
        ) from error
    data = concatenate_datasets(list(splits.values()))
    if like.column not in data.features or not isinstance(data.features.get("label"), ClassLabel):
        raise ValueError(
            f"--synthetic {spec} must have columns {like.column} and label (with class names), has "
            f"{', '.join(data.column_names)}; give a folder that `{like.made_by}` wrote"
        )
    return like.read_like(data)


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
        rows = np.sort(rows) if ratio is None else rows[: round(ratio * len(real.labels))]
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


def fingerprint(*sets: Samples) -> str:
    """Hash of label names, samples and labels: 16 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(sets[0].label_names).encode())
    for data in sets:
        digest.update(data.content() + data.labels.tobytes())
    return digest.hexdigest()[:16]
