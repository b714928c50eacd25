"""The state of a GAN's training run: `TrainingState` of the generator, and the discriminator beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clinsynth.seeds import derive_seed
from clinsynth.trainers.training_state import TrainingState, flatten_moments, load_moments

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
