"""The network of a diffusion model, untrained or begun from another checkpoint."""

from __future__ import annotations

import math

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from clinsynth.data.images import ImageArrays
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet
from clinsynth.trainers.diffusion.arguments import DDPMArguments


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
