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
| synthetic_features, composite_features, balanced_features | the same on features of what synthetic, … take |

Every arm but `real` and `real_strong` is augmented and weighted as the control is, so that a difference comes from
its pictures. With --control real_features and --features_from model no body is trained at all: every arm is a last
layer on a pretrained one. Texts have the same arms, except that there

- `real` is trained without class weights, and `real_weighted` (with them) is the control of every claim;
- `random_oversampling` repeats texts, and the other over-samplings exist in feature space only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PICTURE_CONTROLS = ("real", "real_strong")
TEXT_CONTROLS = ("real", "real_weighted")
TUNED = ("real_strong", "real_weighted")
CONTROLS = ("real", *TUNED)
SYNTHETIC = ("synthetic", "composite", "balanced", "pretrain_finetune")
OVERSAMPLING = ("random_oversampling", "smote", "borderline_smote", "adasyn")
IN_FEATURES = "_features"
REAL_FEATURES = f"real{IN_FEATURES}"
FEATURES = (REAL_FEATURES, *(f"{rows}{IN_FEATURES}" for rows in ("synthetic", "composite", "balanced", *OVERSAMPLING)))
ARMS = (*PICTURE_CONTROLS, *SYNTHETIC, *OVERSAMPLING, *FEATURES)
TEXT_ARMS = (*TEXT_CONTROLS, *SYNTHETIC, "random_oversampling", *FEATURES)


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        kind: one of ARMS or of TEXT_ARMS.
        source: name of the synthetic set that it takes its samples from; empty where there is but one, unnamed.
    """

    kind: str
    source: str = ""

    @property
    def name(self) -> str:
        """What records and folders call it: its kind, and the synthetic set after a hyphen."""
        return f"{self.kind}-{self.source}" if self.source else self.kind

    @property
    def rows(self) -> str:
        """The kind of arm, in sample space, whose samples it takes."""
        return self.kind.removesuffix(IN_FEATURES)

    @property
    def synthetic(self) -> bool:
        return self.rows in SYNTHETIC

    @property
    def in_features(self) -> bool:
        return self.kind in FEATURES

    @property
    def method(self) -> str | None:
        """How short classes are filled up by over-sampling; None where they are not."""
        return self.rows if self.rows in OVERSAMPLING else None


def parse_arms(given: list[str] | str | None, synthetic: bool, tuned: str) -> list[str]:
    """`--arms`: names, or a,b,…; without them `real` and `tuned` and, with synthetic samples, two arms of these."""
    if given is None:
        return ["real", tuned, *(["synthetic", "composite"] if synthetic else [])]
    return [arm.strip() for arm in given.split(",")] if isinstance(given, str) else given


def parse_rates(given: list[float] | float | str) -> list[float]:
    """`--learning_rates`: numbers, one, or a,b,….

    Raises:
        ValueError: what is given is no number.
    """
    try:
        return [float(rate) for rate in (given if isinstance(given, list) else str(given).split(","))]
    except ValueError as error:
        raise ValueError(f"--learning_rates must be numbers, as 0.001,0.003, got {given}") from error


def resolve_arms(
    kinds: Iterable[str],
    control: str,
    sources: Iterable[str],
    known: tuple[str, ...] = ARMS,
    noun: str = "picture",
) -> list[Arm]:
    """The arms to train, each once, the control first; those of synthetic samples once for each synthetic set.

    The control and, with an arm in feature space, `real_features` are added where they are missing: without them
    there is nothing to compare with. `known` are the kinds to choose from, `noun` is what a sample is called.

    Raises:
        ValueError: an unknown arm or control, or an arm of synthetic samples without any.
    """
    kinds, sources = list(kinds), list(sources)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        meant = [f"{kind}{IN_FEATURES}" for kind in unknown if f"{kind}{IN_FEATURES}" in known]
        mend = f"; {noun}s are over-sampled in feature space: give {', '.join(meant)}" if meant else ""
        raise ValueError(f"--arms must be among {', '.join(known)}, got {', '.join(unknown) or 'none'}{mend}")
    controls = [kind for kind in known if kind in (*CONTROLS, REAL_FEATURES)]
    if control not in controls:
        raise ValueError(f"--control must be one of {', '.join(controls)}, got {control}")
    needy = [kind for kind in kinds if Arm(kind).synthetic]
    if needy and not sources:
        raise ValueError(f"--arms {','.join(needy)} need synthetic {noun}s; give --synthetic, or leave them out")
    if any(kind in FEATURES for kind in kinds):
        kinds = [REAL_FEATURES, *kinds]
    return list(dict.fromkeys(expand([control, *kinds], sources)))


def expand(kinds: Iterable[str], sources: list[str]) -> Iterator[Arm]:
    for kind in kinds:
        yield from (Arm(kind, source) for source in sources) if Arm(kind).synthetic else [Arm(kind)]


def control_of(arm: Arm, control: str) -> str:
    """The arm that `arm` is compared with: the control, or for a new last layer on other features one on the real
    features, since both leave the body alone."""
    return REAL_FEATURES if arm.in_features and arm.kind != REAL_FEATURES else control


def augmentation(arm: Arm, control: str, light: bool) -> str:
    """How the pictures of an arm are varied in training: "none", "light" or "strong"."""
    if arm.in_features:
        return "none"  # the features are computed once
    return "strong" if is_tuned(arm, control) else "light" if light else "none"


def weighted(arm: Arm, control: str, class_weights: bool) -> bool:
    """Whether the classes' shares in the loss of an arm are made equal."""
    return class_weights or is_tuned(arm, control)


def is_tuned(arm: Arm, control: str) -> bool:
    """Whether an arm is trained as `real_strong`, with texts `real_weighted`, is."""
    return arm.kind in TUNED or (arm.kind != "real" and control in TUNED)
