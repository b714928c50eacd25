"""The tab Images: a class, a seed and settings; the images as they come; and where they go from here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr
import limits
import numpy as np
import page
from drawing import (
    EVERY_CLASS,
    PARAMETERS,
    SCHEDULERS,
    ImageRequest,
    describe_drawn,
    draw_images,
    gallery_items,
    image_rows,
)
from flags import REASONS, flag_image
from models import ModelList, trained_on

from clinsynth.images import to_picture, to_png
from clinsynth.synthesis.provenance import mark_image

NOTE = "Images appear here, each with its class and its seed: the same seed and settings draw it again."
SNIPPET = """from gradio_client import Client

client = Client("http://127.0.0.1:7860")
images, file, note = client.predict(label="every class", count=20, seed=7, api_name="/images")
"""


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
        with gr.Column(scale=2, min_width=280):
            gallery = gr.Gallery(
                label="Synthetic images", show_label=False, columns=4, object_fit="contain", format="png",
                interactive=False, elem_id="images", buttons=["fullscreen", "download"], height="auto",
            )  # fmt: skip
            note = gr.Markdown(NOTE, label="Note")
            download = gr.DownloadButton("Download as zip", interactive=False)
            with gr.Row():
                compare = gr.Button("Compare them with a real set", interactive=False)
                review = gr.Button("Review them", interactive=False)
            with gr.Accordion("Flag an image", open=False):
                number = gr.Number(1, precision=0, minimum=1, label="Which image", info="counted from 1")
                reason = gr.Dropdown(REASONS, label="What is wrong")
                flag = gr.Button("Flag it", interactive=False)
                flagged = gr.Markdown()
            timer = gr.Timer(page.POLL_SECONDS)
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
    button.click(lambda: gr.Timer(active=False), None, timer, **page.ASIDE)  # or the example would take their place
    ready = [download, compare, review, flag]
    drawn.success(lambda: [gr.update(interactive=True)] * len(ready), None, ready, **page.ASIDE)
    stop.click(None, None, None, cancels=[drawn], api_visibility="private")
    flag.click(flag_image, [download, number, reason], flagged, api_visibility="private")
    page.snippet(SNIPPET)
    fields = [model, label, count, guidance, steps, scheduler, seed]
    shown = [timer, gallery, download, note, *ready[1:]]
    timer.tick(lambda: show_example(models), None, shown, **page.ASIDE)
    return ImagesTab(fields, shown, download, compare, review)


class ImagesTab(NamedTuple):
    """What the page needs of the tab: the fields of a request in the order of the endpoint's parameters, what the
    example sets, the file of a result, and the buttons that take it to another tab."""

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
        shown = [gr.Timer(active=False), *[gr.skip()] * 6] if asked else show_example(models)
        return [*fields, *shown]

    return arrived


def show_example(models: ModelList) -> list[Any]:
    """Updates of `ImagesTab.shown`: the example, after which nobody asks again; before, how far the start has come."""
    if models.example is None:
        waiting = models.waiting()
        return [gr.Timer(active=bool(waiting)), gr.skip(), gr.skip(), waiting or NOTE, *[gr.skip()] * 3]
    items, archive, said = models.example.present()
    download = gr.DownloadButton(value=archive, interactive=True)
    note = f"An example, drawn when the page was started. {said}"
    return [gr.Timer(active=False), items, download, note, *[gr.update(interactive=True)] * 3]


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
                said = f"{len(files)} of {count} in {deadline.spent:.1f} s …"
                yield gallery_items(files, rows, []), page.nothing_yet(), said
            drawn = describe_drawn(found, loaded, request, files, np.concatenate(parts), deadline.spent)
            yield drawn.present()

    return images
