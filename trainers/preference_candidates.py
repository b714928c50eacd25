"""Candidates: several pictures a prompt drawn from the first-stage model, scored by the judge, made into pairs.

candidates/   a synthetic data set as `clinsynth generate images` writes it, the candidates of a prompt in a row
scores/       the judge's answers to them, as `clinsynth judge` writes them
pairs/        the preference data set
Each is kept when the same command is started again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clinsynth.run_folder import create_run_folder
from clinsynth.scripts.judge_shards import read_answers, write_scores
from clinsynth.scripts.judges import share_of_items
from clinsynth.scripts.synthetic_shards import Sample, ShardPlan, hash_weights, write_shards
from clinsynth.trainers.ddpm_validation import to_fast
from clinsynth.trainers.preference_pairs import Candidate, check_pairs, make_pairs, write_pairs
from clinsynth.trainers.preference_trajectory import sample_paths

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments

SHARD_SIZE = 256


def score_candidates(
    args: PreferenceArguments, pipeline: Any, judge: Any, refused: frozenset[str], folder: Path
) -> tuple[Any, list[float]]:
    """Draw and judge the candidates: a `datasets.Dataset`, those of a prompt in a row, and the share of each.

    The share is that of the items met among those that are not refused.
    """
    each = args.prompts * args.candidates
    labels = [label for label in range(pipeline.num_classes) for _ in range(each)]
    images = draw_candidates(args, pipeline, labels, folder / "candidates")
    paths = write_scores(judge, images, create_run_folder(folder / "scores"), SHARD_SIZE, 64)
    return images, [share_of_items(answer, refused) for answer in read_answers(paths)]


def pair_candidates(
    args: PreferenceArguments, images: Any, shares: list[float], facts: dict[str, Any], folder: Path
) -> None:
    """Write the preference data set, unless it is there."""
    if (folder / "preferences.json").exists():
        return
    columns = zip(images["label"], images["seed"], shares, strict=True)
    candidates = [
        Candidate(row, label, row // args.candidates, seed, share) for row, (label, seed, share) in enumerate(columns)
    ]
    pairs = make_pairs(candidates, args.pair_rule, args.margin)
    if args.method != "reward":  # it learns from the shares themselves
        check_pairs(pairs, unpaired=args.method == "kto")
    rule = {"pair_rule": args.pair_rule, "margin": args.margin, "candidates": args.candidates}
    write_pairs(folder, pairs, images, images.features["label"].names, {**facts, **rule})


def draw_candidates(args: PreferenceArguments, pipeline: Any, labels: list[int], folder: Path) -> Any:
    """A picture for each of `labels`, as a `datasets.Dataset`; row i is of prompt i // candidates."""
    from datasets import load_dataset

    plan = ShardPlan(create_run_folder(folder), labels, pipeline.id2label, args.seed, SHARD_SIZE)
    generator = {
        "model": args.model,
        "weights_sha256": hash_weights(pipeline.unet),
        "sampler": "ancestral DDIM" if args.method == "d3po" else "dpmsolver++",
        "num_inference_steps": args.num_inference_steps,
        "seed": args.seed,
    }
    plan.check_same_generator(generator)
    plan.begin(generator)
    sample = sample_by_path if args.method == "d3po" else sample_fast
    write_shards(plan, sample(pipeline, args.num_inference_steps), args.sampling_batch_size)
    plan.finish(generator)
    images = load_dataset(str(folder), split="train")
    if len(images) < len(labels):
        raise ValueError(
            f"--model {args.model} drew pictures with values that are not finite; train it anew with a lower "
            "--learning_rate"
        )
    return images


def sample_fast(pipeline: Any, steps: int) -> Sample:
    """Sampling with DPM-Solver++."""
    fast = type(pipeline)(pipeline.unet, to_fast(pipeline.scheduler), pipeline.id2label)
    fast.set_progress_bar_config(disable=True)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = fast(labels, generator=generators, num_inference_steps=steps, output_type="pt").images
        return as_bytes(pictures)

    return sample


def sample_by_path(pipeline: Any, steps: int) -> Sample:
    """Sampling with the ancestral steps that D3PO learns from."""

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        paths = sample_paths(pipeline.unet, pipeline.scheduler, labels, seeds, steps)
        return as_bytes((paths.latents[:, -1] / 2 + 0.5).clamp(0, 1))

    return sample


def as_bytes(pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in [0, 1] as uint8, and which of them are finite."""
    finite = pictures.isfinite().flatten(1).all(dim=1)
    return (pictures.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), finite.cpu().numpy()
