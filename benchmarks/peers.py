"""Samplers of others, for side-by-side measurement: the e-health paper's, and denoising-diffusion-pytorch's.

The paper's sampler is written from its description (arXiv 2501.16348: linear betas, T = 400 ancestral steps, two
network evaluations a step, eps = (1 + w) * eps_conditional - w * eps_unconditional, w = 2). Of the package
denoising-diffusion-pytorch the file `classifier_free_guidance.py` is loaded by its path, because the package's
`__init__` imports torchvision, which this file does not need.
"""

import bisect
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

PAPER_STEPS = 400
PAPER_GUIDANCE = 2.0
MEND = "pip install --no-deps denoising-diffusion-pytorch==2.3.4 einops ema-pytorch"


def paper_noise_levels(num_steps: int = PAPER_STEPS, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """The paper's share of signal variance left after each step, alpha-bar: float64 (num_steps,), falling."""
    return torch.cumprod(1 - torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64), 0)


def nearest_timesteps(noise_levels: Tensor, trained_levels: Tensor) -> Tensor:
    """For each alpha-bar in `noise_levels` the integer timestep, int64, at which a network that was trained with
    `trained_levels` saw the most similar signal-to-noise ratio; the identity where the two schedules are the same."""
    difference = log_snr(noise_levels)[:, None] - log_snr(trained_levels)[None, :]
    return difference.abs().argmin(1)


def log_snr(levels: Tensor) -> Tensor:
    levels = levels.double().clamp(1e-12, 1 - 1e-12)
    return torch.log(levels / (1 - levels))


@torch.no_grad()
def sample_as_paper(
    network: Any,
    class_labels: Tensor,
    null_class: int,
    *,
    noise_levels: Tensor,
    timesteps: Tensor,
    prediction_type: str,
    generator: torch.Generator,
    guidance: float = PAPER_GUIDANCE,
    last_steps: int | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with classifier-free guidance as the paper writes it.

    Args:
        network: takes (sample, timestep, class_labels) and returns an object with `.sample`; predicts what
            `prediction_type` ("epsilon" or "v_prediction") says.
        class_labels: int64 (n,); `null_class` is the number that stands for no class.
        noise_levels: alpha-bar of each step, falling; `timesteps` is what the network is told at each, int64.
        guidance: the paper's w; 2 means diffusers' guidance scale 3.
        last_steps: take only that many steps, for timing a part of the chain; None takes all.

    Returns:
        float32 (n, channels, size, size), about [-1, 1], not clipped (nor does the paper clip).
    """
    size = network.config.sample_size
    shape = (len(class_labels), network.config.in_channels, size, size)
    device = class_labels.device
    sample = torch.randn(shape, generator=generator).to(device)
    no_class = torch.full_like(class_labels, null_class)
    previous = torch.cat([noise_levels.new_ones(1), noise_levels[:-1]])
    for i in reversed(range(last_steps or len(noise_levels))):
        timestep = timesteps[i].to(device)
        conditional = network(sample, timestep, class_labels=class_labels).sample
        unconditional = network(sample, timestep, class_labels=no_class).sample
        prediction = (1 + guidance) * conditional - guidance * unconditional
        noise = torch.randn(shape, generator=generator).to(device) if i else 0.0
        sample = ancestral_step(sample, prediction, noise, float(noise_levels[i]), float(previous[i]), prediction_type)
    return sample


def ancestral_step(
    sample: Tensor, prediction: Tensor, noise: Tensor | float, level: float, previous: float, prediction_type: str
) -> Tensor:
    """One draw of x_(t-1) given x_t, with the variance beta_t that the paper uses; for epsilon this is
    (x - eps * beta / sqrt(1 - level)) / sqrt(alpha) + sqrt(beta) * noise."""
    alpha = level / previous
    beta = 1 - alpha
    if prediction_type == "epsilon":
        mean = (sample - prediction * (beta / (1 - level) ** 0.5)) / alpha**0.5
    elif prediction_type == "v_prediction":
        clean = level**0.5 * sample - (1 - level) ** 0.5 * prediction
        mean = (previous**0.5 * beta * clean + alpha**0.5 * (1 - previous) * sample) / (1 - level)
    else:
        raise ValueError(f"prediction_type must be epsilon or v_prediction, got {prediction_type}")
    return mean + beta**0.5 * noise


@functools.cache
def load_peer_module() -> ModuleType:
    """`denoising_diffusion_pytorch/classifier_free_guidance.py`, with its progress bars off."""
    package = importlib.util.find_spec("denoising_diffusion_pytorch")
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"denoising-diffusion-pytorch is not installed; install it with: {MEND}")
    path = Path(package.submodule_search_locations[0]) / "classifier_free_guidance.py"
    spec = importlib.util.spec_from_file_location("peer_classifier_free_guidance", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.tqdm = functools.partial(module.tqdm, disable=True)  # type: ignore[attr-defined]
    return module


def build_peer(
    dim: int,
    num_classes: int,
    *,
    channels: int,
    image_size: int,
    sampling_timesteps: int,
    dim_mults: tuple[int, ...],
    eta: float = 1.0,
    class_dropout: float,
) -> Any:
    """The peer's Unet inside its GaussianDiffusion, both with their defaults (T = 1000, cosine betas, noise
    prediction) except for what is asked: `dim` and `dim_mults` set the size, `sampling_timesteps` the number of DDIM
    steps, `eta` their randomness (its default is 1), `class_dropout` the share of masked labels (its
    default is 0.5)."""
    module = load_peer_module()
    unet = module.Unet(
        dim, num_classes=num_classes, channels=channels, dim_mults=dim_mults, cond_drop_prob=class_dropout
    )
    return module.GaussianDiffusion(
        unet, image_size=image_size, timesteps=1000, sampling_timesteps=sampling_timesteps, ddim_sampling_eta=eta
    )


def choose_dim(target: int, num_classes: int, channels: int, dim_mults: tuple[int, ...]) -> int:
    """The even `dim` with which the peer's Unet has the number of parameters closest to `target`."""
    module = load_peer_module()

    def size(dim: int) -> int:
        with torch.device("meta"):
            return count_parameters(module.Unet(dim, num_classes, channels=channels, dim_mults=dim_mults))

    dims = range(8, 132, 2)
    above = min(bisect.bisect_left(dims, target, key=size), len(dims) - 1)
    return min(dims[max(above - 1, 0)], dims[above], key=lambda dim: abs(size(dim) - target))


def count_parameters(network: nn.Module) -> int:
    """The number of trainable and fixed parameters of `network`."""
    return sum(parameter.numel() for parameter in network.parameters())


def peer_sampler(diffusion: Any, class_labels: Tensor, guidance_scale: float) -> Callable[[], Tensor]:
    """A call that draws one picture a label, float32 (n, channels, size, size) in [0, 1].

    `guidance_scale` has diffusers' meaning, as the peer's `cond_scale` has: 1 is unguided, with one evaluation a step.
    """
    if guidance_scale == 1:
        diffusion.model.forward_with_cond_scale = unguided(diffusion.model)
    return lambda: diffusion.sample(class_labels, cond_scale=guidance_scale)


def unguided(model: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """What the peer's network should answer at `cond_scale` 1, where version 2.3.4 returns one tensor for two."""

    def forward(*args: Any, cond_scale: float, rescaled_phi: float, **kwargs: Any) -> tuple[Tensor, Tensor]:
        prediction = model.forward(*args, cond_drop_prob=0.0, **kwargs)
        return prediction, prediction

    return forward
