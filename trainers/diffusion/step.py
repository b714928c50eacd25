"""The parts of a DDPM's training loop: its stream of images, one step, and what is checked and kept after it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from diffusers.optimization import get_scheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.run_folder import complete_folder
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import StepInputs, TrainingStream, build_scheduler, build_unet, diffusion_loss
from clinsynth.trainers.training_state import TrainingState, checkpoints

if TYPE_CHECKING:
    from clinsynth.trainers.train_ddpm import DDPMArguments


def build_state(
    args: DDPMArguments, train: ImageArrays, accelerator: Accelerator
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
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    optimizer: Any,
    parts: list[StepInputs],
    args: DDPMArguments,
) -> tuple[float, float]:
    """One optimizer step on this process's parts of the global batch; returns its mean loss and gradient norm."""
    total = torch.zeros((), device=accelerator.device)
    for i, part in enumerate(parts):
        wait_for_more = accelerator.no_sync(unet) if i < len(parts) - 1 else nullcontext()
        with wait_for_more:
            loss = diffusion_loss(unet, scheduler, part, args.min_snr_gamma) / len(parts)
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "mean")), float(norm)


def step_parts(args: DDPMArguments, stream: TrainingStream, accelerator: Accelerator, step: int) -> list[StepInputs]:
    """This process's share of the step's global batch, one entry an accumulation step."""
    processes = accelerator.num_processes
    parts = processes * args.gradient_accumulation_steps
    return stream.step(step, args.train_batch_size * parts, parts)[accelerator.process_index :: processes]


def build_stream(
    args: DDPMArguments, train: ImageArrays, accelerator: Accelerator, seed: int | None = None
) -> TrainingStream:
    """The training images on the training device, with the arguments' randomness, drawn from `seed` or theirs."""
    return TrainingStream(
        torch.from_numpy(train.images).to(accelerator.device),
        torch.from_numpy(train.labels).to(accelerator.device),
        len(train.label_names),
        args.num_train_timesteps,
        args.class_dropout,
        args.class_balanced,
        args.horizontal_flip,
        args.vertical_flip,
        args.seed if seed is None else seed,
    )


def build_validation(args: DDPMArguments, data: dict[str, ImageArrays], output_dir: Path) -> Validation | None:
    """What validates, or None with --validation_steps 0."""
    if args.validation_steps == 0:
        return None
    return Validation(data, output_dir, args.seed)


def keep_best(state: TrainingState, pipeline: Any, validate: Validation, output_dir: Path) -> dict[str, float]:
    """Validate the averaged weights; when their KID is the lowest so far, save them as `best`."""
    with state.averaged_weights():
        scores = validate(pipeline, state.step)
        if scores["validation_kid"] < state.best_kid:
            state.best_kid = scores["validation_kid"]
            with complete_folder(output_dir / "best") as folder:
                pipeline.save_pretrained(folder)
    return scores


def check_finite(loss: float, norm: float, state: TrainingState, output_dir: Path) -> None:
    """Stop a diverged run before it overwrites anything; fp16's scaler handles an infinite norm itself.

    Raises:
        FloatingPointError: names the step and the last good checkpoint.
    """
    if math.isfinite(loss) and (math.isfinite(norm) or state.scaler is not None):
        return
    saved = checkpoints(output_dir)
    good = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    raise FloatingPointError(
        f"training diverged at step {state.step + 1}: loss {loss}, gradient norm {norm}; {good}. "
        "Start anew in another --output_dir with a lower --learning_rate or --mixed_precision no"
    )


def finish(args: DDPMArguments, output_dir: Path) -> None:
    """Say where the result is, and upload it when asked to."""
    print(f"checkpoint: {output_dir}")
    if args.push_to_hub:
        pipeline = DiffusionPipeline.from_pretrained(output_dir, trust_remote_code=True)
        print(f"uploaded: {pipeline.push_to_hub(args.hub_model_id or output_dir.name)}")


STEPS = 20
GRID_COLUMNS = 8


class Validation:
    """Generates one picture for each of the validation split, always from the same seeds, and compares.

    The features are those of a small classifier trained on the train split (kept in `output_dir/validation`): good for
    ranking checkpoints of one run; the distances are not comparable with published ones.
    """

    num_inference_steps = STEPS

    def __init__(self, data: dict[str, ImageArrays], output_dir: Path, seed: int):
        self.labels, self.output_dir, self.seed = data["validation"].labels, output_dir, seed
        self.num_classes = len(data["validation"].label_names)
        self.extractor = train_default_extractor(data["train"], data["validation"], output_dir / "validation", seed)
        self.real = self.extractor(data["validation"].images)

    def __call__(self, pipeline: Any, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_frechet` and `validation_kid`."""
        fast = self.fast(pipeline)
        fast.set_progress_bar_config(desc=f"validation at step {step}", leave=False)
        grid = np.repeat(np.arange(self.num_classes), GRID_COLUMNS)
        path = self.output_dir / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        contact_sheet(self.sample(fast, grid), GRID_COLUMNS).save(path)
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
        parts = []
        for first in range(0, len(labels), batch_size):
            part = labels[first : first + batch_size].tolist()
            seeds = [derive_seed(self.seed, 3, first + i) for i in range(len(part))]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            settings = {"num_inference_steps": self.num_inference_steps, "output_type": "pt"}
            images = pipeline(part, generator=generators, **settings).images
            parts.append((images * 255).round().to(torch.uint8).cpu().numpy())
        return np.concatenate(parts)


def to_fast(scheduler: Any) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) on the noise schedule of `scheduler`."""
    return DPMSolverMultistepScheduler.from_config(scheduler.config)
