"""Samplers: ours, the e-health paper's and denoising-diffusion-pytorch's, and drawing with each in batches that
survive a restart.

The paper's sampler is written from its description (arXiv 2501.16348: linear betas, T = 400 ancestral steps, two
network evaluations a step, eps = (1 + w) * eps_conditional - w * eps_unconditional, w = 2). Of the package
denoising-diffusion-pytorch the file `classifier_free_guidance.py` is loaded by its path, because the package's
`__init__` imports torchvision, which this file does not need.
"""

import bisect
import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from benchmarks.timing import timed

Draw = Callable[[np.ndarray, int], np.ndarray]
"""From labels, int64 (n,), and the number of the first of them to images, uint8 (n, c, r, r)."""

PAPER_STEPS = 400
PAPER_GUIDANCE = 2.0
MEND = "pip install --no-deps denoising-diffusion-pytorch==2.3.4 einops ema-pytorch"


def paper_noise_levels(num_steps: int = PAPER_STEPS) -> Tensor:
    """The paper's share of signal variance left after each step, alpha-bar: float64 (num_steps,), falling."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64), 0)


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
    """A call that draws one image a label, float32 (n, channels, size, size) in [0, 1].

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


def labels_like(labels: np.ndarray, n: int) -> np.ndarray:
    """`n` labels, int64, with the class shares of `labels` (largest remainders get what rounding leaves), evenly mixed
    so that every batch has about these shares."""
    shares = np.bincount(labels) * n / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


def draw_all(draw: Draw, labels: np.ndarray, folder: Path, batch_size: int = 64) -> tuple[np.ndarray, float]:
    """Draw one image a label into `folder`, a file a batch; files that are there already are kept.

    Returns:
        The images, uint8 (n, c, r, r), and the processor seconds that drawing them took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, seconds = [], 0.0
    for start in range(0, len(labels), batch_size):
        path = folder / f"{start:06d}.npz"
        part = labels[start : start + batch_size]
        if not path.exists():
            write_batch(path, draw, part, start)
        with np.load(path, allow_pickle=False) as batch:
            if not np.array_equal(batch["labels"], part):
                raise ValueError(f"{path} holds other labels than are asked for now; remove the folder to start anew")
            images.append(batch["images"])
            seconds += float(batch["cpu_seconds"])
        print(f"\r{folder.name}: {start + len(part)} of {len(labels)} images", end="", flush=True)
    print()
    return np.concatenate(images), seconds


def write_batch(path: Path, draw: Draw, labels: np.ndarray, start: int) -> None:
    drawn: list[np.ndarray] = []
    _, cpu = timed(lambda: drawn.append(draw(labels, start)))
    aside = path.with_suffix(".tmp.npz")
    np.savez_compressed(aside, images=drawn[0], labels=labels, cpu_seconds=cpu)
    aside.rename(path)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Pictures in [0, 1], rounded to uint8."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def seeds_from(start: int, count: int) -> list[torch.Generator]:
    """One generator an image, seeded by the image's number: the images do not depend on the batch size."""
    return [torch.Generator().manual_seed(start + i) for i in range(count)]


def load_pipeline(folder: str) -> Any:
    """The pipeline of a checkpoint or run folder, its progress bar off."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def our_draw(pipe: Any, guidance_scale: float, num_inference_steps: int, **call: Any) -> Draw:
    """The pipeline, one generator an image; `call` is what else it is called with."""

    def draw(labels: np.ndarray, start: int) -> np.ndarray:
        images = pipe(
            class_labels=labels.tolist(),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            generator=seeds_from(start, len(labels)),
            output_type="pt",
            **call,
        ).images
        return to_uint8(images)

    return draw


def paper_settings(scheduler: Any, levels_of: str) -> dict[str, Any]:
    """Noise levels and network timesteps of the paper's sampler for weights trained with `scheduler`.

    `levels_of` "paper" takes the paper's own levels (the network is told the timestep at which it was trained with the
    nearest signal-to-noise ratio); "checkpoint" spreads the 400 steps over the levels that the weights were trained
    with, which spares the sampler the mismatch.
    """
    trained = scheduler.alphas_cumprod.double()
    levels = paper_noise_levels()
    if levels_of == "checkpoint":
        timesteps = torch.linspace(0, len(trained) - 1, min(len(levels), len(trained))).round().long()
        return {"noise_levels": trained[timesteps], "timesteps": timesteps}
    return {"noise_levels": levels, "timesteps": nearest_timesteps(levels, trained)}


def paper_draw(pipe: Any, scheduler: Any, guidance_scale: float, levels_of: str) -> Draw:
    """The paper's sampler with the pipeline's network; `guidance_scale` is w + 1."""
    settings = paper_settings(scheduler, levels_of)

    def network(sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> UNet2DOutput:
        prediction = pipe.unet(sample.to(pipe.unet.dtype), timestep, class_labels=class_labels).sample
        return UNet2DOutput(sample=prediction.float())

    network.config = pipe.unet.config  # type: ignore[attr-defined]

    def draw(labels: np.ndarray, start: int) -> np.ndarray:
        sample = sample_as_paper(
            network,
            torch.as_tensor(labels, device=pipe.device),
            pipe.num_classes,
            **settings,
            prediction_type=scheduler.config.prediction_type,
            generator=torch.Generator().manual_seed(start),
            guidance=guidance_scale - 1,
        )
        return to_uint8((sample + 1) / 2)

    return draw


def peer_draw(diffusion: Any, guidance_scale: float) -> Draw:
    """denoising-diffusion-pytorch's sampler, seeded a batch at a time (it has no generator argument)."""

    def draw(labels: np.ndarray, start: int) -> np.ndarray:
        torch.manual_seed(start)
        return to_uint8(peer_sampler(diffusion, torch.as_tensor(labels), guidance_scale)())

    return draw


def with_scheduler(pipe: Any, name: str | None) -> Any:
    """A pipeline with the same network and the diffusers scheduler class `name`; None keeps the checkpoint's own."""
    if name is None:
        return pipe
    if not hasattr(diffusers, name):
        raise ValueError(f"--scheduler must be a class of diffusers, got {name!r}; e.g. DPMSolverMultistepScheduler")
    other = copy.copy(pipe)
    other.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    other.set_progress_bar_config(disable=True)
    return other
