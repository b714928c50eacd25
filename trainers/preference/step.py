"""One step of preference training: what it sees, its loss by method, and the state it changes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from clinsynth.data.images import ImageArrays
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import DDPMProcess, TrainingStream, scale_images
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.loss import (
    Paths,
    PreferenceLoss,
    both_predictions,
    dpo_loss,
    join,
    kto_loss,
    reward_loss,
    reward_weights,
    sample_paths,
    step_errors,
)
from clinsynth.trainers.preference.model import (
    FrozenAdapter,
    network_of,
    on_path,
    prepare_adapter,
    to_images,
    to_samples,
)
from clinsynth.trainers.preference.pairs import PREFERRED, PairedImages, paired_images, pixels_of, signed_images
from clinsynth.trainers.training_state import TrainingState


def build_state(args: PreferenceArguments, pipeline: Any, accelerator: Accelerator) -> tuple[TrainingState, Any]:
    """The state before the first step, and the reference: the first-stage network, frozen.

    Where an adapter is trained, the reference is the same network with the adapter as it is now, else a copy.
    """
    model = pipeline.unet.to(accelerator.device)
    adapted = prepare_adapter(pipeline, args.lora_rank, args.seed)
    reference = FrozenAdapter(model) if adapted else copy.deepcopy(model).eval().requires_grad_(False)
    if args.gradient_checkpointing:
        network_of(pipeline).enable_gradient_checkpointing()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
    warmup, steps = args.lr_warmup_steps, args.train_steps
    schedule = get_scheduler(args.lr_scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    ema = EMAModel(trained, decay=args.ema_decay, foreach=True)
    return TrainingState(model.train(), ema, optimizer, schedule, accelerator.scaler), reference


class Preferences:
    """The loss of a method on its data: draws of step k depend on (seed, k) alone.

    Args:
        pipeline: around the network that is trained.
        reference: the frozen first-stage network.
        rows: a preference data set, or for `reward` image, label and reward, as of `gather_preferences`.
        accelerator: of this process, which has its share of each step's global batch.
    """

    def __init__(
        self, args: PreferenceArguments, pipeline: Any, reference: Any, rows: Dataset, accelerator: Accelerator
    ):
        self.args, self.pipeline, self.reference = args, pipeline, reference
        self.process = DDPMProcess(pipeline.scheduler)
        self.processes, self.rank = accelerator.num_processes, accelerator.process_index
        self.device = accelerator.device
        as_samples = partial(to_samples, pipeline, device=self.device, batch_size=args.sampling_batch_size)
        if args.method == "reward":
            labels, rewards = (torch.tensor(rows[name][:]) for name in ("label", "reward"))
            samples, extra = as_samples(pixels_of(rows["image"])), reward_weights(rewards, labels, args.temperature)
        elif args.method == "kto":
            images, labels, extra = signed_images(rows)
            samples = as_samples(images)
        else:
            paired = paired_images(rows.filter(lambda outcome: outcome == PREFERRED, input_columns="outcome"))
            self.pairs, labels = (paired.chosen, paired.rejected), paired.labels[paired.chosen]
            if args.method == "d3po":
                self.paths = self.draw_paths(paired)
                both = self.paths.latents[:, -1].to(self.device)
            else:
                both = as_samples(paired.images)
            samples, extra = both[self.pairs[0]], both[self.pairs[1]]
        self.extra = extra.to(self.device)
        total, seed = self.process.num_train_timesteps, derive_seed(args.seed, 14)
        on = (samples, labels.to(self.device), pipeline.num_classes, total)
        self.stream = TrainingStream(*on, class_dropout=0.0, seed=seed)  # preferences are those of a class

    def draw_paths(self, paired: PairedImages) -> Paths:
        """The paths that ended in the images, drawn again from their seeds.

        Raises:
            ValueError: they end in other images, since the model or the number of steps is not that of the pairs.
        """
        args, reference = self.args, on_path(self.pipeline, self.reference)
        drawn_from = (paired.labels.tolist(), paired.seeds, args.num_inference_steps, args.sampling_batch_size)
        paths = sample_paths(reference, self.process.scheduler, *drawn_from)
        if self.furthest(paths, paired.images) > 1.5:  # sums in another order move a grey level here and there
            raise ValueError(
                f"--method d3po: the images of the pairs are not those that --model {args.model} draws in "
                f"{args.num_inference_steps} ancestral steps from their seeds; leave --preferences out, so "
                "that new ones are drawn"
            )
        return paths

    def furthest(self, paths: Paths, images: torch.Tensor) -> float:
        """The largest of the mean differences, in grey levels, between a path's end and its image."""
        size = self.args.sampling_batch_size
        ends = zip(paths.latents[:, -1].split(size), images.split(size), strict=True)
        return max(
            float((to_images(self.pipeline, end).cpu() * 255 - known).abs().flatten(1).mean(1).max())
            for end, known in ends
        )

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
            return reward_loss(self.process.image_losses(unet, batch), extra), None
        if self.args.method == "diffusion-dpo":
            loser = replace(batch, images=scale_images(extra))  # the same noise and timestep as the winner
            errors, before, drift = both_predictions(unet, self.reference, self.process, join(batch, loser))
            (winner, lost), (winner_before, lost_before) = errors.chunk(2), before.chunk(2)
            return dpo_loss(winner, lost, winner_before, lost_before, self.args.beta), drift
        errors, before, drift = both_predictions(unet, self.reference, self.process, batch)
        if self.args.method == "kto":
            return kto_loss(errors, before, extra, self.args.beta), drift
        return reward_loss(errors, extra), drift

    def d3po(
        self, unet: Any, step: int, index: torch.Tensor, mine: torch.Tensor, labels: torch.Tensor
    ) -> tuple[PreferenceLoss, float]:
        """DPO on one step of the paths of each pair, the same step for both."""
        generator = torch.Generator().manual_seed(derive_seed(self.args.seed, 15, step))
        numbers = torch.randint(self.paths.last_step, (len(index),), generator=generator)
        numbers = numbers.chunk(self.processes)[self.rank]
        network, reference = (on_path(self.pipeline, one) for one in (unet, self.reference))
        errors, before, drifts = [], [], []
        for side in self.pairs:
            step_of = (self.process.scheduler, self.paths, side[mine], numbers, labels)
            prediction, error = step_errors(network, *step_of)
            with torch.no_grad():
                known, error_before = step_errors(reference, *step_of)
            drifts.append(float((prediction.detach() - known).square().mean()))
            errors.append(error)
            before.append(error_before)
        return dpo_loss(errors[0], errors[1], before[0], before[1], self.args.beta), sum(drifts) / 2


