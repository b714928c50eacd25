"""The tab Images: images of a class with their seeds, how near they come to the training data, and a download."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import limits
import numpy as np
import page
from models import ImageModel, ModelList, device, load_image_generator, on_gpu

from clinsynth.images import to_picture, to_png
from clinsynth.models import generators
from clinsynth.plain_yaml import read_yaml
from clinsynth.synthesis.provenance import mark_image

EVERY_CLASS = "every class"
SCHEDULERS = list(generators.SCHEDULERS)
PART_PIXELS = 4 * 32 * 32
NO_TRAINING_IMAGES = (
    "The images that this model was trained on are not here, so how near these come to them cannot be told: that "
    "needs the model's run folder with its config.yaml, and the training data that it names. The model's card may "
    "report it."
)
MOST_COMPARED = 500
"""Training images whose own distance to the nearest other one is taken, evenly chosen."""


def build(models: ModelList) -> None:
    """The tab's components and events, within `with gr.Tab(…)`."""
    first = next(iter(models.images.values()))
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            model = gr.Dropdown(list(models.images), value=first.name, label="Model")
            label = gr.Dropdown([EVERY_CLASS, *first.classes], label="Class")
            count = gr.Slider(1, limits.MOST_IMAGES, value=4, step=1, label="Number of images")
            seed = gr.Number(0, precision=0, label="Seed", info="of the first image; the next ones count up")
            with gr.Accordion("Sampling", open=False):
                steps = gr.Slider(1, limits.MOST_STEPS, value=25, step=1, label="Steps")
                guidance = gr.Slider(
                    0, limits.MOST_GUIDANCE, value=1, step=0.1, label="Guidance",
                    info="1: as the model learnt it; higher exaggerates the class at twice the time",
                )  # fmt: skip
                scheduler = gr.Dropdown(SCHEDULERS, value=SCHEDULERS[0], label="Scheduler")
            button = gr.Button("Draw images", variant="primary")
            show_training(models)
        with gr.Column(scale=2, min_width=280):
            gallery = gr.Gallery(
                label="Synthetic images", show_label=False, columns=4, object_fit="contain", format="png",
                interactive=False, elem_id="images", buttons=["fullscreen", "download"], height="auto",
            )  # fmt: skip
            note = gr.Markdown(
                "Images appear here, each with its class and its seed: the same seed and settings draw it again.",
                label="Note",
            )
            download = gr.DownloadButton("Download as zip", interactive=False)
    model.change(
        lambda name: gr.Dropdown([EVERY_CLASS, *models.find_image_model(name).classes], value=EVERY_CLASS),
        model,
        label,
        **page.ASIDE,
    )
    drawn = button.click(
        images_event(models),
        [model, label, count, guidance, steps, scheduler, seed],
        [gallery, download, note],
        api_name="images",
        api_description=(
            f"Images of a class (or {EVERY_CLASS!r}); returns the images with their captions, a zip of PNG files "
            "with provenance and settings.json, and a note."
        ),
        preprocess=False,  # the checks of `ImageRequest` name what is out of range
        concurrency_limit=1,
        concurrency_id="images",
    )
    drawn.success(lambda: gr.DownloadButton(interactive=True), None, download, **page.ASIDE)


def show_training(models: ModelList) -> None:
    """A line that tells of the training of the first model while it goes on."""
    if models.first is None or models.first.is_there:
        return
    first = models.first
    status = gr.Markdown(first.status())
    timer = gr.Timer(2)
    timer.tick(lambda: (first.status(), gr.Timer(active=not first.is_there)), None, [status, timer], **page.ASIDE)


def images_event(models: ModelList) -> Any:
    """The event of the tab: images as they come, then their distances and the download."""

    def images(
        model: str,
        label: str,
        count: int = 4,
        guidance: float = 1.0,
        steps: int = 25,
        scheduler: str = SCHEDULERS[0],
        seed: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio's way)
    ) -> Iterator[tuple[Any, Any, str]]:
        with page.errors_as_messages():
            found = models.find_image_model(model)
            request = ImageRequest(model, label, count, guidance, steps, scheduler, seed)
            request.check(found)
            loaded = models.load_image_model(model, lambda share, words: progress(share, desc=words))
            deadline = limits.Deadline(limits.IMAGE_SECONDS)
            parts: list[np.ndarray] = []
            files: list[bytes] = []
            for part in draw_images(found, request):
                parts.append(part)
                for image in part:
                    says = loaded.provenance.of_row(request.seed + len(files))
                    files.append(mark_image(to_png(to_picture(image)), says))
                rows = image_rows(found, request, None)
                yield gallery_items(files, rows, []), gr.skip(), f"{len(files)} of {count} in {deadline.spent:.1f} s …"
            spent = deadline.spent
            known = find_training_images(found.source)
            distances, near = known.compare(np.concatenate(parts)) if known else (None, [])
            rows = image_rows(found, request, distances)
            archive = page.downloadable("synthetic-pictures.zip", zip_images(files, rows, request, loaded.provenance))
            meaning = known.explain(near) if known else NO_TRAINING_IMAGES
            yield gallery_items(files, rows, near), archive, f"Drawn in {spent:.1f} s. {meaning}"

    return images


