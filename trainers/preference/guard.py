"""The guard against gaming the judge: while it trains, a model is measured by a judge that it is not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clinsynth.data.images import ImageArrays
from clinsynth.judges.protocol import pass_rate, passes, share_of_items
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.models.image_encoders import FeatureExtractor
from clinsynth.run_folder import append_metrics, complete_folder, drop_metrics_after, read_metrics
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import StepInputs, TrainingStream, image_losses
from clinsynth.trainers.preference.candidates import sample_fast
from clinsynth.trainers.preference.model import SavedMerged, to_samples
from clinsynth.trainers.training_state import TrainingState, checkpoints, drop_old_checkpoints, publish

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments

Z = 1.96
MOST_REAL = 256


@dataclass(frozen=True)
class Watched:
    """A judge, and the items that it is not trusted with."""

    judge: Any
    refused: frozenset[str]

    def scores(self, images: np.ndarray, conditions: list[str]) -> tuple[np.ndarray, list[bool]]:
        """Shares of items met (n,) and whether each picture passes; of those alone that got scores.

        Raises:
            ValueError: fewer than two got scores.
        """
        answers = [answer for answer in self.judge.judge_arrays(images, conditions) if not answer.get("failure")]
        if len(answers) < 2:
            raise ValueError(
                f"the judge {self.judge.kind} gave scores to {len(answers)} of {len(images)} pictures; mend it, or "
                "name another one, and start the same command again"
            )
        shares = np.array([share_of_items(answer, self.refused) for answer in answers])
        return shares, [passes(answer, self.refused) for answer in answers]


class Guard:
    """Draws the same pictures from the model again and again, judges them, and measures the loss on real ones.

    Args:
        trained_on: the judge that the preferences come from, None where they were given; only reported.
        held_out: another judge, which decides.
        real: real pictures that the fidelity is measured on, the validation split.
        per_class: pictures of each class to draw.
        steps: of the sampler.
        tolerance: how much larger the loss on real pictures may become, as a share.
        frechet_tolerance: the same for the Fréchet distance between the pictures and real ones.
        seed: of the pictures and of the noise.
        extractor: of the features that the Fréchet distance is between.
        batch_size: pictures drawn at once.
    """

    def __init__(
        self,
        trained_on: Watched | None,
        held_out: Watched,
        real: ImageArrays,
        per_class: int,
        steps: int,
        tolerance: float,
        frechet_tolerance: float,
        seed: int,
        extractor: FeatureExtractor,
        batch_size: int = 64,
    ):
        self.frechet_tolerance, self.extractor = frechet_tolerance, extractor
        self.trained_on, self.held_out = trained_on, held_out
        self.real, self.per_class, self.steps = real, per_class, steps
        self.tolerance, self.seed, self.batch_size = tolerance, seed, batch_size
        self.parts: list[StepInputs] = []

    def measure(self, pipeline: Any) -> dict[str, Any]:
        """`held_out_share` with its `held_out_half_width`, pass rates, and `fidelity`, the loss on real pictures,
        and `frechet`, the distance to them, which is comparable within the run alone."""
        labels = np.repeat(np.arange(pipeline.num_classes), self.per_class).tolist()
        seeds = [derive_seed(self.seed, 12, i) for i in range(len(labels))]
        sample = sample_fast(pipeline, self.steps)
        batches = [slice(i, i + self.batch_size) for i in range(0, len(labels), self.batch_size)]
        parts = [sample(labels[batch], seeds[batch]) for batch in batches]
        images, finite = (np.concatenate(column) for column in zip(*parts, strict=True))
        conditions = [pipeline.id2label[label] for label in labels]
        record: dict[str, Any] = {"finite": float(finite.mean()), "fidelity": self.fidelity(pipeline)}
        record["frechet"] = frechet_distance(self.real_features, self.extractor(images))
        shares, passed = self.held_out.scores(images, conditions)
        record["held_out_share"] = float(shares.mean())
        record["held_out_half_width"] = Z * float(shares.std(ddof=1)) / len(shares) ** 0.5
        record["held_out_passed"] = pass_rate(passed)
        if self.trained_on:
            shares, passed = self.trained_on.scores(images, conditions)
            record |= {"judge_share": float(shares.mean()), "judge_passed": pass_rate(passed)}
        return record

    @cached_property
    def real_features(self) -> np.ndarray:
        """Those of as many real pictures of each class as are drawn, or of all where there are fewer."""
        classes = range(len(self.real.label_names))
        rows = np.concatenate([np.flatnonzero(self.real.labels == label)[: self.per_class] for label in classes])
        return self.extractor(self.real.images[rows])

    @torch.no_grad()
    def fidelity(self, pipeline: Any) -> float:
        """Mean denoising error on real pictures, always with the same noise and timesteps."""
        self.parts = self.parts or self.draw_parts(pipeline)
        errors = [image_losses(pipeline.unet, pipeline.scheduler, part) for part in self.parts]
        return float(torch.cat(errors).mean())

    def draw_parts(self, pipeline: Any) -> list[StepInputs]:
        """At most `MOST_REAL` real pictures or their latents, with noise and timesteps, in batches."""
        device, total = pipeline.device, pipeline.scheduler.config["num_train_timesteps"]
        settings = (pipeline.num_classes, total, 0.0)
        images, labels = torch.from_numpy(self.real.images), torch.from_numpy(self.real.labels)
        order = TrainingStream(images, labels, *settings, seed=self.seed).epoch_order(0)[:MOST_REAL]
        samples = to_samples(pipeline, images[order], device, self.batch_size)
        stream = TrainingStream(samples, labels[order].to(device), *settings, seed=self.seed)
        return stream.inputs(0, torch.arange(len(order)), -(-len(order) // self.batch_size))

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
        if now["fidelity"] > before["fidelity"] * (1 + self.tolerance):
            return (
                f"the loss on real pictures rose from {before['fidelity']:.4f} to {now['fidelity']:.4f}, by more than "
                f"the {self.tolerance:.0%} allowed"
            )
        if now["frechet"] > before["frechet"] * (1 + self.frechet_tolerance):
            return (
                f"the Fréchet distance to real pictures rose from {before['frechet']:.2f} to {now['frechet']:.2f}, by "
                f"more than the {self.frechet_tolerance:.0%} allowed"
            )
        return None


@dataclass
class Course:
    """A run under way. Of several processes all look, and the main one writes."""

    args: PreferenceArguments
    state: TrainingState
    pipeline: Any
    guard: Guard
    output_dir: Path
    writes: bool

    def __post_init__(self) -> None:
        self.saved_as = SavedMerged(self.pipeline) if self.args.lora_rank else self.pipeline
        self.looks = [record for record in read_metrics(self.output_dir) if "held_out_share" in record]

    def resume(self) -> None:
        """Take over the newest checkpoint, and forget what was logged after it."""
        saved = checkpoints(self.output_dir)
        if saved:
            self.state.load(saved[-1])
        if saved and self.writes:
            print(f"resuming at step {self.state.step} of {self.args.train_steps} from {saved[-1]}")
        if self.writes:
            drop_metrics_after(self.output_dir, self.state.step)
        self.looks = [look for look in self.looks if look["step"] <= self.state.step]

    @property
    def objection(self) -> str | None:
        """Why the guard stopped the run, if it did."""
        return self.looks[-1].get("stopped") if self.looks else None

    @property
    def over(self) -> bool:
        """Whether there is no step left to take."""
        return self.state.step >= self.args.train_steps or self.objection is not None

    def begin(self) -> None:
        """The first look, at the first-stage model, unless it was taken."""
        if self.looks:
            return
        self.looks.append({"step": 0, **self.watch()})
        if self.writes:
            self.keep_good()
            append_metrics(self.output_dir, self.looks[0])

    def watch(self) -> dict[str, Any]:
        """The guard's measurements of the weights that are saved."""
        with self.state.averaged_weights():
            return self.guard.measure(self.pipeline)

    def after_step(self, numbers: dict[str, float]) -> None:
        """Look where it is time to, and write what is due."""
        args, step = self.args, self.state.step
        record: dict[str, Any] = {"step": step, **numbers}
        looked = step == args.train_steps or step % args.guard_steps == 0
        if looked:
            record |= self.watch()
            objection = self.guard.objection(self.looks[0], record)
            record |= {"stopped": objection} if objection else {}
            self.looks.append(record)
        if not self.writes:
            return
        if looked and not self.objection:
            self.keep_good()
        if looked or step % args.log_steps == 0:
            append_metrics(self.output_dir, record)
        if self.over or step % args.checkpointing_steps == 0:
            self.state.save(self.output_dir, self.saved_as)
            drop_old_checkpoints(self.output_dir, args.checkpoints_total_limit)

    def keep_good(self) -> None:
        """Save the weights that the guard just accepted as `good`."""
        with complete_folder(self.output_dir / "good") as folder, self.state.averaged_weights():
            self.saved_as.save_pretrained(folder)

    def finish(self) -> None:
        """Leave the last weights that the guard accepted as the run's result."""
        if not self.writes:
            return
        publish(self.output_dir / "good", self.output_dir)
        step = self.state.step
        print(f"stopped at step {step}: {self.objection}" if self.objection else f"trained {step} steps")
        print(f"checkpoint: {self.output_dir}")
