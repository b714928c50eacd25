"""The section training of sampling.py: the trainer's step over the bare forward, backward and optimizer step."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.arms import OurTraining
from benchmarks.timing import Comparison, Run, compare
from clinsynth.arguments import parse
from clinsynth.data.images import ImageArrays
from clinsynth.trainers.train_ddpm import DDPMArguments

if TYPE_CHECKING:
    from benchmarks.sampling import SamplingArguments


def over_bare_step(args: "SamplingArguments", pipe: Any) -> Comparison:
    """Seconds of the body of the trainer's loop (batch, noise, loss, clipping, optimizer, learning rate, averaging of
    weights) over those of a bare step of the same network in the same precision, with the settings of the run folder
    `args.model` where it has them, else the trainer's defaults."""
    config = Path(args.model) / "config.yaml"
    settings = parse(DDPMArguments, ["--config", str(config)] if config.exists() else [])
    training = OurTraining(settings, random_data(pipe, settings), Path(args.output_dir))
    precision = training.accelerator.mixed_precision
    return compare(
        "training step over the bare step",
        ("trainer's step", training.step),
        ("bare step", bare_step(training, precision, settings)),
        repeats=args.repeats,
        goal=("<=", 1.05),
        note=f"{settings.backbone}, width {settings.width}, batch {settings.train_batch_size}, {precision}",
    )


def random_data(pipe: Any, settings: DDPMArguments) -> dict[str, ImageArrays]:
    """Four batches of noise, of the pipeline's size and classes."""
    config, n = pipe.unet.config, 4 * settings.train_batch_size
    generator = np.random.default_rng(0)
    shape = (n, config.in_channels, config.sample_size, config.sample_size)
    names = [pipe.id2label[i] for i in range(pipe.num_classes)]
    return {"train": ImageArrays(generator.integers(0, 256, shape, dtype=np.uint8), np.arange(n) % len(names), names)}


def bare_step(training: OurTraining, precision: str, settings: DDPMArguments) -> Run:
    """Forward, mean squared error, backward and AdamW on fixed inputs, with a copy of the trainer's network."""
    network = type(training.network).from_config(training.network.config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batch = training.stream.step(0, settings.train_batch_size)[0]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prediction = network(batch.noise, batch.timesteps, class_labels=batch.labels).sample
        F.mse_loss(prediction.float(), batch.noise).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
