"""The arms of a classifier study: which there are, what each is compared with, and how it is trained.

| arm | what the classifier is trained on |
|---|---|
| real | the real train images, light augmentation and class weights as the flags say |
| real_strong | the real train images, strong augmentation, mixup and class weights |
| duplicate_real | the real images, and of each class as many of them again as composite has synthetic ones |
| real_generator_round_trip | the real images, and them again as a generator gives them back (--round_trip) |
| synthetic | the synthetic images alone (train on synthetic, test on real: TSTR) |
| composite | the real images and synthetic ones, of these at most --synthetic_ratio per real one |
| balanced | the real images, and synthetic ones where a class is short of the largest, or of --balance_to |
| pretrain_finetune | the synthetic images for the first half of the optimizer steps, the real ones for the second |
| random_oversampling, smote, borderline_smote, adasyn | the real images, short classes filled up in pixel space |
| real_features | the last layer anew on features of the real train images, the body as it is |
| smote_features, … | the same with short classes filled up in feature space; compared with real_features |
| gaussian_features | the same with features drawn from a normal distribution a class |
| synthetic_features, composite_features, balanced_features | the same on features of what synthetic, … take |

The control is one of those without a generator's samples, over-sampled ones too: with --choose_control that of the
best validation macro-F1, chosen before test is read, else --control. Every arm but `real` and `real_strong` is
augmented and weighted as --control is, so that a difference comes from its images. With --control real_features and
--features_from model no body is trained at all: every arm is a last layer on a pretrained one. Texts have the same
arms, except that there

- `real` is trained without class weights, and `real_weighted` with them;
- `random_oversampling` repeats texts, and the other over-samplings exist in feature space only;
- `real_frozen`, `synthetic_frozen`, … are a logistic regression on mean token embeddings of --model as it is, trained
  in minutes, and `real_tfidf`, … one on TF-IDF of words and pairs of words, which stands in every table. Each is
  compared with the one on real texts alone; their samples weigh alike, and their labels are not soft.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clinsynth.arguments import check_at_least

Views = Literal["none", "light", "strong"]
SMALL_RESNET, SMALL_BERT = "small-resnet", "small-bert"
TUNED = ("real_strong", "real_weighted")
CONTROLS = ("real", *TUNED)
DUPLICATE, ROUND_TRIP = "duplicate_real", "real_generator_round_trip"
SYNTHETIC = ("synthetic", "composite", "balanced", "pretrain_finetune")
OVERSAMPLING = ("random_oversampling", "smote", "borderline_smote", "adasyn")
GAUSSIAN = "gaussian"
IN_FEATURES = "_features"
REAL_FEATURES = f"real{IN_FEATURES}"
AGAIN = (DUPLICATE, ROUND_TRIP)
IN_BOTH = (*AGAIN, "synthetic", "composite", "balanced")
FEATURES = (REAL_FEATURES, *(f"{rows}{IN_FEATURES}" for rows in (*IN_BOTH, *OVERSAMPLING, GAUSSIAN)))
FROZEN, TFIDF = "_frozen", "_tfidf"
REAL_FROZEN, REAL_TFIDF = f"real{FROZEN}", f"real{TFIDF}"
LINEAR = tuple(f"{rows}{end}" for end in (FROZEN, TFIDF) for rows in ("real", "synthetic", "composite", "balanced"))
ARMS = ("real", "real_strong", *AGAIN, *SYNTHETIC, *OVERSAMPLING, *FEATURES)
TEXT_ARMS = ("real", "real_weighted", *AGAIN, *SYNTHETIC, "random_oversampling", *FEATURES, *LINEAR)
"""Which arms there are of images, and of texts; those that are trained without being asked for stand first."""
REAL_ONLY = frozenset({*CONTROLS, *AGAIN, REAL_FEATURES, *(f"{rows}{IN_FEATURES}" for rows in AGAIN)})
"""The kinds whose samples are all real ones, once or more often."""
CANDIDATES = REAL_ONLY | {f"{rows}{end}" for rows in (*OVERSAMPLING, GAUSSIAN) for end in ("", IN_FEATURES)}
"""The kinds among which a control is chosen: those that need no generator."""
CALIBRATIONS = ("none", "prior", "threshold")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        kind: one of ARMS or of TEXT_ARMS.
        source: name of the synthetic set that it takes its samples from; empty where there is but one, unnamed.
        ratio: how many synthetic samples it takes per real one, where --each_ratio makes it an arm of its own.
    """

    kind: str
    source: str = ""
    ratio: float | None = None

    @property
    def name(self) -> str:
        """What records and folders call it: its kind, its ratio, and the synthetic set after a hyphen."""
        kind = self.kind if self.ratio is None else f"{self.kind}_x{self.ratio:g}"
        return f"{kind}-{self.source}" if self.source else kind

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
        return self.rows if self.rows in (*OVERSAMPLING, GAUSSIAN) else None


