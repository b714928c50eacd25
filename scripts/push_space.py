"""Publish a Space on the Hub: the code of its app, what it needs, and its README with the Hub's header.

clinsynth push space spaces/studio --repo_id me/clinsynth-studio --models me/retina-ddpm
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.hub_arguments import PushArguments

REPLACED = r"(?:\w+/)*\w+\.(?:py|css|js|svg|jinja)|checklists/[\w-]+\.yaml"


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
    from clinsynth.hub_repository import Target
    from clinsynth.scripts.push_run import finish

    finish(args, Target.of(args, "space", sdk="gradio"), files_to_push(args), REPLACED)


def files_to_push(args: PushSpaceArguments) -> Iterator[tuple[str, bytes | Path]]:
    """Path in the repository and content of each file."""
    from clinsynth.hub_cards import space_card
    from clinsynth.hub_files import space_files

    folder = Path(args.folder)
    models, datasets = ([word for word in ids.split(",") if word] for ids in (args.models, args.datasets))
    yield "README.md", space_card(folder, models, datasets, repo_id=args.repo_id).encode()
    yield from ((path, folder / path) for path in space_files(folder))


if __name__ == "__main__":
    run(PushSpaceArguments, main)
