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
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.study.arguments import EvaluateImagesArguments


def main(args: EvaluateImagesArguments) -> None:
    """Compare, write evidence.json and report.html, print where they are."""
    from clinsynth.reports.images import choose_images, render_image_report
    from clinsynth.run_folder import atomic_write
    from clinsynth.study.image_evidence import gather_evidence
    from clinsynth.synthesis.shard_files import hash_shards

    evidence, train, synthetic = gather_evidence(args)
    evidence["data"]["shards_sha256"] = hash_shards(args.synthetic)  # `push dataset` takes it for just these
    samples = choose_images(train, synthetic, evidence["privacy"]["pairs"], args.seed)
    output_dir = Path(args.output_dir)
    atomic_write(output_dir / "evidence.json", json.dumps(evidence, indent=1) + "\n")
    atomic_write(output_dir / "report.html", render_image_report(evidence, samples))
    print(f"evidence: {output_dir / 'evidence.json'}")
    print(f"report (shows real pictures, keep it private): {output_dir / 'report.html'}")


if __name__ == "__main__":
    run(EvaluateImagesArguments, main)
