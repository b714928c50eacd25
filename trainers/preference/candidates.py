"""Candidates: several images a prompt drawn from the model that is trained, scored by the judge, made into pairs.

candidates/     a synthetic data set as `clinsynth generate images` writes it, the candidates of a prompt in a row
scores/         the judge's answers to them, as `clinsynth judge` writes them
pairs/          the preference data set
reward_model/   with --reward model, a small network that predicts the judge's score of an image of a class, and in
                reward.json its error on prompts that it was not fitted on. Images that the judge scored alike by luck
                get what images like them get: the weights follow the score's regularities and not its noise (Lee et
                al. 2023, "Aligning text-to-image models using human feedback")
Each is kept when the same command is started again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_model, save_model

from clinsynth.data.sources import load_folder
from clinsynth.judges.protocol import Answer, Judge, share_of_items
from clinsynth.judges.scores import read_answers, write_scores
from clinsynth.models.classifiers import FitSettings, fit
from clinsynth.models.generators import Sample
from clinsynth.models.image_classifiers import build_small_resnet, in_batches, model_inputs
from clinsynth.run_folder import complete_folder, create_run_folder, read_json
from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
from clinsynth.trainers.diffusion.process import to_fast
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.model import Pipeline, describe_model, on_path, to_images, with_scheduler
from clinsynth.trainers.preference.pairs import Candidate, check_pairs, make_pairs, pixels_of, read_pairs, write_pairs
from clinsynth.trainers.preference.step import sample_paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD_SIZE = 256


def gather_preferences(args: PreferenceArguments, pipeline: Pipeline, judge: Judge | None, folder: Path) -> Dataset:
    """What is learned from: a preference data set, or with --method reward images, labels and `reward` in [0, 1].

    Args:
        pipeline: the model that is trained, which draws the candidates.
        judge: scores them; None where --preferences were given.
        folder: of candidates, scores and pairs.

    Raises:
        ValueError: there is nothing to learn from, or what was given is not of this model.
    """
    unpaired = args.method == "kto"
    if judge is None:
        rows = read_pairs(str(args.preferences), unpaired)
        check_fits(args, rows, pipeline)
        return rows
    candidates = judge_candidates(args, pipeline, judge, folder)
    pair_candidates(args, candidates, judge, folder / "pairs")
    if args.method == "reward":
        return reward_candidates(args, candidates, folder)
    return read_pairs(folder / "pairs", unpaired)


def judge_candidates(args: PreferenceArguments, pipeline: Pipeline, judge: Judge, folder: Path) -> Dataset:
    """Candidates, those of a prompt in a row: image, label, seed, `share` of the trusted items met (nan where the
    judge gave no scores), and `reasons`."""
    labels = [label for label in range(pipeline.num_classes) for _ in range(args.prompts * args.candidates)]
    images = draw_candidates(args, pipeline, labels, folder / "candidates")
    answers = read_answers(write_scores(judge, images, create_run_folder(folder / "scores"), SHARD_SIZE, 64))
    if args.control == "shuffled":
        answers = [answers[row] for row in shuffled_within(labels, args.seed)]
    shares = [share_of_items(answer, judge.refused) for answer in answers]
    return images.add_column("share", shares).add_column("reasons", [answer_text(answer) for answer in answers])


def shuffled_within(labels: Sequence[int], seed: int) -> list[int]:
    """Row numbers in a random order in which each stands at the place of a row of its own label."""
    order, draw = np.arange(len(labels)), np.random.default_rng([seed, 79])
    for label in np.unique(labels):
        members = np.flatnonzero(np.asarray(labels) == label)
        order[members] = draw.permutation(members)
    return [int(row) for row in order]


def answer_text(answer: Answer) -> str:
    """`item score (reason); …`; of several raters also how far they are apart."""
    if answer.get("failure"):
        return f"no scores: {answer['failure']}"
    parts = []
    for item, score in answer["scores"].items():
        apart = answer.get("disagreement", {}).get(item)
        raters = "" if apart is None else f"; raters' disagreement {apart:.2f}"
        parts.append(f"{item} {score:g} ({answer['reasons'][item]}{raters})")
    return "; ".join(parts)


def pair_candidates(args: PreferenceArguments, candidates: Dataset, judge: Judge, folder: Path) -> None:
    """Write the preference data set, unless it is there."""
    if (folder / "preferences.json").exists():
        return
    known = candidates.select_columns(["label", "seed", "share", "reasons"])
    scored = [
        Candidate(row=row, prompt=row // args.candidates, **cells)
        for row, cells in enumerate(known)
        if not math.isnan(cells["share"])
    ]
    if not scored:
        raise ValueError(
            f"the judge gave scores to none of {len(candidates)} candidates ({candidates[0]['reasons']}); correct it, "
            "or name another one and delete the folder scores beside that of the candidates, so that they are judged "
            "anew"
        )
    pairs = make_pairs(scored, args.pair_rule, args.margin)
    if args.method != "reward":  # it learns from the shares themselves
        check_pairs(pairs, unpaired=args.method == "kto")
    facts = {
        **judge.identity(),
        "refused": sorted(judge.refused),
        "pair_rule": args.pair_rule,
        "margin": args.margin,
        "candidates": args.candidates,
        "unscored": len(candidates) - len(scored),
    }
    if args.control != "none":
        facts["control"] = args.control
    write_pairs(folder, pairs, candidates, candidates.features["label"].names, facts)


def reward_candidates(args: PreferenceArguments, candidates: Dataset, folder: Path) -> Dataset:
    """The candidates that were scored and what each is worth: its share, or what a reward model makes of it."""
    rows = np.flatnonzero(~np.isnan(candidates["share"][:]))
    scored = candidates.select(rows)
    shares = np.array(scored["share"][:])
    if args.reward == "model":
        images, labels = pixels_of(scored["image"]).numpy(), np.array(scored["label"][:])
        prompts = rows // args.candidates
        shares = predicted_shares(images, labels, shares, prompts, folder / "reward_model", args.seed)
    return scored.add_column("reward", shares.astype(np.float32))


def check_fits(args: PreferenceArguments, rows: Dataset, pipeline: Pipeline) -> None:
    """Raise a `ValueError` where preferences are of other classes or images than the model's, or of its watcher."""
    if args.held_out == "measure" and "measure" in rows["judge"]:
        raise ValueError(
            f"--preferences {args.preferences} are those of the judge measure, which as --held_out can see no gaming "
            "of itself; name another one"
        )
    names, (channels, side, _) = rows.features["label"].names, pipeline.image_shape
    first = rows[0]["chosen"]
    form = (first.size[0], 1 if first.mode == "L" else 3)
    if names != list(pipeline.id2label.values()) or form != (side, channels):
        raise ValueError(
            f"--preferences {args.preferences} has images of {form[0]} px and {form[1]} channel(s) and the classes "
            f"{names}, but --model {args.model} makes {side} px, {channels} channel(s) and "
            f"{list(pipeline.id2label.values())}; give preferences of its own images"
        )


