"""`clinsynth push metric metrics/frechet --repo_id me/frechet`."""

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
    from clinsynth.hub.files import metric_files
    from clinsynth.hub.upload import Content, push
    from clinsynth.hub_cards.code_cards import metric_card

    folder = Path(args.folder)
    card = metric_card(folder, repo_id=args.repo_id, license=args.license)
    files: list[tuple[str, Content]] = [("README.md", card.encode())]
    files += [(name, folder / name) for name in metric_files(folder)]
    push(args, "metric", files)


if __name__ == "__main__":
    run(PushMetricArguments, main)
