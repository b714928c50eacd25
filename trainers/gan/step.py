"""The parts of a GAN's training loop: its networks, losses and augmentation, its state, and one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.optimization import get_constant_schedule
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from clinsynth.data.images import ImageArrays
from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline, DCGANGenerator
from clinsynth.pipelines.class_conditioned_gan.dcgan_generator import WIDEST, levels_of
from clinsynth.seeds import derive_seed
from clinsynth.trainers.gan.arguments import GANArguments
from clinsynth.trainers.stream import TrainingStream
from clinsynth.trainers.training_state import TrainingState, flatten_moments, load_moments

STATISTICS_IMAGES, STATISTICS_BATCH = 1024, 128
NORMS = {"dcgan": "batch", "wgan_gp": "none", "hinge": "spectral"}


def build_state(
    args: GANArguments, train: ImageArrays, stream: TrainingStream, device: torch.device
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


def train_step(args: GANArguments, state: GANState, stream: TrainingStream) -> dict[str, torch.Tensor]:
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
    args: GANArguments, state: GANState, real: torch.Tensor, labels: torch.Tensor, draws: torch.Generator
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
    args: GANArguments, state: GANState, labels: torch.Tensor, draws: torch.Generator
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


@dataclass(kw_only=True)
class GANState(TrainingState):
    """What a step changes: `model` is the generator.

    Attributes:
        statistics_labels: int64 (n,), classes as the training data has them, to measure the generator's normalisation.
        seed: of the noise for that.
    """

    model: DCGANGenerator
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


def draw_latents(model: DCGANGenerator, count: int, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise (count, latent_dim) for `model`, on the device of the random `generator`."""
    return torch.randn(count, model.config["latent_dim"], generator=generator, device=generator.device)


def discriminator_loss(loss: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """What the discriminator lowers, a scalar, from its scores (batch,) of real and generated images.

    Args:
        loss: "dcgan": cross entropy (Goodfellow et al. 2014, equation 1); "wgan_gp": negative Wasserstein estimate
            (Gulrajani et al. 2017, equation 3, without the penalty); "hinge" (Miyato et al. 2018, equation 16).
    """
    if loss == "dcgan":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if loss == "wgan_gp":
        return fake.mean() - real.mean()
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_loss(loss: str, fake: torch.Tensor) -> torch.Tensor:
    """What the generator lowers, a scalar: non-saturating cross entropy for "dcgan", else the negative score."""
    return F.softplus(-fake).mean() if loss == "dcgan" else -fake.mean()


def gradient_penalty(
    critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """E (‖∇ critic(x)‖ − 1)² at random points x between pairs of a real and a generated image of one class.

    Equation 3 of Gulrajani et al. 2017 without its factor λ; a scalar whose gradient reaches the critic's weights.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=generator, device=real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, labels).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def diff_augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random colour, translation by up to 1/8 and a cutout of half the side, each image its own (Zhao et al. 2020).

    Real and generated images go through it alike before the discriminator sees them, so that the generator is not
    led to imitate it. Differentiable in `images`, (n, channels, size, size) in [-1, 1].
    """
    return cut_out(translate(change_colours(images, generator), generator), generator)


def change_colours(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness by ±0.5, saturation by a factor of 0 to 2, contrast by one of 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return level + (images - level) * (contrast + 0.5)


def translate(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by whole pixels, up to 1/8 of the side in each direction; what comes in is 0."""
    count, channels, size, _ = images.shape
    reach = size // 8
    shifts = torch.randint(2 * reach + 1, (2, count, 1), generator=generator, device=images.device)
    rows, columns = torch.arange(size, device=images.device) + shifts
    padded = F.pad(images, [reach] * 4)
    rows = rows[:, None, :, None].expand(count, channels, size, padded.shape[3])
    columns = columns[:, None, None, :].expand(count, channels, size, size)
    return padded.gather(2, rows).gather(3, columns)


def cut_out(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Set a square of half the side to 0, its centre anywhere in the image."""
    count, _, size, _ = images.shape
    centres = torch.randint(size, (2, count, 1), generator=generator, device=images.device)
    offsets = torch.arange(size, device=images.device) - centres
    rows, columns = (offsets >= -(size // 4)) & (offsets < size // 4)
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def build_networks(
    args: GANArguments, resolution: int, channels: int, num_classes: int
) -> tuple[DCGANGenerator, Discriminator]:
    """The untrained generator and the discriminator that goes with `args.loss`.

    Raises:
        ValueError: the networks do not work at `resolution`.
    """
    try:
        levels_of(resolution)
    except ValueError as error:
        raise ValueError(f"--resolution {resolution}: {error}") from error
    generator = DCGANGenerator(resolution, channels, num_classes, args.latent_dim, args.width)
    return generator, Discriminator(resolution, channels, num_classes, args.width, NORMS[args.loss])


class Discriminator(nn.Module):
    """Strided convolutions down to 4 … 7 px, and a score that depends on the class by projection.

    The convolutions are DCGAN's, the mirror of the generator's; the score of features h of class y is
    w·h + v_y·h (Miyato & Koyama 2018).

    Args:
        sample_size: height and width in pixels, as of `DCGANGenerator`.
        in_channels: channels of the images.
        num_classes: classes.
        width: channels at half the full resolution.
        norm: "batch" but for the first layer (Radford et al. 2016), "none" (a WGAN-GP's critic, whose penalty is on
            each image alone) or "spectral" in every layer (Miyato et al. 2018).
    """

    def __init__(self, sample_size: int, in_channels: int, num_classes: int, width: int, norm: str):
        super().__init__()
        levels, side = levels_of(sample_size)
        channels = [in_channels, *(width * min(2**level, WIDEST) for level in range(levels))]
        layers: list[nn.Module] = []
        for i in range(levels):
            layers.append(nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1))
            if norm == "batch" and i > 0:
                layers.append(nn.BatchNorm2d(channels[i + 1]))
            layers.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = nn.Linear(channels[-1] * side**2, 1)
        self.class_score = nn.Embedding(num_classes, channels[-1] * side**2)
        weighted = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]
        nn.init.normal_(self.class_score.weight, std=0.02)  # at 1, the default, the class alone would decide
        for layer in weighted:
            if norm == "batch":
                nn.init.normal_(layer.weight, std=0.02)  # DCGAN, section 4
            if norm == "spectral":
                spectral_norm(layer)

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Scores (batch,), higher for what looks real: of images (batch, channels, size, size) in about [-1, 1]."""
        features = self.features(images)
        return self.score(features)[:, 0] + (self.class_score(class_labels) * features).sum(dim=1)
