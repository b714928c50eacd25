"""Texts as a visitor asks for them: what is asked, checked; the texts as they come; how they are shown and kept."""

from __future__ import annotations

import functools
import html
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import limits
from zero_gpu import device, on_gpu

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

CODES_FOUND = 50


@dataclass(frozen=True)
class Writing:
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

    def load_task(self) -> Task:
        """The task with this label.

        Raises:
            ValueError: the label or code is unknown; a code's nearest are named.
        """
        from clinsynth.data.tasks import load_task

        if takes_codes(self.task):
            from clinsynth.data.icd10 import find_code

            return load_task(self.task, find_code(str(self.label)).code)
        task = load_task(self.task)
        if self.label not in task.labels:
            raise ValueError(f"Label {self.label!r} is unknown to {self.task}; give one of {', '.join(task.labels)}")
        return task

    def seeds(self) -> list[int]:
        return [self.seed + number for number in range(self.count)]


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


@functools.lru_cache(maxsize=1)
def load_language_model(source: str, name: str) -> tuple[Any, Any]:
    """The pipeline around a language model, and the provenance of its texts."""
    from clinsynth.data.tasks import load_task, task_names
    from clinsynth.models.language_models import load_pipeline
    from clinsynth.scripts.generate_text import GenerateTextArguments
    from clinsynth.synthesis.provenance import Provenance
    from clinsynth.synthesis.shards import hash_weights

    task = next(name for name in task_names() if not takes_codes(name))  # each request brings its own schema
    arguments = GenerateTextArguments(model=source, task=task, per_class=1)
    pipeline = load_pipeline(arguments, load_task(task), "cpu")
    return pipeline, Provenance(name, hash_weights(pipeline.model))


@on_gpu(seconds=120)
def write_texts(source: str, name: str, task: Task, writing: Writing) -> Iterator[RowResult]:
    """The results, one by one; ends early when the time is over."""
    from clinsynth.pipelines.structured_medical_text.prompts import render_messages
    from clinsynth.pipelines.structured_medical_text.text_rows import RowRequest

    pipeline, _ = load_language_model(source, name)
    pipeline.model.to(device())
    label = next(iter(task.labels)) if takes_codes(writing.task) else writing.label
    deadline = limits.Deadline(limits.TEXT_SECONDS)
    for seed in writing.seeds():
        messages = render_messages(task, label=label, k_shot=[], seed=seed)
        request = RowRequest(messages, seed, task.schema)
        yield from pipeline.generate_rows([request], batch_size=1, temperature=writing.temperature)
        if deadline.is_over:
            return


def describe_text(result: RowResult, label: str, provenance: Any) -> dict[str, Any]:
    """A line of the download: the fields of the text, its label, and where it comes from."""
    return {**(result.data or {}), "label": label, "attempts": result.attempts, **provenance.of_row(result.seed)}


def readable(results: list[RowResult], label: str) -> str:
    """The texts as HTML in which whatever the model wrote is but text."""
    parts = []
    for result in (one for one in results if one.data):
        fields = "".join(
            f"<h4>{html.escape(name.replace('_', ' '))}</h4><p>{html.escape(plain(value))}</p>"
            for name, value in (result.data or {}).items()
        )
        parts.append(f"<article><h3>{html.escape(label)}, seed {result.seed}</h3>{fields}</article>")
    return "".join(parts)


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def validity(results: list[RowResult], asked: int, seconds: float, ended: bool) -> str:
    """How many texts are valid under the schema, and why attempts were refused."""
    valid = sum(result.data is not None for result in results)
    refused = Counter(reason for result in results for reason in result.rejections)
    words = f"**{valid} of {len(results)} valid** under the schema, checked anew after writing, in {seconds:.0f} s."
    if refused:
        words += f" Refused attempts: {', '.join(f'{count} {reason}' for reason, count in refused.items())}."
    if len(results) < asked:
        words += (
            f" Stopped after {limits.TEXT_SECONDS} s: {asked - len(results)} not written; ask for fewer."
            if ended
            else f" {asked - len(results)} to come …"
        )
    return words


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
