"""The arms of a classifier study: which there are, what each is compared with, and how it sees its pictures.

| arm | what the classifier is trained on |
|---|---|
| real | the real train pictures, light augmentation and class weights as the flags say |
| real_strong | the real train pictures, strong augmentation, mixup and class weights: the control of every claim |
| synthetic | the synthetic pictures alone (train on synthetic, test on real: TSTR) |
| composite | the real pictures and synthetic ones, of these at most --synthetic_ratio per real one |
| balanced | the real pictures, and synthetic ones where a class is short of the largest, or of --balance_to |
| pretrain_finetune | the synthetic pictures for the first half of the optimizer steps, the real ones for the second |
| random_oversampling, smote, borderline_smote, adasyn | the real pictures, short classes filled up in pixel space |
| real_features | the last layer anew on features of the real train pictures, the body as it is |
| smote_features, … | the same with short classes filled up in feature space; compared with real_features |

Every arm but `real` and `real_strong` is augmented and weighted as the control is, so that a difference comes from
its pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CONTROLS = ("real", "real_strong")
SYNTHETIC = ("synthetic", "composite", "balanced", "pretrain_finetune")
OVERSAMPLING = ("random_oversampling", "smote", "borderline_smote", "adasyn")
IN_FEATURES = "_features"
REAL_FEATURES = f"real{IN_FEATURES}"
FEATURES = (REAL_FEATURES, *(f"{method}{IN_FEATURES}" for method in OVERSAMPLING))
ARMS = (*CONTROLS, *SYNTHETIC, *OVERSAMPLING, *FEATURES)


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        kind: one of ARMS.
        source: name of the synthetic set that it takes its pictures from; empty where there is but one, unnamed.
    """

    kind: str
    source: str = ""

    @property
    def name(self) -> str:
        """What records and folders call it: its kind, and the synthetic set after a hyphen."""
        return f"{self.kind}-{self.source}" if self.source else self.kind

    @property
    def synthetic(self) -> bool:
        return self.kind in SYNTHETIC

    @property
    def in_features(self) -> bool:
        return self.kind in FEATURES

    @property
    def method(self) -> str | None:
        """How short classes are filled up by over-sampling; None where they are not."""
        method = self.kind.removesuffix(IN_FEATURES)
        return method if method in OVERSAMPLING else None


def resolve_arms(kinds: Iterable[str], control: str, sources: Iterable[str]) -> list[Arm]:
    """The arms to train, each once, the control first; those of synthetic pictures once for each synthetic set.

    The control and, with an arm in feature space, `real_features` are added where they are missing: without them
    there is nothing to compare with.

    Raises:
        ValueError: an unknown arm or control, or an arm of synthetic pictures without any.
    """
    kinds, sources = list(kinds), list(sources)
    unknown = [kind for kind in kinds if kind not in ARMS]
    if unknown or not kinds:
        raise ValueError(f"--arms must be among {', '.join(ARMS)}, got {', '.join(unknown) or 'none'}")
    if control not in CONTROLS:
        raise ValueError(f"--control must be one of {', '.join(CONTROLS)}, got {control}")
    needy = [kind for kind in kinds if kind in SYNTHETIC]
    if needy and not sources:
        raise ValueError(f"--arms {','.join(needy)} need synthetic pictures; give --synthetic, or leave them out")
    if any(kind in FEATURES for kind in kinds):
        kinds = [REAL_FEATURES, *kinds]
    return list(dict.fromkeys(expand([control, *kinds], sources)))


def expand(kinds: Iterable[str], sources: list[str]) -> Iterator[Arm]:
    for kind in kinds:
        yield from (Arm(kind, source) for source in sources) if kind in SYNTHETIC else [Arm(kind)]


def control_of(arm: Arm, control: str) -> str:
    """The arm that `arm` is compared with: the control, or for a new last layer on resampled features one on the real
    features, since both leave the body alone."""
    return REAL_FEATURES if arm.in_features and arm.kind != REAL_FEATURES else control


def augmentation(arm: Arm, control: str, light: bool) -> str:
    """How the pictures of an arm are varied in training: "none", "light" or "strong"."""
    if arm.in_features:
        return "none"  # the features are computed once
    return "strong" if is_strong(arm, control) else "light" if light else "none"


def weighted(arm: Arm, control: str, class_weights: bool) -> bool:
    """Whether the classes' shares in the loss of an arm are made equal."""
    return class_weights or is_strong(arm, control)


def is_strong(arm: Arm, control: str) -> bool:
    """Whether an arm is trained as `real_strong` is."""
    return arm.kind == "real_strong" or (arm.kind != "real" and control == "real_strong")
