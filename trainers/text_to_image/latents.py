"""What a latent model is trained on: the autoencoder's latents of the real pictures, made once; and its validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from clinsynth.data.images import ImageSplits
from clinsynth.images import contact_sheet
from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import TrainingStream, diffusion_loss
from clinsynth.trainers.diffusion.step import to_fast

if TYPE_CHECKING:
    from clinsynth.trainers.train_text_to_image_lora import TextToImageLoraArguments

PIXELS_AT_ONCE = 2**21
"""That the autoencoder gets, in float32: 8 pictures of 512 pixels a side."""
VALIDATED_AT_ONCE, MOST_VALIDATED = 8, 256
STEPS = 25


def latent_stream(args: TextToImageLoraArguments, pictures: ImageSplits, prompted: PromptedPipeline) -> TrainingStream:
    """The train split as latents on the training device; a mirrored picture counts as a further one."""
    flips = [axis for axis, on in ((3, args.horizontal_flip), (2, args.vertical_flip)) if on]
    latents, labels = encode(pictures, "train", prompted, flips)
    total = prompted.scheduler.config["num_train_timesteps"]
    return TrainingStream(
        latents, labels, prompted.num_classes, total, args.class_dropout, args.class_balanced, seed=args.seed
    )


def encode(
    pictures: ImageSplits, split: str, prompted: PromptedPipeline, flips: list[int]
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


@dataclass
class LatentValidation:
    """Draws a grid of pictures and measures the loss on real validation pictures, always with the same random numbers.

    Attributes:
        columns: pictures a class.
        stream: of the validation split's latents.
        count: of them that are measured.
    """

    prompted: PromptedPipeline
    output_dir: Path
    seed: int
    columns: int
    stream: TrainingStream
    count: int

    @torch.no_grad()
    def __call__(self, unet: Any, step: int) -> dict[str, float]:
        """Write `samples/step-<step>.png` (a row a class) and return `validation_loss`."""
        path = self.output_dir / "samples" / f"step-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        contact_sheet(self.draw(), self.columns).save(path)
        size = min(VALIDATED_AT_ONCE, self.count)
        losses = [
            float(diffusion_loss(unet, self.prompted.scheduler, self.stream.step(number, size)[0], None))
            for number in range(self.count // size)
        ]
        return {"validation_loss": sum(losses) / len(losses)}

    def draw(self) -> np.ndarray:
        """Pictures of all classes, uint8 (classes x columns, 3, side, side), with DPM-Solver++."""
        schedule = self.prompted.scheduler
        self.prompted.scheduler = to_fast(schedule)
        rows = []
        for label in range(self.prompted.num_classes):
            seeds = [derive_seed(self.seed, 3, label * self.columns + i) for i in range(self.columns)]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            settings = {"num_inference_steps": STEPS, "output_type": "pt"}
            images = self.prompted([label] * self.columns, generator=generators, **settings).images
            rows.append((images.float().nan_to_num() * 255).round().to(torch.uint8).cpu().numpy())
        self.prompted.scheduler = schedule
        return np.concatenate(rows)


def latent_validation(
    args: TextToImageLoraArguments, pictures: ImageSplits, prompted: PromptedPipeline, output_dir: Path
) -> LatentValidation:
    """What validates."""
    latents, labels = encode(pictures, "validation", prompted, [])
    total, seed = prompted.scheduler.config["num_train_timesteps"], derive_seed(args.seed, 17)
    stream = TrainingStream(latents, labels, prompted.num_classes, total, class_dropout=0.0, seed=seed)
    count = min(MOST_VALIDATED, len(labels))
    return LatentValidation(prompted, output_dir, args.seed, args.validation_pictures, stream, count)
