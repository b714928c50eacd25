"""The card of a metric, from the code in its folder, which is read and not run."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import SpaceCardData

from clinsynth.hub_cards.render import LOCAL, render_card, repository_name

SNIPPETS = {
    "features": """\
import evaluate
import numpy as np

metric = evaluate.load({place})
features = np.random.default_rng(0).normal(size=(200, 8))  # yours: a row a sample, of one network
source = ["real"] * 100 + ["synthetic"] * 100
print(metric.compute(features=features, source=source))""",
    "image": """\
import evaluate
import numpy as np

metric = evaluate.load({place})
images = np.random.default_rng(0).integers(0, 256, size=(20, 1, 32, 32), dtype=np.uint8)  # yours
source = ["real"] * 10 + ["synthetic"] * 10
print(metric.compute(image=images, source=source))""",
}
"""By the first input of the metric."""
ALONE = "This file stands alone"


@dataclass(frozen=True)
class MetricCode:
    """What the file of a metric says of it; empty is not said."""

    name: str
    explanation: str
    description: str
    citation: str
    inputs: str

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
    snippet = SNIPPETS.get(code.first_input, "").format(place=json.dumps(repo_id or f"{LOCAL}/{code.name}"))
    return render_card("metric.md", data, code=code, snippet=snippet, license=license)


def read_metric(folder: Path) -> MetricCode:
    """Docstring and texts of `folder`/<name of folder>.py.

    Raises:
        ValueError: there is no such file.
    """
    path = folder / f"{folder.resolve().name}.py"
    if not path.exists():
        raise ValueError(f"{folder} is no metric: it lacks {path.name}, which evaluate.load looks for")
    module = ast.parse(path.read_text(encoding="utf-8"))
    texts = {
        node.targets[0].id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    return MetricCode(
        path.stem,
        explain(ast.get_docstring(module) or ""),
        texts.get("_DESCRIPTION", ""),
        texts.get("_CITATION", ""),
        inspect.cleandoc(texts.get("_INPUTS", "")),
    )


def explain(docstring: str) -> str:
    """The docstring as Markdown, without its sentence on how the file is loaded."""
    kept = []
    for paragraph in docstring.split("\n\n"):
        indented = paragraph.startswith("    ")
        text = paragraph if indented else " ".join(paragraph.split()).partition(ALONE)[0].strip()
        kept += [text] if text else []
    return "\n\n".join(kept)