@dataclass(frozen=True)
class Band:
    """Which synthetic samples are neither easy nor wrong, and near the real ones: the teacher's probability of their
    label between `low` and `high`, the distance to train at most the `near` quantile of real validation samples."""

    low: float
    high: float
    near: float

    @classmethod
    def parse(cls, text: str) -> Band:
        """Of `0.2-0.95@0.9`; a ValueError for anything else."""
        found = re.fullmatch(r"\s*([\d.]+)-([\d.]+)@([\d.]+)\s*", text)
        low, high, near = map(float, found.groups()) if found else (1.0, 0.0, 0.0)
        if not (0 <= low < high <= 1 and 0 < near <= 1):
            raise ValueError(f"--keep_band must be LOW-HIGH@NEAR with shares, as 0.2-0.95@0.9, got {text}")
        return cls(low, high, near)

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}@{self.near:g}"


@dataclass(frozen=True)
class Choice:
    """One way to take the samples of an arm: at most `ratio` more per real one, synthetic ones at `weight` in the loss
    and from within `band`; None for all."""

    ratio: float | None = None
    weight: float = 1.0
    band: Band | None = None

    def record(self) -> dict[str, float | str | None]:
        """As records of trainings have it."""
        return {
            "synthetic_ratio": self.ratio,
            "synthetic_weight": self.weight,
            "keep_band": str(self.band) if self.band else None,
        }


