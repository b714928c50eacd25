"""The flags that all trainers of image models share, and checks of flags for every command.

Nothing heavy is imported here, so that `--help` is quick.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from clinsynth.arguments import check_at_least
from clinsynth.data.arguments import ImageDataArguments

MAY_DIFFER = frozenset(
    "output_dir dry_run log_steps report_to checkpointing_steps checkpoints_total_limit "
    "push_to_hub hub_model_id compile channels_last preset".split()
)
"""Flags that a run may be continued with another value of."""


@dataclass
class RunArguments(ImageDataArguments):
    """How long an image model is trained, and what is kept of the run; all trainers of image models have these."""

    output_dir: str = "runs/training"
    """run folder; afterwards itself a checkpoint that DiffusionPipeline.from_pretrained loads"""
    train_steps: int = 5_000
    """optimizer steps"""
    train_batch_size: int = 64
    """images a step and process; the global batch is this x processes x accumulation steps"""
    ema_decay: float = 0.999
    """largest decay of the average of the weights that is saved; it warms up with the steps"""
    seed: int = 0
    """of the weights' start, the order of images and all noise"""
    log_steps: int = 50
    """steps between two lines of metrics.jsonl"""
    checkpointing_steps: int = 500
    """steps between two checkpoints"""
    checkpoints_total_limit: int = 2
    """checkpoints that are kept, the newest"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(
            self, "train_steps train_batch_size log_steps checkpointing_steps checkpoints_total_limit".split()
        )
        check_at_least(self, 0, ["seed"])
        check_shares(self, ["ema_decay"])


@dataclass
class DescentArguments(RunArguments):
    """AdamW under a schedule: what a model is trained with that has one loss."""

    learning_rate: float = 1e-3
    """peak learning rate of AdamW"""
    adam_beta2: float = 0.999
    """memory of AdamW's mean square of the gradient"""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """course of the learning rate over the steps"""
    lr_warmup_steps: int = 100
    """steps over which the learning rate rises from 0"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """auto: bf16 where the device computes in it natively, else no"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, ["learning_rate", "max_grad_norm"])
        check_at_least(self, 0, ["lr_warmup_steps"])
        check_shares(self, ["adam_beta2"])


@dataclass
class FromScratchArguments(RunArguments):
    """What a generator of images has that is trained from nothing: views of its images, validation, publication."""

    class_balanced: bool = False
    """draw every class equally often"""
    horizontal_flip: bool = False
    """mirror left to right at random: only where a mirrored image is still a true one (laterality!)"""
    vertical_flip: bool = False
    """mirror top to bottom at random"""
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """tracker that gets the same numbers"""
    validation_steps: int = 1000
    """steps between two validations (image grid in samples/, Frechet distance and KID against the validation split);
    the best by KID becomes the result. 0: no validation, the last step is the result"""
    stop_memorising: bool = True
    """stop at a validation whose images lie nearer to train than to validation images by more than chance, and keep
    the best weights from before"""
    push_to_hub: bool = False
    """upload the result to the Hub when done, to a private repository"""
    hub_model_id: str | None = None
    """repository to upload to; default: the name of the output folder"""
    dry_run: bool = False
    """print the resolved settings, the data and the network's size, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, ["validation_steps"])


def check_above_zero(args: Any, names: list[str]) -> None:
    """Raise a `ValueError` for the first flag of `names` that is not above 0."""
    for name in names:
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name} must be above 0, got {getattr(args, name)}")


def check_shares(args: Any, names: list[str]) -> None:
    """Raise a `ValueError` for the first flag of `names` that is not in [0, 1)."""
    usual = {field.name: field.default for field in fields(args)}
    for name in names:
        if not 0 <= getattr(args, name) < 1:
            hint = "" if usual[name] is None else f"; {usual[name]} is usual"
            raise ValueError(f"--{name} must be in [0, 1), got {getattr(args, name)}{hint}")
