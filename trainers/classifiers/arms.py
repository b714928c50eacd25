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

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from clinsynth.data.sources import load_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from clinsynth.models.classifiers import FitResult, FitSettings, Read
    from clinsynth.trainers.classifiers.trainings import ArmSettings


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


class Rows(Protocol):
    """Samples, or features of them, that arms put together."""

    noun: ClassVar[str]

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def label_names(self) -> list[str]: ...

    def take(self, rows: np.ndarray) -> Self: ...

    def followed_by(self, more: Self) -> Self: ...


class Samples(Rows, Protocol):
    """One split in memory: `ImageArrays` or `TextArrays`, which say what the members are."""

    column: ClassVar[str]
    made_by: ClassVar[str]

    @property
    def groups(self) -> dict[str, np.ndarray]: ...

    def content(self) -> bytes: ...

    def read_like(self, dataset: Dataset) -> Self: ...

    def check_like(self, other: Self, name: str) -> None: ...


S = TypeVar("S", bound=Samples)


class Medium(ABC, Generic[S]):
    """How classifiers of one kind of samples are made, trained, read and kept.

    Attributes:
        arms: the kinds of arms that there are.
        small: name of the small classifier that is trained from scratch.
        minority_recall: whether the scores hold the recall of the small classes together.
    """

    arms: ClassVar[tuple[str, ...]]
    small: ClassVar[str]
    minority_recall: ClassVar[bool]
    augment: bool

    @abstractmethod
    def identity(self, arm: Arm, control: str) -> dict[str, Any]:
        """What of this medium a training's result depends on, JSON-able."""

    @abstractmethod
    def build(self, settings: ArmSettings, train: S, seed: int) -> PreTrainedModel:
        """An untrained classifier of the classes of `train`: the small one, or --model with a new last layer."""

    @abstractmethod
    def save(self, model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
        """Write a folder that `transformers.pipeline` takes."""

    @abstractmethod
    def load(self, folder: Path, label_names: list[str]) -> PreTrainedModel:
        """Read back what `save` wrote."""

    @abstractmethod
    def fit(
        self,
        model: PreTrainedModel,
        train: S,
        validation: S,
        settings: FitSettings,
        *,
        views: str,
        class_weights: bool,
    ) -> FitResult:
        """Train the whole of `model` in place; `views` is how the samples are varied, as `augmentation` says."""

    @abstractmethod
    def outputs(self, model: PreTrainedModel, data: S, read: Read) -> np.ndarray:
        """What `read` makes of the logits of each batch, float32 (n, …) in the order of `data`; in evaluation mode.
        It is called once after each pass through the network."""

    @abstractmethod
    def oversample(self, train: S, method: str, balance_to: int | None, seed: int) -> tuple[S, list[str]]:
        """`train` and after it the samples that fill up its short classes, and notes.

        Raises:
            ArmRefusedError: the data does not allow it.
        """

    @abstractmethod
    def notes(self, real: Mapping[str, S], synthetic: Mapping[str, S]) -> list[str]:
        """What a reader must know of how the samples were brought into the model."""

    def predict(self, model: PreTrainedModel, data: S) -> np.ndarray:
        """Class probabilities, float32 (n, classes)."""
        return self.outputs(model, data, lambda logits: logits.softmax(-1))


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
