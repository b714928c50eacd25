"""Publish a checkpoint on the Hub: weights, configuration, the pipeline's own code, and a card.

    clinsynth push model runs/retina --repo_id me/retina-ddpm
    clinsynth push model runs/retina --repo_id me/retina-ddpm --evidence runs/retina-evidence --gated manual --verify

Others load it with `DiffusionPipeline.from_pretrained` or `transformers.pipeline`, a text-to-image LoRA with
`load_lora_weights`. Checkpoints on the way, optimizer states, validation, training data and logs stay here. The same
command again goes on where it stopped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clinsynth.arguments import run
from clinsynth.hub.repository import PushArguments, TermsArguments

REPLACED = r"samples\.png|(?:[\w-]+/)?(?:[\w.-]+\.safetensors(?:\.index\.json)?|[\w]+\.py)"

LORA_FILES = ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors")


@dataclass
class PushModelArguments(PushArguments, TermsArguments):
    """Publish a checkpoint on the Hub: weights, configuration, the pipeline's own code, and a card.

    Example:

      clinsynth push model runs/retina --repo_id me/retina-ddpm
    """

    evidence: str | None = None
    """folder of `clinsynth evaluate` on samples of this checkpoint, for the card"""
    gated: Literal["auto", "manual"] | None = None
    """who wants to read must ask; auto lets everybody in who does, manual waits for your yes"""


def main(args: PushModelArguments) -> None:
    """Publish, read back."""
    from clinsynth.hub.repository import Target
    from clinsynth.hub.upload import push

    push(args, Target.of(args, "model", gated=args.gated), files_to_push(args), REPLACED)


def files_to_push(args: PushModelArguments) -> Iterator[tuple[str, bytes | Path]]:
    """Path in the repository and content of each file."""
    from clinsynth.hub.files import content_of, model_files
    from clinsynth.hub_cards.model_card import model_card
    from clinsynth.hub_cards.sets import PICTURE, sample_grid

    folder = Path(args.folder)
    lora = (folder / "text_to_image.json").exists()
    paths = [] if lora else model_files(folder)
    card = model_card(folder, repo_id=args.repo_id, evidence=args.evidence, **args.terms())
    picture = sample_grid(folder, args.evidence)
    yield "README.md", card.encode()
    if picture is not None:
        yield PICTURE, picture
    yield from lora_files(folder) if lora else ((path, content_of(folder / path)) for path in paths)


def lora_files(folder: Path) -> Iterator[tuple[str, bytes | Path]]:
    """The files of a text-to-image LoRA, which lie beside each other; the base model is not among them."""
    from clinsynth.hub_cards.checkpoint import FILE, published_facts

    yield FILE, published_facts(folder / FILE)
    yield from ((path.name, path) for path in sorted(folder.glob("*.safetensors")) if path.name in LORA_FILES)


if __name__ == "__main__":
    run(PushModelArguments, main)
