"""A diffusion model before its first step: its moments, precision, state and pipeline, and its guide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.models.generators import load_pipeline
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.augmentation import AugmentedUnet
from clinsynth.trainers.diffusion.latents import latent_moments, latents_of, load_autoencoder
from clinsynth.trainers.diffusion.network import build_unet, patch_side, seen_shape, take_over
from clinsynth.trainers.diffusion.process import build_scheduler, to_fast
from clinsynth.trainers.training_state import TrainingState, checkpoints

BLOCK = 1024
"""Images whose values are counted at once."""


def image_moments(args: DDPMArguments, images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, a number a channel, that images in [-1, 1] are standardised by.

    Under differential privacy, where those of the images must not be known, 0 and 1/2.
    """
    channels = images.shape[1]
    if not args.standardise:
        return [0.0] * channels, [1.0] * channels
    if args.dp_epsilon is not None:
        return [0.0] * channels, [0.5] * channels
    counts = np.sum([value_counts(part) for part in np.array_split(images, -(-len(images) // BLOCK))], axis=0)
    shares, values = counts / counts.sum(1, keepdims=True), np.arange(256)
    means = shares @ values
    variances = [share @ (values - mean) ** 2 for share, mean in zip(shares, means, strict=True)]
    stds = [max(round(float(variance) ** 0.5 / 127.5, 4), 0.01) for variance in variances]
    return [round(float(mean) / 127.5 - 1, 4) for mean in means], stds


def value_counts(images: np.ndarray) -> np.ndarray:
    """How often each of 256 values stands in each channel of images, uint8 (n, channels, side, side)."""
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])


def build_state(
    args: DDPMArguments, train: ImageArrays, accelerator: Accelerator
) -> tuple[TrainingState, ClassConditionedDDPMPipeline]:
    """The state before the first step, and the pipeline around its network."""
    vae = load_autoencoder(args.latent).to(accelerator.device) if args.latent else None
    torch.manual_seed(derive_seed(args.seed, 2))
    side, channels = seen_shape(train, vae)
    model = build_unet(args, side, channels, len(train.label_names))
    if args.init_from:
        try:
            source = load_pipeline(args.init_from)
        except ValueError as error:
            raise ValueError(f"--init_from{str(error).removeprefix('--model')}") from error
        if not isinstance(source, ClassConditionedDDPMPipeline):
            raise ValueError(f"--init_from {args.init_from} is no checkpoint of `clinsynth train ddpm`; give one")
        theirs = source.scheduler.config["prediction_type"]
        if theirs != args.prediction_type:
            raise ValueError(f"--prediction_type is {args.prediction_type}, but --init_from predicts {theirs}")
        taken = take_over(model, source, train.label_names)
        accelerator.print(f"from {args.init_from}: {taken}")
    if vae:
        mean, std, furthest = latent_moments(latents_of(vae, train.images))
    else:
        mean, std = image_moments(args, train.images)
        furthest = max((1 + abs(middle)) / spread for middle, spread in zip(mean, std, strict=True))
    sampler = to_fast(build_scheduler(args, furthest))
    names = dict(enumerate(train.label_names))
    pipeline = ClassConditionedDDPMPipeline(model, sampler, names, mean, std, patch_side(args, side), vae=vae)
    if args.channels_last or (args.channels_last is None and accelerator.device.type == "cuda"):
        nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = AugmentedUnet(model) if args.augment else model
    state = TrainingState.begin(trained, args, accelerator, args.weight_decay)
    state.averages_more = trained is not model
    return state, pipeline


def keep_guide(pipeline: ClassConditionedDDPMPipeline, state: TrainingState) -> None:
    """Keep the averaged weights as they are now as the guide of `pipeline` (autoguidance, Karras et al. 2024)."""
    unet = pipeline.unet
    guide = type(unet).from_config(unet.config).to(unet.device)  # no copy, which would share what is hooked to it
    with state.averaged_weights():
        guide.load_state_dict(unet.state_dict())
    pipeline.register_modules(guide=guide.eval().requires_grad_(False))


def load_guide(pipeline: ClassConditionedDDPMPipeline, output_dir: Path) -> None:
    """Give `pipeline` the guide of the newest checkpoint in `output_dir`, if that has one."""
    saved = checkpoints(output_dir)
    if saved and (saved[-1] / "guide").exists():
        guide = type(pipeline.unet).from_pretrained(saved[-1], subfolder="guide").to(pipeline.unet.device)
        pipeline.register_modules(guide=guide.requires_grad_(False))
