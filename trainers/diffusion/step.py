"""The parts of a DDPM's training loop: its state, its stream of images, one step, and its validation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.model import DDPMProcess, StepInputs, TrainingStream, build_scheduler, build_unet
from clinsynth.trainers.training_state import TrainingState


def build_state(
    args: DDPMArguments, train: ImageArrays, accelerator: Accelerator
) -> tuple[TrainingState, ClassConditionedDDPMPipeline]:
    """The state before the first step, and the pipeline around its network."""
    torch.manual_seed(derive_seed(args.seed, 2))
    model = build_unet(args, train.images.shape[-1], train.images.shape[1], len(train.label_names))
    pipeline = ClassConditionedDDPMPipeline(model, build_scheduler(args), dict(enumerate(train.label_names)))
    return TrainingState.begin(model, args, accelerator, args.weight_decay), pipeline


def train_step(
    accelerator: Accelerator,
    unet: nn.Module,
    process: DDPMProcess,
    optimizer: torch.optim.Optimizer,
    parts: list[StepInputs],
    max_grad_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step on this process's parts of the global batch; returns its mean loss and gradient norm, scalars
    on the device."""
    total = torch.zeros((), device=accelerator.device)
    for i, part in enumerate(parts):
        wait_for_more = accelerator.no_sync(unet) if i < len(parts) - 1 else nullcontext()
        with wait_for_more:
            loss = process.loss(unet, part) / len(parts)
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(unet.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return accelerator.reduce(total, "mean"), norm


def step_parts(
    stream: TrainingStream, accelerator: Accelerator, step: int, batch_size: int, accumulation: int
) -> list[StepInputs]:
    """This process's share of the step's global batch: `accumulation` parts of `batch_size` images."""
    processes = accelerator.num_processes
    parts = processes * accumulation
    return stream.step(step, batch_size * parts, parts)[accelerator.process_index :: processes]


BATCH, COLUMNS = 64, 8
"""Images drawn at once, and images a class in a grid."""


class Validation:
    """Generates one image for each of the validation split, always from the same seeds, and compares.

    The features are those of a small classifier trained on the train split (kept in `output_dir/validation`): good for
    ranking checkpoints of one run; the distances are not comparable with published ones.

    Args:
        pipeline: what draws, around the network that is trained.
        steps: of its sampler.
        data: the splits.
        output_dir: of the grids and the classifier.
        seed: of the images.
    """

    def __init__(self, pipeline: Any, steps: int, data: dict[str, ImageArrays], output_dir: Path, seed: int):
        self.pipeline, self.steps, self.output_dir, self.seed = pipeline, steps, output_dir, seed
        self.labels, self.num_classes = data["validation"].labels, len(data["validation"].label_names)
        self.extractor = train_default_extractor(data["train"], data["validation"], output_dir / "validation", seed)
        self.real = self.extractor(data["validation"].images)

    def __call__(self, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_frechet` and `validation_kid`."""
        self.pipeline.set_progress_bar_config(desc=f"validation at step {step}", leave=False)
        shown = np.repeat(np.arange(self.num_classes), COLUMNS)
        save_grid(draw(self.pipeline, shown, self.seed, self.steps), COLUMNS, self.output_dir, step)
        features = self.extractor(draw(self.pipeline, self.labels, self.seed, self.steps))
        return {
            "validation_frechet": frechet_distance(self.real, features),
            "validation_kid": kernel_distance(self.real, features),
        }


def draw(pipeline: Any, labels: np.ndarray, seed: int, steps: int, batch: int = BATCH) -> np.ndarray:
    """An image for each of `labels`, uint8 (n, channels, size, size), `batch` at once, always from the same seeds."""
    generators = [torch.Generator().manual_seed(derive_seed(seed, 3, i)) for i in range(len(labels))]
    parts = []
    for part in (slice(first, first + batch) for first in range(0, len(labels), batch)):
        drawn = pipeline(
            labels[part].tolist(), generator=generators[part], num_inference_steps=steps, output_type="pt"
        )
        parts.append((drawn.images.float().nan_to_num() * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


def save_grid(images: np.ndarray, columns: int, output_dir: Path, step: int) -> None:
    """Write `samples/step-<step>.png` of the images, uint8 (n, channels, size, size)."""
    path = output_dir / "samples" / f"step-{step:07d}.png"
    path.parent.mkdir(exist_ok=True)
    contact_sheet(images, columns).save(path)


def to_fast(scheduler: DDPMScheduler) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) on the noise schedule of `scheduler`."""
    return DPMSolverMultistepScheduler.from_config(scheduler.config)
