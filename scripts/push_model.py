"""Publish a checkpoint on the Hub: weights, configuration, the pipeline's own code, and a card.

    clinsynth push model runs/retina --repo_id me/retina-ddpm
    clinsynth push model runs/retina --repo_id me/retina-ddpm --evidence runs/retina-evidence --gated manual --verify

Others load it with `DiffusionPipeline.from_pretrained` or `transformers.pipeline`, a text-to-image LoRA with
`load_lora_weights`. Checkpoints on the way, optimizer states, validation, training data and logs stay here. The same
command again goes on where it stopped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from clinsynth.arguments import run
from clinsynth.hub.repository import PushArguments
from clinsynth.hub_cards.sources import Terms


@dataclass
class PushModelArguments(PushArguments, Terms):
    """Publish a checkpoint on the Hub: weights, configuration, the pipeline's own code, and a card.

    Example:

      clinsynth push model runs/retina --repo_id me/retina-ddpm
    """

    essentials: ClassVar[str] = "folder repo_id public evidence data_name data_license license dry_run"

    evidence: str | None = None
    """folder of `clinsynth evaluate` on samples of this checkpoint, for the card"""
    gated: Literal["auto", "manual"] | None = None
    """who wants to read must ask; auto lets everybody in who does, manual waits for your yes"""

    def __post_init__(self) -> None:
        for flags in (PushArguments, Terms):
            flags.__post_init__(self)


def main(args: PushModelArguments) -> None:
    """Publish, read back."""
    from clinsynth.hub.files import content_of, model_files
    from clinsynth.hub.upload import Content, push
    from clinsynth.hub_cards.model_card import model_card
    from clinsynth.hub_cards.sets import PICTURE, sample_grid

    folder = Path(args.folder)
    paths = model_files(folder)
    card = model_card(folder, repo_id=args.repo_id, evidence=args.evidence, terms=args)
    grid = sample_grid(folder, args.evidence)
    files: list[tuple[str, Content]] = [("README.md", card.encode()), *([(PICTURE, grid)] if grid else [])]
    files += [(path, content_of(folder / path)) for path in paths]
    push(args, "model", files, args.gated)


if __name__ == "__main__":
    run(PushModelArguments, main)
