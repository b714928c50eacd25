"""What a step of an image generator sees: images, labels, noise and noise levels.

Every draw of step k is a function of (seed, k) alone, made for the global batch and then cut into parts. So a resumed
run sees what an uninterrupted one sees, and two processes or accumulated half batches see what one large batch sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from accelerate import Accelerator

from clinsynth.data.images import ImageArrays
from clinsynth.seeds import derive_seed
from clinsynth.trainers.arguments import FromScratchArguments
from clinsynth.trainers.diffusion.augmentation import draw_views, move_images
from clinsynth.trainers.diffusion.latents import scale_images

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepInputs:
    """One part of a global batch, on the training device: images as the network sees them (b, c, h, w), labels, noise
    and timesteps, and, with augmentation, how the images were moved (b, VIEW)."""

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    views: torch.Tensor | None = None


class TrainingStream:
    """The endless, shuffled stream of training images, with everything random about a step.

    Args:
        images: uint8 (n, channels, height, width), on the training device or, where they do not fit there, the CPU;
            floats, such as latents, are taken as they are.
        labels: int64 (n,), on the training device.
        num_classes: real classes; class dropout replaces a label by `num_classes`.
        num_train_timesteps: T; timesteps are drawn from [0, T).
        class_dropout: probability of the null class.
        class_balanced: draw every class equally often instead of every image once an epoch.
        horizontal_flip: mirror half of the images left to right; off unless the anatomy allows it.
        vertical_flip: mirror half of them top to bottom.
        seed: of all draws.
        encode: from images in [-1, 1] to what the network sees; default: those themselves.
        density: probability of each timestep, (T,); default: all alike.
        augment: probability of each kind of move of an image; with it the network is told how each was moved.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        num_train_timesteps: int,
        class_dropout: float = 0.1,
        class_balanced: bool = False,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        seed: int = 0,
        encode: Encode | None = None,
        density: torch.Tensor | None = None,
        augment: float = 0.0,
    ):
        self.images, self.labels, self.encode, self.augment = images, labels, encode, augment
        self.density = None if density is None else density.to(labels.device)
        self.num_classes, self.num_train_timesteps = num_classes, num_train_timesteps
        self.class_dropout, self.class_balanced, self.seed = class_dropout, class_balanced, seed
        self.flips = [axis for axis, on in ((3, horizontal_flip), (2, vertical_flip)) if on]
        self.label_of = labels.cpu()  # epochs are ordered there, without waiting for the device
        self.orders: dict[int, torch.Tensor] = {}

    @classmethod
    def of(
        cls,
        train: ImageArrays,
        args: FromScratchArguments,
        device: torch.device,
        num_train_timesteps: int = 1,
        class_dropout: float = 0.0,
        seed: int | None = None,
        encode: Encode | None = None,
        density: torch.Tensor | None = None,
        augment: float = 0.0,
    ) -> Self:
        """The images of `train` on `device`, if they take no more than half of its free memory, viewed as `args` say,
        drawn from `seed` or theirs."""
        images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels).to(device)
        images = images.to(device) if images.nbytes <= room_on(device) else images
        flips = train.images.dtype == np.uint8  # latents come with their mirrored views
        views = (args.class_balanced, flips and args.horizontal_flip, flips and args.vertical_flip)
        drawn_from = args.seed if seed is None else seed
        drawn = (num_train_timesteps, class_dropout, *views, drawn_from, encode, density, augment)
        return cls(images, labels, len(train.label_names), *drawn)

    def epoch_order(self, epoch: int) -> torch.Tensor:
        """The image numbers of an epoch: a permutation, or n draws with equal class probability."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, epoch))
        count = len(self.label_of)
        if not self.class_balanced:
            return torch.randperm(count, generator=generator)
        weights = 1.0 / torch.bincount(self.label_of).clamp(min=1)[self.label_of].double()
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def indices(self, first: int, count: int) -> torch.Tensor:
        """Image numbers at positions first … first + count − 1 of the stream, on the CPU."""
        size = len(self.labels)
        epochs = range(first // size, (first + count - 1) // size + 1)
        known = self.orders
        self.orders = {epoch: known[epoch] if epoch in known else self.epoch_order(epoch) for epoch in epochs}
        order = torch.cat(list(self.orders.values()))
        start = first - epochs[0] * size
        return order[start : start + count]

    def step(self, step: int, batch_size: int, parts: int = 1) -> list[StepInputs]:
        """The global batch of step `step`, cut into `parts` of equal size (batch_size is a multiple of it)."""
        return self.inputs(step, self.indices(step * batch_size, batch_size), parts)

    def poisson_indices(self, step: int, sample_rate: float) -> torch.Tensor:
        """Image numbers of step `step`, each drawn with probability `sample_rate` on its own; may be none."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 4, step))
        draws = torch.rand(len(self.labels), generator=generator, dtype=torch.float64)
        return torch.nonzero(draws < sample_rate).flatten()

    def poisson_step(self, step: int, sample_rate: float, largest: int) -> list[StepInputs]:
        """A Poisson batch, cut into parts of at most `largest` images; where none was drawn, one empty part."""
        index = self.poisson_indices(step, sample_rate)
        return self.inputs(step, index, max(1, -(-len(index) // largest)))

    def inputs(self, step: int, index: torch.Tensor, parts: int) -> list[StepInputs]:
        """The images number `index` (b,) with everything random about them in step `step`, cut into `parts`."""
        device, batch_size = self.labels.device, len(index)
        chosen = self.images[index.to(self.images.device, non_blocking=True)]
        index = index.to(device, non_blocking=True)
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, 1, step))
        images = scale_images(chosen.to(device, non_blocking=True))
        noise = torch.randn(images.shape, generator=generator, device=device)
        timesteps = self.timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator, device=device) < self.class_dropout
        for axis in self.flips:
            mirrored = torch.rand(batch_size, generator=generator, device=device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(axis), images)
        moves = []
        if self.augment:
            moves = [draw_views(batch_size, self.augment, generator)]
            images = move_images(images, *moves)
        if self.encode:
            images = self.encode(images)
            noise = noise.view(images.shape)
        labels = self.labels[index].masked_fill(dropped, self.num_classes)
        cut = zip(*(tensor.chunk(parts) for tensor in (images, labels, noise, timesteps, *moves)), strict=True)
        return [StepInputs(*tensors) for tensors in cut]

    def timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Timesteps drawn by the density, int64 (count,)."""
        if self.density is None or not count:
            size = (count,)
            return torch.randint(self.num_train_timesteps, size, generator=generator, device=generator.device)
        return torch.multinomial(self.density, count, replacement=True, generator=generator)


def room_on(device: torch.device) -> float:
    """Half of the bytes that are free on a GPU; no bound elsewhere."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else float("inf")


def step_parts(
    stream: TrainingStream, accelerator: Accelerator, step: int, batch_size: int, accumulation: int
) -> list[StepInputs]:
    """This process's share of the step's global batch: `accumulation` parts of `batch_size` images."""
    processes = accelerator.num_processes
    parts = processes * accumulation
    return stream.step(step, batch_size * parts, parts)[accelerator.process_index :: processes]
