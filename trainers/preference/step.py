"""One step of preference training: what it sees, its loss by method, and the state it changes.

D3PO learns preferences on the steps of a sampler's path (Yang et al. 2024), each step with the time it was made at.
The path is ancestral DDIM sampling (η = 1; Song et al. 2021, Eq. 12): x at the next time is normal around a mean that
the network decides, with a spread that it does not. So log p of a step is −|x' − mean|² / (2 spread²).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.auto import tqdm

from clinsynth.data.images import ImageArrays
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.latents import scale_images
from clinsynth.trainers.diffusion.process import DDPMProcess
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.model import (
    FrozenAdapter,
    Pipeline,
    network_of,
    on_path,
    prepare_adapter,
    to_images,
    to_samples,
)
from clinsynth.trainers.preference.pairs import PREFERRED, PairedImages, paired_images, pixels_of, signed_images
from clinsynth.trainers.stream import StepInputs, TrainingStream
from clinsynth.trainers.training_state import TrainingState


def build_state(args: PreferenceArguments, pipeline: Pipeline, accelerator: Accelerator) -> tuple[TrainingState, Any]:
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
        self, args: PreferenceArguments, pipeline: Pipeline, reference: Any, rows: Dataset, accelerator: Accelerator
    ):
        self.args, self.pipeline, self.reference = args, pipeline, reference
        self.process = DDPMProcess.of(pipeline)
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
    args: PreferenceArguments, train: ImageArrays | Iterable[ImageArrays], pipeline: Pipeline, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The real train images, in parts or not, as the network is trained on them, and their labels (n,)."""
    samples, labels = [], []
    for part in [train] if isinstance(train, ImageArrays) else train:
        samples.append(to_samples(pipeline, torch.from_numpy(part.images), device, args.sampling_batch_size))
        labels.append(torch.from_numpy(part.labels).to(device))
    return torch.cat(samples), torch.cat(labels)


def fidelity_stream(
    args: PreferenceArguments, real: tuple[torch.Tensor, torch.Tensor], pipeline: Pipeline
) -> TrainingStream:
    """The stream of `real_samples`, with class dropout, so that guidance goes on working."""
    total, seed = DDPMProcess.of(pipeline).num_train_timesteps, derive_seed(args.seed, 16)
    return TrainingStream(*real, pipeline.num_classes, total, seed=seed)


@dataclass(frozen=True)
class Paths:
    """Whole paths: `latents` float32 (n, steps + 1, c, h, w), from noise to image, made at `times` int64 (steps,).

    `latents[:, i]` is the input of the network at `times[i]`, and `latents[:, i + 1]` what was drawn from it.
    """

    latents: torch.Tensor
    times: torch.Tensor

    @property
    def last_step(self) -> int:
        """The number of steps that are drawn at random: the one that ends at the image is not."""
        return len(self.times) - 1


def sampling_times(scheduler: DDPMScheduler, steps: int) -> torch.Tensor:
    """`steps` times evenly spread from T − 1 downwards, int64."""
    total = scheduler.config["num_train_timesteps"]
    return torch.linspace(total, 0, steps + 1)[:-1].round().long() - 1


