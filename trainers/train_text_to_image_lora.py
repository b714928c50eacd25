"""Fine-tune a text-to-image model (Stable Diffusion 1.5, 2.1, XL) on labelled images: a LoRA, and a prompt a class.

    clinsynth train text-to-image-lora --model stable-diffusion-v1-5/stable-diffusion-v1-5 --dataset ham10000 \\
        --fit squash --prompt_template "a dermatoscopic image of {label}" --output_dir runs/derm-lora
    accelerate launch trainers/train_text_to_image_lora.py --config recipes/text_to_image/sd15.yaml --output_dir …
    clinsynth generate images --model runs/derm-lora --per_class 100 --output_dir runs/derm-lora-images

Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) of the network's attention learn p(image | prompt) on latents;
text encoders and autoencoder stay as they are. --textual_inversion_steps first learns a word for each class, as MAGIC
(arXiv 2506.12323) does. A training caption is the prompt of a class and nothing else: no text about a patient is read.

The folder --output_dir then loads with stock diffusers: `pipe.load_lora_weights(folder)` on the base model, and
`pipe.load_textual_inversion` for the learned words. The base's safety checker is left out: it blackens medical
images. A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.trainers.text_to_image.arguments import TextToImageLoraArguments

if TYPE_CHECKING:
    from clinsynth.data.images import ImageSplits
    from clinsynth.models.text_to_image import PromptedPipeline
    from clinsynth.trainers.harness import Run
    from clinsynth.trainers.stream import TrainingStream
    from clinsynth.trainers.text_to_image.model import LatentValidation


def main(args: TextToImageLoraArguments) -> None:
    """Train, and leave the LoRA in `args.output_dir`."""
    from clinsynth.data.images import open_enlarged
    from clinsynth.trainers.harness import open_run_folder
    from clinsynth.trainers.text_to_image.model import build_prompted, open_base_of

    pipe, facts = open_base_of(args)
    images = open_enlarged(args, pipe.unet.config.sample_size * pipe.vae_scale_factor, args.seed)
    prompted = build_prompted(args, pipe, facts, images.label_names)
    if args.dry_run:
        print(dry_run_text(args, images, prompted))
        return
    train(args, images, prompted, open_run_folder(args))


def train(
    args: TextToImageLoraArguments, images: "ImageSplits", prompted: "PromptedPipeline", output_dir: Path
) -> None:
    """Textual inversion, then the LoRA; `prompted` is the base model."""
    from clinsynth.run_folder import create_run_folder
    from clinsynth.trainers.harness import Run, begin, resolve_precision
    from clinsynth.trainers.text_to_image.model import (
        TYPES,
        LatentValidation,
        TextualInversion,
        add_lora,
        latent_stream,
    )
    from clinsynth.trainers.training_state import TrainingState

    accelerator = begin(args, output_dir, resolve_precision(args.mixed_precision))
    prompted.to(accelerator.device)
    prompted.set_progress_bar_config(disable=True)
    stream = latent_stream(args, images, prompted)
    validate = None
    if args.validation_steps and accelerator.is_main_process:
        validate = LatentValidation(args, images, prompted, output_dir)
    if accelerator.mixed_precision in TYPES:  # the frozen networks alone: half the memory
        prompted.pipe.to(TYPES[accelerator.mixed_precision])

    if args.textual_inversion_steps:
        rate, steps = args.textual_inversion_learning_rate, args.textual_inversion_steps
        first = replace(args, learning_rate=rate, train_steps=steps, validation_steps=0)
        inversion = TextualInversion(prompted, prompted.facts["tokens"])
        state = TrainingState.begin(inversion, first, accelerator, args.weight_decay)
        folder = create_run_folder(output_dir / "textual_inversion")
        fit(first, Run(first, accelerator, state, inversion, folder), stream, prompted)
        with state.averaged_weights():
            inversion.settle()
        accelerator.free_memory()
    add_lora(args, prompted)
    state = TrainingState.begin(prompted.unet, args, accelerator, args.weight_decay)
    training = Run(args, accelerator, state, prompted, output_dir, args.validation_steps)
    fit(args, training, stream, prompted, validate)
    training.finish()


def fit(
    args: TextToImageLoraArguments,
    training: "Run",
    stream: "TrainingStream",
    prompted: "PromptedPipeline",
    validate: "LatentValidation | None" = None,
) -> None:
    """The loop: trains what has gradients in the model of `training`."""
    from clinsynth.trainers.diffusion.process import DDPMProcess, train_step
    from clinsynth.trainers.stream import step_parts

    accelerator, state = training.accelerator, training.state
    process = DDPMProcess(prompted.scheduler, args.min_snr_gamma)
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)
    while not training.over:
        parts = step_parts(stream, accelerator, state.step, args.train_batch_size, args.gradient_accumulation_steps)
        loss, norm = train_step(accelerator, unet, process, optimizer, parts, args.max_grad_norm)
        state.advance()
        training.log(loss=loss, grad_norm=norm, learning_rate=state.learning_rate)
        if validate and training.is_due(args.validation_steps):
            training.validate(validate)
        training.end_step()


def dry_run_text(args: TextToImageLoraArguments, images: "ImageSplits", prompted: "PromptedPipeline") -> str:
    """What --dry_run prints."""
    from collections import Counter

    from clinsynth.trainers.harness import count_parameters, describe_run
    from clinsynth.trainers.text_to_image.model import add_lora

    add_lora(args, prompted)
    counts = Counter(images.splits["train"]["label"][:])
    rows = [f"{name}: {counts[i]} train images, {prompted.prompts[i]!r}" for i, name in prompted.id2label.items()]
    return (
        f"{describe_run(args)}" + "\n".join(rows) + f"\nimages: {prompted.side} x {prompted.side} pixels, colour\n"
        f"LoRA: {count_parameters(prompted.unet)} on {prompted.facts['base_class']}\n"
    )


if __name__ == "__main__":
    run(TextToImageLoraArguments, main)