def draw_candidates(args: PreferenceArguments, pipeline: Pipeline, labels: list[int], folder: Path) -> Dataset:
    """An image for each of `labels`; row i is of prompt i // candidates."""
    plan = ImageShards(create_run_folder(folder), labels, pipeline.id2label, args.seed, SHARD_SIZE)
    begun = read_json(folder / "generation.json").get("generator", {})
    generator = {
        "model": args.model,
        **describe_model(pipeline),
        "sampler" if "sampler" in begun else "scheduler": "ancestral DDIM" if args.method == "d3po" else "dpmsolver++",
        "num_inference_steps": args.num_inference_steps,
        "seed": args.seed,
    }
    plan.begin(generator)
    sample = sample_by_path if args.method == "d3po" else sample_fast
    write_image_shards(plan, sample(pipeline, args.num_inference_steps), args.sampling_batch_size)
    plan.finish(generator)
    images = load_folder(folder)["train"]
    if len(images) < len(labels):
        raise ValueError(
            f"--model {args.model} drew images with values that are not finite; train it anew with a lower "
            "--learning_rate"
        )
    return images


def sample_fast(pipeline: Pipeline, steps: int) -> Sample:
    """Sampling with DPM-Solver++."""
    fast = with_scheduler(pipeline, to_fast(pipeline.scheduler))
    fast.set_progress_bar_config(disable=True)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        images = fast(labels, generator=generators, num_inference_steps=steps, output_type="pt").images
        return as_bytes(images)

    return sample


