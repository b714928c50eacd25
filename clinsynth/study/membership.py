"""Membership inference on a diffusion model: does the denoising loss tell training images from others?

The plain loss attack (Matsumoto et al. 2023; Carlini et al. 2023), made as strong as it gets without shadow models:
the adversary has the weights, the image and its class, and averages the loss over several noises, the same for every
image. Noise level and conditioning (class or null class) are chosen on one half of the rows, and what is reported
comes from the other half. 0.5 is ideal; where the interval lies above it, the generator remembers its images.
Two controls stand beside it: the attack between two halves of held-out rows, and the attack by the roughness of the
image alone, which no generator sees: where that is off 0.5, the two splits differ by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from clinsynth.data.images import ImageArrays
from clinsynth.data.labels import LabelledSamples
from clinsynth.metrics.comparisons import match_labels
from clinsynth.metrics.privacy.attack import (
    MIN_ROWS,
    describe_attack,
    describe_tpr,
    epsilon_bound,
    held_out_floor,
    run_attack,
)
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.stream import StepInputs

NOISE_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
FALSE_POSITIVE_RATES = (0.01, 0.05)
LIMIT = "the plain loss attack: a stronger one (shadow models) may find more, so 0.5 is no proof of privacy"


def membership_inference(
    pipeline: Any,
    members: ImageArrays,
    non_members: ImageArrays,
    *,
    timesteps: Sequence[int] | None = None,
    noises: int = 3,
    seed: int = 0,
    batch_size: int = 64,
    max_rows: int = 500,
    replicates: int = 1000,
    progress: bool = False,
) -> dict[str, Any]:
    """Attack a `ClassConditionedDDPMPipeline` and return the record as it stands in a report, ready for JSON.

    Args:
        pipeline: the generator, in float32; one without a denoiser (a GAN) gets a record that says not applicable.
        members: what the generator was trained on: exactly those rows.
        non_members: held-out rows; those equal to a member are left out and counted.
        timesteps: noise levels that the adversary tries; default: eight from 0.02 T to 0.8 T.
        noises: noises that each loss is averaged over, the same for every image.
        seed: of noises, subsets, halves and bootstrap.
        batch_size: images computed at once; the record does not depend on it beyond rounding.
        max_rows: of a side with more, this many are drawn, with the same label mix.
        replicates: of the bootstrap of `tpr`.
        progress: show a progress bar.

    Returns:
        `value` is the area under the ROC curve on the evaluation half, `interval` its 95 % interval (Newcombe 2006),
        `n_members` and `n_non_members` the rows it is from; `tpr` the share of members found at fixed false-positive
        rates; `epsilon` an empirical lower bound (`epsilon_bound`); `floor` and `control` the controls, with
        intervals; `by_candidate` the areas of everything tried. With fewer than 16 rows a side `value` is None and
        `note` says so.

    Raises:
        ValueError: images or classes that are not the generator's, or an argument out of range.
    """
    settings = {"noises": noises, "seed": seed, "replicates": replicates, "max_rows": max_rows}
    record: dict[str, Any] = {"metric": "membership_inference", "ideal": 0.5, **settings}
    if not isinstance(pipeline, ClassConditionedDDPMPipeline):
        why = f"not applicable: {type(pipeline).__name__} has no denoising loss or other surrogate of a likelihood"
        return record | {"value": None, "interval": None, "note": why}
    for name, value in (("noises", noises), ("batch_size", batch_size), ("replicates", replicates)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    grid = choose_timesteps(pipeline, timesteps)
    check_sides(pipeline, members, non_members)
    others, dropped = without_copies(members, non_members)
    left_out = f"{dropped} held-out rows equal to a training image were left out"
    sides = matched_sides(members, others, seed, max_rows)
    found = min(len(side.labels) for side in sides)
    if found < MIN_ROWS:
        why = f"not measured: it needs at least {MIN_ROWS} rows a side of classes that both have, got {found}"
        note = f"{why} after {left_out}" if dropped else why
        return record | {"value": None, "interval": None, "equal_rows_dropped": dropped, "note": note}
    losses = denoising_losses(pipeline, sides, grid, noises, seed, batch_size, progress)
    return record | {
        **loss_attack(losses, sides, grid, seed, replicates),
        "equal_rows_dropped": dropped,
        "note": f"{LIMIT}; {left_out}" if dropped else LIMIT,
    }


def loss_attack(
    losses: list[np.ndarray], sides: list[ImageArrays], grid: list[int], seed: int, replicates: int
) -> dict[str, Any]:
    """The attack by the losses (rows, 2, timesteps) of members and others, and its controls."""
    scores = [candidate_scores(part) for part in losses]
    rough = [roughness_scores(side.images) for side in sides]
    labels, candidates = [side.labels for side in sides], describe_candidates(grid)
    persons = [side.persons for side in sides]
    attack = run_attack(scores, labels, seed, persons)
    tried = zip(candidates, attack.by_candidate, strict=True)
    return {
        **describe_attack(attack),
        "chosen": candidates[attack.candidate],
        "tpr": [describe_tpr(attack, rate, seed, replicates) for rate in FALSE_POSITIVE_RATES],
        "epsilon": epsilon_bound(attack),
        "floor": held_out_floor(scores[1], labels[1], seed, persons[1]),
        "control": describe_attack(run_attack(rough, labels, seed, persons)),
        "by_candidate": [candidate | {"value": value} for candidate, value in tried],
        "timesteps": grid,
        "rows_members": len(labels[0]),
        "rows_non_members": len(labels[1]),
    }


def choose_timesteps(pipeline: Any, timesteps: Sequence[int] | None) -> list[int]:
    """The noise levels to try, by default `NOISE_LEVELS` of all."""
    total = int(pipeline.scheduler.config.num_train_timesteps)
    grid = sorted({int(level * total) for level in NOISE_LEVELS} if timesteps is None else set(map(int, timesteps)))
    if not grid or not 0 <= grid[0] <= grid[-1] < total:
        raise ValueError(f"timesteps must be in [0, {total}), the generator's, and at least one, got {grid}")
    return grid


def check_sides(pipeline: Any, members: ImageArrays, non_members: ImageArrays) -> None:
    """Raise a ValueError where images or classes are not the generator's."""
    if str(pipeline.unet.dtype) != "torch.float32":
        raise ValueError(f"the generator must be in float32 to be attacked, got {pipeline.unet.dtype}; load it so")
    names = list(pipeline.id2label.values())
    for side, arrays in (("members", members), ("non-members", non_members)):
        if arrays.images.shape[1:] != pipeline.image_shape:
            raise ValueError(
                f"{side} have shape {arrays.images.shape[1:]} (channels, height, width), the generator makes "
                f"{pipeline.image_shape}; bring them to that size and mode"
            )
        if arrays.label_names != names:
            raise ValueError(f"{side} have the classes {arrays.label_names}, the generator {names}; give its own data")


