"""Pictures as a visitor asks for them: what is asked, checked; the pictures, part by part; and all as one file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import limits
import numpy as np
from models import ImageModel, load_image_pipeline
from zero_gpu import device, on_gpu

EVERY_CLASS = "every class"
SCHEDULERS = ["dpmsolver++", "unipc", "euler", "ddim", "ddpm"]
PART_PIXELS = 4 * 32 * 32


@dataclass(frozen=True)
class Drawing:
    """What was asked for; picture i has the seed `seed` + i, by which it can be drawn again alone.

    Attributes:
        label: a class, or "every class": one after the other.
    """

    model: str
    label: str
    count: int
    guidance_scale: float
    num_inference_steps: int
    scheduler: str
    seed: int

    def check(self, model: ImageModel) -> None:
        """Raise a `ValueError` that names what is out of range, its value and what it may be."""
        limits.whole_number("Number of pictures", self.count, 1, limits.MOST_PICTURES)
        limits.finite_number("Guidance", self.guidance_scale, 0, limits.MOST_GUIDANCE)
        limits.whole_number("Steps", self.num_inference_steps, 1, limits.MOST_STEPS)
        limits.whole_number("Seed", self.seed, 0, limits.MOST_SEED - limits.MOST_PICTURES)
        if self.label not in (EVERY_CLASS, *model.classes):
            raise ValueError(
                f"Class {self.label!r} is unknown to {model.name}; give {EVERY_CLASS} or one of "
                f"{', '.join(model.classes)}"
            )
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"Scheduler must be one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}")
        if model.draws_at_once and self.guidance_scale != 1:
            raise ValueError(
                f"Guidance is {self.guidance_scale:g}, but {model.name} is a GAN, which knows none; set 1"
            )

    def check_cost(self, size: int) -> None:
        """Raise a `ValueError` where the pictures, of `size` pixels, would take a machine of two cores too long."""
        evaluations = 1 if self.guidance_scale in (0, 1) else 2
        cost = self.count * self.num_inference_steps * evaluations * size * size
        if cost > limits.MOST_PIXEL_STEPS:
            doubled = ", twice as many with guidance," if evaluations == 2 else ""
            raise ValueError(
                f"{self.count} pictures of {size} px in {self.num_inference_steps} steps{doubled} are "
                f"{cost / limits.MOST_PIXEL_STEPS:.1f} "
                "times what one request may cost here; ask for fewer pictures or steps"
            )

    def labels(self, model: ImageModel) -> list[str]:
        """The class of each picture."""
        if self.label != EVERY_CLASS:
            return [self.label] * self.count
        return [model.classes[number % len(model.classes)] for number in range(self.count)]

    def seeds(self) -> list[int]:
        return [self.seed + number for number in range(self.count)]


@on_gpu(seconds=60)
def draw_parts(model: ImageModel, drawing: Drawing) -> Iterator[np.ndarray]:
    """The pictures, uint8 (n, channels, size, size), a few at a time.

    Raises:
        ValueError: the pictures would cost too much, took too long, or are no numbers.
    """
    from clinsynth.scripts.generate_images import GenerateImagesArguments, sampler

    pipeline, scheduler, _ = load_image_pipeline(model.source, model.name)
    if scheduler is not None:
        pipeline.scheduler = scheduler  # the one it came with: what is drawn must not depend on who drew before
    config = (pipeline.unet if scheduler is not None else pipeline.generator).config
    if scheduler is not None:
        drawing.check_cost(config.sample_size)
    settings = {name: getattr(drawing, name) for name in ("guidance_scale", "num_inference_steps", "scheduler")}
    sample = sampler(GenerateImagesArguments(model=model.source, per_class=1, **settings), pipeline, device())
    deadline = limits.Deadline(limits.PICTURE_SECONDS)
    labels, seeds = pipeline.label_ids(drawing.labels(model)), drawing.seeds()
    part = max(1, PART_PIXELS // config.sample_size**2)
    for start in range(0, drawing.count, part):
        if deadline.is_over:
            raise ValueError(f"stopped after {deadline.seconds} s with {start} pictures; ask for fewer or fewer steps")
        pictures, finite = sample(labels[start : start + part], seeds[start : start + part])
        if not finite.all():
            raise ValueError(
                f"the model's numbers run off with guidance {drawing.guidance_scale:g} and {drawing.scheduler} in "
                f"{drawing.num_inference_steps} steps; lower the guidance or take another scheduler"
            )
        yield pictures


def describe_rows(model: ImageModel, drawing: Drawing, distances: list[float] | None) -> list[dict[str, Any]]:
    """Class, seed and, where it is known, distance to the nearest training picture, of each picture."""
    rows: list[dict[str, Any]] = []
    for number, (label, seed) in enumerate(zip(drawing.labels(model), drawing.seeds(), strict=True)):
        known = {} if distances is None else {"nearest_training_distance": round(distances[number], 4)}
        rows.append({"file": f"{number:02d}-seed-{seed}.png", "label": label, "seed": seed, **known})
    return rows


def zip_pictures(files: list[bytes], rows: list[dict[str, Any]], drawing: Drawing, provenance: Any) -> bytes:
    """PNG files with their provenance, and settings.json with that of all."""
    settings = {**provenance.of_row(drawing.seed), **asdict(drawing), "pictures": rows}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for row, file in zip(rows, files, strict=True):
            archive.writestr(zipfile.ZipInfo(row["file"]), file)
        archive.writestr(zipfile.ZipInfo("settings.json"), json.dumps(settings, indent=2) + "\n")
    return buffer.getvalue()
