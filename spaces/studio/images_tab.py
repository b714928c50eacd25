"""The tab Images: images of a class with their seeds, how near they come to the training data, and a download."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
import secrets
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr
import limits
import numpy as np
import page
from models import ImageModel, Loaded, ModelList, device, load_image_generator, on_gpu, trained_on
from review_scores import append_line, scores_folder
from sets import SETTINGS_FILE

from clinsynth.images import to_picture, to_png
from clinsynth.models import generators
from clinsynth.plain_yaml import read_yaml
from clinsynth.synthesis.provenance import mark_image

EVERY_CLASS = "every class"
SCHEDULERS = list(generators.SCHEDULERS)
PARAMETERS = ("model", "label", "count", "guidance", "steps", "scheduler", "seed")
"""Of the endpoint, and of the page's address."""
FLAGGED = ("model", "label", "seed", "guidance_scale", "num_inference_steps", "scheduler")
"""What is written down of an image that is flagged."""
MOST_SETTINGS = 64 << 10
REASONS = ["does not show its class", "no image of this kind", "may show a real person", "other"]
SNIPPET = """from gradio_client import Client

client = Client("http://127.0.0.1:7860")
images, file, note = client.predict(label="every class", count=20, seed=7, api_name="/images")
"""
EXAMPLE_IMAGES = 8
DRAWING = threading.Lock()
"""Of who draws: the tabs and the example share a pipeline, which keeps the scheduler of its last user."""
PART_PIXELS = 4 * 32 * 32
NO_TRAINING_IMAGES = (
    "The images that this model was trained on are not here, so how near these come to them cannot be told: that "
    "needs the model's run folder with its config.yaml, and the training data that it names. The model's card may "
    "report it."
)
MOST_COMPARED = 500
"""Training images whose own distance to the nearest other one is taken, evenly chosen."""


def build(models: ModelList) -> ImagesTab:
    """The tab's components and events, within `with gr.Tab(…)`."""
    first = next(iter(models.images.values()))
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            model = gr.Dropdown(list(models.images), value=first.name, label="Model")
            about = gr.Markdown(trained_on(first))
            label = gr.Dropdown([EVERY_CLASS, *first.classes], label="Class")
            count = gr.Slider(1, limits.MOST_IMAGES, value=4, step=1, label="Number of images")
            with gr.Row():
                seed = gr.Number(0, precision=0, label="Seed", info="of the first image; the next ones count up")
                dice = gr.Button("Random seed", size="sm", min_width=100)
            with gr.Accordion("Sampling", open=False):
                steps = gr.Slider(1, limits.MOST_STEPS, value=25, step=1, label="Steps")
                guidance = gr.Slider(
                    0, limits.MOST_GUIDANCE, value=1, step=0.1, label="Guidance",
                    info="1: as the model learnt it; higher exaggerates the class at twice the time",
                )  # fmt: skip
                scheduler = gr.Dropdown(SCHEDULERS, value=SCHEDULERS[0], label="Scheduler")
            with gr.Row():
                button = gr.Button("Draw images", variant="primary", min_width=140)
                stop = gr.Button("Stop", min_width=80)
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
            with gr.Row():
                compare = gr.Button("Compare them with a real set", interactive=False)
                review = gr.Button("Review them", interactive=False)
            with gr.Accordion("Flag an image", open=False):
                number = gr.Number(1, precision=0, minimum=1, label="Which image", info="counted from 1")
                reason = gr.Dropdown(REASONS, label="What is wrong")
                flag = gr.Button("Flag it", interactive=False)
                flagged = gr.Markdown()
    model.change(choose_model(models), model, [label, about], **page.ASIDE)
    dice.click(lambda: secrets.randbelow(limits.MOST_SEED - limits.MOST_IMAGES), None, seed, **page.ASIDE)
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
    ready = [download, compare, review, flag]
    drawn.success(lambda: [gr.update(interactive=True)] * len(ready), None, ready, **page.ASIDE)
    stop.click(None, None, None, cancels=[drawn], api_visibility="private")
    flag.click(flag_image, [download, number, reason], flagged, api_visibility="private")
    page.snippet(SNIPPET)
    fields = [model, label, count, guidance, steps, scheduler, seed]
    return ImagesTab(fields, [gallery, download, note, *ready[1:]], download, compare, review)


