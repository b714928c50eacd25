"""Compare a synthetic text set with the real one and write a page of evidence.

    clinsynth evaluate text --real posts.csv --synthetic runs/posts --output_dir runs/posts-evidence
    python scripts/evaluate_text.py --real posts.csv --synthetic runs/posts --output_dir runs/posts-evidence \\
        --encoder models/all-MiniLM-L6-v2 --language_model HuggingFaceTB/SmolLM2-135M-Instruct

Writes evidence.json (every number with its interval, n, floor and model; no text) and report.html (one page; it shows
real texts only with --show_texts true). Start the same command again to go on where it stopped.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run


@dataclass
class EvaluateTextArguments:
    """Compare a synthetic text set with the real one: fidelity, diversity, privacy, a report."""

    real: str = ""
    """the real data set that the generator saw: any spec that --dataset of `clinsynth generate text` takes"""
    synthetic: str = ""
    """folder that `clinsynth generate text` wrote, or of other Parquet files with columns text and label"""
    output_dir: str = "runs/evidence"
    """where evidence.json and report.html go; finished parts found there are kept"""
    cache_dir: str | None = None
    """where embeddings and losses are kept, each under a hash of what it was made from, so that several evaluations
    share those of the real texts; default: --output_dir"""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """folder or Hub id of a transformers encoder; where the Hub is out of reach, a folder"""
    language_model: str | None = None
    """folder, Hub id or .gguf file of a causal language model, which measures the perplexity gap; default: left out"""
    canaries: str | None = None
    """canaries.json of the fine-tuned generator, to measure whether sentences planted in its train texts come back;
    default: that of the generator that --synthetic names, if it was trained with some"""
    bootstrap: int = 200
    """bootstrap replicates of each 95 % interval; 0 leaves the intervals out"""
    show_texts: bool = False
    """show the closest pairs of texts side by side in report.html. Give true only if the source's licence and the
    privacy of the people in it allow that; else the page shows what they share in numbers"""
    seed: int = 0
    """of the choice of few-shot texts (give the generator's), of subsets and of the bootstrap"""
    text_column: str = "text"
    """column of the real data set that holds the text"""
    label_column: str = "label"
    """column of the real data set that holds the class"""
    label_names: list[str] | str | None = None
    """class names of the real data set as a,b,…, in the order of their numbers; default: its own"""
    train_fraction: float = 1.0
    """share of the real train split that the generator saw"""
    few_shot: int | None = None
    """real train texts a class that the generator saw"""
    min_class_size: int = 2
    """a class with fewer real train texts is an error, or dropped by --drop_small_classes"""
    drop_small_classes: bool = False
    """leave classes below --min_class_size out, with a message, instead of an error"""

    def __post_init__(self) -> None:
        for name, what in (("real", "the real data set"), ("synthetic", "the folder of the synthetic texts")):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; give {what}")
        if self.bootstrap < 0:
            raise ValueError(f"--bootstrap must be at least 0, got {self.bootstrap}; 0 leaves the intervals out")


def main(args: EvaluateTextArguments) -> None:
    """Compare, write evidence.json and report.html, print where they are."""
    from clinsynth.models.language_models import load_scorer
    from clinsynth.models.text_encoders import embed_all, load_text_encoder
    from clinsynth.reports.texts import draw_text_samples, render_text_report
    from clinsynth.run_folder import atomic_write, create_run_folder, write_run_config
    from clinsynth.study.text_evidence import (
        load_canaries,
        load_real_texts,
        load_synthetic_texts,
        text_evidence,
    )
    from clinsynth.synthesis.sets import read_generation
    from clinsynth.synthesis.shard_files import hash_shards

    check_extra()
    generation = read_generation(Path(args.synthetic))
    canaries = load_canaries(args.canaries, generation)
    real, label_names = load_real_texts(args)
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
    )
    evidence["data"] |= {"real": args.real, "synthetic": args.synthetic}
    evidence["data"]["shards_sha256"] = hash_shards(args.synthetic)  # `push dataset` takes it for just these
    evidence |= {"generation": generation, "seed": args.seed}
    pairs = evidence["closest"] if args.show_texts else []
    sets = {"synthetic": synthetic, **real}
    folder = Path(args.cache_dir or output_dir) / "features"
    samples = draw_text_samples(sets, embed_all(encoder, sets, folder), label_names, pairs, args.seed)
    atomic_write(output_dir / "evidence.json", json.dumps(evidence, indent=1) + "\n")
    atomic_write(output_dir / "report.html", render_text_report(evidence, samples))
    print(f"evidence: {output_dir / 'evidence.json'}")
    warning = " (shows real texts, keep it private)" if args.show_texts else ""
    print(f"report{warning}: {output_dir / 'report.html'}")


def check_extra() -> None:
    """Raise an `ImportError` before the work begins where a package of the extra is missing."""
    try:
        import datasketch  # noqa: F401
    except ImportError as error:
        raise ImportError(f"evaluating texts needs {error.name}: pip install clinsynth[text]") from error


if __name__ == "__main__":
    run(EvaluateTextArguments, main)
