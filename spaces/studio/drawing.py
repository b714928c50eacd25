"""Images by a model of the Space: what may be asked for, how they are drawn, and what is handed out with them."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import limits
import numpy as np
import page
from models import ImageModel, Loaded, ModelList, device, load_image_generator, on_gpu
from sets import SETTINGS_FILE
from training_images import find_training_images

from clinsynth.images import to_picture, to_png
from clinsynth.models import generators
from clinsynth.synthesis.provenance import mark_image

EVERY_CLASS = "every class"
SCHEDULERS = list(generators.SCHEDULERS)
PARAMETERS = ("model", "label", "count", "guidance", "steps", "scheduler", "seed")
"""Of the endpoint, and of the page's address."""
EXAMPLE_IMAGES = 8
DRAWING = threading.Lock()
"""Of who draws: the tabs and the example share a pipeline, which keeps the scheduler of its last user."""
PART_PIXELS = 4 * 32 * 32
NO_TRAINING_IMAGES = (
    "The images that this model was trained on are not here, so how near these come to them cannot be told: that "
    "needs the model's run folder with its config.yaml, and the training data that it names. The model's card may "
    "report it."
)


@dataclass(frozen=True)
class ImageRequest:
    """What was asked for; image i has the seed `seed` + i, by which it can be drawn again alone.

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
        limits.whole_number("Number of images", self.count, 1, limits.MOST_IMAGES)
        limits.finite_number("Guidance", self.guidance_scale, 0, limits.MOST_GUIDANCE)
        limits.whole_number("Steps", self.num_inference_steps, 1, limits.MOST_STEPS)
        limits.whole_number("Seed", self.seed, 0, limits.MOST_SEED - limits.MOST_IMAGES)
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
        """Raise a `ValueError` where the images, of `size` pixels, would take a machine of two cores too long."""
        evaluations = 1 if self.guidance_scale in (0, 1) else 2
        cost = self.count * self.num_inference_steps * evaluations * size * size
        if cost > limits.MOST_PIXEL_STEPS:
            doubled = ", twice as many with guidance," if evaluations == 2 else ""
            raise ValueError(
                f"{self.count} images of {size} px in {self.num_inference_steps} steps{doubled} are "
                f"{cost / limits.MOST_PIXEL_STEPS:.1f} times what one request may cost here; ask for fewer images or "
                "steps"
            )

    def labels(self, model: ImageModel) -> list[str]:
        """The class of each image."""
        chosen = model.classes if self.label == EVERY_CLASS else [self.label]
        return [chosen[number % len(chosen)] for number in range(self.count)]

    def address(self) -> str:
        """A link to these settings."""
        return f"[Link to these settings](?{urlencode(dict(zip(PARAMETERS, astuple(self), strict=True)))})"

    def seeds(self) -> list[int]:
        return [self.seed + number for number in range(self.count)]


@on_gpu(seconds=60)
def draw_images(model: ImageModel, request: ImageRequest) -> Iterator[np.ndarray]:
    """The images, uint8 (n, channels, size, size), a few at a time."""
    from clinsynth.models.generators import SamplingArguments

    generator, _ = load_image_generator(model.source, model.name)
    side = generator.form.side
    if not model.draws_at_once:
        request.check_cost(side)
    settings = SamplingArguments(
        model=model.source,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        scheduler=request.scheduler,
    )
    deadline = limits.Deadline(limits.IMAGE_SECONDS)
    labels, seeds = [generator.number_of(label) for label in request.labels(model)], request.seeds()
    part = max(1, PART_PIXELS // side**2)
    for start in range(0, request.count, part):
        if deadline.is_over:
            raise ValueError(f"stopped after {deadline.seconds} s with {start} images; ask for fewer or fewer steps")
        with DRAWING:
            sample = generator.sampler(settings, device())
            images, finite = sample(labels[start : start + part], seeds[start : start + part])
        if not finite.all():
            raise ValueError(
                f"the model's numbers run off with guidance {request.guidance_scale:g} and {request.scheduler} in "
                f"{request.num_inference_steps} steps; lower the guidance or take another scheduler"
            )
        yield images


def image_rows(model: ImageModel, request: ImageRequest, distances: list[float] | None) -> list[dict[str, Any]]:
    """Class, seed and, where it is known, distance to the nearest training image, of each image."""
    rows: list[dict[str, Any]] = []
    for number, (label, seed) in enumerate(zip(request.labels(model), request.seeds(), strict=True)):
        known = {} if distances is None else {"nearest_training_distance": round(distances[number], 4)}
        folder = re.sub(r"[/\\]", "-", label)  # a class folder, as all that takes images knows it
        rows.append({"file": f"{folder}/{number:02d}-seed-{seed}.png", "label": label, "seed": seed, **known})
    return rows


def zip_images(files: list[bytes], rows: list[dict[str, Any]], request: ImageRequest, provenance: Any) -> bytes:
    """PNG files with their provenance, and settings.json with that of all."""
    settings = {**provenance.of_row(request.seed), **asdict(request), "images": rows}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for row, file in zip(rows, files, strict=True):
            archive.writestr(zipfile.ZipInfo(row["file"]), file)
        archive.writestr(zipfile.ZipInfo(SETTINGS_FILE), json.dumps(settings, indent=2) + "\n")
    return buffer.getvalue()


class Drawn(NamedTuple):
    """Images that were drawn: their files, what is said of each, which are near copies, a zip of them, and a note."""

    files: list[bytes]
    rows: list[dict[str, Any]]
    near: list[bool]
    archive: bytes
    note: str

    def present(self) -> tuple[list[tuple[str, str]], str, str]:
        """The values of gallery, download and note."""
        file = page.downloadable("synthetic-images.zip", self.archive)
        return gallery_items(self.files, self.rows, self.near), file, self.note


def gallery_items(files: list[bytes], rows: list[dict[str, Any]], near: list[bool]) -> list[tuple[str, str]]:
    """The gallery's value: files and captions."""
    shown = []
    for number, (file, row) in enumerate(zip(files, rows, strict=False)):
        distance = row.get("nearest_training_distance")
        told = "" if distance is None else f", distance {distance:.2f}"
        told += ", NEAR COPY" if near and near[number] else ""
        shown.append((page.downloadable(Path(row["file"]).name, file), f"{row['label']}, seed {row['seed']}{told}"))
    return shown


