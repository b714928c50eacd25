"""The seam of a classifier study: what its arms need to know of pictures or texts beyond rows and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from clinsynth.trainers.classifiers.arms import Arm

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from clinsynth.models.classifier_result import FitResult
    from clinsynth.trainers.classifiers.arm_training import ArmSettings

    Read = Callable[[torch.Tensor], torch.Tensor]


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
        self, model: PreTrainedModel, train: S, validation: S, arm: Arm, control: str, common: dict[str, Any]
    ) -> FitResult:
        """Train the whole of `model` in place; `common` holds the keywords that all fits share."""

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
