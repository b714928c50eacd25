"""Drawing many pictures in batches that survive a restart, and counting labels for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput

from benchmarks.peers import nearest_timesteps, paper_noise_levels, peer_sampler, sample_as_paper
from benchmarks.timing import timed

Draw = Callable[[np.ndarray, int], np.ndarray]
"""From labels, int64 (n,), and the number of the first of them to pictures, uint8 (n, c, r, r)."""


def labels_like(labels: np.ndarray, n: int) -> np.ndarray:
    """`n` labels, int64, with the class shares of `labels` (largest remainders get what rounding leaves), evenly mixed
    so that every batch has about these shares."""
    shares = np.bincount(labels) * n / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


def draw_all(draw: Draw, labels: np.ndarray, folder: Path, batch_size: int = 64) -> tuple[np.ndarray, float]:
    """Draw one picture a label into `folder`, a file a batch; files that are there already are kept.

    Returns:
        The pictures, uint8 (n, c, r, r), and the processor seconds that drawing them took.
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
        print(f"\r{folder.name}: {start + len(part)} of {len(labels)} pictures", end="", flush=True)
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
    """One generator a picture, seeded by the picture's number: the pictures do not depend on the batch size."""
    return [torch.Generator().manual_seed(start + i) for i in range(count)]


def load_pipeline(folder: str) -> Any:
    """The pipeline of a checkpoint or run folder, its progress bar off."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def our_draw(pipe: Any, guidance_scale: float, num_inference_steps: int) -> Draw:
    """The pipeline, one generator a picture."""

    def draw(labels: np.ndarray, start: int) -> np.ndarray:
        images = pipe(
            class_labels=labels.tolist(),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            generator=seeds_from(start, len(labels)),
            output_type="pt",
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
    import diffusers

    if name is None:
        return pipe
    if not hasattr(diffusers, name):
        raise ValueError(f"--scheduler must be a class of diffusers, got {name!r}; e.g. DPMSolverMultistepScheduler")
    other = type(pipe)(pipe.unet, getattr(diffusers, name).from_config(pipe.scheduler.config), pipe.id2label)
    other.set_progress_bar_config(disable=True)
    return other
