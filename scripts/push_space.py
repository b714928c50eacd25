"""Publish a Space on the Hub: the code of its app, what it needs, and its README with the Hub's header.

clinsynth push space spaces/studio --repo_id me/clinsynth-studio --models me/retina-ddpm

An app that imports clinsynth gets it as a folder beside it, as it is installed here.
"""

from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.hub.repository import PushArguments


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
    from clinsynth.hub.files import is_importing_clinsynth, package_files, space_files
    from clinsynth.hub.upload import Content, push
    from clinsynth.hub_cards.code_cards import space_card

    folder = Path(args.folder)
    models, datasets = ([word for word in ids.split(",") if word] for ids in (args.models, args.datasets))
    card = space_card(folder, models, datasets, repo_id=args.repo_id)
    code = {path: folder / path for path in space_files(folder)}
    package = package_files() if any(map(is_importing_clinsynth, code.values())) else {}
    files: list[tuple[str, Content]] = [("README.md", card.encode()), *code.items(), *package.items()]
    push(args, "space", files)


if __name__ == "__main__":
    run(PushSpaceArguments, main)