class ImagesTab(NamedTuple):
    """What the page needs of the tab: the fields of a request in the order of the endpoint's parameters, what shows a
    result, the file of it, and the buttons that take it to another tab."""

    fields: list[gr.components.Component]
    shown: list[gr.components.Component]
    download: gr.DownloadButton
    compare: gr.Button
    review: gr.Button


def choose_model(models: ModelList) -> Callable[[str], tuple[Any, str]]:
    """Classes of a model, and what it was trained on."""

    def choose(name: str) -> tuple[Any, str]:
        model = models.find_image_model(name)
        return gr.Dropdown([EVERY_CLASS, *model.classes], value=EVERY_CLASS), trained_on(model)

    return choose


def arrive(models: ModelList) -> Callable[[gr.Request], list[Any]]:
    """What a visitor sees first: the fields as the address says (?label=grade 3&seed=7), else an example."""

    def arrived(request: gr.Request) -> list[Any]:
        asked = {name: value for name, value in dict(request.query_params).items() if name in PARAMETERS}
        fields = [from_address(models, asked, name) for name in PARAMETERS]
        example = None if asked else models.example
        if example is None:
            return [*fields, *[gr.skip()] * 6]
        items, archive, said = example.present()
        download = gr.DownloadButton(value=archive, interactive=True)
        ready = [gr.update(interactive=True)] * 3
        return [*fields, items, download, f"An example, drawn when the page was started. {said}", *ready]

    return arrived


def from_address(models: ModelList, asked: dict[str, str], name: str) -> Any:
    """The update of a field by the page's address; what is no value of it is left alone."""
    value = asked.get(name)
    if value is None:
        return gr.skip()
    if name == "model":
        return gr.Dropdown(value=value) if value in models.images else gr.skip()
    if name == "scheduler":
        return gr.Dropdown(value=value) if value in SCHEDULERS else gr.skip()
    if name == "label":
        model = models.images.get(asked.get("model", ""), next(iter(models.images.values())))
        return gr.Dropdown([EVERY_CLASS, *model.classes], value=value) if value in model.classes else gr.skip()
    number = float(value) if re.fullmatch(r"\d{1,10}(\.\d{1,3})?", value) else None
    return gr.skip() if number is None else number if name == "guidance" else int(number)


def flag_image(path: str, number: float, reason: str) -> str:
    """Write down that an image is wrong: its model, class, seed and settings, and one of REASONS; no pixel of it."""
    with page.errors_as_messages():
        if reason not in REASONS:
            raise ValueError(f"What is wrong must be one of {', '.join(REASONS)}, got {reason!r}")
        settings = read_settings(path)
        rows = settings["pictures"]
        row = rows[limits.whole_number("Which image", number, 1, len(rows)) - 1]
        known = {name: (settings | row)[name] for name in FLAGGED}
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason, **known}
        folder = scores_folder()
        folder.mkdir(parents=True, exist_ok=True)
        append_line(folder / "flags.jsonl", json.dumps(record, ensure_ascii=False), "this Space holds too many flags")
        return f"Flagged: {row['label']}, seed {row['seed']}: {reason}."


def read_settings(path: str) -> dict[str, Any]:
    """settings.json of a .zip that this tab has handed out.

    Raises:
        ValueError: it is none; a visitor may send another file.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(SETTINGS_FILE) as file:
            settings: dict[str, Any] = json.loads(file.read(MOST_SETTINGS))
        if all((settings | row).keys() >= set(FLAGGED) for row in settings["pictures"]):
            return settings
    except (OSError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile):
        pass
    raise ValueError("what is flagged is no download of this tab; draw images first")


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
            drawn = describe_drawn(found, loaded, request, files, np.concatenate(parts), deadline.spent)
            yield drawn.present()

    return images


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


class Drawn(NamedTuple):
    """Images that were drawn: their files, what is said of each, which are near copies, a zip of them, and a note."""

    files: list[bytes]
    rows: list[dict[str, Any]]
    near: list[bool]
    archive: bytes
    note: str

    def present(self) -> tuple[list[tuple[str, str]], str, str]:
        """The values of gallery, download and note."""
        file = page.downloadable("synthetic-pictures.zip", self.archive)
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
    settings = {**provenance.of_row(request.seed), **asdict(request), "pictures": rows}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for row, file in zip(rows, files, strict=True):
            archive.writestr(zipfile.ZipInfo(row["file"]), file)
        archive.writestr(zipfile.ZipInfo(SETTINGS_FILE), json.dumps(settings, indent=2) + "\n")
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
