"""Train a class-conditioned DDPM on labelled images.

    clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom
    accelerate launch trainers/train_ddpm.py --config recipes/ddpm/quickstart.yaml --output_dir runs/phantom
    accelerate launch -m clinsynth.trainers.train_ddpm --dataset retinamnist.npz --output_dir runs/retina
    torchrun --nproc_per_node 2 trainers/train_ddpm.py --dataset retinamnist.npz --output_dir runs/retina

The folder --output_dir then loads with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.
A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.trainers.diffusion.arguments import DDPMArguments

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays


def main(args: DDPMArguments) -> None:
    """Train, and leave the pipeline in `args.output_dir`."""
    from clinsynth.trainers.harness import train_on_images

    train_on_images(args, train, dry_run_text)


def train(args: DDPMArguments, data: "dict[str, ImageArrays]", output_dir: Path) -> None:
    """The loop; `data` holds the splits."""
    import torch

    from clinsynth.seeds import derive_seed
    from clinsynth.trainers.diffusion.latents import encode_all
    from clinsynth.trainers.diffusion.model import build_state, keep_guide, load_guide
    from clinsynth.trainers.diffusion.privacy import build_private_training, plan_privacy, write_privacy
    from clinsynth.trainers.diffusion.process import DDPMProcess, timestep_density, train_step
    from clinsynth.trainers.harness import Run, begin, push_result, resolve_precision
    from clinsynth.trainers.stream import TrainingStream, step_parts
    from clinsynth.trainers.validation import Validation

    images = len(data["train"].labels)
    plan = None if args.dp_epsilon is None else plan_privacy(args, images)
    precision = "no" if plan else resolve_precision(args.mixed_precision)
    accelerator = begin(args, output_dir, precision, args.report_to)
    state, pipeline = build_state(args, data["train"], accelerator)
    process = DDPMProcess.of(pipeline, args.min_snr_gamma)
    unlogged = frozenset({"loss"} if plan else ())  # computed without noise: what is logged may travel
    training = Run(args, accelerator, state, pipeline, output_dir, args.validation_steps, unlogged=unlogged)
    guide_step = math.ceil(args.guide_at * args.train_steps)
    load_guide(pipeline, output_dir)
    private = build_private_training(state, plan, images, accelerator, output_dir) if plan else None
    if not private:
        compiled = torch.compile(state.model) if args.compile else state.model
        unet, optimizer = accelerator.prepare(compiled, state.optimizer)
    drawn = (args.num_train_timesteps, args.class_dropout, private.secret if private else args.seed)
    density = timestep_density(args, process.scheduler)
    seen = encode_all(pipeline, data["train"], args) if args.latent else data["train"]
    encode = None if args.latent else pipeline.encode
    stream = TrainingStream.of(seen, args, accelerator.device, *drawn, encode, density, args.augment)
    validate = None
    if args.validation_steps and accelerator.is_main_process:
        validate = Validation(pipeline, 20, data, output_dir, args)

    while not training.over:
        if args.dropout:  # so that a resumed run leaves out what an uninterrupted one does
            torch.manual_seed(derive_seed(args.seed, 6, state.step, accelerator.process_index))
        if private:
            parts = stream.poisson_step(state.step, private.plan.sample_rate, args.train_batch_size)
            loss, norm = private.train_step(parts, process, state.step)
        else:
            parts = step_parts(
                stream, accelerator, state.step, args.train_batch_size, args.gradient_accumulation_steps
            )
            loss, norm = train_step(accelerator, unet, process, optimizer, parts, args.max_grad_norm)
        state.advance()
        training.log(loss=loss, grad_norm=norm, learning_rate=state.learning_rate)
        if state.step == guide_step:
            keep_guide(pipeline, state)
        if private and training.is_due(args.checkpointing_steps):
            training.note(epsilon=write_privacy(output_dir, private.plan, state.step))
        if validate and training.is_due(args.validation_steps):
            training.validate(validate)
        training.end_step()

    training.finish("best" if args.validation_steps else None)
    if args.push_to_hub and accelerator.is_main_process:
        push_result(output_dir, args.hub_model_id)


def dry_run_text(args: DDPMArguments, data: "dict[str, ImageArrays]") -> str:
    """What --dry_run prints."""
    import json

    from clinsynth.trainers.diffusion.latents import load_autoencoder
    from clinsynth.trainers.diffusion.network import build_unet, seen_shape
    from clinsynth.trainers.diffusion.privacy import plan_privacy
    from clinsynth.trainers.harness import count_parameters, describe_run, describe_split

    train = data["train"]
    shape = seen_shape(train, load_autoencoder(args.latent) if args.latent else None)
    network = build_unet(args, *shape, len(train.label_names))
    plan = None if args.dp_epsilon is None else plan_privacy(args, len(train.labels))
    privacy = "" if plan is None else f"privacy: {json.dumps(plan.record(args.train_steps), indent=2)}\n"
    epochs = args.train_steps * args.train_batch_size * args.gradient_accumulation_steps / len(train.labels)
    return (
        f"{describe_run(args)}{describe_split('train', train)}"
        f"network: {args.backbone}, {count_parameters(network)}\n"
        f"{args.train_steps} steps are {epochs:.1f} epochs on one process\n{privacy}"
    )


if __name__ == "__main__":
    run(DDPMArguments, main)
