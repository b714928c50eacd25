"""The reward model of --method reward: a small network that predicts the judge's score of a picture of a class.

reward_model/   model.safetensors, and reward.json with its error on prompts that it was not fitted on

Pictures that the judge scored alike by luck get what pictures like them get: the weights follow the score's
regularities and not its noise (Lee et al. 2023, "Aligning text-to-image models using human feedback").
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from clinsynth.data.images import load_image_arrays
from clinsynth.judges.calibration import calibrate, check_usable
from clinsynth.judges.judges import load_judge
from clinsynth.models.image_encoders import FeatureExtractor, train_default_extractor
from clinsynth.run_folder import atomic_write, complete_folder, create_run_folder
from clinsynth.trainers.preference.candidates import Scored, pair_candidates, score_candidates
from clinsynth.trainers.preference.guard import Guard, Watched
from clinsynth.trainers.preference.model import is_prompted, picture_form
from clinsynth.trainers.preference.pairs import pixels_of, read_pairs

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
HELD_OUT_EVERY = 5  # every fifth prompt is held out


def predicted_shares(
    images: np.ndarray, labels: np.ndarray, shares: np.ndarray, prompts: np.ndarray, folder: Path, seed: int
) -> torch.Tensor:
    """What a reward model, fitted on four fifths of the prompts, predicts for all pictures: float32 (n,) in [0, 1].

    Args:
        images: uint8 (n, channels, side, side).
        labels: int64 (n,).
        shares: (n,), the judge's scores in [0, 1].
        prompts: int64 (n,); pictures of one prompt are held out together.
        folder: where the model is kept, and found again when the same command is started anew.

    Raises:
        ValueError: on the prompts held out it predicts no better than the mean score of the class.
    """
    network: Any = build_network(labels, images.shape[1], seed)
    if not (folder / "reward.json").exists():
        held_out = held_out_rows(prompts)
        fit_network(network, images[~held_out], labels[~held_out], shares[~held_out], seed)
        facts = errors(predict(network, images, labels), labels, shares, held_out)
        with complete_folder(folder) as aside:
            keep(network, facts, aside)
    facts = json.loads((folder / "reward.json").read_text())
    if facts["held_out_error"] >= facts["error_of_class_means"]:
        raise ValueError(
            f"the reward model learned nothing: on prompts held out its root mean square error is "
            f"{facts['held_out_error']:.3f}, that of the class means {facts['error_of_class_means']:.3f}; give more "
            "--prompts or --candidates, or --reward judge for the judge's own scores"
        )
    load(network, folder)
    return torch.from_numpy(predict(network, images, labels))


def build_network(labels: np.ndarray, channels: int, seed: int) -> Any:
    """A small ResNet with one output a class."""
    from clinsynth.models.image_classifiers import build_small_resnet

    return build_small_resnet(int(labels.max()) + 1, channels, seed=seed)


def held_out_rows(prompts: np.ndarray) -> np.ndarray:
    """Which pictures are held out, bool (n,): those of every fifth prompt; of fewer than five, the last one's."""
    numbers = np.unique(prompts)
    chosen = numbers[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return np.isin(prompts, chosen if len(chosen) else numbers[-1:])


def fit_network(network: Any, images: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int) -> None:
    """Least squares between the output of a picture's class, through a sigmoid, and its score."""
    from clinsynth.models.classifiers import FitSettings, fit
    from clinsynth.models.image_classifiers import model_inputs

    targets, classes = torch.from_numpy(shares).float(), torch.from_numpy(labels)

    def loss(rows: np.ndarray) -> torch.Tensor:
        outputs = network(model_inputs(network, images[rows])).logits.sigmoid()
        return F.mse_loss(outputs.gather(1, classes[rows][:, None])[:, 0], targets[rows])

    settings = FitSettings(EPOCHS, BATCH_SIZE, LEARNING_RATE, seed, progress="reward model")
    fit(network, len(labels), loss, None, settings)


def predict(network: Any, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted scores, float32 (n,)."""
    from clinsynth.models.image_classifiers import in_batches

    outputs = in_batches(network, images, lambda pixels: network(pixels).logits.sigmoid())
    return outputs[np.arange(len(labels)), labels]


def errors(predicted: np.ndarray, labels: np.ndarray, shares: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Root mean square errors on the pictures held out, of the model and of the other pictures' class means."""
    means = np.array([class_mean(label, labels, shares, ~held_out) for label in labels])
    return {
        "pictures": len(labels),
        "held_out": int(held_out.sum()),
        "held_out_error": float(np.sqrt(np.square(predicted - shares)[held_out].mean())),
        "error_of_class_means": float(np.sqrt(np.square(means - shares)[held_out].mean())),
    }


def class_mean(label: int, labels: np.ndarray, shares: np.ndarray, rows: np.ndarray) -> float:
    """Mean score of a class among `rows`, of all where it has none there."""
    members = rows & (labels == label)
    return float(shares[members if members.any() else rows].mean())


def keep(network: Any, facts: dict[str, Any], folder: Path) -> None:
    """Write weights and facts."""
    from safetensors.torch import save_model

    save_model(network, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "reward.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(network: Any, folder: Path) -> None:
    """Take over the weights that `keep` wrote."""
    from safetensors.torch import load_model

    load_model(network, folder / "model.safetensors")
    network.eval()


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
    facts = {**trained_on.judge.identity(), "refused": sorted(trained_on.refused)}
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
