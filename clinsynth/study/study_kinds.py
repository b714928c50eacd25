"""What a study of pictures and one of texts do not have in common: their commands, trainers and data flags."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.text_arguments import TextDataArguments


@dataclass(frozen=True)
class Kind:
    """One kind of study.

    Attributes:
        data: dataclass of the data flags that all its commands share.
        trainers: what `trainer:` of a generator may be, and the command that trains it; None where nothing is trained.
        further: trainers that start from another generator of the study, named by its key `of`.
        generate, evaluate, classify: its other commands.
        left_out: data flags that `evaluate` does not take: it reads them off the synthetic set.
        audited: trainers whose checkpoints a loss-based membership attack can be made on.
        shared: flags of the study beside the data's that its trainers and `generate` share.
    """

    data: type
    trainers: dict[str, tuple[str, ...] | None]
    generate: tuple[str, ...]
    evaluate: tuple[str, ...]
    classify: tuple[str, ...]
    further: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    audited: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()

    @property
    def data_flags(self) -> dict[str, object]:
        """Name and default of each data flag but --dataset."""
        fields = dataclasses.fields(self.data)
        return {field.name: field.default for field in fields if field.name != "dataset"}


IMAGES = Kind(
    ImageDataArguments,
    {"ddpm": ("train", "ddpm"), "gan": ("train", "gan"), "preference": ("train", "preference"), "redraw": None},
    generate=("generate", "images"),
    evaluate=("evaluate", "images"),
    classify=("train", "image-classifier"),
    further=frozenset({"preference", "redraw"}),
    left_out=frozenset({"resolution", "channels"}),
    audited=frozenset({"ddpm", "preference"}),
)
TEXTS = Kind(
    TextDataArguments,
    {"prompt": None, "text-lora": ("train", "text-lora")},
    generate=("generate", "text"),
    evaluate=("evaluate", "text"),
    classify=("train", "text-classifier"),
    shared=("model", "task", "codes"),
)
