"""A diffusion model's training: what a step sees, forward process and loss, network, state, one step, validation.

Every draw of step k is a function of (seed, k) alone, made for the global batch and then cut into parts. So a resumed
run sees what an uninterrupted one sees, and two processes or accumulated half batches see what one large batch sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.images import contact_sheet
from clinsynth.metrics.frechet.frechet import frechet_distance
from clinsynth.metrics.images.privacy import thumbnail_features
from clinsynth.metrics.kid.kid import kernel_distance
from clinsynth.metrics.privacy.closest_records import measure_shares
from clinsynth.metrics.privacy.copies import SPACE, ThumbnailSpace
from clinsynth.metrics.records import MeasurementSettings
from clinsynth.models.generators import load_pipeline
from clinsynth.models.image_encoders import train_default_extractor
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet
from clinsynth.seeds import derive_seed
from clinsynth.trainers.arguments import DDPMArguments, FromScratchArguments
from clinsynth.trainers.diffusion.augmentation import AugmentedUnet, draw_views, move_images
from clinsynth.trainers.diffusion.latents import latent_moments, latents_of, load_autoencoder, scale_images
from clinsynth.trainers.training_state import TrainingState, checkpoints

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepInputs:
    """One part of a global batch, on the training device: images as the network sees them (b, c, h, w), labels, noise
    and timesteps, and, with augmentation, how the images were moved (b, VIEW)."""

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    views: torch.Tensor | None = None


class TrainingStream:
    """The endless, shuffled stream of training images, with everything random about a step.

    Args:
        images: uint8 (n, channels, height, width), on the training device; floats, such as latents, are taken as they
            are.
        labels: int64 (n,).
        num_classes: real classes; class dropout replaces a label by `num_classes`.
        num_train_timesteps: T; timesteps are drawn from [0, T).
        class_dropout: probability of the null class.
        class_balanced: draw every class equally often instead of every image once an epoch.
        horizontal_flip: mirror half of the images left to right; off unless the anatomy allows it.
        vertical_flip: mirror half of them top to bottom.
        seed: of all draws.
        encode: from images in [-1, 1] to what the network sees; default: those themselves.
        density: probability of each timestep, (T,); default: all alike.
        augment: probability of each kind of move of an image; with it the network is told how each was moved.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        num_train_timesteps: int,
        class_dropout: float = 0.1,
        class_balanced: bool = False,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        seed: int = 0,
        encode: Encode | None = None,
        density: torch.Tensor | None = None,
        augment: float = 0.0,
    ):
        self.images, self.labels, self.encode, self.augment = images, labels, encode, augment
        self.density = None if density is None else density.to(images.device)
        self.num_classes, self.num_train_timesteps = num_classes, num_train_timesteps
        self.class_dropout, self.class_balanced, self.seed = class_dropout, class_balanced, seed
        self.flips = [axis for axis, on in ((3, horizontal_flip), (2, vertical_flip)) if on]
        self.label_of = labels.cpu()  # epochs are ordered there, without waiting for the device
        self.orders: dict[int, torch.Tensor] = {}

    @classmethod
    def of(
        cls,
        train: ImageArrays,
        args: FromScratchArguments,
        device: torch.device,
        num_train_timesteps: int = 1,
        class_dropout: float = 0.0,
        seed: int | None = None,
        encode: Encode | None = None,
        density: torch.Tensor | None = None,
        augment: float = 0.0,
    ) -> Self:
        """The images of `train` on `device`, viewed as `args` say, drawn from `seed` or theirs."""
        images, labels = (torch.from_numpy(array).to(device) for array in (train.images, train.labels))
        flips = train.images.dtype == np.uint8  # latents come with their mirrored views
        views = (args.class_balanced, flips and args.horizontal_flip, flips and args.vertical_flip)
        drawn_from = args.seed if seed is None else seed
        drawn = (num_train_timesteps, class_dropout, *views, drawn_from, encode, density, augment)
        return cls(images, labels, len(train.label_names), *drawn)

    def epoch_order(self, epoch: int) -> torch.Tensor:
        """The image numbers of an epoch: a permutation, or n draws with equal class probability."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, epoch))
        count = len(self.label_of)
        if not self.class_balanced:
            return torch.randperm(count, generator=generator)
        weights = 1.0 / torch.bincount(self.label_of).clamp(min=1)[self.label_of].double()
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def indices(self, first: int, count: int) -> torch.Tensor:
        """Image numbers at positions first … first + count − 1 of the stream, on the CPU."""
        size = len(self.labels)
        epochs = range(first // size, (first + count - 1) // size + 1)
        known = self.orders
        self.orders = {epoch: known[epoch] if epoch in known else self.epoch_order(epoch) for epoch in epochs}
        order = torch.cat(list(self.orders.values()))
        start = first - epochs[0] * size
        return order[start : start + count]

    def step(self, step: int, batch_size: int, parts: int = 1) -> list[StepInputs]:
        """The global batch of step `step`, cut into `parts` of equal size (batch_size is a multiple of it)."""
        return self.inputs(step, self.indices(step * batch_size, batch_size), parts)

    def poisson_indices(self, step: int, sample_rate: float) -> torch.Tensor:
        """Image numbers of step `step`, each drawn with probability `sample_rate` on its own; may be none."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 4, step))
        draws = torch.rand(len(self.labels), generator=generator, dtype=torch.float64)
        return torch.nonzero(draws < sample_rate).flatten()

    def poisson_step(self, step: int, sample_rate: float, largest: int) -> list[StepInputs]:
        """A Poisson batch, cut into parts of at most `largest` images; where none was drawn, one empty part."""
        index = self.poisson_indices(step, sample_rate)
        return self.inputs(step, index, max(1, -(-len(index) // largest)))

    def inputs(self, step: int, index: torch.Tensor, parts: int) -> list[StepInputs]:
        """The images number `index` (b,) with everything random about them in step `step`, cut into `parts`."""
        device, batch_size = self.images.device, len(index)
        index = index.to(device, non_blocking=True)
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, 1, step))
        images = scale_images(self.images[index])
        noise = torch.randn(images.shape, generator=generator, device=device)
        timesteps = self.timesteps(batch_size, generator)
        dropped = torch.rand(batch_size, generator=generator, device=device) < self.class_dropout
        for axis in self.flips:
            mirrored = torch.rand(batch_size, generator=generator, device=device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(axis), images)
        moves = []
        if self.augment:
            moves = [draw_views(batch_size, self.augment, generator)]
            images = move_images(images, *moves)
        if self.encode:
            images = self.encode(images)
            noise = noise.view(images.shape)
        labels = self.labels[index].masked_fill(dropped, self.num_classes)
        cut = zip(*(tensor.chunk(parts) for tensor in (images, labels, noise, timesteps, *moves)), strict=True)
        return [StepInputs(*tensors) for tensors in cut]

    def timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Timesteps drawn by the density, int64 (count,)."""
        if self.density is None or not count:
            size = (count,)
            return torch.randint(self.num_train_timesteps, size, generator=generator, device=generator.device)
        return torch.multinomial(self.density, count, replacement=True, generator=generator)


class Process(Protocol):
    """What a step lowers."""

    def loss(self, network: nn.Module, batch: StepInputs, /) -> torch.Tensor:
        """A scalar, the mean over the batch."""


@dataclass(frozen=True)
class DDPMProcess:
    """The forward process of a DDPM, and what its network learns of it: the noise, or the velocity.

    Whatever has these attributes and methods can be trained in its place: a noise level is a whole number below
    `num_train_timesteps` everywhere else, and what it means is the process's alone.

    Attributes:
        scheduler: its noise schedule and prediction type.
        min_snr_gamma: γ of the loss weights (Hang et al. 2023), None to weigh all noise levels alike.
    """

    scheduler: DDPMScheduler
    min_snr_gamma: float | None = None

    @classmethod
    def of(cls, pipeline: Any, min_snr_gamma: float | None = None) -> Self:
        """The process that the network of `pipeline` is trained with, whatever it is sampled with."""
        return cls(DDPMScheduler.from_config(pipeline.scheduler.config), min_snr_gamma)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""
        return int(self.scheduler.config["num_train_timesteps"])

    def target(self, batch: StepInputs) -> torch.Tensor:
        """What the network is to predict, (b, c, h, w)."""
        if self.scheduler.config["prediction_type"] == "v_prediction":
            return self.scheduler.get_velocity(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        return batch.noise

    def weigh(self, losses: torch.Tensor, batch: StepInputs) -> torch.Tensor:
        """The images' losses, (b,), each times min(SNR, γ)/SNR, for v-prediction min(SNR, γ)/(SNR + 1)."""
        if self.min_snr_gamma is None:
            return losses
        snr = compute_snr(self.scheduler, batch.timesteps)
        velocity = self.scheduler.config["prediction_type"] == "v_prediction"
        return losses * snr.clamp(max=self.min_snr_gamma) / (snr + 1 if velocity else snr)

    def predict(self, unet: nn.Module, batch: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's prediction, (b, c, h, w), and its mean squared error by image, (b,)."""
        noisy = self.scheduler.add_noise(batch.images, batch.noise, batch.timesteps)  # type: ignore[arg-type]
        moves = {} if batch.views is None else {"views": batch.views}
        prediction = unet(noisy, batch.timesteps, class_labels=batch.labels, **moves).sample.float()
        return prediction, (prediction - self.target(batch)).square().mean(dim=(1, 2, 3))

    def image_losses(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """Mean squared error of the prediction by image, (b,), without weights."""
        return self.predict(unet, batch)[1]

    def loss(self, unet: nn.Module, batch: StepInputs) -> torch.Tensor:
        """What training lowers: the weighted mean of the images' losses, a scalar."""
        return self.weigh(self.image_losses(unet, batch), batch).mean()


def patch_side(args: DDPMArguments, resolution: int) -> int:
    """The side in pixels of the squares that the network sees as channels, as --patch_size says."""
    if args.patch_size is not None:
        return args.patch_size
    wide = args.backbone == "unet2d" and args.width >= 32  # a narrower one leaves noise within the squares
    return 2 if wide and not args.latent and resolution >= 32 and resolution % 8 == 0 else 1


def build_unet(args: DDPMArguments, resolution: int, channels: int, num_classes: int) -> ContextUnet | UNet2DModel:
    """The untrained network; its last class, number `num_classes`, is the null class.

    Raises:
        ValueError: the backbone does not work at `resolution`.
    """
    patch = patch_side(args, resolution)
    if resolution % patch:
        raise ValueError(f"--resolution {resolution} is no multiple of --patch_size {patch}; use 1")
    resolution, channels = resolution // patch, channels * patch**2
    if args.backbone == "context_unet":
        return ContextUnet(resolution, channels, channels, num_classes, args.width, args.num_train_timesteps)
    levels = max(math.ceil(math.log2(resolution / 8)) + 1, 2 if resolution % 4 else 3)  # down to 8 pixels or less
    if resolution % 2 ** (levels - 1):
        raise ValueError(
            f"--resolution {resolution * patch} cannot be halved {levels - 1} times in patches of {patch}, which the "
            f"network does; use a multiple of {2 ** (levels - 1) * patch}"
        )
    return UNet2DModel(
        sample_size=resolution,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(args.width * min(2**level, 4) for level in range(levels)),
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        layers_per_block=1,
        dropout=args.dropout,
        attention_head_dim=2 * args.width,  # two heads at the bottom; more are slower on a CPU
        norm_num_groups=8,
        num_class_embeds=num_classes + 1,
    )


def seen_shape(train: ImageArrays, vae: AutoencoderKL | None) -> tuple[int, int]:
    """Side and channels of what the network sees of the images of `train`, before patches."""
    channels, side = train.images.shape[1:3]
    if vae is None:
        return side, channels
    made_for, factor = vae.config.in_channels, 2 ** (len(vae.config.block_out_channels) - 1)  # type: ignore[attr-defined]
    if channels != made_for or side % factor:
        raise ValueError(
            f"--latent is an autoencoder of {made_for} channels and sides in multiples of {factor}, but the images "
            f"have {channels} and {side}; give --channels {made_for} and such a --resolution"
        )
    return side // factor, vae.config.latent_channels  # type: ignore[attr-defined]


def build_scheduler(args: DDPMArguments, furthest: float = 1.0) -> DDPMScheduler:
    """The forward process of images whose encoded values are within ±`furthest`."""
    return DDPMScheduler(
        num_train_timesteps=args.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2" if args.beta_schedule == "cosine" else "linear",
        rescale_betas_zero_snr=args.beta_schedule == "zero_snr",
        timestep_spacing="trailing",
        prediction_type=args.prediction_type,
        clip_sample_range=furthest,
    )


def lognormal_density(scheduler: DDPMScheduler, mean: float = -1.2, std: float = 1.2) -> torch.Tensor:
    """The probability of each timestep, float64 (T,), under which ln σ is normal; σ² is the ratio of noise to signal.

    With it, standardised images and v-prediction, training is that of EDM (Karras et al. 2022, Table 1, whose mean and
    deviation these are): its preconditioned network is then minus the velocity, and its loss weight 1.
    """
    signal = scheduler.alphas_cumprod.double()
    log_sigma = ((1 - signal) / signal).log() / 2
    density = torch.exp(-(((log_sigma - mean) / std) ** 2) / 2) * torch.gradient(log_sigma)[0]
    density = density.nan_to_num(0.0, 0.0, 0.0)  # a last step of pure noise has σ = ∞
    return density / density.sum()


def timestep_density(args: DDPMArguments, scheduler: DDPMScheduler) -> torch.Tensor | None:
    """What `TrainingStream` draws timesteps by, as --noise_levels says."""
    return lognormal_density(scheduler) if args.noise_levels == "lognormal" else None


def image_moments(args: DDPMArguments, images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, a number a channel, that images in [-1, 1] are standardised by.

    Under differential privacy, where those of the images must not be known, 0 and 1/2.
    """
    channels = images.shape[1]
    if not args.standardise:
        return [0.0] * channels, [1.0] * channels
    if args.dp_epsilon is not None:
        return [0.0] * channels, [0.5] * channels
    by_channel = [images[:, channel] for channel in range(channels)]
    means = [round(float(values.mean(dtype=np.float64)) / 127.5 - 1, 4) for values in by_channel]
    stds = [max(round(float(values.std(dtype=np.float64)) / 127.5, 4), 0.01) for values in by_channel]
    return means, stds


def resolve_precision(mixed_precision: str) -> str:
    """`"auto"` to bf16 where the device computes in it natively, else to no mixed precision."""
    if mixed_precision != "auto":
        return mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"


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


CLASS_AXES = {"class_embedding.weight": 0, "class_embed1.0.weight": 1, "class_embed2.0.weight": 1}
"""The weights that have an entry a class, and along which axis; the first kind has one more, of the null class."""


def take_over(model: nn.Module, source: ClassConditionedDDPMPipeline, names: list[str]) -> str:
    """Give an untrained network the weights of `source` that have its shapes, and the classes that it has by `names`.

    Other classes begin as the null class. Returns what was taken over, in words.

    Raises:
        ValueError: fewer than half of the weights fit.
    """
    own, theirs = model.state_dict(), source.unet.state_dict()
    fits = {name for name in own.keys() & theirs.keys() if own[name].shape == theirs[name].shape} - CLASS_AXES.keys()
    if 2 * len(fits) < len(own):
        raise ValueError(
            f"--init_from is a network of other shapes, of whose weights {len(fits)} of {len(own)} fit; give its "
            "--backbone, --width and --patch_size"
        )
    numbers = {label: number for number, label in source.id2label.items()}
    for name in fits:
        own[name].copy_(theirs[name])
    for name, axis in CLASS_AXES.items():
        mine, found = own.get(name), theirs.get(name)
        if mine is None or found is None or mine.shape[1 - axis] != found.shape[1 - axis]:
            continue
        rows, known = mine.movedim(axis, 0), found.movedim(axis, 0)
        for row, label in zip(rows, names, strict=False):
            if axis == 0 or label in numbers:
                row.copy_(known[numbers.get(label, source.num_classes)])
        if axis == 0:
            rows[-1].copy_(known[-1])
    known_classes = [label for label in names if label in numbers]
    classes = f"{len(known_classes)} of {len(names)} classes by name"
    return f"{len(fits)} of {len(own.keys() - CLASS_AXES.keys())} weights and {classes}"


def train_step(
    accelerator: Accelerator,
    unet: nn.Module,
    process: Process,
    optimizer: torch.optim.Optimizer,
    parts: list[StepInputs],
    max_grad_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step on this process's parts of the global batch; returns its mean loss and gradient norm, scalars
    on the device."""
    total = torch.zeros((), device=accelerator.device)
    for i, part in enumerate(parts):
        wait_for_more = accelerator.no_sync(unet) if i < len(parts) - 1 else nullcontext()
        with wait_for_more:
            loss = process.loss(unet, part) / len(parts)
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(unet.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return accelerator.reduce(total, "mean"), norm


def step_parts(
    stream: TrainingStream, accelerator: Accelerator, step: int, batch_size: int, accumulation: int
) -> list[StepInputs]:
    """This process's share of the step's global batch: `accumulation` parts of `batch_size` images."""
    processes = accelerator.num_processes
    parts = processes * accumulation
    return stream.step(step, batch_size * parts, parts)[accelerator.process_index :: processes]


BATCH, COLUMNS = 64, 8
"""Images drawn at once, and images a class in a grid."""


class Validation:
    """Generates one image for each of the validation split, always from the same seeds, and compares.

    The features are those of a small classifier trained on the train split (kept in `output_dir/validation`): good for
    ranking checkpoints of one run; the distances are not comparable with published ones.

    Args:
        pipeline: what draws, around the network that is trained.
        steps: of its sampler.
        data: the splits.
        output_dir: of the grids and the classifier.
        args: the seed of the images, and whether memorising is to be named.
    """

    def __init__(
        self, pipeline: Any, steps: int, data: dict[str, ImageArrays], output_dir: Path, args: FromScratchArguments
    ):
        self.pipeline, self.steps, self.output_dir, self.args, self.seed = pipeline, steps, output_dir, args, args.seed
        self.data, self.space = data, ThumbnailSpace.of(data["train"].images)
        self.labels, self.num_classes = data["validation"].labels, len(data["validation"].label_names)
        folder = output_dir / "validation"
        self.extractor = train_default_extractor(data["train"], data["validation"], folder, self.seed)
        self.real = self.extractor(data["validation"].images)

    def __call__(self, step: int) -> dict[str, Any]:
        """Write `samples/step-<step>.png` (a row a class) and measure.

        Returns `validation_frechet` and `validation_kid`, and the share `nearer_train` of the images, by thumbnails,
        with `nearer_train_chance`, up to which chance explains it.
        """
        self.pipeline.set_progress_bar_config(desc=f"validation at step {step}", leave=False)
        shown = np.repeat(np.arange(self.num_classes), COLUMNS)
        save_grid(draw_images(self.pipeline, shown, self.seed, self.steps), COLUMNS, self.output_dir, step)
        images = draw_images(self.pipeline, self.labels, self.seed, self.steps)
        features = self.extractor(images)
        return {
            "validation_frechet": frechet_distance(self.real, features),
            "validation_kid": kernel_distance(self.real, features),
            **self.nearer_train(images),
        }

    def nearer_train(self, images: np.ndarray) -> dict[str, Any]:
        """How many of `images` lie nearer to train than to as many validation images; nothing of fewer than ten."""
        train, held_out = self.data["train"], self.data["validation"]
        drawn = ImageArrays(images, self.labels, held_out.label_names)
        sides = thumbnail_features(self.space, drawn, held_out, train)
        settings = MeasurementSettings(SPACE, replicates=100, seed=self.seed)
        record = measure_shares(sides["synthetic"], sides["train"], sides["test"], held_out.label_names, settings)[0]
        if record.value is None:
            return {}
        named = {"memorises": record.exceeds_chance} if self.args.stop_memorising else {}
        return {"nearer_train": record.value, "nearer_train_chance": record.chance, **named}


def draw_images(pipeline: Any, labels: np.ndarray, seed: int, steps: int, batch: int = BATCH) -> np.ndarray:
    """An image for each of `labels`, uint8 (n, channels, size, size), `batch` at once, always from the same seeds."""
    generators = [torch.Generator().manual_seed(derive_seed(seed, 3, i)) for i in range(len(labels))]
    parts = []
    for part in (slice(first, first + batch) for first in range(0, len(labels), batch)):
        drawn = pipeline(
            labels[part].tolist(), generator=generators[part], num_inference_steps=steps, output_type="pt"
        )
        parts.append((drawn.images.float().nan_to_num() * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


def save_grid(images: np.ndarray, columns: int, output_dir: Path, step: int) -> None:
    """Write `samples/step-<step>.png` of the images, uint8 (n, channels, size, size)."""
    path = output_dir / "samples" / f"step-{step:07d}.png"
    path.parent.mkdir(exist_ok=True)
    contact_sheet(images, columns).save(path)


def to_fast(scheduler: DDPMScheduler) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) on the noise schedule of `scheduler`, steps spaced as in Karras et al. 2022.

    A schedule that ends in all but pure noise, as the cosine one, keeps its even steps: most of the others would be
    spent there.
    """
    signal = scheduler.alphas_cumprod[-1]
    bounded = bool((1 - signal).sqrt() < 200 * signal.sqrt())
    return DPMSolverMultistepScheduler.from_config(scheduler.config, use_karras_sigmas=bounded)
