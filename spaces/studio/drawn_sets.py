"""Sets that the Space's own models draw when they are picked, and what stands in the fields of sets on arrival."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from drawing import EVERY_CLASS, SCHEDULERS, ImageRequest, draw_images
from models import ModelList
from review_session import LABEL_ONLY
from sets import PHANTOM_IMAGES, LabelledSet, read_set, read_upload

from clinsynth.images import to_picture, to_png

DRAWN = "drawn by "
DRAWN_IMAGES = 60
"""Of such a set, of every class one after the other."""


def drawn_names(models: ModelList | None) -> list[str]:
    """What the sets of the image models are called."""
    return [DRAWN + name for name in models.images] if models else []


def default_sets(models: ModelList | None) -> tuple[str, str]:
    """A synthetic and a real set that can be compared: those of the first model of phantoms, else two of phantoms."""
    from clinsynth.data.phantom_fundus import GRADES

    real, other = PHANTOM_IMAGES
    known = [name for name, model in models.images.items() if set(model.classes) == set(GRADES)] if models else []
    return (DRAWN + known[0], real) if known else (other, real)


def read_any(models: ModelList | None, picked: str | None, uploaded: str | None, called: str) -> LabelledSet:
    """As `read_set`, and sets that a model draws first.

    Raises:
        ValueError: neither is given, or it cannot be taken.
    """
    if uploaded or models is None or picked not in drawn_names(models):
        return read_set(picked, uploaded, called)
    assert picked is not None
    return draw_set(models, picked.removeprefix(DRAWN))


def draw_set(models: ModelList, name: str) -> LabelledSet:
    """Images of a model as it samples by default, with the seeds from 0 on; kept for the next visitor."""
    model = models.find_image_model(name)
    models.load_image_model(name, lambda share, words: None)  # which waits where it is still trained
    with models.lock:
        if name not in models.drawn:
            request = ImageRequest(name, EVERY_CLASS, DRAWN_IMAGES, 1.0, 25, SCHEDULERS[0], 0)
            files = [to_png(to_picture(image)) for part in draw_images(model, request) for image in part]
            models.drawn[name] = LabelledSet(DRAWN + name, files, request.labels(model))
        return models.drawn[name]


def checklist_for(path: str) -> gr.Dropdown:
    """The checklist that fits a set: the one of its classes, or none."""
    from clinsynth.judges.checklists import checklist_names, load_checklist

    labels = set(read_upload(Path(path), "what was made").labels)
    fitting = [name for name in checklist_names() if labels <= set(load_checklist(name).conditions)]
    first = [name for name in fitting if name == "phantom-fundus"] or fitting or [LABEL_ONLY]
    return gr.Dropdown(value=first[0])
