"""The guard against gaming the judge, and rounds, each on new candidates of the model that came of the one before.

While it trains, a model is measured by a judge that it is not trained on. With --rounds:

round-1/, round-2/, …   of each round what a run of one round leaves, and round.json, without which it is not over;
                        its candidates are drawn from the weights `good` of the round before, which are those that
                        round began with where the guard accepted none of its own
metrics.jsonl           the lines of all rounds that are over, with the round
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.judges.calibration import calibrate_once, check_usable, truth_is_known
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import Judge, pass_rate
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.models.image_encoders import FeatureExtractor, train_default_extractor
from clinsynth.run_folder import append_metrics, atomic_write, read_metrics, remove_folder
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.harness import Run
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.candidates import draw_fast
from clinsynth.trainers.preference.model import Pipeline, is_prompted, to_samples
from clinsynth.trainers.stream import StepInputs, TrainingStream
from clinsynth.trainers.training_state import checkpoints

Z = 1.96
MOST_REAL = 256
EXTRACTED_SIDE = 64
"""Side of the images that the guard's extractor is trained on, which is what it shrinks larger ones to."""
KEPT = "good"
"""The folder of the last weights that the guard accepted."""


def load_judges(args: PreferenceArguments, pipeline: Pipeline, folder: Path) -> tuple[Judge | None, Judge]:
    """The judge that is learned from, None where --preferences were given, and the one that watches.

    Where there are phantoms for it, each is compared with them, as calibration_<role>.json in `folder` says, and not
    trusted with the items on which it disagrees.

    Raises:
        ValueError: a judge cannot be had, or is trusted with no item of a condition.
    """
    held_out = load_judge(args.held_out, args.held_out_model, args.checklist)
    calibrate_role(args, held_out, pipeline, folder / "calibration_held_out.json", args.held_out_least_kappa)
    if args.preferences:
        return None, held_out
    judge = load_judge(args.judge, args.judge_model, args.checklist, endpoint=args.judge_endpoint)
    calibrate_role(args, judge, pipeline, folder / "calibration_judge.json", args.least_kappa)
    return judge, held_out


def calibrate_role(
    args: PreferenceArguments, judge: Judge, pipeline: Pipeline, path: Path, least_kappa: float
) -> None:
    """Compare a judge with phantoms, once."""
    if truth_is_known(judge):
        calibrate_once(
            path,
            judge,
            pipeline.image_shape[1],
            pipeline.image_shape[0],
            args.calibration_pictures,
            least_kappa,
            args.seed,
        )
        check_usable(judge, judge.refused, least_kappa)


def guard_extractor(
    args: PreferenceArguments, pipeline: Pipeline, data: dict[str, ImageArrays], folder: Path
) -> FeatureExtractor:
    """A small network that tells the classes of real train images apart, of a text-to-image model enlarged or shrunk
    to the side that it takes."""
    if is_prompted(pipeline):
        data = load_image_arrays(replace(args, resolution=EXTRACTED_SIDE, channels=3), args.seed)
    return train_default_extractor(
        data["train"], data["validation"], folder / "guard", args.seed, progress="guard's features"
    )


