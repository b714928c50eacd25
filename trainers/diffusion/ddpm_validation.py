"""Validation of a DDPM while it trains: a picture grid, Fréchet distance and KID against the validation split."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.seeds import derive_seed

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
