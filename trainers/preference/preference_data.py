"""What preference training starts from: judges with the items they are trusted with, preferences, and the guard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clinsynth.data.images import load_image_arrays
from clinsynth.judges.calibration import calibrate, check_usable
from clinsynth.judges.judges import describe_judge, load_judge
from clinsynth.models.image_encoders import FeatureExtractor, train_default_extractor
from clinsynth.run_folder import atomic_write, create_run_folder
from clinsynth.trainers.preference.candidates import Scored, pair_candidates, score_candidates
from clinsynth.trainers.preference.data import predicted_shares
from clinsynth.trainers.preference.guard import Guard, Watched
from clinsynth.trainers.preference.model import is_prompted, picture_form
from clinsynth.trainers.preference.pairs import pixels_of, read_pairs

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments

EXTRACTED_SIDE = 64
"""Side of the pictures that the guard's extractor is trained on, which is what it shrinks larger ones to."""
Rewarded = tuple[Any, torch.Tensor]
"""Candidates as a `datasets.Dataset`, and what each is worth, float32 (n,) in [0, 1]."""


def prepare(args: PreferenceArguments, pipeline: Any, data: dict[str, Any]) -> tuple[Any, Rewarded | None, Guard]:
    """Preferences (None with --method reward), rewarded candidates (None without it) and the guard."""
    held_out = trusted(args, args.held_out, args.held_out_model, pipeline, "held_out")
    settings = (
        args.guard_images,
        args.num_inference_steps,
        args.fidelity_tolerance,
        args.frechet_tolerance,
        args.seed,
        guard_extractor(args, pipeline, data),
        args.sampling_batch_size,
    )
    if args.preferences:
        rows = read_pairs(args.preferences, unpaired=args.method == "kto")
        check_fits(args, rows, pipeline)
        return rows, None, Guard(None, held_out, data["validation"], *settings)
    trained_on = trusted(args, args.judge, args.judge_model, pipeline, "judge")
    facts = {**describe_judge(trained_on.judge, args.judge_model), "refused": sorted(trained_on.refused)}
    folder = create_run_folder(Path(args.output_dir) / "preferences")
    scored = score_candidates(args, pipeline, trained_on.judge, trained_on.refused, folder)
    pair_candidates(args, scored, facts, folder / "pairs")
    # experts have scored these candidates, and no pictures that are drawn later
    guard = Guard(None if args.judge == "expert" else trained_on, held_out, data["validation"], *settings)
    if args.method == "reward":
        return None, rewards_of(args, scored, folder), guard
    return read_pairs(folder / "pairs", unpaired=args.method == "kto"), None, guard


def guard_extractor(args: PreferenceArguments, pipeline: Any, data: dict[str, Any]) -> FeatureExtractor:
    """A small network that tells the classes of real train pictures apart, of a text-to-image model enlarged or
    shrunk to the side that it takes."""
    if is_prompted(pipeline):
        data = {**load_image_arrays(replace(args, resolution=EXTRACTED_SIDE, channels=3), args.seed)}
    folder = Path(args.output_dir) / "guard"
    return train_default_extractor(data["train"], data["validation"], folder, args.seed, progress="guard's features")


def rewards_of(args: PreferenceArguments, scored: Scored, folder: Path) -> Rewarded:
    """The candidates that were scored and what each is worth: its share, or what a reward model makes of it."""
    shares = np.array(scored.shares)
    rows = np.flatnonzero(~np.isnan(shares))
    images = scored.images.select(rows)
    if args.reward == "judge":
        return images, torch.from_numpy(shares[rows]).float()
    pixels, labels = pixels_of(images["image"]).numpy(), np.array(images["label"][:])
    prompts, kept = rows // args.candidates, folder / "reward_model"
    return images, predicted_shares(pixels, labels, shares[rows], prompts, kept, args.seed)


def trusted(args: PreferenceArguments, kind: str, model: str | None, pipeline: Any, role: str) -> Watched:
    """A judge, with the items refused on which it does not agree with drawn pictures, where the checklist has such.

    The comparison is kept as `calibration_<role>.json`.
    """
    judge = load_judge(kind, model, args.checklist, endpoint=args.judge_endpoint if role == "judge" else None)
    if judge.checklist["name"] != "phantom-fundus" or kind == "expert":
        return Watched(judge, frozenset())
    path = create_run_folder(Path(args.output_dir)) / f"calibration_{role}.json"
    least_kappa = args.least_kappa if role == "judge" else args.held_out_least_kappa
    if not path.exists():
        found = calibrate(judge, *picture_form(pipeline), args.calibration_pictures, least_kappa, args.seed)
        atomic_write(path, json.dumps(found, indent=1) + "\n")
    refused = json.loads(path.read_text())["refused"]
    check_usable(judge, refused, least_kappa)
    return Watched(judge, frozenset(refused))


def check_fits(args: PreferenceArguments, rows: Any, pipeline: Any) -> None:
    """Raise a `ValueError` where preferences are of other classes or pictures than the model's, or of its watcher."""
    if args.held_out == "measure" and "measure" in rows["judge"]:
        raise ValueError(
            f"--preferences {args.preferences} are those of the judge measure, which as --held_out can see no gaming "
            "of itself; name another one"
        )
    names, (side, channels) = rows.features["label"].names, picture_form(pipeline)
    first = rows[0]["chosen"]
    form = (first.size[0], 1 if first.mode == "L" else 3)
    if names != list(pipeline.id2label.values()) or form != (side, channels):
        raise ValueError(
            f"--preferences {args.preferences} has pictures of {form[0]} px and {form[1]} channel(s) and the classes "
            f"{names}, but --model {args.model} makes {side} px, {channels} channel(s) and "
            f"{list(pipeline.id2label.values())}; give preferences of its own pictures"
        )
