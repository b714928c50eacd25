"""The cards of a metric and of a Space, from the code in its folder, which is read and not run."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, SpaceCardData
from markupsafe import Markup

from clinsynth.hub_cards.render import LOCAL, render_card, repository_name
from clinsynth.private_words import HUB_ID

ALONE = "This file stands alone"


@dataclass(frozen=True)
class MetricCode:
    """What the file of a metric says of it, as Markdown; empty is not said."""

    name: str
    explanation: Markup
    description: Markup
    citation: Markup
    inputs: Markup

    @property
    def first_input(self) -> str:
        lines = self.inputs.splitlines()
        return lines[1].split(":")[0].strip() if len(lines) > 1 else ""


def metric_card(metric_folder: str | Path, *, repo_id: str | None = None, license: str = "apache-2.0") -> str:
    """README.md of a metric; on the Hub a metric is a Space that `evaluate.load(repo_id)` reads.

    Raises:
        ValueError: the folder is no metric, or `repo_id` has another name than its file, which `evaluate` looks for.
    """
    code = read_metric(Path(metric_folder))
    if repo_id and repository_name(repo_id) != code.name:
        raise ValueError(
            f"--repo_id {repo_id} must end in {code.name}: evaluate.load takes the file of that name; give "
            f"{repo_id.rpartition('/')[0]}/{code.name}"
        )
    data = SpaceCardData(
        title=code.name,
        sdk="static",
        license=license,
        tags=["evaluate", "metric", "synthetic", "clinsynth"],
    )
    return render_card("metric.md", data, code=code, place=repo_id or f"{LOCAL}/{code.name}", license=license)


def read_metric(folder: Path) -> MetricCode:
    """Docstring and texts of `folder`/<name of folder>.py."""
    path = folder / f"{folder.resolve().name}.py"
    if not path.exists():
        raise ValueError(f"{folder} is no metric: it lacks {path.name}, which evaluate.load looks for")
    module = ast.parse(path.read_text(encoding="utf-8"))
    texts = dict.fromkeys(("_DESCRIPTION", "_CITATION", "_INPUTS"), "")
    for node in module.body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Constant(str(text))) if name in texts:
                texts[name] = text
    description, citation, inputs = texts.values()
    said = explain(ast.get_docstring(module) or ""), description, citation, inspect.cleandoc(inputs)
    return MetricCode(path.stem, *map(Markup, said))


def explain(docstring: str) -> str:
    """The docstring as Markdown, without its sentence on how the file is loaded."""
    kept = []
    for paragraph in docstring.split("\n\n"):
        indented = paragraph.startswith("    ")
        text = paragraph if indented else " ".join(paragraph.split()).partition(ALONE)[0].strip()
        kept += [text] if text else []
    return "\n\n".join(kept)


BANNER = "not for diagnosis"
GRADIO = re.compile(r"^gradio(?:\[[\w,]*\])?\s*[=~>]=\s*(\d+(?:\.\d+)*)", re.MULTILINE)


def space_card(
    space_folder: str | Path,
    models: Iterable[str] = (),
    datasets: Iterable[str] = (),
    *,
    repo_id: str | None = None,
) -> str:
    """README.md of a gradio Space: the header of its own README.md, completed, and its words.

    Args:
        space_folder: holds app.py, and where it likes README.md and requirements.txt.
        models, datasets: ids on the Hub of what it shows.
        repo_id: gives the title where the README has none.

    Raises:
        ValueError: there is no app, or a model or data set is no id, which could be a path of this machine.
    """
    folder, models, datasets = Path(space_folder), list(models), list(datasets)
    for name in (*models, *datasets):
        if not HUB_ID.fullmatch(name):
            raise ValueError(f"a Space names models and data sets by their ids, as me/retina-ddpm, got {name!r}")
    header, body = read_readme(folder)
    requirements = folder / "requirements.txt"
    written = {
        "title": repository_name(repo_id) or "Synthetic samples",
        "sdk": "gradio",
        "sdk_version": gradio_version(requirements),
        "app_file": "app.py",
        "license": "apache-2.0",
        **header,
    }
    if not (folder / written["app_file"]).exists():
        raise ValueError(f"{folder} is no Space: it lacks {written['app_file']}; give a folder like spaces/studio")
    for name, ids in (("models", models), ("datasets", datasets)):
        written[name] = list(dict.fromkeys([*(header.get(name) or []), *ids])) or None
    return render_card(
        "space.md",
        SpaceCardData(**written),
        title=written["title"],
        warn=BANNER not in body.lower(),
        body=Markup(body),
        models=written["models"] or [],
        datasets=written["datasets"] or [],
        requirements=requirements.exists(),
        app_file=written["app_file"],
    )


def read_readme(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and words of the folder's README.md, both empty without one."""
    path = folder / "README.md"
    if not path.exists():
        return {}, ""
    card = SpaceCard(path.read_text(encoding="utf-8"))
    return card.data.to_dict(), card.text.strip()


def gradio_version(requirements: Path) -> str | None:
    """The version of gradio that requirements.txt asks for."""
    found = GRADIO.search(requirements.read_text(encoding="utf-8")) if requirements.exists() else None
    return found.group(1) if found else None
