"""The tab Images: pictures of a class with their seeds, how near they come to the training data, and a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import limits
import numpy as np
from drawing import EVERY_CLASS, SCHEDULERS, Drawing, describe_rows, draw_parts, zip_pictures
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from models import ModelList
from training_pictures import NOT_HERE, TrainingPictures, find_training_pictures

HINT = "Pictures appear here, each with its class and its seed: the same seed and settings draw it again."


def build(models: ModelList) -> None:
    """The tab's components and events, within `with gr.Tab(…)`."""
    first = next(iter(models.images.values()))
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            model = gr.Dropdown(list(models.images), value=first.name, label="Model")
            label = gr.Dropdown([EVERY_CLASS, *first.classes], label="Class")
            count = gr.Slider(1, limits.MOST_PICTURES, value=4, step=1, label="Number of pictures")
            seed = gr.Number(0, precision=0, label="Seed", info="of the first picture; the next ones count up")
            with gr.Accordion("Sampling", open=False):
                steps = gr.Slider(1, limits.MOST_STEPS, value=25, step=1, label="Steps")
                guidance = gr.Slider(
                    0, limits.MOST_GUIDANCE, value=1, step=0.1, label="Guidance",
                    info="1: as the model learnt it; higher exaggerates the class at twice the time",
                )  # fmt: skip
                scheduler = gr.Dropdown(SCHEDULERS, value=SCHEDULERS[0], label="Scheduler")
            button = gr.Button("Draw pictures", variant="primary")
            show_training(models)
        with gr.Column(scale=2, min_width=280):
            gallery = gr.Gallery(
                label="Synthetic pictures", show_label=False, columns=4, object_fit="contain", format="png",
                interactive=False, elem_id="pictures", buttons=["fullscreen", "download"], height="auto",
            )  # fmt: skip
            note = gr.Markdown(HINT, label="Note")
            download = gr.DownloadButton("Download as zip", interactive=False)
    model.change(
        lambda name: gr.Dropdown([EVERY_CLASS, *models.find_images(name).classes], value=EVERY_CLASS),
        model,
        label,
        **limits.ASIDE,
    )
    drawn = button.click(
        drawer(models),
        [model, label, count, guidance, steps, scheduler, seed],
        [gallery, download, note],
        api_name="images",
        api_description=(
            f"Pictures of a class (or {EVERY_CLASS!r}); returns the pictures with their captions, a zip of PNG files "
            "with provenance and settings.json, and a note."
        ),
        preprocess=False,  # the checks of `Drawing` name what is out of range
        concurrency_limit=1,
        concurrency_id="images",
    )
    drawn.success(lambda: gr.DownloadButton(interactive=True), None, download, **limits.ASIDE)


def show_training(models: ModelList) -> None:
    """A line that tells of the training of the first model while it goes on."""
    if models.first is None or models.first.is_there:
        return
    first = models.first
    status = gr.Markdown(first.status())
    timer = gr.Timer(2)
    timer.tick(lambda: (first.status(), gr.Timer(active=not first.is_there)), None, [status, timer], **limits.ASIDE)


def drawer(models: ModelList) -> Any:
    """The event of the tab: pictures as they come, then their distances and the download."""

    @limits.errors_as_messages
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
        found = models.find_images(model)
        drawing = Drawing(model, label, count, guidance, steps, scheduler, seed)
        drawing.check(found)
        loaded = models.load_images(model, lambda share, words: progress(share, desc=words))
        deadline = limits.Deadline(limits.PICTURE_SECONDS)
        parts: list[np.ndarray] = []
        files: list[bytes] = []
        for part in draw_parts(found, drawing):
            parts.append(part)
            files += mark(part, drawing.seeds()[len(files) :], loaded.provenance)
            rows = describe_rows(found, drawing, None)
            yield show(files, rows, []), gr.skip(), f"{len(files)} of {count} in {deadline.spent:.1f} s …"
        spent = deadline.spent
        known = find_training_pictures(found.source)
        distances, near = known.compare(np.concatenate(parts)) if known else (None, [])
        rows = describe_rows(found, drawing, distances)
        archive = save_bytes_to_cache(
            zip_pictures(files, rows, drawing, loaded.provenance), "synthetic-pictures.zip", get_upload_folder()
        )
        yield show(files, rows, near), archive, explain(spent, known, near)

    return images


def mark(pictures: np.ndarray, seeds: list[int], provenance: Any) -> list[bytes]:
    """PNG files that say that they are synthetic, of what generator and which seed."""
    from clinsynth.hub_provenance import mark_picture
    from clinsynth.pictures import to_picture, to_png

    rows = zip(pictures, seeds, strict=False)
    return [mark_picture(to_png(to_picture(picture)), provenance.of_row(seed)) for picture, seed in rows]


def show(files: list[bytes], rows: list[dict[str, Any]], near: list[bool]) -> list[tuple[str, str]]:
    """The gallery's value: files and captions."""
    shown = []
    for number, (file, row) in enumerate(zip(files, rows, strict=False)):
        caption = f"{row['label']}, seed {row['seed']}"
        if "nearest_training_distance" in row:
            caption += f", distance {row['nearest_training_distance']:.2f}"
        if near and near[number]:
            caption += ", NEAR COPY"
        shown.append((save_bytes_to_cache(file, row["file"], get_upload_folder()), caption))
    return shown


def explain(seconds: float, known: TrainingPictures | None, near: list[bool]) -> str:
    return f"Drawn in {seconds:.1f} s. {known.explain(near) if known else NOT_HERE}"