def without_copies(members: ImageArrays, non_members: ImageArrays) -> tuple[ImageArrays, int]:
    """The held-out rows that equal no member in every pixel, and how many do: the generator has seen those."""
    seen = {image.tobytes() for image in members.images}
    kept = np.array([image.tobytes() not in seen for image in non_members.images], dtype=bool)
    return non_members.take(kept), int((~kept).sum())


S = TypeVar("S", bound=LabelledSamples)


def matched_sides(members: S, others: S, seed: int, max_rows: int) -> list[S]:
    """Both sides in one label mix, of each at most `max_rows`, drawn by `seed`; empty where they share no class."""
    none: np.ndarray = np.array([], dtype=int)
    matched = match_labels(members.labels, others.labels, seed) or (none, none)
    both = zip((members, others), matched, strict=True)
    return [side.take(thin_out(rows, side.labels, max_rows, seed)) for side, rows in both]


def thin_out(index: np.ndarray, labels: np.ndarray, max_rows: int, seed: int) -> np.ndarray:
    """At most `max_rows` of `index`, drawn by `seed` with the same label mix."""
    if len(index) <= max_rows:
        return index
    order = np.random.default_rng([seed, 2]).permutation(index)
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[np.arange(max_rows) * len(index) // max_rows])


def denoising_losses(
    pipeline: Any,
    sides: list[ImageArrays],
    timesteps: list[int],
    noises: int,
    seed: int,
    batch_size: int,
    progress: bool,
) -> list[np.ndarray]:
    """Mean loss over the noises of every image of each side: float64 (rows, 2, timesteps), class then null class."""
    total = sum(len(side.labels) for side in sides)
    with tqdm(total=total, unit="image", desc="membership inference", disable=not progress) as bar:
        parts: list[list[np.ndarray]] = []
        for side in sides:
            starts = range(0, len(side.labels), batch_size)
            parts.append([])
            for start in starts:
                batch = side.take(np.arange(start, min(start + batch_size, len(side.labels))))
                parts[-1].append(batch_losses(pipeline, batch, timesteps, noises, seed))
                bar.update(len(batch.labels))
    return [np.concatenate(part) for part in parts]


def batch_losses(pipeline: Any, batch: ImageArrays, timesteps: list[int], noises: int, seed: int) -> np.ndarray:
    """`denoising_losses` of one batch."""
    process = DDPMProcess.of(pipeline)
    device = pipeline.device
    images = pipeline.encode(torch.from_numpy(batch.images).to(device).float() / 127.5 - 1)
    classes = torch.from_numpy(batch.labels).to(device)
    result = torch.zeros(len(images), 2, len(timesteps), dtype=torch.float64)
    for column, timestep in enumerate(timesteps):
        times = torch.full((len(images),), timestep, device=device)
        for number in range(noises):
            generator = torch.Generator().manual_seed(derive_seed(seed, timestep, number))
            noise = torch.randn(images.shape[1:], generator=generator).to(device).expand(images.shape)
            for row, labels in enumerate((classes, torch.full_like(classes, pipeline.num_classes))):
                with torch.no_grad():
                    losses = process.image_losses(pipeline.unet, StepInputs(images, labels, noise, times))
                result[:, row, column] += losses.double().cpu() / noises
    return result.numpy()


def candidate_scores(losses: np.ndarray) -> np.ndarray:
    """Scores (rows, candidates), high for a member: minus the log loss at each timestep, then its mean over them."""
    logs = np.log(np.maximum(losses, np.finfo(np.float64).tiny))
    each = np.concatenate([logs, logs.mean(axis=2, keepdims=True)], axis=2)
    return -each.reshape(len(losses), -1)


def describe_candidates(timesteps: list[int]) -> list[dict[str, Any]]:
    """What each column of `candidate_scores` is."""
    columns: list[int | str] = [*timesteps, "mean"]
    return [{"conditioning": name, "timestep": column} for name in ("class", "null class") for column in columns]


def roughness_scores(images: np.ndarray) -> np.ndarray:
    """Scores (rows, 2) of an adversary without the generator: mean absolute step between neighbouring pixels, ±."""
    pixels = images.astype(np.float64)
    steps = np.abs(np.diff(pixels, axis=2)).mean((1, 2, 3)) + np.abs(np.diff(pixels, axis=3)).mean((1, 2, 3))
    return np.stack([steps, -steps], axis=1)
