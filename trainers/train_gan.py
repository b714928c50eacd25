"""Train a class-conditional GAN on labelled images: the baseline that diffusion models are compared with.

    clinsynth train gan --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom-gan
    clinsynth train gan --loss wgan_gp --dataset retinamnist.npz --output_dir runs/retina-wgan
    python trainers/train_gan.py --loss dcgan --dataset retinamnist.npz --output_dir runs/retina-dcgan

The folder --output_dir then loads with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`, and
`clinsynth generate images --model` takes it. A run that was stopped goes on when the same command is started again,
and ends with the same weights.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.trainers.gan.arguments import GANArguments

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays


def main(args: GANArguments) -> None:
    """Train, and leave the pipeline in `args.output_dir`."""
    from clinsynth.trainers.harness import train_on_images

    train_on_images(args, train, dry_run_text)


def train(args: GANArguments, data: "dict[str, ImageArrays]", output_dir: Path) -> None:
    """The loop; `data` holds the splits."""
    from clinsynth.trainers.gan.step import build_state, train_step
    from clinsynth.trainers.harness import Run, begin, push_result
    from clinsynth.trainers.stream import TrainingStream
    from clinsynth.trainers.validation import Validation

    accelerator = begin(args, output_dir, report_to=args.report_to)
    if accelerator.num_processes > 1:
        raise ValueError(
            f"a GAN trains in one process, so that a batch is normalised as a whole, but {accelerator.num_processes} "
            "were started; use `accelerate launch --num_processes 1` or the plain command"
        )
    stream = TrainingStream.of(data["train"], args, accelerator.device)
    state, pipeline = build_state(args, data["train"], stream, accelerator.device)
    training = Run(args, accelerator, state, pipeline, output_dir, args.validation_steps)
    validate = Validation(pipeline, 1, data, output_dir, args) if args.validation_steps else None

    while not training.over:
        numbers = train_step(args, state, stream)
        state.advance()
        training.log(**numbers)
        if validate and training.is_due(args.validation_steps):
            training.validate(validate)
        training.end_step()

    training.finish("best" if args.validation_steps else None)
    if args.push_to_hub:
        push_result(output_dir, args.hub_model_id)


def dry_run_text(args: GANArguments, data: "dict[str, ImageArrays]") -> str:
    """What --dry_run prints."""
    from clinsynth.trainers.gan.step import build_networks
    from clinsynth.trainers.harness import count_parameters, describe_run, describe_split

    train = data["train"]
    networks = build_networks(args, train.images.shape[-1], train.images.shape[1], len(train.label_names))
    generator, discriminator = map(count_parameters, networks)
    assert args.n_critic is not None  # settled by __post_init__
    epochs = args.train_steps * args.train_batch_size * args.n_critic / len(train.labels)
    return (
        f"{describe_run(args)}{describe_split('train', train)}"
        f"networks: generator {generator}, discriminator {discriminator}\n"
        f"{args.train_steps} steps show the discriminator {epochs:.1f} epochs\n"
    )


if __name__ == "__main__":
    run(GANArguments, main)
