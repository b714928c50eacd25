"""Train a small autoencoder of images, on whose latents `train ddpm --latent` then trains, for 128 pixels and more.

    clinsynth train autoencoder --dataset ham10000 --resolution 256 --output_dir runs/derm-autoencoder
    clinsynth train ddpm --latent runs/derm-autoencoder --dataset ham10000 --resolution 256 --output_dir runs/derm

The folder --output_dir then loads with `AutoencoderKL.from_pretrained(folder)`. A run that was stopped goes on when
the same command is started again, and ends with the same weights.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.trainers.diffusion.arguments import AutoencoderArguments

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays


def main(args: AutoencoderArguments) -> None:
    """Train, and leave the autoencoder in `args.output_dir`."""
    from clinsynth.trainers.harness import train_on_images

    train_on_images(args, train, dry_run_text)


def train(args: AutoencoderArguments, data: "dict[str, ImageArrays]", output_dir: Path) -> None:
    """The loop; `data` holds the splits."""
    import torch

    from clinsynth.seeds import derive_seed
    from clinsynth.trainers.diffusion.autoencoder import Autoencoding, Compare, Reconstruction, build_autoencoder
    from clinsynth.trainers.diffusion.process import train_step
    from clinsynth.trainers.harness import Run, begin, resolve_precision
    from clinsynth.trainers.stream import TrainingStream, step_parts
    from clinsynth.trainers.training_state import TrainingState

    accelerator = begin(args, output_dir, resolve_precision(args.mixed_precision))
    seen = data["train"]
    torch.manual_seed(derive_seed(args.seed, 2))
    vae = build_autoencoder(args, seen.images.shape[-1], seen.images.shape[1])
    state = TrainingState.begin(Autoencoding(vae), args, accelerator)
    state.component, state.averages_more = "", True
    training = Run(args, accelerator, state, vae, output_dir, args.validation_steps)
    model, optimizer = accelerator.prepare(state.model, state.optimizer)
    images, labels = (torch.from_numpy(array).to(accelerator.device) for array in (seen.images, seen.labels))
    flips = (args.horizontal_flip, args.vertical_flip)
    stream = TrainingStream(images, labels, len(seen.label_names), 1, 0.0, False, *flips, args.seed)
    process = Reconstruction(args.kl_weight)
    compare = Compare(vae, data["validation"].images, output_dir) if accelerator.is_main_process else None

    while not training.over:
        parts = step_parts(stream, accelerator, state.step, args.train_batch_size, args.gradient_accumulation_steps)
        loss, norm = train_step(accelerator, model, process, optimizer, parts, args.max_grad_norm)
        state.advance()
        training.log(loss=loss, grad_norm=norm, learning_rate=state.learning_rate)
        if compare and training.is_due(args.validation_steps):
            training.validate(compare)
        training.end_step()

    training.finish()


def dry_run_text(args: AutoencoderArguments, data: "dict[str, ImageArrays]") -> str:
    """What --dry_run prints."""
    from clinsynth.trainers.diffusion.autoencoder import build_autoencoder
    from clinsynth.trainers.harness import count_parameters, describe_run, describe_split

    train = data["train"]
    vae = build_autoencoder(args, train.images.shape[-1], train.images.shape[1])
    side = train.images.shape[-1] // args.factor
    return (
        f"{describe_run(args)}{describe_split('train', train)}autoencoder: {count_parameters(vae)}, latents "
        f"{args.latent_channels} x {side} x {side}\n"
    )


if __name__ == "__main__":
    run(AutoencoderArguments, main)
