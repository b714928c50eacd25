"""List what flags call by name: studies, tasks, checklists, data sets, samplers and judges.

clinsynth list
clinsynth list tasks
python scripts/list.py --kind studies
"""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import recipe_files, run
from clinsynth.judges.judges import JUDGES, NEEDED
from clinsynth.models.generators import SCHEDULERS

BUILT_IN = {
    "phantom-fundus": "drawn eyes of five grades, for --dataset of images; no patients",
    "phantom-posts": "made-up posts of four severities, for --dataset of texts; no patients",
}


@dataclass
class ListArguments:
    """List what flags call by name, and where it lies; a file of your own, a folder or a Hub id may take its place.

    Examples:

      clinsynth list
      clinsynth list tasks
    """

    kind: str = ""
    """studies, settings, tasks, checklists, datasets, schedulers or judges; default: all of them"""

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"--kind {self.kind!r} is unknown; give {', '.join(KINDS)}")


def main(args: ListArguments) -> None:
    """Print the names."""
    print("\n".join(KINDS[kind]() for kind in ([args.kind] if args.kind else KINDS)))


def recipes(kind: str, use: str) -> Callable[[], str]:
    """What prints the recipes of a folder, each with the first sentence of its file."""

    def listed() -> str:
        files = recipe_files(kind)
        where = f"{use}; in {next(iter(files.values())).resolve().parent}" if files else use
        return section(where, {name: first_sentence(path) for name, path in files.items()})

    return listed


def settings() -> str:
    """The settings of single trainers, by their paths."""
    kinds = ("ddpm", "classifier", "text_to_image")
    files = {str(path.resolve()): first_sentence(path) for kind in kinds for path in recipe_files(kind).values()}
    return section("settings of one trainer (--config FILE)", files)


def first_sentence(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
    text = " ".join(line.lstrip("# ") for line in (lines[0] if lines else "").splitlines())
    return textwrap.shorten(re.split(r"(?<=[\w)])\. (?=[A-Z])", text)[0].rstrip(":."), 170, placeholder=" …")


def judged_by() -> dict[str, str]:
    """What each judge needs as its model."""
    return {name: NEEDED.get(name, "none: it counts and measures") for name in JUDGES}


def section(title: str, rows: dict[str, str]) -> str:
    """A heading, and a line for each row."""
    width = max([20, *(len(name) for name in rows)]) + 2
    return f"{title}\n" + "".join(f"  {name:{width}}{text}".rstrip() + "\n" for name, text in rows.items())


KINDS: dict[str, Callable[[], str]] = {
    "studies": recipes(".", "studies (clinsynth study NAME)"),
    "settings": settings,
    "tasks": recipes("tasks", "tasks of texts (--task NAME)"),
    "checklists": recipes("checklists", "checklists (--checklist NAME)"),
    "datasets": lambda: section("built-in data sets (--dataset NAME)", BUILT_IN),
    "schedulers": lambda: section("samplers (--scheduler NAME), with diffusers' name", SCHEDULERS),
    "judges": lambda: section("judges of a checklist (--judge NAME), and their --judge_model", judged_by()),
}

if __name__ == "__main__":
    run(ListArguments, main)
