"""What is chosen on validation before test is read: corrections, the control, the smallest gain that shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinsynth.data.summary import VISIBLE
from clinsynth.trainers.classifiers.arms import CANDIDATES, REAL_FROZEN, Arm, ArmArguments, Controls, choose_controls
from clinsynth.trainers.classifiers.calibration import Correction, choose_correction
from clinsynth.trainers.classifiers.resampling import visible_gain
from clinsynth.trainers.classifiers.rows import S
from clinsynth.trainers.classifiers.trainings import Trainings


@dataclass(frozen=True)
class Decisions:
    """What was chosen on validation, before test was read."""

    corrections: dict[str, Correction]
    controls: Controls
    visible: dict[str, Any]

    def record(self, args: ArmArguments, arms: list[Arm]) -> dict[str, Any]:
        """As results and the plan have it."""
        return {
            "control": self.controls.whole,
            "features_control": self.controls.features if any(arm.in_features for arm in arms) else None,
            "calibration": calibration_records(args.calibrate, self.corrections),
            "visible_gain": self.visible,
        }

    def notes(self, args: ArmArguments, arms: list[Arm], noun: str) -> list[str]:
        """What a reader of the scores must know of it."""
        return [control_note(args, arms, self.controls, self.corrections), visible_note(self.visible, noun)]


def decide(trainings: Trainings[S], arms: list[Arm], seeds: list[int]) -> Decisions:
    """Corrections, control, and the smallest gain that can be seen."""
    args, test, validation = trainings.args, trainings.real["test"], trainings.real["validation"].labels
    held_out = {arm.name: np.stack([trainings.held_out(arm, seed) for seed in seeds]) for arm in arms}
    corrections = choose_corrections(trainings, held_out)
    by_validation = {name: correction.macro_f1 for name, correction in corrections.items()}
    controls = choose_controls(arms, by_validation, args.control, args.choose_control)
    own = corrections[controls.whole].apply(held_out[controls.whole])
    return Decisions(corrections, controls, visible_gain(validation, own, test.labels, len(test.label_names)))


def choose_corrections(trainings: Trainings[S], held_out: Mapping[str, np.ndarray]) -> dict[str, Correction]:
    """Each arm's correction by name, from what its trainings say of the real validation samples."""
    train, labels = trainings.real["train"], trainings.real["validation"].labels
    counts = np.maximum(np.bincount(train.labels, minlength=len(train.label_names)), 1)
    prior, method = counts / counts.sum(), trainings.args.calibrate
    return {arm: choose_correction(method, own, labels, prior) for arm, own in held_out.items()}


def visible_note(visible: dict[str, Any], noun: str) -> str:
    """What could be seen at all."""
    seeds = f"{visible['seeds']} seed{'s' * (visible['seeds'] > 1)}"
    less = "" if visible["enough"] else f"; this is more than {VISIBLE}: what is smaller may be there, unseen"
    return (
        f"smallest gain in macro-F1 over the control that {visible['n']} test {noun}s and {seeds} can show (80 % "
        f"power, by the control's spread on validation): {visible['value']:.3f}{less}"
    )


def calibration_records(method: str, corrections: Mapping[str, Correction]) -> list[dict[str, Any]]:
    """One record an arm: what was chosen on validation."""
    return [
        {
            "arm": name,
            "method": method,
            "factor": correction.factor,
            "offsets": correction.offsets.tolist(),
            "temperature": correction.temperature,
            "validation_macro_f1": correction.macro_f1,
        }
        for name, correction in corrections.items()
    ]


def control_note(
    args: ArmArguments, arms: list[Arm], controls: Controls, corrections: Mapping[str, Correction]
) -> str:
    """Which control was taken, and from which."""
    if not args.choose_control or controls.whole == REAL_FROZEN:
        return f"control: {controls.whole}, as --control names it"
    scores = ", ".join(f"{a.name} {corrections[a.name].macro_f1:.3f}" for a in arms if a.kind in CANDIDATES)
    also = f", in feature space {controls.features}" if any(arm.in_features for arm in arms) else ""
    return (
        f"control: {controls.whole}{also}, the real-only arm of the best macro-F1 on validation, chosen before test "
        f"was read ({scores})"
    )
