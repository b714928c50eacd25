"""Write a page on which an expert corrects and signs a checklist.

    clinsynth sign checklist --checklist retinopathy --output retinopathy.html

The page is one file that works without network. Signing saves the checklist with the expert's name, the date and the
version (a new one where a word was changed); the saved file is what --checklist takes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.arguments import run


@dataclass
class ChecklistPageArguments:
    """Write a page on which an expert corrects and signs a checklist.

    Example:

      clinsynth sign checklist --checklist retinopathy --output retinopathy.html
    """

    checklist: str = ""
    """name of a checklist that comes with clinsynth, or a .yaml file"""
    output: str = ""
    """the page, a .html file; default: the checklist's name"""

    def __post_init__(self) -> None:
        if not self.checklist:
            raise ValueError("--checklist is missing; give a name such as retinopathy, or a .yaml file")
        if self.output and Path(self.output).suffix != ".html":
            raise ValueError(f"--output must end in .html, got {self.output}")


def main(args: ChecklistPageArguments) -> None:
    """Write the page.

    Raises:
        ValueError: the checklist cannot be read, or the page not be written.
    """
    from clinsynth.judges.checklists import load_checklist
    from clinsynth.run_folder import atomic_write

    checklist = load_checklist(args.checklist)
    path = Path(args.output or f"{checklist.name}.html")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.parent}; make it, or name another file")
    atomic_write(path, checklist_page(checklist))
    print(f"page: {path}")


def checklist_page(checklist: Any) -> str:
    """The page of a `Checklist`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    values = checklist.model_dump(mode="json", exclude_none=True)
    # within a script element nothing but its end tag, and what starts a comment, must not stand as it is
    data = Markup(json.dumps(values).replace("<", "\\u003c"))
    page = environment.get_template("checklist_page.html.jinja")
    return page.render(checklist=values, data=data)


if __name__ == "__main__":
    run(ChecklistPageArguments, main)