def train_step(
    accelerator: Accelerator, unet: Any, optimizer: Any, preferences: Preferences, real: TrainingStream, step: int
) -> dict[str, float]:
    """One optimizer step on preferences and on real images; returns what is logged of it."""
    args = preferences.args
    with accelerator.autocast():  # the reference computes in the precision of the model
        preference, drift = preferences(unet, step)
        loss, fidelity = preference.loss, 0.0
        if args.fidelity_weight:
            count = args.train_batch_size * accelerator.num_processes
            part = real.step(step, count, accelerator.num_processes)[accelerator.process_index]
            on_real = preferences.process.loss(unet, part)
            loss, fidelity = loss + args.fidelity_weight * on_real, float(on_real.detach())
    accelerator.backward(loss)
    norm = float(accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm))
    optimizer.step()
    optimizer.zero_grad()
    numbers = {"loss": float(preference.loss.detach()), "fidelity_loss": fidelity, **preference.numbers}
    return numbers | ({} if drift is None else {"drift": drift}) | {"grad_norm": norm}


def real_samples(
    args: PreferenceArguments, train: ImageArrays | Iterable[ImageArrays], pipeline: Any, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The real train images, in parts or not, as the network is trained on them, and their labels (n,)."""
    samples, labels = [], []
    for part in [train] if isinstance(train, ImageArrays) else train:
        samples.append(to_samples(pipeline, torch.from_numpy(part.images), device, args.sampling_batch_size))
        labels.append(torch.from_numpy(part.labels).to(device))
    return torch.cat(samples), torch.cat(labels)


def fidelity_stream(
    args: PreferenceArguments, real: tuple[torch.Tensor, torch.Tensor], pipeline: Any
) -> TrainingStream:
    """The stream of `real_samples`, with class dropout, so that guidance goes on working."""
    total, seed = DDPMProcess(pipeline.scheduler).num_train_timesteps, derive_seed(args.seed, 16)
    return TrainingStream(*real, pipeline.num_classes, total, seed=seed)