@dataclass(kw_only=True)
class ArmArguments:
    """Which arms are trained, what they are compared with, and how every training of a study is done."""

    synthetic: str | None = None
    """synthetic samples of `clinsynth generate`: a folder or Hub id with columns image or text, and label; several as
    name=folder,name=folder, which gives each arm of synthetic samples once for each"""
    arms: list[str] | str | None = None
    """arms, as a,b,…"""
    control: str
    """the arm that the others are trained like, and compared with unless --choose_control finds a better one"""
    round_trip: str | None = None
    """real_generator_round_trip: the real train samples as a generator gives them back, labels kept: a folder of
    `clinsynth generate images --from_images … --from_class own --strength 0.1`"""
    calibrate: str = "prior"
    """what is moved on validation in every arm, the control too, before test is read: prior (one factor of the log of
    the class shares, and a temperature), threshold (a threshold for each class as well), or none"""
    choose_control: bool = True
    """hold the arms against that of the real-only ones trained (real, real_strong or real_weighted, duplicate_real,
    real_generator_round_trip, over-sampled ones) whose validation macro-F1 is best; false: against --control"""
    ceiling: str | None = None
    """run folder of the same classifier with all real samples and the same test split, whose control is the top of the
    gap: each arm is then also told as a share of the way from its control to there"""
    synthetic_ratio: list[float] | float | str | None = None
    """composite and duplicate_real: at most so many samples more per real one, drawn at random, or several ratios to
    try, as 0.25,0.5,1,2; in every training the one with the best validation macro-F1 is kept; default: all"""
    each_ratio: bool = False
    """composite: an arm for each of --synthetic_ratio in place of the best of them: how much is gained by how many"""
    synthetic_weight: list[float] | float | str = 1.0
    """weight of a synthetic sample in the loss beside a real one's, above 0 to 1, or several to try, as 0.3,1"""
    soft_labels: float = 0.0
    """share of a teacher in what a synthetic sample is taken for, 0 to 1, the rest is its label; the teacher is the
    mean of three trainings of --control, each without a third of the real train samples"""
    keep_band: list[str] | str | None = None
    """use only synthetic samples that the teacher gives their label with a probability between LOW and HIGH, and that
    lie no further from the real train samples of the class (features of --control) than a share NEAR of the real
    validation samples: LOW-HIGH@NEAR as 0.2-0.95@0.9; several to try, with a comma between"""
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
        if any(ratio is not None and ratio <= 0 for ratio in self.ratios):
            raise ValueError(f"--synthetic_ratio must be above 0, got {self.synthetic_ratio}; leave it out to use all")
        if not all(0 < weight <= 1 for weight in self.weights):
            raise ValueError(f"--synthetic_weight must be above 0 and at most 1, got {self.synthetic_weight}")
        if not 0 <= self.soft_labels <= 1:
            raise ValueError(f"--soft_labels must be between 0 and 1, got {self.soft_labels}")
        assert self.bands
        if self.each_ratio and self.synthetic_ratio is None:
            raise ValueError("--each_ratio makes an arm for each of --synthetic_ratio; give some, as 0.5,1,2,4,8")
        for name, choices in (("features_from", ("control", "model")), ("calibrate", CALIBRATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"--{name} must be {' or '.join(choices)}, got {getattr(self, name)}")
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
        """Settle `arms`, by default the two controls and, with synthetic samples, duplicate_real, synthetic and
        composite; of texts TF-IDF is always among them."""
        if isinstance(self.arms, str):
            self.arms = [arm.strip() for arm in self.arms.split(",")]
        elif self.arms is None:
            self.arms = [*known[:2], *([DUPLICATE, "synthetic", "composite"] if self.synthetic else [])]
            self.arms += [ROUND_TRIP] if self.round_trip else []
        if REAL_TFIDF in known and REAL_TFIDF not in self.arms:
            self.arms = [*self.arms, REAL_TFIDF]
        if self.control == REAL_FROZEN and self.features_from == "control" and set(self.kinds) & set(FEATURES):
            raise ValueError(f"--control {REAL_FROZEN} trains no body to take from; add --features_from model")
        if self.control == REAL_FROZEN and self.model == SMALL_BERT:
            raise ValueError(f"--control {REAL_FROZEN} needs trained weights, and {SMALL_BERT} has none; name another")
        if self.from_scratch and any(Arm(kind).frozen for kind in [self.control, *self.kinds]):
            raise ValueError("arms with _frozen take the trained weights of --model; leave --from_scratch out")
        if self.control == REAL_FROZEN and self.teaches:
            raise ValueError(f"--soft_labels and --keep_band need a network to teach, not --control {REAL_FROZEN}")
        self.resolve([self.synthetic] if self.synthetic else [], known)

    def resolve(self, sources: Iterable[str], known: tuple[str, ...]) -> list[Arm]:
        """`resolve_arms` of these flags and the names of the synthetic sets."""
        ratios = self.ratios if self.each_ratio else [None]
        return resolve_arms(self.kinds, self.control, sources, known, ratios)

    @property
    def kinds(self) -> list[str]:
        """The kinds of arms that are asked for."""
        assert isinstance(self.arms, list), "choose_arms settles them"
        return self.arms

    @property
    def rates(self) -> list[float]:
        """The learning rates to try; a ValueError where what is given is no number."""
        return numbers("learning_rates", self.learning_rates, "0.001,0.003")

    @property
    def ratios(self) -> Sequence[float | None]:
        """The ratios to try; None for all samples."""
        return [None] if self.synthetic_ratio is None else numbers("synthetic_ratio", self.synthetic_ratio)

    @property
    def weights(self) -> list[float]:
        """The weights of synthetic samples to try."""
        return numbers("synthetic_weight", self.synthetic_weight)

    @property
    def bands(self) -> Sequence[Band | None]:
        """The bands to try; None for all samples."""
        given = self.keep_band
        if given is None:
            return [None]
        return [Band.parse(text) for text in (given if isinstance(given, list) else given.split(","))]

    @property
    def teaches(self) -> bool:
        """Whether the teacher of --soft_labels and --keep_band is needed."""
        return self.soft_labels > 0 or self.keep_band is not None

    def choices(self, arm: Arm) -> list[Choice]:
        """What is tried in a training of an arm, of which the best by validation is kept."""
        ratios = self.ratios if arm.rows in ("composite", DUPLICATE) else [None]
        ratios = ratios if arm.ratio is None else [arm.ratio]
        weights = self.weights if arm.rows in ("composite", "balanced") and not arm.linear else [1.0]
        bands = self.bands if arm.synthetic or arm.rows == DUPLICATE else [None]
        return [Choice(*one) for one in itertools.product(ratios, weights, bands)]


def numbers(flag: str, given: object, example: str = "0.25,0.5") -> list[float]:
    """The numbers of a flag that takes one or several; a ValueError where what is given is no number."""
    try:
        return [float(each) for each in (given if isinstance(given, list) else str(given).split(","))]
    except ValueError as error:
        raise ValueError(f"--{flag} must be numbers, as {example}, got {given}") from error


def resolve_arms(
    kinds: Iterable[str],
    control: str,
    sources: Iterable[str],
    known: tuple[str, ...],
    ratios: Sequence[float | None] = (None,),
) -> list[Arm]:
    """The arms to train, each once, the control first; those of synthetic samples once for each synthetic set, and
    composite for each of `ratios`.

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
    needy = [kind for kind in kinds if Arm(kind).synthetic or Arm(kind).rows == DUPLICATE]
    if needy and not sources:
        raise ValueError(f"--arms {','.join(needy)} need synthetic samples; give --synthetic, or leave them out")
    for real, alike in ((REAL_FEATURES, FEATURES), (REAL_FROZEN, LINEAR[:4]), (REAL_TFIDF, LINEAR[4:])):
        if any(kind in alike for kind in kinds):
            kinds = [real, *kinds]
    arms = [
        Arm(kind, source, ratio)
        for kind in [control, *kinds]
        for source in (sources if Arm(kind).synthetic else [""])
        for ratio in (ratios if Arm(kind).rows == "composite" else [None])
    ]
    return list(dict.fromkeys(arms))


@dataclass(frozen=True)
class Controls:
    """Names of the arms that others are compared with: `features` those in feature space, whose body is left alone as
    theirs is, and `whole` the others and `features` itself. Logistic regressions are compared with that on real rows.
    """

    whole: str
    features: str

    def of(self, arm: Arm) -> str | None:
        """The arm that `arm` is compared with; None for the last of all."""
        if arm.linear and arm.rows != "real":
            return f"real{arm.kind[len(arm.rows) :]}"
        if arm.in_features and arm.name != self.features:
            return self.features
        return self.whole if arm.name != self.whole else None


def choose_controls(arms: Iterable[Arm], validation: Mapping[str, float], control: str, choose: bool) -> Controls:
    """The controls of a study: with `choose` in either space the real-only arm of the best score in `validation`
    (macro-F1 by name), the first of equals; else `control` and `real_features`."""
    best = {False: control, True: REAL_FEATURES}
    if choose:
        for in_features in best:
            found = [arm.name for arm in arms if arm.kind in CANDIDATES and arm.in_features == in_features]
            best[in_features] = max(found, key=lambda name: validation[name], default=best[in_features])
    return Controls(control if control == REAL_FROZEN else best[control == REAL_FEATURES], best[True])


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
