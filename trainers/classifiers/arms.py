"""The arms of a classifier study: which there are, what each is compared with, and how it is trained.

| arm | what the classifier is trained on |
|---|---|
| real | the real train images, light augmentation and class weights as the flags say |
| real_strong | the real train images, strong augmentation, mixup and class weights: the control of every claim |
| synthetic | the synthetic images alone (train on synthetic, test on real: TSTR) |
| composite | the real images and synthetic ones, of these at most --synthetic_ratio per real one |
| balanced | the real images, and synthetic ones where a class is short of the largest, or of --balance_to |
| pretrain_finetune | the synthetic images for the first half of the optimizer steps, the real ones for the second |
| random_oversampling, smote, borderline_smote, adasyn | the real images, short classes filled up in pixel space |
| real_features | the last layer anew on features of the real train images, the body as it is |
| smote_features, … | the same with short classes filled up in feature space; compared with real_features |
| synthetic_features, composite_features, balanced_features | the same on features of what synthetic, … take |

Every arm but `real` and `real_strong` is augmented and weighted as the control is, so that a difference comes from
its images. With --control real_features and --features_from model no body is trained at all: every arm is a last
layer on a pretrained one. Texts have the same arms, except that there

- `real` is trained without class weights, and `real_weighted` (with them) is the control of every claim;
- `random_oversampling` repeats texts, and the other over-samplings exist in feature space only;
- `real_frozen`, `synthetic_frozen`, … are a logistic regression on mean token embeddings of --model as it is, trained
  in minutes, and `real_tfidf`, … one on TF-IDF of words and pairs of words, which stands in every table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from clinsynth.arguments import check_at_least

Views = Literal["none", "light", "strong"]
SMALL_RESNET, SMALL_BERT = "small-resnet", "small-bert"
TUNED = ("real_strong", "real_weighted")
CONTROLS = ("real", *TUNED)
SYNTHETIC = ("synthetic", "composite", "balanced", "pretrain_finetune")
OVERSAMPLING = ("random_oversampling", "smote", "borderline_smote", "adasyn")
IN_FEATURES = "_features"
REAL_FEATURES = f"real{IN_FEATURES}"
FEATURES = (REAL_FEATURES, *(f"{rows}{IN_FEATURES}" for rows in ("synthetic", "composite", "balanced", *OVERSAMPLING)))
FROZEN, TFIDF = "_frozen", "_tfidf"
REAL_FROZEN, REAL_TFIDF = f"real{FROZEN}", f"real{TFIDF}"
LINEAR = tuple(f"{rows}{end}" for end in (FROZEN, TFIDF) for rows in ("real", "synthetic", "composite", "balanced"))
ARMS = ("real", "real_strong", *SYNTHETIC, *OVERSAMPLING, *FEATURES)
TEXT_ARMS = ("real", "real_weighted", *SYNTHETIC, "random_oversampling", *FEATURES, *LINEAR)
"""Which arms there are of images, and of texts; those that are trained without being asked for stand first."""
REAL_ONLY = frozenset({*CONTROLS, REAL_FEATURES, REAL_FROZEN, REAL_TFIDF})
"""The kinds that hold nothing but real samples."""


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
        return re.sub(f"({IN_FEATURES}|{FROZEN}|{TFIDF})$", "", self.kind)

    @property
    def synthetic(self) -> bool:
        return self.rows in SYNTHETIC

    @property
    def in_features(self) -> bool:
        return self.kind in FEATURES

    @property
    def linear(self) -> bool:
        """Whether it is a logistic regression on features that are not trained."""
        return self.kind in LINEAR

    @property
    def frozen(self) -> bool:
        """Whether those are of a pretrained encoder."""
        return self.kind.endswith(FROZEN)

    @property
    def method(self) -> str | None:
        """How short classes are filled up by over-sampling; None where they are not."""
        return self.rows if self.rows in OVERSAMPLING else None


@dataclass(kw_only=True)
class ArmArguments:
    """Which arms are trained, what they are compared with, and how every training of a study is done."""

    synthetic: str | None = None
    """synthetic samples of `clinsynth generate`: a folder or Hub id with columns image or text, and label; several as
    name=folder,name=folder, which gives each arm of synthetic samples once for each"""
    arms: list[str] | str | None = None
    """arms, as a,b,…"""
    control: str
    """the arm that every other one is compared with"""
    synthetic_ratio: float | None = None
    """composite: at most so many synthetic samples per real one, drawn at random; default: all of them"""
    balance_to: int | None = None
    """balanced and over-sampling: samples to bring each class to that has fewer; default: those of the largest"""
    keep_agreeing: bool = False
    """use only synthetic samples whose label the control's classifier of the same seed gives them too"""
    features_from: str = "control"
    """body of the arms in feature space: control (the control's classifier of the same seed), or model (--model as it
    is, not fine-tuned)"""
    model: str
    """the folder or Hub id of a transformers classifier, or the name of the small one that is trained from scratch"""
    from_scratch: bool = False
    """take only the architecture of --model, of texts its tokenizer too, with random weights"""
    seeds: int = 3
    """trainings an arm, with the seeds --seed, --seed + 1, …"""
    epochs: int
    """passes over the real train samples; every arm takes as many optimizer steps as the real one"""
    batch_size: int
    """samples an optimizer step"""
    learning_rates: list[float] | float | str | None
    """peak learning rate, or several to try in every training, as a,b,…; in every arm the one with the best validation
    macro-F1 is kept"""
    seed: int = 0
    """seed of the choice of few-shot samples and of the first training"""
    output_dir: str
    """run folder: results.json, best-ARM/ (models), arms/ (one folder a training)"""
    cache_dir: str | None = None
    """where --features_from model keeps its features, under a hash of model and samples, so that several classifiers
    share them; default: --output_dir"""
    dry_run: bool = False
    """print the resolved settings and stop"""

    def __post_init__(self) -> None:
        self.learning_rates = self.rates
        check_at_least(self, 1, ["seeds", "epochs", "batch_size", "balance_to"])
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"--learning_rates must be one or more positive numbers, got {self.rates}")
        if self.synthetic_ratio is not None and self.synthetic_ratio <= 0:
            raise ValueError(f"--synthetic_ratio must be above 0, got {self.synthetic_ratio}; leave it out to use all")
        if self.features_from not in ("control", "model"):
            raise ValueError(f"--features_from must be control or model, got {self.features_from}")
        if self.control == REAL_FEATURES and self.features_from == "control":
            raise ValueError(f"--control {REAL_FEATURES} trains no body to take from; add --features_from model")
        if self.model in (SMALL_RESNET, SMALL_BERT) and (self.from_scratch or self.features_from == "model"):
            flag = "from_scratch" if self.from_scratch else "features_from model"
            raise ValueError(
                f"--{flag} needs a --model other than {self.model}, which has no trained weights to start from"
            )
        if self.from_scratch and self.features_from == "model":
            raise ValueError("--features_from model takes the trained body of --model; leave --from_scratch out")
        if self.epochs < 2 and "pretrain_finetune" in (self.arms or ()):
            raise ValueError(f"--epochs must be at least 2 for pretrain_finetune, got {self.epochs}")

    def choose_arms(self, known: tuple[str, ...]) -> None:
        """Settle `arms`, by default the two controls and, with synthetic samples, synthetic and composite; of texts
        TF-IDF is always among them."""
        if isinstance(self.arms, str):
            self.arms = [arm.strip() for arm in self.arms.split(",")]
        elif self.arms is None:
            self.arms = [*known[:2], *(["synthetic", "composite"] if self.synthetic else [])]
        if REAL_TFIDF in known and REAL_TFIDF not in self.arms:
            self.arms = [*self.arms, REAL_TFIDF]
        if self.control == REAL_FROZEN and self.features_from == "control" and set(self.kinds) & set(FEATURES):
            raise ValueError(f"--control {REAL_FROZEN} trains no body to take from; add --features_from model")
        resolve_arms(self.kinds, self.control, [self.synthetic] if self.synthetic else [], known)

    @property
    def kinds(self) -> list[str]:
        """The kinds of arms that are asked for."""
        assert isinstance(self.arms, list), "choose_arms settles them"
        return self.arms

    @property
    def rates(self) -> list[float]:
        """The learning rates to try; a ValueError where what is given is no number."""
        given = self.learning_rates
        try:
            return [float(rate) for rate in (given if isinstance(given, list) else str(given).split(","))]
        except ValueError as error:
            raise ValueError(f"--learning_rates must be numbers, as 0.001,0.003, got {given}") from error


