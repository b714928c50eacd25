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

from pathlib import Path

from clinsynth.arguments import run
from clinsynth.study.arguments import EvaluateImagesArguments


def main(args: EvaluateImagesArguments) -> None:
    """Compare, write evidence.json and report.html, print where they are."""
    from clinsynth.hub.seal import write_evidence
    from clinsynth.metrics.privacy.exact import picture_digests
    from clinsynth.reports.images import choose_images, render_image_report
    from clinsynth.run_folder import atomic_write
    from clinsynth.study.image_evidence import gather_evidence, stages_of

    begins = stages_of(args)
    evidence, real, synthetic = gather_evidence(args, begins)
    begins("report")
    samples = choose_images(real["train"], synthetic, evidence["privacy"]["pairs"], args.seed)
    output_dir = Path(args.output_dir)
    digests = {name: picture_digests(split.images) for name, split in real.items()}
    write_evidence(output_dir, evidence, args.synthetic, digests)
    atomic_write(output_dir / "report.html", render_image_report(evidence, samples))
    print(f"evidence: {output_dir / 'evidence.json'}")
    print(f"report (shows real pictures, keep it private): {output_dir / 'report.html'}")


if __name__ == "__main__":
    run(EvaluateImagesArguments, main)
