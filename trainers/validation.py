"""Validation of an image generator while it is trained: a grid to look at, distances, and a sign of memorising."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.images.privacy import thumbnail_features
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.metrics.privacy.closest_records import measure_shares
from clinsynth.metrics.privacy.copies import SPACE, ThumbnailSpace
from clinsynth.metrics.records import MeasurementSettings
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.seeds import derive_seed
from clinsynth.trainers.arguments import FromScratchArguments

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
        args: the seed of the images, and whether memorising is to be named.
    """

    def __init__(
        self, pipeline: Any, steps: int, data: dict[str, ImageArrays], output_dir: Path, args: FromScratchArguments
    ):
        self.pipeline, self.steps, self.output_dir, self.args, self.seed = pipeline, steps, output_dir, args, args.seed
        self.data, self.space = data, ThumbnailSpace.of(data["train"].images)
        self.labels, self.num_classes = data["validation"].labels, len(data["validation"].label_names)
        folder = output_dir / "validation"
        self.extractor = train_default_extractor(data["train"], data["validation"], folder, self.seed)
        self.real = self.extractor(data["validation"].images)

    def __call__(self, step: int) -> dict[str, Any]:
        """Write `samples/step-<step>.png` (a row a class) and measure.

        Returns `validation_frechet` and `validation_kid`, and the share `nearer_train` of the images, by thumbnails,
        with `nearer_train_chance`, up to which chance explains it.
        """
        self.pipeline.set_progress_bar_config(desc=f"validation at step {step}", leave=False)
        shown = np.repeat(np.arange(self.num_classes), COLUMNS)
        save_grid(draw_images(self.pipeline, shown, self.seed, self.steps), COLUMNS, self.output_dir, step)
        images = draw_images(self.pipeline, self.labels, self.seed, self.steps)
        features = self.extractor(images)
        return {
            "validation_frechet": frechet_distance(self.real, features),
            "validation_kid": kernel_distance(self.real, features),
            **self.nearer_train(images),
        }

    def nearer_train(self, images: np.ndarray) -> dict[str, Any]:
        """How many of `images` lie nearer to train than to as many validation images; nothing of fewer than ten."""
        train, held_out = self.data["train"], self.data["validation"]
        drawn = ImageArrays(images, self.labels, held_out.label_names)
        sides = thumbnail_features(self.space, drawn, held_out, train)
        settings = MeasurementSettings(SPACE, replicates=100, seed=self.seed)
        record = measure_shares(sides["synthetic"], sides["train"], sides["test"], held_out.label_names, settings)[0]
        if record.value is None:
            return {}
        named = {"memorises": record.exceeds_chance} if self.args.stop_memorising else {}
        return {"nearer_train": record.value, "nearer_train_chance": record.chance, **named}


def draw_images(pipeline: Any, labels: np.ndarray, seed: int, steps: int, batch: int = BATCH) -> np.ndarray:
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
