"""Publish a Space on the Hub: the code of its app, what it needs, and its README with the Hub's header.

clinsynth push space spaces/studio --repo_id me/clinsynth-studio --models me/retina-ddpm

An app that imports clinsynth gets it as a folder beside it, as it is installed here.
"""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.hub.repository import PushArguments

SUB_PACKAGES = ("pipelines", "trainers", "hub_cards", "metrics", "scripts")
RECIPES = ("tasks", "checklists")
OF_PACKAGE = re.compile(r"(?:\w+/)*\w[\w.]*\.(?:py|jinja)")
REPLACED = (
    r"(?:\w+/)*[\w.]+\.(?:py|css|js|svg|jinja)"
    r"|(?:clinsynth/recipes/tasks|(?:clinsynth/recipes/)?checklists)/[\w-]+\.yaml"
)
IMPORTS = re.compile(r"^\s*(?:from|import) clinsynth\b", re.MULTILINE)


@dataclass
class PushSpaceArguments(PushArguments):
    """Publish a Space on the Hub: the code of its app, what it needs, and its README with the Hub's header.

    Example:

      clinsynth push space spaces/studio --repo_id me/clinsynth-studio --models me/retina-ddpm
    """

    models: str = ""
    """ids on the Hub of the models that it shows, A,B,…"""
    datasets: str = ""
    """ids on the Hub of the data sets that it shows, A,B,…"""


def main(args: PushSpaceArguments) -> None:
    """Publish, read back."""
    from clinsynth.hub.repository import Target
    from clinsynth.hub.upload import push

    push(args, Target.of(args, "space", sdk="gradio"), files_to_push(args), REPLACED)


def files_to_push(args: PushSpaceArguments) -> Iterator[tuple[str, bytes | Path]]:
    """Path in the repository and content of each file."""
    from clinsynth.hub.files import space_files
    from clinsynth.hub_cards.other_cards import space_card

    folder = Path(args.folder)
    models, datasets = ([word for word in ids.split(",") if word] for ids in (args.models, args.datasets))
    yield "README.md", space_card(folder, models, datasets, repo_id=args.repo_id).encode()
    files = {path: folder / path for path in space_files(folder)}
    yield from files.items()
    if any(IMPORTS.search(file.read_text(encoding="utf-8")) for path, file in files.items() if path.endswith(".py")):
        yield from sorted(package_files().items())


def package_files() -> dict[str, Path]:
    """The files of the package clinsynth by their paths in an installation, whether it is one or a checkout.

    Code, templates, tasks and checklists; nothing else that may lie in these folders.
    """
    import clinsynth

    root = Path(clinsynth.__file__).parent
    folders = {"clinsynth": root}
    for name in SUB_PACKAGES:
        spec = importlib.util.find_spec(f"clinsynth.{name}")
        assert spec is not None and spec.submodule_search_locations, name
        folders[f"clinsynth/{name}"] = Path(spec.submodule_search_locations[0])
    found: dict[str, Path] = {}
    for name, folder in folders.items():
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        found |= {f"{name}/{path}": file for path, file in paths.items() if OF_PACKAGE.fullmatch(path)}
    for name in RECIPES:
        for folder in (root / "recipes" / name, root.parent / "recipes" / name):
            found |= {f"clinsynth/recipes/{name}/{path.name}": path for path in sorted(folder.glob("*.yaml"))}
    return found


if __name__ == "__main__":
    run(PushSpaceArguments, main)
