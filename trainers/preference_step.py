"""One step of preference training: what it sees, its loss by method, and the state it changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from clinsynth.run_folder import complete_folder
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion_loss import StepInputs, TrainingStream, diffusion_loss, image_losses
from clinsynth.trainers.preference_loss import (
    PreferenceLoss,
    both_predictions,
    dpo_loss,
    join,
    kto_loss,
    reward_loss,
    reward_weights,
)
from clinsynth.trainers.preference_pairs import BOTH_LOSE, BOTH_WIN, PREFERRED
from clinsynth.trainers.preference_trajectory import Paths, sample_paths, step_errors
from clinsynth.trainers.training_state import TrainingState

if TYPE_CHECKING:
    from clinsynth.trainers.train_preference import PreferenceArguments


def build_state(args: PreferenceArguments, pipeline: Any, accelerator: Accelerator) -> tuple[TrainingState, Any]:
    """The state before the first step, and the reference: a frozen copy of the first-stage network."""
    model = pipeline.unet.to(accelerator.device)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=args.lr_warmup_steps)
    ema = EMAModel(model.parameters(), decay=args.ema_decay, foreach=True)
    return TrainingState(model.train(), ema, optimizer, schedule, accelerator.scaler), reference


def pixels_of(rows: Any, column: str) -> torch.Tensor:
    """A column of pictures as uint8 (n, channels, side, side)."""
    arrays = [np.asarray(picture) for picture in rows[column]]
    stacked = np.stack([array[None] if array.ndim == 2 else array.transpose(2, 0, 1) for array in arrays])
    return torch.from_numpy(stacked)


class Preferences:
    """The loss of a method on its data: draws of step k depend on (seed, k) alone.

    Args:
        rows: the preference data set, or for `reward` None.
        scored: for `reward` the candidates: a `datasets.Dataset` with image and label, and their shares, float32 (n,).
        reference: the frozen first-stage network.
    """

    def __init__(
        self,
        args: PreferenceArguments,
        pipeline: Any,
        reference: Any,
        rows: Any,
        scored: tuple[Any, torch.Tensor] | None,
        accelerator: Accelerator,
    ):
        self.args, self.scheduler, self.reference = args, pipeline.scheduler, reference
        self.processes, self.rank, self.device = (
            accelerator.num_processes,
            accelerator.process_index,
            accelerator.device,
        )
        self.classes, self.total = pipeline.num_classes, pipeline.scheduler.config["num_train_timesteps"]
        if args.method == "reward":
            assert scored is not None
            images, shares = scored
            labels = torch.tensor(images["label"][:])
            self.extra = reward_weights(shares, labels, args.temperature).to(self.device)
            self.stream = self.stream_of(pixels_of(images, "image"), labels)
        elif args.method == "kto":
            images, labels, signs = unpaired(rows)
            self.extra = signs.to(self.device)
            self.stream = self.stream_of(images, labels)
        else:
            rows = rows.filter(lambda outcome: outcome == PREFERRED, input_columns="outcome")
            self.extra = pixels_of(rows, "rejected").to(self.device)
            self.stream = self.stream_of(pixels_of(rows, "chosen"), torch.tensor(rows["label"][:]))
        if args.method == "d3po":
            self.paths = self.draw_paths(rows)

    def stream_of(self, images: torch.Tensor, labels: torch.Tensor) -> TrainingStream:
        """The endless stream of pictures, without class dropout: preferences are those of a class."""
        seed = derive_seed(self.args.seed, 14)
        on = (images.to(self.device), labels.to(self.device))
        return TrainingStream(*on, self.classes, self.total, class_dropout=0.0, seed=seed)

    def draw_paths(self, rows: Any) -> tuple[Paths, Paths]:
        """The paths that ended in the chosen and in the rejected pictures, drawn again from their seeds.

        Raises:
            ValueError: they end in other pictures, since the model or the number of steps is not that of the pairs.
        """
        labels, found = rows["label"][:], []
        for side, ends in (("chosen", self.stream.images), ("rejected", self.extra)):
            seeds = rows[f"{side}_seed"][:]
            paths = sample_paths(self.reference, self.scheduler, labels, seeds, self.args.num_inference_steps)
            drawn = ((paths.latents[:, -1] / 2 + 0.5).clamp(0, 1) * 255).round()
            if (drawn - ends.float()).abs().max() > 1.5:  # sums in another order may round to the next grey level
                raise ValueError(
                    f"--method d3po: the {side} pictures are not those that --model {self.args.model} draws in "
                    f"{self.args.num_inference_steps} ancestral steps from their seeds; leave --preferences out, so "
                    "that new ones are drawn"
                )
            found.append(replace(paths, latents=paths.latents.cpu()))
        return found[0], found[1]

    def __call__(self, unet: Any, step: int) -> tuple[PreferenceLoss, float | None]:
        """Loss and drift of this process's share of the global batch of a step.

        The drift of `reward`, which needs no reference, is measured in the first step and every `log_steps`.
        """
        count = self.args.train_batch_size * self.processes
        index = self.stream.indices(step * count, count)
        batch = self.stream.inputs(step, index, self.processes)[self.rank]
        mine = index.chunk(self.processes)[self.rank]
        if self.args.method == "d3po":
            return self.d3po(unet, step, index, mine, batch.labels)
        extra = self.extra[mine.to(self.device)]
        if self.args.method == "reward" and step and (step + 1) % self.args.log_steps:
            return reward_loss(image_losses(unet, self.scheduler, batch), extra), None
        if self.args.method == "diffusion-dpo":
            loser = replace(batch, images=extra.float() / 127.5 - 1)  # the same noise and timestep as the winner
            errors, before, drift = both_predictions(unet, self.reference, self.scheduler, join(batch, loser))
            (winner, lost), (winner_before, lost_before) = errors.chunk(2), before.chunk(2)
            return dpo_loss(winner, lost, winner_before, lost_before, self.args.beta), drift
        errors, before, drift = both_predictions(unet, self.reference, self.scheduler, batch)
        if self.args.method == "kto":
            return kto_loss(errors, before, extra, self.args.beta), drift
        return reward_loss(errors, extra), drift

    def d3po(
        self, unet: Any, step: int, index: torch.Tensor, mine: torch.Tensor, labels: torch.Tensor
    ) -> tuple[PreferenceLoss, float]:
        """DPO on one step of the paths of each pair, the same step for both."""
        generator = torch.Generator().manual_seed(derive_seed(self.args.seed, 15, step))
        numbers = torch.randint(self.paths[0].last_step, (len(index),), generator=generator)
        numbers = numbers.chunk(self.processes)[self.rank]
        errors, before, drifts = [], [], []
        for paths in self.paths:
            prediction, error = step_errors(unet, self.scheduler, paths, mine, numbers, labels)
            with torch.no_grad():
                known, error_before = step_errors(self.reference, self.scheduler, paths, mine, numbers, labels)
            drifts.append(float((prediction.detach() - known).square().mean()))
            errors.append(error)
            before.append(error_before)
        return dpo_loss(errors[0], errors[1], before[0], before[1], self.args.beta), sum(drifts) / 2


def train_step(
    args: PreferenceArguments,
    accelerator: Accelerator,
    unet: Any,
    optimizer: Any,
    preferences: Preferences,
    real: TrainingStream,
    step: int,
) -> dict[str, float]:
    """One optimizer step on preferences and on real pictures; returns what is logged of it."""
    preference, drift = preferences(unet, step)
    loss, fidelity = preference.loss, 0.0
    if args.fidelity_weight:
        part = fidelity_part(args, real, step, accelerator)
        on_real = diffusion_loss(unet, preferences.scheduler, part, None)
        loss, fidelity = loss + args.fidelity_weight * on_real, float(on_real.detach())
    accelerator.backward(loss)
    norm = float(accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm))
    optimizer.step()
    optimizer.zero_grad()
    numbers = {"loss": float(preference.loss.detach()), "fidelity_loss": fidelity, **preference.numbers}
    return numbers | ({} if drift is None else {"drift": drift}) | {"grad_norm": norm}


def unpaired(rows: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, labels and signs (1 desirable, -1 not) of a preference data set, each picture once for each sign."""
    images, labels, signs, seen = [], [], [], set()
    all_labels = rows["label"][:]
    for side, against in (("chosen", BOTH_LOSE), ("rejected", BOTH_WIN)):
        expected = 1.0 if side == "chosen" else -1.0
        pictures = pixels_of(rows, side)
        for number, (row, outcome) in enumerate(zip(rows[f"{side}_row"], rows["outcome"], strict=True)):
            sign = -expected if outcome == against else expected
            if (row, sign) not in seen:
                seen.add((row, sign))
                images.append(pictures[number])
                labels.append(all_labels[number])
                signs.append(sign)
    return torch.stack(images), torch.tensor(labels), torch.tensor(signs)


def fidelity_stream(args: PreferenceArguments, train: Any, pipeline: Any, device: torch.device) -> TrainingStream:
    """The stream of real train pictures, with class dropout, so that guidance goes on working."""
    total = pipeline.scheduler.config["num_train_timesteps"]
    on = (torch.from_numpy(train.images).to(device), torch.from_numpy(train.labels).to(device))
    return TrainingStream(*on, pipeline.num_classes, total, seed=derive_seed(args.seed, 16))


def fidelity_part(
    args: PreferenceArguments, stream: TrainingStream, step: int, accelerator: Accelerator
) -> StepInputs:
    """This process's share of the real pictures of a step."""
    processes = accelerator.num_processes
    return stream.step(step, args.train_batch_size * processes, processes)[accelerator.process_index]


def keep_good(state: TrainingState, pipeline: Any, output_dir: Path) -> None:
    """Save the weights that the guard just accepted as `good`."""
    with complete_folder(output_dir / "good") as folder, state.averaged_weights():
        pipeline.save_pretrained(folder)
