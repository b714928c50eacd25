"""The parts of a DDPM's training loop: its state, its stream of images, one step, and its validation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DiffusionArguments
from clinsynth.trainers.diffusion.model import DDPMProcess, StepInputs, TrainingStream, build_scheduler, build_unet
from clinsynth.trainers.training_state import TrainingState


def build_state(
    args: DiffusionArguments, train: ImageArrays, accelerator: Accelerator
) -> tuple[TrainingState, ClassConditionedDDPMPipeline]:
    """The state before the first step, and the pipeline around its network."""
    torch.manual_seed(derive_seed(args.seed, 2))
    model = build_unet(args, train.images.shape[-1], train.images.shape[1], len(train.label_names))
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay, fused=True
    )
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.train_steps,
    )
    ema = EMAModel(model.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    pipeline = ClassConditionedDDPMPipeline(model, build_scheduler(args), dict(enumerate(train.label_names)))
    return TrainingState(model, ema, optimizer, lr_scheduler, accelerator.scaler), pipeline


def train_step(
    accelerator: Accelerator,
    unet: nn.Module,
    process: DDPMProcess,
    optimizer: Any,
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


def build_stream(args: DiffusionArguments, train: ImageArrays, device: torch.device, seed: int) -> TrainingStream:
    """The training images on `device`, with the arguments' randomness, drawn from `seed`."""
    return TrainingStream(
        torch.from_numpy(train.images).to(device),
        torch.from_numpy(train.labels).to(device),
        len(train.label_names),
        args.num_train_timesteps,
        args.class_dropout,
        args.class_balanced,
        args.horizontal_flip,
        args.vertical_flip,
        seed,
    )


GRID_COLUMNS = 8


class Validation:
    """Generates one image for each of the validation split, always from the same seeds, and compares.

    The features are those of a small classifier trained on the train split (kept in `output_dir/validation`): good for
    ranking checkpoints of one run; the distances are not comparable with published ones.

    Args:
        pipeline: around the network that is trained.
        data: the splits.
        output_dir: of the grids and the classifier.
        seed: of the images.
    """

    num_inference_steps = 20

    def __init__(self, pipeline: Any, data: dict[str, ImageArrays], output_dir: Path, seed: int):
        self.pipeline, self.output_dir, self.seed = pipeline, output_dir, seed
        self.labels, self.num_classes = data["validation"].labels, len(data["validation"].label_names)
        self.extractor = train_default_extractor(data["train"], data["validation"], output_dir / "validation", seed)
        self.real = self.extractor(data["validation"].images)

    def __call__(self, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_frechet` and `validation_kid`."""
        fast = self.fast(self.pipeline)
        fast.set_progress_bar_config(desc=f"validation at step {step}", leave=False)
        grid = np.repeat(np.arange(self.num_classes), GRID_COLUMNS)
        save_grid(self.sample(fast, grid), GRID_COLUMNS, self.output_dir, step)
        features = self.extractor(self.sample(fast, self.labels))
        return {
            "validation_frechet": frechet_distance(self.real, features),
            "validation_kid": kernel_distance(self.real, features),
        }

    def fast(self, pipeline: Any) -> Any:
        """`pipeline` with a sampler that needs few steps."""
        return type(pipeline)(pipeline.unet, to_fast(pipeline.scheduler), pipeline.id2label)

    def sample(self, pipeline: Any, labels: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """One image for each label, uint8 (n, channels, size, size)."""
        seeds = [derive_seed(self.seed, 3, i) for i in range(len(labels))]
        batches = [slice(first, first + batch_size) for first in range(0, len(labels), batch_size)]
        steps = self.num_inference_steps
        return np.concatenate([draw(pipeline, labels[batch].tolist(), seeds[batch], steps) for batch in batches])


def draw(pipeline: Any, labels: list[int], seeds: list[int], steps: int) -> np.ndarray:
    """Images of the classes `labels`, each of its own seed, uint8 (n, channels, size, size)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(labels, generator=generators, num_inference_steps=steps, output_type="pt").images
    return (images.float().nan_to_num() * 255).round().to(torch.uint8).cpu().numpy()


def save_grid(images: np.ndarray, columns: int, output_dir: Path, step: int) -> None:
    """Write `samples/step-<step>.png` of the images, uint8 (n, channels, size, size)."""
    path = output_dir / "samples" / f"step-{step:07d}.png"
    path.parent.mkdir(exist_ok=True)
    contact_sheet(images, columns).save(path)


def to_fast(scheduler: Any) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) on the noise schedule of `scheduler`."""
    return DPMSolverMultistepScheduler.from_config(scheduler.config)
