"""What a latent model is trained on: the autoencoder's latents of the real pictures, made once; and its validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from clinsynth.data.images import ImageArrays, Survey, Target, check_square, count_sizes, render, state_changes, survey
from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import DDPMProcess, TrainingStream
from clinsynth.trainers.diffusion.step import draw, save_grid, to_fast
from clinsynth.trainers.text_to_image.arguments import PromptedArguments

if TYPE_CHECKING:
    from clinsynth.data.arguments import ImageDataArguments

PIXELS_AT_ONCE = 2**21
"""That the autoencoder gets, in float32: 8 pictures of 512 pixels a side."""
VALIDATED_AT_ONCE, MOST_VALIDATED = 8, 256
STEPS = 25


def latent_stream(args: PromptedArguments, pictures: Pictures, prompted: PromptedPipeline) -> TrainingStream:
    """The train split as latents on the training device; a mirrored picture counts as a further one."""
    flips = [axis for axis, on in ((3, args.horizontal_flip), (2, args.vertical_flip)) if on]
    latents, labels = encode(pictures, "train", prompted, flips)
    total = prompted.scheduler.config["num_train_timesteps"]
    return TrainingStream(
        latents, labels, prompted.num_classes, total, args.class_dropout, args.class_balanced, seed=args.seed
    )


def encode(
    pictures: Pictures, split: str, prompted: PromptedPipeline, flips: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, float32 (n, c, h, w), and labels (n,), of each picture as it is and under all of `flips` (axes)."""
    variants: list[list[int]] = [[]]
    for axis in flips:
        variants += [[*variant, axis] for variant in variants]
    latents, labels = [], []
    size = max(1, PIXELS_AT_ONCE // prompted.side**2)
    total = -(-len(pictures.splits[split]) // size)
    for batch in tqdm(pictures.batches(split, size), total=total, desc=f"encode {split}", leave=False):
        images = torch.from_numpy(batch.images).float() / 127.5 - 1
        for variant in variants:
            latents.append(prompted.encode(images.flip(variant)).float())
            labels.append(torch.from_numpy(batch.labels).to(prompted.device))
    return torch.cat(latents), torch.cat(labels)


class LatentValidation:
    """Draws a grid of images and measures the loss on real validation images, always with the same random numbers.

    Args:
        args: seed, and images a class.
        images: the data set.
        prompted: the model that is trained.
        output_dir: of the grids.
    """

    def __init__(self, args: PromptedArguments, images: Pictures, prompted: PromptedPipeline, output_dir: Path):
        self.prompted, self.output_dir = prompted, output_dir
        self.seed, self.columns = args.seed, args.validation_pictures
        self.process = DDPMProcess(prompted.scheduler)
        latents, labels = encode(images, "validation", prompted, [])
        total, seed = self.process.num_train_timesteps, derive_seed(args.seed, 17)
        self.stream = TrainingStream(latents, labels, prompted.num_classes, total, class_dropout=0.0, seed=seed)
        self.count = min(MOST_VALIDATED, len(labels))

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_loss`."""
        save_grid(self.draw_grid(), self.columns, self.output_dir, step)
        size = min(VALIDATED_AT_ONCE, self.count)
        batches = [self.stream.step(number, size)[0] for number in range(self.count // size)]
        losses = [float(self.process.loss(self.prompted.unet, batch)) for batch in batches]
        return {"validation_loss": sum(losses) / len(losses)}

    def draw_grid(self) -> np.ndarray:
        """Images of all classes, uint8 (classes x columns, 3, side, side), with DPM-Solver++."""
        schedule, columns = self.prompted.scheduler, self.columns
        self.prompted.scheduler = to_fast(schedule)
        seeds = [derive_seed(self.seed, 3, number) for number in range(self.prompted.num_classes * columns)]
        rows = [
            draw(self.prompted, [label] * columns, seeds[label * columns : (label + 1) * columns], STEPS)
            for label in range(self.prompted.num_classes)
        ]
        self.prompted.scheduler = schedule
        return np.concatenate(rows)


@dataclass(frozen=True)
class Pictures:
    """The splits of a data set, undecoded, and what every picture is brought to."""

    splits: Any
    target: Target

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their numbers."""
        names: list[str] = self.splits["train"].features["label"].names
        return names

    def all(self) -> dict[str, ImageArrays]:
        """The splits in memory."""
        return {name: render(split, self.target) for name, split in self.splits.items()}

    def batches(self, split: str, size: int) -> Iterator[ImageArrays]:
        """A split in parts of at most `size` pictures: thousands at 1024 pixels need not fit into memory."""
        rows = self.splits[split]
        for first in range(0, len(rows), size):
            yield render(rows.select(range(first, min(first + size, len(rows)))), self.target)


def open_pictures(args: ImageDataArguments, side: int, seed: int) -> Pictures:
    """The data set of `args`, whose pictures become colour and `side` x `side` pixels, smaller ones enlarged.

    Raises:
        ValueError: oblong pictures without --fit, or what `clinsynth.data.images.load_image_dataset` raises.
    """
    from clinsynth.data.images import load_image_dataset

    splits = load_image_dataset(replace(args, resolution=None), seed)
    found: Survey = sum((survey(split) for split in splits.values()), Counter())
    check_square(count_sizes(found), args.fit)
    target = Target(side, 3, args.fit)
    state_changes(found, target)
    return Pictures(splits, target)