def describe_drawn(
    model: ImageModel, loaded: Loaded, request: ImageRequest, files: list[bytes], images: np.ndarray, seconds: float
) -> Drawn:
    """What is shown of images, uint8 (n, channels, side, side), which lie in `files` too."""
    known = find_training_images(model.source)
    distances, near = known.compare(images) if known else (None, [])
    rows = image_rows(model, request, distances)
    archive = zip_images(files, rows, request, loaded.provenance)
    meaning = known.explain(near) if known else NO_TRAINING_IMAGES
    return Drawn(files, rows, near, archive, f"Drawn in {seconds:.1f} s. {meaning} {request.address()}")


def draw_example(models: ModelList) -> None:
    """Draw what a visitor sees on arrival: images of every class by the first model."""
    model = next(iter(models.images.values()))
    request = ImageRequest(model.name, EVERY_CLASS, EXAMPLE_IMAGES, 1.0, 25, SCHEDULERS[0], 0)
    loaded, deadline = load_image_generator(model.source, model.name), limits.Deadline(limits.IMAGE_SECONDS)
    images = np.concatenate(list(draw_images(model, request)))
    files = [mark_image(to_png(to_picture(image)), loaded.provenance.of_row(n)) for n, image in enumerate(images)]
    models.example = describe_drawn(model, loaded, request, files, images, deadline.spent)
