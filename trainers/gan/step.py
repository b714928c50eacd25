"""The parts of a GAN's training loop: its state, its stream of images, one step, and its validation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_constant_schedule
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.model import TrainingStream
from clinsynth.trainers.diffusion.step import Validation
from clinsynth.trainers.gan.arguments import AdversarialArguments
from clinsynth.trainers.gan.networks import (
    build_networks,
    diff_augment,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from clinsynth.trainers.training_state import TrainingState, flatten_moments, load_moments

STATISTICS_IMAGES = 1024


def build_state(
    args: AdversarialArguments, train: ImageArrays, stream: TrainingStream, device: torch.device
) -> tuple[GANState, ClassConditionedGANPipeline]:
    """The state before the first step, and the pipeline around its generator."""
    torch.manual_seed(derive_seed(args.seed, 2))
    size, channels = train.images.shape[-1], train.images.shape[1]
    generator, discriminator = build_networks(args, size, channels, len(train.label_names))
    generator.to(device)  # type: ignore[arg-type]
    discriminator.to(device)
    assert args.learning_rate is not None and args.discriminator_learning_rate is not None
    assert args.beta1 is not None and args.beta2 is not None  # settled by __post_init__
    betas = (args.beta1, args.beta2)
    optimizer = torch.optim.Adam(generator.parameters(), lr=args.learning_rate, betas=betas)
    state = GANState(
        model=generator,
        ema=EMAModel(generator.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75, foreach=True),
        optimizer=optimizer,
        lr_scheduler=get_constant_schedule(optimizer),
        component="generator",
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.Adam(
            discriminator.parameters(), lr=args.discriminator_learning_rate, betas=betas
        ),
        statistics_labels=stream.labels[stream.indices(0, STATISTICS_IMAGES).to(device)],
        seed=args.seed,
    )
    return state, ClassConditionedGANPipeline(generator, dict(enumerate(train.label_names)))


def build_stream(args: AdversarialArguments, train: ImageArrays, device: torch.device) -> TrainingStream:
    """The training images on the training device: the stream of a diffusion model without noise levels and dropout."""
    return TrainingStream(
        torch.from_numpy(train.images).to(device),
        torch.from_numpy(train.labels).to(device),
        len(train.label_names),
        num_train_timesteps=1,
        class_dropout=0.0,
        class_balanced=args.class_balanced,
        horizontal_flip=args.horizontal_flip,
        vertical_flip=args.vertical_flip,
        seed=args.seed,
    )


def train_step(args: AdversarialArguments, state: GANState, stream: TrainingStream) -> dict[str, torch.Tensor]:
    """`args.n_critic` updates of the discriminator, then one of the generator; every draw is of (seed, step) alone.

    Returns the numbers to log, scalars on the device, those of the discriminator from its last update.
    """
    draws = torch.Generator(stream.images.device).manual_seed(derive_seed(args.seed, 4, state.step))
    assert args.n_critic is not None  # settled by __post_init__
    record: dict[str, torch.Tensor] = {}
    for i in range(args.n_critic):
        batch = stream.step(state.step * args.n_critic + i, args.train_batch_size)[0]
        record = update_discriminator(args, state, batch.images, batch.labels, draws)
    return record | update_generator(args, state, batch.labels, draws)


def update_discriminator(
    args: AdversarialArguments, state: GANState, real: torch.Tensor, labels: torch.Tensor, draws: torch.Generator
) -> dict[str, torch.Tensor]:
    """One optimizer step on real images (batch, channels, size, size) and as many generated ones of their classes."""
    with torch.no_grad():
        fake = state.model(draw_latents(state.model, len(labels), draws), labels)
    if args.diff_augment:
        real, fake = diff_augment(real, draws), diff_augment(fake, draws)
    real_scores, fake_scores = state.discriminator(real, labels), state.discriminator(fake, labels)
    loss = discriminator_loss(args.loss, real_scores, fake_scores)
    numbers = {"real_score": real_scores.mean(), "fake_score": fake_scores.mean()}
    if args.loss == "wgan_gp":
        penalty = gradient_penalty(state.discriminator, real, fake, labels, draws)
        loss = loss + args.gradient_penalty * penalty
        numbers["gradient_penalty"] = penalty
    state.discriminator_optimizer.zero_grad()
    loss.backward()
    state.discriminator_optimizer.step()
    return {name: value.detach() for name, value in {"discriminator_loss": loss, **numbers}.items()}


def update_generator(
    args: AdversarialArguments, state: GANState, labels: torch.Tensor, draws: torch.Generator
) -> dict[str, torch.Tensor]:
    """One optimizer step on generated images of the classes `labels`."""
    state.discriminator.requires_grad_(False)  # its gradients would be computed for nothing
    fake = state.model(draw_latents(state.model, len(labels), draws), labels)
    if args.diff_augment:
        fake = diff_augment(fake, draws)
    loss = generator_loss(args.loss, state.discriminator(fake, labels))
    state.optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.get_total_norm(p.grad for p in state.model.parameters() if p.grad is not None)
    state.optimizer.step()
    state.discriminator.requires_grad_(True)
    return {"generator_loss": loss.detach(), "grad_norm": norm}


class GANValidation(Validation):
    """Validation of a GAN, which draws in one step."""

    num_inference_steps = 1

    def fast(self, pipeline: ClassConditionedGANPipeline) -> ClassConditionedGANPipeline:
        return pipeline


STATISTICS_BATCH = 128


@dataclass(kw_only=True)
class GANState(TrainingState):
    """What a step changes: `model` is the generator.

    Attributes:
        statistics_labels: int64 (n,), classes as the training data has them, to measure the generator's normalisation.
        seed: of the noise for that.
    """

    discriminator: nn.Module
    discriminator_optimizer: torch.optim.Optimizer
    statistics_labels: torch.Tensor
    seed: int

    def write(self, folder: Path) -> None:
        super().write(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.discriminator.state_dict().items()}
        save_file(weights, folder / "discriminator.safetensors")
        save_file(flatten_moments(self.discriminator_optimizer), folder / "discriminator_optimizer.safetensors")

    def read(self, folder: Path) -> None:
        super().read(folder)
        self.discriminator.load_state_dict(load_file(folder / "discriminator.safetensors"))
        load_moments(self.discriminator_optimizer, load_file(folder / "discriminator_optimizer.safetensors"))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the generator has the averaged weights and their statistics, in evaluation mode."""
        with super().averaged_weights():
            self.measure_statistics()
            yield

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """Give the batch normalisations the means and variances over many images of the present weights.

        Running means of training belong to weights that the average has left behind (standing statistics, Brock et
        al. 2019, appendix D). Training itself uses none of them.
        """
        norms = [layer for layer in self.model.modules() if isinstance(layer, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
        device = self.statistics_labels.device
        draws = torch.Generator(device).manual_seed(derive_seed(self.seed, 5))
        self.model.train()
        for labels in self.statistics_labels.split(STATISTICS_BATCH):
            self.model(draw_latents(self.model, len(labels), draws), labels)
        self.model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def draw_latents(model: Any, count: int, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise (count, latent_dim) for `model`, on the device of the random `generator`."""
    return torch.randn(count, model.config.latent_dim, generator=generator, device=generator.device)
