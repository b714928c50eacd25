"""Publish a metric on the Hub, where `evaluate.load` finds it: its code and a card, in a static Space.

clinsynth push metric metrics/frechet --repo_id me/frechet
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.hub.repository import PushArguments


@dataclass
class PushMetricArguments(PushArguments):
    """Publish a metric on the Hub, where `evaluate.load` finds it: its code and a card, in a static Space.

    Example:

      clinsynth push metric metrics/frechet --repo_id me/frechet
    """

    license: str = "apache-2.0"
    """licence of the code"""


def main(args: PushMetricArguments) -> None:
    """Publish, read back."""
    from clinsynth.hub.repository import Target
    from clinsynth.hub.upload import push

    push(args, Target.of(args, "space", sdk="static"), files_to_push(args), r"\w+\.py|requirements\.txt")


def files_to_push(args: PushMetricArguments) -> Iterator[tuple[str, bytes | Path]]:
    """Path in the repository and content of each file."""
    from clinsynth.hub.files import metric_files
    from clinsynth.hub_cards.other_cards import metric_card

    folder = Path(args.folder)
    yield "README.md", metric_card(folder, repo_id=args.repo_id, license=args.license).encode()
    yield from ((name, folder / name) for name in metric_files(folder))


if __name__ == "__main__":
    run(PushMetricArguments, main)