def resolve_arms(kinds: Iterable[str], control: str, sources: Iterable[str], known: tuple[str, ...]) -> list[Arm]:
    """The arms to train, each once, the control first; those of synthetic samples once for each synthetic set.

    The control and, with an arm in feature space, `real_features` (with a linear one the real one of its kind) are
    added where they are missing: without them there is nothing to compare with. `known` are the kinds to choose from.

    Raises:
        ValueError: an unknown arm or control, or an arm of synthetic samples without any.
    """
    kinds, sources = list(kinds), list(sources)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        meant = [f"{kind}{IN_FEATURES}" for kind in unknown if f"{kind}{IN_FEATURES}" in known]
        hint = f"; samples are over-sampled in feature space: give {', '.join(meant)}" if meant else ""
        raise ValueError(f"--arms must be among {', '.join(known)}, got {', '.join(unknown) or 'none'}{hint}")
    controls = [kind for kind in known if kind in (*CONTROLS, REAL_FEATURES, REAL_FROZEN)]
    if control not in controls:
        raise ValueError(f"--control must be one of {', '.join(controls)}, got {control}")
    needy = [kind for kind in kinds if Arm(kind).synthetic]
    if needy and not sources:
        raise ValueError(f"--arms {','.join(needy)} need synthetic samples; give --synthetic, or leave them out")
    for real, alike in ((REAL_FEATURES, FEATURES), (REAL_FROZEN, LINEAR[:4]), (REAL_TFIDF, LINEAR[4:])):
        if any(kind in alike for kind in kinds):
            kinds = [real, *kinds]
    arms = [Arm(kind, source) for kind in [control, *kinds] for source in (sources if Arm(kind).synthetic else [""])]
    return list(dict.fromkeys(arms))


def control_of(arm: Arm, control: str) -> str:
    """The arm that `arm` is compared with: the control, or for a new last layer, or a logistic regression, on other
    rows the one on the real rows, since both leave the body alone."""
    if arm.rows == "real":
        return control
    return f"real{IN_FEATURES}" if arm.in_features else f"real{arm.kind[len(arm.rows) :]}" if arm.linear else control


def augmentation(arm: Arm, control: str, light: bool) -> Views:
    """How the images of an arm are varied in training."""
    if arm.in_features or arm.linear:
        return "none"  # the features are computed once
    return "strong" if is_tuned(arm, control) else "light" if light else "none"


def weighted(arm: Arm, control: str, class_weights: bool) -> bool:
    """Whether the classes' shares in the loss of an arm are made equal."""
    return class_weights or is_tuned(arm, control)


def is_tuned(arm: Arm, control: str) -> bool:
    """Whether an arm is trained as `real_strong`, with texts `real_weighted`, is."""
    return arm.kind in TUNED or (arm.kind != "real" and control in TUNED)
