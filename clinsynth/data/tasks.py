"""Tasks: what kind of text to generate, read from recipes/tasks/<name>.yaml or from a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import find_recipe, recipe_names
from clinsynth.data.icd10 import read_codes
from clinsynth.plain_yaml import read_yaml

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task

ICD10 = "icd10"
DEFAULT_CODES = "F"
OWN_COLUMNS = {"id", "label", "seed", "example_ids", "attempts", "prompt_choices", "thought_tokens"}
"""Columns of a synthetic data set beside the schema's fields."""


def task_names() -> list[str]:
    """The tasks that come with clinsynth."""
    return recipe_names("tasks")


def load_task(name: str, codes: str | None = None) -> Task:
    """The task called `name`, or in the .yaml file `name`.

    Args:
        codes: for a task whose file says `labels: icd10`, its codes of ICD-10-CM, as `clinsynth.data.icd10.read_codes`
            takes them; default: all of the letter F.

    Raises:
        ValueError: no such task, a file that is no task, or codes that are unknown or that the task does not take.
    """
    from clinsynth.pipelines.structured_medical_text.prompts import Task

    path = find_task(name)
    values = read_task(path)
    if values.get("labels") == ICD10:
        values["labels"] = {name: code.meaning for name, code in read_codes(codes or DEFAULT_CODES).items()}
    elif codes is not None:
        raise ValueError(f"--codes {codes}: task {name} has labels of its own; leave --codes out")
    task = Task.from_dict(values)
    taken = sorted(OWN_COLUMNS & set(task.schema["properties"]))
    if taken:
        raise ValueError(f"--task {name}: a field of the schema may not be called {taken[0]}; rename it")
    return task


def find_task(name: str) -> Path:
    """The file of the task called `name`, or the .yaml file `name` itself; errors as of `find_recipe`."""
    return find_recipe("tasks", "--task", name)


def read_task(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"--task {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--task {path} holds no fields; write name, schema, labels, … as in the others")
    return values
