"""The rows that an arm is trained on, as its flags have them chosen, weighed and labelled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from clinsynth.data.labels import LabelledRows
from clinsynth.trainers.classifiers.arms import DUPLICATE, ROUND_TRIP, Arm, Choice
from clinsynth.trainers.classifiers.rows import BodyFeatures, S, arm_rows, oversample_features, with_repeats
from clinsynth.trainers.classifiers.teacher import nearness, taught
from clinsynth.trainers.classifiers.trainings import Trainings


@dataclass(frozen=True)
class ArmRows(Generic[S]):
    """The rows of an arm, real ones first: samples, of `pretrain_finetune` those of its first half, or for an arm in
    feature space features of samples; what they are taken for (`FitSettings.targets`); how they were chosen."""

    data: S | BodyFeatures
    targets: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)


def choose_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice) -> ArmRows[S]:
    """The rows of an arm, drawn by `seed`.

    Raises:
        ArmRefusedError: the data does not allow the arm.
    """
    args, real = trainings.args, trainings.seen(arm, trainings.real["train"], seed)
    if arm.synthetic:
        return synthetic_rows(trainings, arm, seed, choice, real)
    if arm.rows == DUPLICATE:
        added = choose_rows(trainings, trainings.like(arm), seed, replace(choice, weight=1.0))
        return ArmRows(with_repeats(real, added.data.labels[len(real.labels) :], seed), None, added.notes, choice)
    if arm.rows == ROUND_TRIP:
        given_back = trainings.seen(arm, trainings.made(ROUND_TRIP, seed), seed)
        return ArmRows(arm_rows(real, given_back, Arm("composite"), ratio=None, balance_to=None, seed=seed))
    if not arm.method:
        return ArmRows(real)
    if isinstance(real, BodyFeatures):
        features, notes = oversample_features(real, arm.method, args.balance_to, seed)
        return ArmRows(real.followed_by(features), None, notes)
    samples, notes = trainings.classifiers.oversample(real, arm.method, args.balance_to, seed)
    return ArmRows(real.followed_by(samples), None, notes)


def synthetic_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice, real: S | BodyFeatures) -> ArmRows[S]:
    """`choose_rows` of an arm of synthetic samples, weighed and softly labelled as the flags say."""
    args = trainings.args
    kept, notes = kept_rows(trainings, arm, seed, choice)
    seen = trainings.seen(arm, trainings.made(arm.source, seed), seed).take(kept)
    settings: dict[str, Any] = {"ratio": choice.ratio, "balance_to": args.balance_to, "seed": seed}
    data = arm_rows(real, seen, arm, **settings)
    if choice.weight == 1 and (arm.linear or not args.soft_labels):
        return ArmRows(data, None, notes, choice)
    targets = np.eye(len(data.label_names), dtype=np.float32)[data.labels]
    # The same draw once more, of numbers instead of samples, says which of the synthetic ones stand where.
    drawn = arm_rows(numbered(real), numbered(seen), arm, **settings).values[:, 0]
    first = len(data.labels) - len(seen.labels) if arm.rows in ("synthetic", "pretrain_finetune") else len(real.labels)
    if args.soft_labels:
        said = taught(trainings, arm.source, seed)[kept][drawn[first:]]
        targets[first:] = (1 - args.soft_labels) * targets[first:] + args.soft_labels * said
    targets[first:] *= choice.weight
    return ArmRows(data, targets, notes, choice)


def kept_rows(trainings: Trainings[S], arm: Arm, seed: int, choice: Choice) -> tuple[np.ndarray, list[str]]:
    """Numbers of the synthetic samples that are left to an arm by --keep_agreeing and a band, and notes."""
    samples, notes = trainings.made(arm.source, seed), []
    keep = np.ones(len(samples.labels), dtype=bool)
    if trainings.args.keep_agreeing:
        keep &= trainings.says_of(samples, seed).argmax(1) == samples.labels
        kept = f"{keep.sum()} of {len(keep)} synthetic {samples.noun}s kept"
        notes.append(f"{kept}, whose label the control gives them too")
    if choice.band:
        said = taught(trainings, arm.source, seed)[np.arange(len(samples.labels)), samples.labels]
        keep &= (choice.band.low <= said) & (said <= choice.band.high)
        keep &= nearness(trainings, arm.source, seed) <= choice.band.near
        notes.append(f"{keep.sum()} of {len(keep)} synthetic {samples.noun}s kept, in the band {choice.band}")
    return np.flatnonzero(keep), notes


def numbered(rows: LabelledRows) -> BodyFeatures:
    """The rows' numbers in their place."""
    return BodyFeatures(np.arange(len(rows.labels))[:, None], rows.labels, rows.label_names)