def step_distribution(
    scheduler: DDPMScheduler, prediction: torch.Tensor, latents: torch.Tensor, times: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (b, c, h, w) and spread (b, 1, 1, 1) of the step from `times` to `after` (b,), -1 being the image."""
    alphas = scheduler.alphas_cumprod.to(latents.device)
    now = alphas[times].view(-1, 1, 1, 1)
    then = torch.where(after < 0, torch.ones_like(alphas[times]), alphas[after.clamp(min=0)]).view(-1, 1, 1, 1)
    if scheduler.config["prediction_type"] == "v_prediction":
        image = now.sqrt() * latents - (1 - now).sqrt() * prediction
        noise = now.sqrt() * prediction + (1 - now).sqrt() * latents
    else:
        noise = prediction
        image = (latents - (1 - now).sqrt() * noise) / now.sqrt()
    variance = (1 - then) / (1 - now) * (1 - now / then)
    mean = then.sqrt() * image + (1 - then - variance).clamp(min=0).sqrt() * noise
    return mean, variance.clamp(min=0).sqrt()


@torch.no_grad()
def sample_paths(
    unet: nn.Module, scheduler: DDPMScheduler, labels: list[int], seeds: list[int], steps: int, batch_size: int = 64
) -> Paths:
    """A path for each label, on the CPU, with one random generator a path: it depends on its own seed alone."""
    times = sampling_times(scheduler, steps)
    device = next(unet.parameters()).device
    config: Any = unet.config
    shape = (steps + 1, config["in_channels"], config["sample_size"], config["sample_size"])
    found = []
    for first in tqdm(range(0, len(labels), batch_size), desc="paths", leave=False):
        part = slice(first, first + batch_size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds[part]]
        path = follow_path(
            unet, scheduler, torch.stack(noise).to(device), torch.tensor(labels[part], device=device), times
        )
        found.append(path.cpu())
    return Paths(torch.cat(found), times)


def follow_path(
    unet: nn.Module, scheduler: DDPMScheduler, noise: torch.Tensor, labels: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """The path that starts at `noise[:, 0]` and takes its steps' noise from the rest, (b, steps + 1, c, h, w)."""
    path = [noise[:, 0]]
    following = [*times.tolist()[1:], -1]
    for number, (time, after) in enumerate(zip(times.tolist(), following, strict=True)):
        now = torch.full_like(labels, time)
        prediction = unet(path[-1], now, class_labels=labels).sample.float()
        mean, spread = step_distribution(scheduler, prediction, path[-1], now, torch.full_like(labels, after))
        path.append(mean + spread * noise[:, number + 1])
    return torch.stack(path, dim=1)


def step_errors(
    unet: nn.Module,
    scheduler: DDPMScheduler,
    paths: Paths,
    rows: torch.Tensor,
    steps: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction, and −log p of step number `steps` (b,) of the paths `rows` (b,), a mean over pixels, (b,)."""
    device = labels.device
    times = paths.times.to(device)
    latents, drawn = paths.latents[rows, steps].to(device), paths.latents[rows, steps + 1].to(device)
    steps = steps.to(device)
    prediction = unet(latents, times[steps], class_labels=labels).sample.float()
    mean, spread = step_distribution(scheduler, prediction, latents, times[steps], times[steps + 1])
    return prediction, ((drawn - mean) / spread).square().mean(dim=(1, 2, 3)) / 2


class PreferenceLoss(NamedTuple):
    """A loss, a scalar with gradient, and what is logged of it."""

    loss: torch.Tensor
    numbers: dict[str, float]


def both_predictions(
    unet: nn.Module, reference: nn.Module, process: DDPMProcess, batch: StepInputs
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Errors (b,) of model and reference on one batch, and the drift: mean square of the difference of predictions."""
    prediction, errors = process.predict(unet, batch)
    with torch.no_grad():
        before, reference_errors = process.predict(reference, batch)
        drift = float((prediction.detach() - before).square().mean())
    return errors, reference_errors, drift


def join(first: StepInputs, second: StepInputs) -> StepInputs:
    """Two batches as one."""
    assert first.views is None and second.views is None
    names = ("images", "labels", "noise", "timesteps")
    return StepInputs(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in names))


def dpo_loss(
    winner: torch.Tensor, loser: torch.Tensor, winner_before: torch.Tensor, loser_before: torch.Tensor, beta: float
) -> PreferenceLoss:
    """Diffusion-DPO (Wallace et al. 2023, Eq. 14) from the errors (b,) of model and reference (`…_before`).

    −log σ(−β/2 [(winner − winner_before) − (loser − loser_before)]): β takes in the paper's T and ω, and
    the errors are means over pixels, as in its code (β 2000 to 5000). It is log 2 where the model is the reference.
    """
    margin = (loser - loser_before) - (winner - winner_before)
    lead = margin.detach()
    numbers = {"margin": float(lead.mean()), "implicit_accuracy": float((lead > 0).float().mean())}
    return PreferenceLoss(-F.logsigmoid(0.5 * beta * margin).mean(), numbers)


def kto_loss(errors: torch.Tensor, before: torch.Tensor, signs: torch.Tensor, beta: float) -> PreferenceLoss:
    """Diffusion-KTO (Li et al. 2024) for unpaired images; `signs` (b,) is 1 for a desirable one, -1 for another.

    1 − σ(sign · (g − z)), g = β/2 (before − errors) being the gain over the reference and z its batch mean from 0 on,
    without gradient, which stands for the divergence from the reference.
    """
    gain = 0.5 * beta * (before - errors)
    anchor = gain.mean().clamp(min=0).detach()
    right = ((gain * signs) > 0).float()
    margin = (before - errors).detach() * signs
    numbers = {"margin": float(margin.mean()), "implicit_accuracy": float(right.mean())}
    return PreferenceLoss((1 - torch.sigmoid(signs * (gain - anchor))).mean(), numbers)


def reward_loss(errors: torch.Tensor, weights: torch.Tensor) -> PreferenceLoss:
    """Reward-weighted denoising: the errors (b,) under weights (b,) of mean 1 over the data set."""
    return PreferenceLoss((errors * weights).mean(), {})


def reward_weights(shares: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp(share / temperature), scaled to a mean of 1 within each class, so that no class gains over another.

    Args:
        shares: (n,), checklist shares in [0, 1].
        labels: int64 (n,).

    Raises:
        ValueError: the shares are the same within every class.
    """
    weights = torch.exp((shares - shares.max()) / temperature)
    means = torch.stack([weights[labels == label].mean() for label in labels])
    if torch.allclose(weights, means):
        raise ValueError(
            f"all {len(shares)} candidates score as the others of their class; give more --prompts or --candidates, "
            "or a judge that tells these images apart"
        )
    return weights / means
