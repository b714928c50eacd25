"""Candidates: several pictures a prompt drawn from the first-stage model, scored by the judge, made into pairs.

candidates/   a synthetic data set as `clinsynth generate images` writes it, the candidates of a prompt in a row
scores/       the judge's answers to them, as `clinsynth judge` writes them
pairs/        the preference data set
Each is kept when the same command is started again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch

from clinsynth.data.sources import load_folder
from clinsynth.judges.protocol import share_of_items
from clinsynth.judges.scores import read_answers, write_scores
from clinsynth.run_folder import create_run_folder
from clinsynth.synthesis.shards import Sample, ShardPlan, write_shards
from clinsynth.trainers.diffusion.step import to_fast
from clinsynth.trainers.preference.loss import sample_paths
from clinsynth.trainers.preference.model import describe_model, on_path, to_pictures, with_scheduler
from clinsynth.trainers.preference.pairs import Candidate, check_pairs, make_pairs, write_pairs

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments

SHARD_SIZE = 256


@dataclass(frozen=True)
class Scored:
    """Candidates as a `datasets.Dataset`, those of a prompt in a row, and for each the share of items met and why.

    The share is not a number (nan) where the judge gave no scores.
    """

    images: Any
    shares: list[float]
    reasons: list[str]


def score_candidates(
    args: PreferenceArguments, pipeline: Any, judge: Any, refused: frozenset[str], folder: Path
) -> Scored:
    """Draw and judge the candidates; the shares are of the items that are not refused."""
    each = args.prompts * args.candidates
    labels = [label for label in range(pipeline.num_classes) for _ in range(each)]
    images = draw_candidates(args, pipeline, labels, folder / "candidates")
    paths = write_scores(judge, images, create_run_folder(folder / "scores"), SHARD_SIZE, 64)
    answers = read_answers(paths)
    return Scored(images, [share_of_items(answer, refused) for answer in answers], read_reasons(paths))


def read_reasons(paths: list[Path]) -> list[str]:
    """The judge's answers to each picture in words: `item score (reason)`, one after another."""
    return [words_of(record) for path in paths for record in pq.read_table(path).to_pylist()]


def words_of(record: dict[str, Any]) -> str:
    """The answers of one record of scores; of several raters also how far they are apart."""
    if record.get("failure"):
        return f"no scores: {record['failure']}"
    parts = []
    for entry in record["items"]:
        apart = entry.get("disagreement")
        raters = "" if apart is None else f"; raters' disagreement {apart:.2f}"
        parts.append(f"{entry['item']} {entry['score']:g} ({entry['reason']}{raters})")
    return "; ".join(parts)


def pair_candidates(args: PreferenceArguments, scored: Scored, facts: dict[str, Any], folder: Path) -> None:
    """Write the preference data set, unless it is there."""
    if (folder / "preferences.json").exists():
        return
    columns = zip(scored.images["label"], scored.images["seed"], scored.shares, scored.reasons, strict=True)
    candidates = [
        Candidate(row, label, row // args.candidates, seed, share, reasons)
        for row, (label, seed, share, reasons) in enumerate(columns)
        if not math.isnan(share)
    ]
    unscored = len(scored.shares) - len(candidates)
    if not candidates:
        raise ValueError(
            f"the judge gave scores to none of {unscored} candidates ({scored.reasons[0]}); mend it, or name "
            "another one and delete the folder scores beside that of the candidates, so that they are judged anew"
        )
    pairs = make_pairs(candidates, args.pair_rule, args.margin)
    if args.method != "reward":  # it learns from the shares themselves
        check_pairs(pairs, unpaired=args.method == "kto")
    rule = {"pair_rule": args.pair_rule, "margin": args.margin, "candidates": args.candidates}
    names = scored.images.features["label"].names
    write_pairs(folder, pairs, scored.images, names, {**facts, **rule, "unscored": unscored})


def draw_candidates(args: PreferenceArguments, pipeline: Any, labels: list[int], folder: Path) -> Any:
    """A picture for each of `labels`, as a `datasets.Dataset`; row i is of prompt i // candidates."""
    plan = ShardPlan(create_run_folder(folder), labels, pipeline.id2label, args.seed, SHARD_SIZE)
    generator = {
        "model": args.model,
        **describe_model(pipeline),
        "sampler": "ancestral DDIM" if args.method == "d3po" else "dpmsolver++",
        "num_inference_steps": args.num_inference_steps,
        "seed": args.seed,
    }
    plan.check_same_generator(generator)
    plan.begin(generator)
    sample = sample_by_path if args.method == "d3po" else sample_fast
    write_shards(plan, sample(pipeline, args.num_inference_steps), args.sampling_batch_size)
    plan.finish(generator)
    images = load_folder(folder)["train"]
    if len(images) < len(labels):
        raise ValueError(
            f"--model {args.model} drew pictures with values that are not finite; train it anew with a lower "
            "--learning_rate"
        )
    return images


def sample_fast(pipeline: Any, steps: int) -> Sample:
    """Sampling with DPM-Solver++."""
    fast = with_scheduler(pipeline, to_fast(pipeline.scheduler))
    fast.set_progress_bar_config(disable=True)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = fast(labels, generator=generators, num_inference_steps=steps, output_type="pt").images
        return as_bytes(pictures)

    return sample


def sample_by_path(pipeline: Any, steps: int) -> Sample:
    """Sampling with the ancestral steps that D3PO learns from."""
    network = on_path(pipeline, pipeline.unet)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        paths = sample_paths(network, pipeline.scheduler, labels, seeds, steps, len(labels))
        return as_bytes(to_pictures(pipeline, paths.latents[:, -1]))

    return sample


def as_bytes(pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in [0, 1] as uint8, and which of them are finite."""
    finite = pictures.isfinite().flatten(1).all(dim=1)
    return (pictures.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), finite.cpu().numpy()
