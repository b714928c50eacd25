"""Compare a synthetic image set with the real one and write a page of evidence.

    clinsynth evaluate images --real phantom-fundus --synthetic runs/phantom-synthetic \\
        --output_dir runs/phantom-evidence
    python scripts/evaluate_images.py --real retinamnist.npz --synthetic runs/retina-synthetic \\
        --output_dir runs/retina-evidence --extractor facebook/dinov2-small
    clinsynth evaluate images --synthetic runs/phantom-synthetic --checklist phantom-fundus --judge measure \\
        --output_dir runs/phantom-evidence

Writes evidence.json (every number with its interval, n, floor and extractor), evidence.csv (the same as a table) and
report.html (one page; it shows real images, keep it private, unless --shareable true leaves them out), and prints what
the set is suitable for. Start the same command again to go on where it stopped.
"""

import time
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.study.arguments import EvaluateImagesArguments


def main(args: EvaluateImagesArguments) -> None:
    """Compare, write evidence.json, evidence.csv and report.html, print the verdict and where they are."""
    started = time.monotonic()
    from clinsynth.hub.seal import write_evidence
    from clinsynth.metrics.privacy.exact import picture_digests
    from clinsynth.reports.evaluation import write_report
    from clinsynth.reports.images import choose_images, render_image_report
    from clinsynth.study.image_evidence import gather_evidence, stages_of

    begins = stages_of(args)
    evidence, real, synthetic, features = gather_evidence(args, begins)
    begins("report")
    samples = choose_images(real["train"], synthetic, evidence["privacy"], args.seed, features, args.shareable)
    digests = {name: picture_digests(split.images) for name, split in real.items()}
    write_evidence(Path(args.output_dir), evidence, args.synthetic, digests)
    shown = "shows no real image" if args.shareable else "shows real images, keep it private"
    write_report(Path(args.output_dir), evidence, render_image_report, samples, started, shown, args.author)


if __name__ == "__main__":
    run(EvaluateImagesArguments, main)