def draw_fast(
    pipeline: Pipeline, steps: int, labels: list[int], seeds: list[int], batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """An image for each label by `sample_fast`, uint8 (n, c, side, side), and which of them are finite."""
    sample, starts = sample_fast(pipeline, steps), range(0, len(labels), batch)
    parts = [sample(labels[first : first + batch], seeds[first : first + batch]) for first in starts]
    images, finite = (np.concatenate(column) for column in zip(*parts, strict=True))
    return images, finite


def sample_by_path(pipeline: Pipeline, steps: int) -> Sample:
    """Sampling with the ancestral steps that D3PO learns from."""
    network = on_path(pipeline, pipeline.unet)

    def sample(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        paths = sample_paths(network, pipeline.scheduler, labels, seeds, steps, len(labels))
        return as_bytes(to_images(pipeline, paths.latents[:, -1]))

    return sample


def as_bytes(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] as uint8, and which of them are finite."""
    finite = images.isfinite().flatten(1).all(dim=1)
    return (images.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), finite.cpu().numpy()


EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
HELD_OUT_EVERY = 5  # every fifth prompt is held out, of fewer than five the last one


def predicted_shares(
    images: np.ndarray, labels: np.ndarray, shares: np.ndarray, prompts: np.ndarray, folder: Path, seed: int
) -> np.ndarray:
    """What a reward model, fitted on four fifths of the prompts, predicts for all images: float32 (n,) in [0, 1].

    Args:
        images: uint8 (n, channels, side, side).
        labels: int64 (n,).
        shares: (n,), the judge's scores in [0, 1].
        prompts: int64 (n,); images of one prompt are held out together.
        folder: where the model is kept, and found again when the same command is started anew.

    Raises:
        ValueError: on the prompts held out it predicts no better than the mean score of the class.
    """
    network = build_small_resnet(int(labels.max()) + 1, images.shape[1], seed=seed)  # an output a class
    if not (folder / "reward.json").exists():
        numbers = np.unique(prompts)
        chosen = numbers[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        held_out = np.isin(prompts, chosen if len(chosen) else numbers[-1:])
        fit_shares(network, images[~held_out], labels[~held_out], shares[~held_out], seed)
        facts = errors(predict_shares(network, images, labels), labels, shares, held_out)
        with complete_folder(folder) as aside:
            save_model(network, str(aside / "model.safetensors"), metadata={"format": "pt"})
            (aside / "reward.json").write_text(json.dumps(facts, indent=1) + "\n")
    facts = json.loads((folder / "reward.json").read_text())
    if facts["held_out_error"] >= facts["error_of_class_means"]:
        raise ValueError(
            f"the reward model learned nothing: on prompts held out its root mean square error is "
            f"{facts['held_out_error']:.3f}, that of the class means {facts['error_of_class_means']:.3f}; give more "
            "--prompts or --candidates, or --reward judge for the judge's own scores"
        )
    load_model(network, folder / "model.safetensors")
    return predict_shares(network.eval(), images, labels)


def fit_shares(
    network: PreTrainedModel, images: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int
) -> None:
    """Least squares between the output of an image's class, through a sigmoid, and its score."""
    targets, classes = torch.from_numpy(shares).float(), torch.from_numpy(labels)

    def loss(rows: np.ndarray) -> torch.Tensor:
        outputs = network(model_inputs(network, images[rows])).logits.sigmoid()
        return F.mse_loss(outputs.gather(1, classes[rows][:, None])[:, 0], targets[rows])

    settings = FitSettings(EPOCHS, BATCH_SIZE, LEARNING_RATE, seed, progress="reward model")
    fit(network, len(labels), loss, None, settings)


def predict_shares(network: PreTrainedModel, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted scores, float32 (n,)."""
    outputs = in_batches(network, images, lambda pixels: network(pixels).logits.sigmoid())
    return outputs[np.arange(len(labels)), labels]


def errors(predicted: np.ndarray, labels: np.ndarray, shares: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Root mean square errors on the images held out, of the model and of the other images' class means (of all
    where a class has no other)."""
    members = [~held_out & (labels == label) for label in labels]
    means = np.array([shares[rows if rows.any() else ~held_out].mean() for rows in members])
    return {
        "pictures": len(labels),
        "held_out": int(held_out.sum()),
        "held_out_error": float(np.sqrt(np.square(predicted - shares)[held_out].mean())),
        "error_of_class_means": float(np.sqrt(np.square(means - shares)[held_out].mean())),
    }