def gallery_items(files: list[bytes], rows: list[dict[str, Any]], near: list[bool]) -> list[tuple[str, str]]:
    """The gallery's value: files and captions."""
    shown = []
    for number, (file, row) in enumerate(zip(files, rows, strict=False)):
        distance = row.get("nearest_training_distance")
        told = "" if distance is None else f", distance {distance:.2f}"
        told += ", NEAR COPY" if near and near[number] else ""
        shown.append((page.downloadable(row["file"], file), f"{row['label']}, seed {row['seed']}{told}"))
    return shown


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
    sample = generator.sampler(settings, device())
    deadline = limits.Deadline(limits.IMAGE_SECONDS)
    labels, seeds = [generator.number_of(label) for label in request.labels(model)], request.seeds()
    part = max(1, PART_PIXELS // side**2)
    for start in range(0, request.count, part):
        if deadline.is_over:
            raise ValueError(f"stopped after {deadline.seconds} s with {start} images; ask for fewer or fewer steps")
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
        rows.append({"file": f"{number:02d}-seed-{seed}.png", "label": label, "seed": seed, **known})
    return rows


def zip_images(files: list[bytes], rows: list[dict[str, Any]], request: ImageRequest, provenance: Any) -> bytes:
    """PNG files with their provenance, and settings.json with that of all."""
    settings = {**provenance.of_row(request.seed), **asdict(request), "pictures": rows}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for row, file in zip(rows, files, strict=True):
            archive.writestr(zipfile.ZipInfo(row["file"]), file)
        archive.writestr(zipfile.ZipInfo("settings.json"), json.dumps(settings, indent=2) + "\n")
    return buffer.getvalue()


@dataclass(frozen=True)
class TrainingImages:
    """The train split of a model, as band-passed thumbnails of unit length (`clinsynth.metrics.privacy.copies`).

    Attributes:
        space: in which images are compared.
        threshold: of the relative distance, below which an image is a near copy.
        usual: distances that one in twenty and a half of the training images stay below among themselves.
    """

    space: Any
    threshold: Any
    usual: tuple[float, float]

    @classmethod
    def of(cls, images: np.ndarray) -> TrainingImages:
        """Of uint8 (n, channels, side, side)."""
        from clinsynth.metrics.privacy.copies import ThumbnailSpace, duplicated, fit_threshold

        space = ThumbnailSpace.of(images)
        chosen = np.unique(np.linspace(0, len(images) - 1, MOST_COMPARED).round().astype(int))
        nearest = space.closest(images[chosen], own=chosen)
        low, middle = np.quantile(nearest.distances[:, 0], (0.05, 0.5))
        return cls(space, fit_threshold(nearest.relative(), duplicated(nearest)), (float(low), float(middle)))

    def compare(self, images: np.ndarray) -> tuple[list[float], list[bool]]:
        """Distance of each image to the nearest training image, and whether it is a near copy of it."""
        nearest = self.space.closest(images)
        return nearest.distances[:, 0].tolist(), self.threshold.flags(nearest.relative()).tolist()

    def explain(self, near: Sequence[bool]) -> str:
        """What the distances mean."""
        low, middle = self.usual
        verdict = (
            f"{sum(near)} of {len(near)} are near copies of a training image." if any(near) else "None is a copy."
        )
        return (
            "Distance: to the nearest training image, also mirrored or moved by a pixel; 0 is the same image and "
            f"1.41 an unrelated one. Half of the training images have another one within {middle:.2f}, one in "
            f"twenty within {low:.2f}. {verdict}"
        )


@functools.lru_cache(maxsize=2)
def find_training_images(source: str) -> TrainingImages | None:
    """Those of the run folder `source`, by its config.yaml; None where there is no such file or they are not here."""
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.images import load_image_arrays

    config = Path(source) / "config.yaml"
    if not config.is_file():
        return None
    values: dict[str, Any] = read_yaml(config) or {}
    known = [field.name for field in dataclasses.fields(ImageDataArguments) if field.name in values]
    try:
        data = load_image_arrays(ImageDataArguments(**{name: values[name] for name in known}), values.get("seed", 0))
    except (ValueError, OSError):
        return None
    return TrainingImages.of(data["train"].images)
