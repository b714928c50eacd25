"""Compare a synthetic text set with the real one and write a page of evidence.

    clinsynth evaluate text --real posts.csv --synthetic runs/posts --output_dir runs/posts-evidence
    python scripts/evaluate_text.py --real posts.csv --synthetic runs/posts --output_dir runs/posts-evidence \\
        --encoder models/all-MiniLM-L6-v2 --language_model HuggingFaceTB/SmolLM2-135M-Instruct

Writes evidence.json (every number with its interval, n, floor and model; no text), evidence.csv (the same as a table)
and report.html (one page; it shows real texts only with --show_texts true), and prints what the set is suitable for.
Start the same command again to go on where it stopped.
"""

import time
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.study.arguments import EvaluateTextArguments


def main(args: EvaluateTextArguments) -> None:
    """Compare, write evidence.json, evidence.csv and report.html, print the verdict and where they are."""
    started = time.monotonic()
    from clinsynth.hub.seal import write_evidence
    from clinsynth.metrics.privacy.exact import text_digests
    from clinsynth.models.language_models import load_scorer
    from clinsynth.models.text_encoders import embed_all, load_text_encoder
    from clinsynth.progress import Stages
    from clinsynth.reports.evaluation import write_report
    from clinsynth.reports.texts import choose_texts, render_text_report
    from clinsynth.run_folder import create_run_folder, write_run_config
    from clinsynth.study.text_evidence import (
        STAGES,
        load_canaries,
        load_real_texts,
        load_synthetic_texts,
        text_evidence,
    )
    from clinsynth.synthesis.sets import read_generation

    check_extra()
    begins = Stages([name for name in STAGES if name != "perplexity" or args.language_model])
    begins("both sets")
    generation = read_generation(Path(args.synthetic))
    canaries = load_canaries(args.canaries, generation)
    real, label_names, notes = load_real_texts(args)
    synthetic = load_synthetic_texts(Path(args.synthetic), label_names)
    encoder = load_text_encoder(args.encoder)
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    evidence = text_evidence(
        synthetic,
        real,
        label_names,
        encoder,
        output_dir,
        cache_dir=args.cache_dir,
        replicates=args.bootstrap,
        seed=args.seed,
        canaries=canaries,
        language_model=load_scorer(args.language_model) if args.language_model else None,
        begins=begins,
    )
    begins("report")
    evidence["data"] |= {"real": args.real, "synthetic": args.synthetic} | ({"notes": notes} if notes else {})
    evidence |= {"generation": generation, "seed": args.seed}
    pairs = evidence["closest"] if args.show_texts else []
    sets = {"synthetic": synthetic, **real}
    folder = Path(args.cache_dir or output_dir) / "features"
    samples = choose_texts(sets, embed_all(encoder, sets, folder), label_names, pairs, args.seed)
    write_evidence(output_dir, evidence, args.synthetic, {name: text_digests(real[name].texts) for name in real})
    shown = "shows real texts, keep it private" if args.show_texts else "shows no real text"
    write_report(output_dir, evidence, render_text_report, samples, started, shown, args.author)


def check_extra() -> None:
    """Raise an `ImportError` before the work begins where a package of the extra is missing."""
    try:
        import datasketch  # noqa: F401
    except ImportError as error:
        raise ImportError(f"evaluating texts needs {error.name}: pip install clinsynth[text]") from error


if __name__ == "__main__":
    run(EvaluateTextArguments, main)
