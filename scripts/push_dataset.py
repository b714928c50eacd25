"""Publish a synthetic data set on the Hub, with its evidence and through a gate.

    clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence
    clinsynth push dataset ddpm=runs/by-ddpm gan=runs/by-gan --repo_id me/retina-synthetic \\
        --evidence runs/ddpm-evidence,runs/gan-evidence
    clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence \\
        --dry_run

What leaves: the Parquet shards with known columns alone, each row and image marked as synthetic, as generation has
written them or, where it has not, written anew; the card with an image of samples; how the set was made and measured,
without paths. The same command again goes on where it stopped.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import run
from clinsynth.hub.gate import Thresholds
from clinsynth.hub.repository import PushArguments
from clinsynth.hub_cards.sources import Terms


@dataclass
class PushDatasetArguments(PushArguments, Terms, Thresholds):
    """Publish a synthetic data set on the Hub, with its evidence and through a gate.

    Several folders become several configurations, each called as its folder, or as NAME in NAME=FOLDER. Example:

      clinsynth push dataset runs/retina-synthetic --repo_id me/retina-synthetic --evidence runs/retina-evidence
    """

    essentials: ClassVar[str] = "folder repo_id evidence public data_name data_license license accept_risk dry_run"

    evidence: str = ""
    """folder of `clinsynth evaluate` on exactly this set; of several sets A,B,… in their order"""
    accept_risk: str = ""
    """why the set may be published although a reading is beyond its limit; the card prints it"""
    gated: Literal["auto", "manual"] | None = None
    """who wants to read must ask; auto lets everybody in who does, manual waits for your yes"""

    def __post_init__(self) -> None:
        for flags in (PushArguments, Terms, Thresholds):
            flags.__post_init__(self)
        if not self.evidence:
            raise ValueError(
                "--evidence is missing: a synthetic set is published with its privacy evidence only; give the "
                "--output_dir of `clinsynth evaluate images` or `text` on it"
            )


def main(args: PushDatasetArguments) -> None:
    """Check, pass the gate, publish, read back."""
    from clinsynth.hub.data_sets import files_of_sets, find_sets, pass_gate
    from clinsynth.hub.upload import push

    sets = find_sets(args.folder, args.evidence, args)
    for one in sets:
        pass_gate(one, args.accept_risk)
    files = files_of_sets(sets, args.repo_id, args, args.accept_risk)
    configs = [one.config_name for one in sets if one.config_name]
    push(args, "dataset", files, args.gated, configs)


if __name__ == "__main__":
    run(PushDatasetArguments, main)