@dataclass
class Guard:
    """Draws the same images from the model again and again, judges them, and measures the loss on real ones.

    Args:
        args: how many images of each class, how often, and how much worse the model may become.
        pipeline: around the model that is trained.
        judge: that the preferences come from, None where it cannot be asked about new images; only reported.
        held_out: another judge, which decides.
        real: the validation split, on which the fidelity is measured.
        extractor: of the features that the Fréchet distance is between.

    Attributes:
        looks: what was measured so far, with the step; the first is at the start.
    """

    args: PreferenceArguments
    pipeline: Pipeline
    judge: Judge | None
    held_out: Judge
    real: ImageArrays
    extractor: FeatureExtractor
    looks: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, run: Run) -> None:
        """Take over the looks of a run so far, the first of which is taken here; a run that was stopped is over."""
        found = [record for record in read_metrics(run.output_dir) if "held_out_share" in record]
        self.looks = [look for look in found if look["step"] <= run.state.step]
        run.accelerator.wait_for_everyone()  # until all have read, none writes
        if not self.looks:
            with run.state.averaged_weights():
                self.looks.append({"step": 0, **self.measure()})
            run.keep(KEPT)
            if run.writes:
                append_metrics(run.output_dir, self.looks[0])
        run.state.stopped = self.stopped is not None

    def look(self, run: Run) -> None:
        """Measure where it is time to: keep the weights, or make the step the last one."""
        if not run.is_due(self.args.guard_steps):
            return
        now = run.validate(lambda step: self.measure())
        stopped = self.objection(self.looks[0], now)
        self.looks.append({"step": run.state.step, **now, **({"stopped": stopped} if stopped else {})})
        if stopped:
            run.note(stopped=stopped)
            run.state.stopped = True
        else:
            run.keep(KEPT)

    @property
    def stopped(self) -> str | None:
        """Why the guard stopped the run, if it did."""
        return self.looks[-1].get("stopped")

    @property
    def kept(self) -> dict[str, Any]:
        """The last look that the guard had nothing against."""
        return next(look for look in reversed(self.looks) if "stopped" not in look)

    def measure(self) -> dict[str, Any]:
        """`held_out_share` with its `held_out_half_width`, pass rates, and `fidelity`, the loss on real images,
        and `frechet`, the distance to them, which is comparable within the run alone."""
        args, pipeline = self.args, self.pipeline
        labels = np.repeat(np.arange(pipeline.num_classes), args.guard_images).tolist()
        seeds = [derive_seed(args.seed, 12, i) for i in range(len(labels))]
        images, finite = draw_fast(pipeline, args.num_inference_steps, labels, seeds, args.sampling_batch_size)
        conditions = [pipeline.id2label[label] for label in labels]
        record: dict[str, Any] = {"finite": float(finite.mean()), "fidelity": self.fidelity()}
        record["frechet"] = frechet_distance(self.real_features, self.extractor(images))
        shares, passed = self.held_out.score_arrays(images, conditions)
        record["held_out_share"] = float(shares.mean())
        record["held_out_half_width"] = Z * float(shares.std(ddof=1)) / len(shares) ** 0.5
        record["held_out_passed"] = pass_rate(passed)
        if self.judge:
            shares, passed = self.judge.score_arrays(images, conditions)
            record |= {"judge_share": float(shares.mean()), "judge_passed": pass_rate(passed)}
        return record

    @cached_property
    def real_features(self) -> np.ndarray:
        """Those of as many real images of each class as are drawn, or of all where there are fewer."""
        classes, count = range(len(self.real.label_names)), self.args.guard_images
        rows = np.concatenate([np.flatnonzero(self.real.labels == label)[:count] for label in classes])
        return self.extractor(self.real.images[rows])

    @torch.no_grad()
    def fidelity(self) -> float:
        """Mean denoising error on real images, always with the same noise and timesteps."""
        process = DDPMProcess.of(self.pipeline)
        return float(torch.cat([process.image_losses(self.pipeline.unet, part) for part in self.parts]).mean())

    @cached_property
    def parts(self) -> list[StepInputs]:
        """At most `MOST_REAL` real images or their latents, with noise and timesteps, in batches."""
        pipeline, size, seed = self.pipeline, self.args.sampling_batch_size, self.args.seed
        settings = (pipeline.num_classes, DDPMProcess.of(pipeline).num_train_timesteps, 0.0)
        images, labels = torch.from_numpy(self.real.images), torch.from_numpy(self.real.labels)
        order = TrainingStream(images, labels, *settings, seed=seed).epoch_order(0)[:MOST_REAL]
        samples = to_samples(pipeline, images[order], pipeline.device, size)
        stream = TrainingStream(samples, labels[order].to(pipeline.device), *settings, seed=seed)
        return stream.inputs(0, torch.arange(len(order)), -(-len(order) // size))

    def objection(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """Why training must stop: the held-out judge or the fidelity got worse than `before`, the first-stage model's.

        The held-out share must not fall by more than the half width of its 95 % interval at the start.
        """
        fall = before["held_out_share"] - now["held_out_share"]
        if now["finite"] < 1:
            return "the model draws values that are not finite"
        if fall > before["held_out_half_width"]:
            return (
                f"the held-out judge's score fell from {before['held_out_share']:.3f} to {now['held_out_share']:.3f}, "
                f"by more than its interval of {before['held_out_half_width']:.3f}: the judge is being gamed"
            )
        watched = {
            "fidelity": ("the loss on real images", self.args.fidelity_tolerance, 4),
            "frechet": ("the Fréchet distance to real images", self.args.frechet_tolerance, 2),
        }
        for name, (title, tolerance, digits) in watched.items():
            if now[name] > before[name] * (1 + tolerance):
                rise = f"from {before[name]:.{digits}f} to {now[name]:.{digits}f}"
                return f"{title} rose {rise}, by more than the {tolerance:.0%} allowed"
        return None


RECORD = "round.json"
SEEDS_APART = 1000


@dataclass(frozen=True)
class Round:
    """Number `number`, from 1, of `count` rounds; of one alone `output_dir` is the folder."""

    number: int
    count: int
    output_dir: Path

    @property
    def folder(self) -> Path:
        """Of all that the round makes."""
        return self.output_dir if self.count == 1 else self.output_dir / f"round-{self.number}"

    @property
    def result(self) -> Path:
        """The model that came of the round, a pipeline folder."""
        return self.folder / KEPT

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do for it."""
        return (self.folder / RECORD).exists()

    def seed(self, first: int) -> int:
        """The seed of its candidates, order and noise, where `first` is that of the first round."""
        return first + SEEDS_APART * (self.number - 1)

    def end(self, training: Run, guard: Guard) -> None:
        """Say how the round ended; of several, write it down and put its lines with those of the rounds before."""
        kept, step = guard.kept, training.state.step
        ended = f"stopped at step {step}: {guard.stopped}" if guard.stopped else f"trained {step} steps"
        if self.count == 1:
            print(ended)
            return
        atomic_write(self.output_dir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines()))
        record = {"round": self.number, "steps": step, "kept_step": kept["step"]}
        record |= {"stopped": guard.stopped, "before": guard.looks[0], "after": kept}
        atomic_write(self.folder / RECORD, json.dumps(record, indent=1) + "\n")
        for checkpoint in checkpoints(self.folder):
            remove_folder(checkpoint)
        gained = f"kept step {kept['step']}" if kept["step"] else "dropped, the next one begins where it began"
        print(f"round {self.number} of {self.count}: {ended}; {gained}; {describe_change(guard.looks[0], kept)}")

    def lines(self) -> list[dict[str, Any]]:
        """Those of metrics.jsonl of the rounds up to this one."""
        rounds = [replace(self, number=number) for number in range(1, self.number + 1)]
        return [{"round": each.number, **record} for each in rounds for record in read_metrics(each.folder)]


def describe_change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the guard measured at the start of a round and of what came of it."""
    names = {"held_out_share": "held-out judge", "judge_share": "judge", "frechet": "Fréchet distance"}
    return ", ".join(f"{name} {before[key]:.3g} to {after[key]:.3g}" for key, name in names.items() if key in before)
