"""Compare a synthetic image set with the real one and write a page of evidence.

    clinsynth evaluate images --real phantom-fundus --synthetic runs/phantom-synthetic \\
        --output_dir runs/phantom-evidence
    python scripts/evaluate_images.py --real retinamnist.npz --synthetic runs/retina-synthetic \\
        --output_dir runs/retina-evidence --extractor facebook/dinov2-small
    clinsynth evaluate images --synthetic runs/phantom-synthetic --checklist phantom-fundus --judge measure \\
        --output_dir runs/phantom-evidence

Writes evidence.json (every number with its interval, n, floor and extractor) and report.html (one page, shows real
pictures: keep it private). Start the same command again to go on where it stopped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.judges.judges import check_judge


@dataclass
class EvaluateImagesArguments:
    """Compare a synthetic image set with the real one: distances, variety, privacy, classifiers, a report."""

    real: str = "phantom-fundus"
    """the real data set that the generator was trained on: any spec that --dataset of `clinsynth train ddpm` takes"""
    synthetic: str = "runs/synthetic"
    """folder that `clinsynth generate images` wrote; real pictures are brought to its resolution and channels"""
    output_dir: str = "runs/evidence"
    """where evidence.json and report.html go; finished parts found there are kept"""
    cache_dir: str | None = None
    """where features and the default extractor are kept, each under a hash of what it was made from, so that several
    evaluations share those of the real pictures; default: --output_dir"""
    extractor: str = "default"
    """default (a small ResNet trained on the real train split), the folder or Hub id of a transformers vision model,
    or a TorchScript file, as path or owner/repo:file"""
    bootstrap: int = 200
    """bootstrap replicates of each distance's 95 % interval; 0 leaves the intervals out"""
    classifier: str = "small-resnet"
    """classifier of the arms real and composite: small-resnet, a transformers folder or Hub id, or none"""
    classifier_seeds: int = 3
    """trainings of each arm"""
    classifier_epochs: int = 30
    """passes over the real train split in each training"""
    checklist: str | None = None
    """score every picture's alignment with its class (checklist share, class margin, typicality): name of a checklist
    that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """--checklist: who answers the items, a judge of `clinsynth judge` on this machine; one that neither trained the
    generator nor chose its pictures"""
    judge_model: str | None = None
    """--checklist: the judge's model, folder or Hub id, where it has one"""
    class_model: str | None = None
    """--checklist: folder or Hub id of the classifier of the class margin; default: a small ResNet trained on the real
    train split"""
    seed: int = 0
    """of the choice of few-shot images (give the trainer's), default extractor, subsets, bootstrap and classifiers"""
    fit: str | None = None
    """squash, crop or pad; required where a real picture is not square"""
    label_column: str = "label"
    """column of the real data set that holds the class"""
    label_names: list[str] | str | None = None
    """class names of the real data set as a,b,…, where it has none of its own"""
    train_fraction: float = 1.0
    """share of the real train split that the generator was trained on"""
    few_shot: int | None = None
    """real train images a class that the generator was trained on"""
    min_class_size: int = 2
    """a class with fewer real train images is an error"""

    def __post_init__(self) -> None:
        for name, lowest in (("bootstrap", 0), ("classifier_seeds", 1), ("classifier_epochs", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"--{name} must be >= {lowest}, got {getattr(self, name)}")
        if self.checklist is not None:
            check_judge("judge", self.judge, self.judge_model)
        elif self.judge_model or self.class_model:
            raise ValueError("--judge_model and --class_model are about a --checklist; name it")


def main(args: EvaluateImagesArguments) -> None:
    """Compare, write evidence.json and report.html, print where they are."""
    from clinsynth.reports.images import draw_pictures, render_report
    from clinsynth.run_folder import atomic_write
    from clinsynth.study.image_evidence import gather_evidence
    from clinsynth.synthesis.shard_files import hash_shards

    evidence, compared = gather_evidence(args)
    evidence["data"]["shards_sha256"] = hash_shards(args.synthetic)  # `push dataset` takes it for just these
    pictures = draw_pictures(compared.train, compared.synthetic, compared.pairs, args.seed)
    output_dir = Path(args.output_dir)
    atomic_write(output_dir / "evidence.json", json.dumps(evidence, indent=1) + "\n")
    atomic_write(output_dir / "report.html", render_report(evidence, pictures))
    print(f"evidence: {output_dir / 'evidence.json'}")
    print(f"report (shows real pictures, keep it private): {output_dir / 'report.html'}")


if __name__ == "__main__":
    run(EvaluateImagesArguments, main)
