"""Fine-tune a text-to-image model (Stable Diffusion 1.5, 2.1, XL) on labelled pictures: a LoRA, and a prompt a class.

    clinsynth train text-to-image-lora --model stable-diffusion-v1-5/stable-diffusion-v1-5 --dataset ham10000 \\
        --fit squash --prompt_template "a dermatoscopic picture of {label}" --output_dir runs/derm-lora
    accelerate launch trainers/train_text_to_image_lora.py --config recipes/text_to_image/sd15.yaml --output_dir …
    clinsynth generate images --model runs/derm-lora --per_class 100 --output_dir runs/derm-lora-pictures

Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) of the network's attention learn p(picture | prompt) on latents;
text encoders and autoencoder stay as they are. --textual_inversion_steps first learns a word for each class, as MAGIC
(arXiv 2506.12323) does. A training caption is the prompt of a class and nothing else: no text about a patient is read.

The folder --output_dir then loads with stock diffusers: `pipe.load_lora_weights(folder)` on the base model, and
`pipe.load_textual_inversion` for the learned words. The base's safety checker is left out: it blackens medical
pictures. A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.arguments import run
from clinsynth.trainers.text_to_image.arguments import PromptedArguments


@dataclass
class TextToImageLoraArguments(PromptedArguments):
    """Fine-tune a text-to-image model (LoRA) on labelled pictures, each class behind a prompt.

    --resolution is what the model draws, by default the base's own; smaller pictures are enlarged, grey ones made
    colour. Start the same command again to resume. Example:

      clinsynth train text-to-image-lora --model stable-diffusion-v1-5/stable-diffusion-v1-5 --dataset ham10000 --fit squash --prompt_template "a dermatoscopic picture of {label}" --output_dir runs/derm-lora
    """  # noqa: E501

    output_dir: str = "runs/text-to-image-lora"
    """run folder; afterwards holds pytorch_lora_weights.safetensors, learned_embeds.safetensors, text_to_image.json"""
    train_steps: int = 3_000
    """optimizer steps of the LoRA"""
    dry_run: bool = False
    """print the resolved settings, the prompts, the data and the LoRA's size, and stop"""


def main(args: TextToImageLoraArguments) -> None:
    """Train, and leave the LoRA in `args.output_dir`."""
    from clinsynth.trainers.harness import open_run_folder
    from clinsynth.trainers.text_to_image.latents import open_pictures
    from clinsynth.trainers.text_to_image.model import build_prompted, open_base_of

    pipe, facts = open_base_of(args)
    images = open_pictures(args, pipe.unet.config.sample_size * pipe.vae_scale_factor, args.seed)
    prompted = build_prompted(args, pipe, facts, images.label_names)
    if args.dry_run:
        print(describe(args, images, prompted))
        return
    train(args, images, prompted, open_run_folder(args))


def train(args: TextToImageLoraArguments, images: Any, prompted: Any, output_dir: Path) -> None:
    """Learn the words of textual inversion, then the LoRA; `prompted` is the base model."""
    from clinsynth.run_folder import create_run_folder
    from clinsynth.trainers.diffusion.model import resolve_precision
    from clinsynth.trainers.harness import Run, begin
    from clinsynth.trainers.text_to_image.latents import LatentValidation, latent_stream
    from clinsynth.trainers.text_to_image.model import add_lora, build_state, compute_in, words_of

    accelerator = begin(args, output_dir, resolve_precision(args.mixed_precision))
    prompted.to(accelerator.device)
    prompted.set_progress_bar_config(disable=True)
    stream = latent_stream(args, images, prompted)
    validate = None
    if args.validation_steps and accelerator.is_main_process:
        validate = LatentValidation(args, images, prompted, output_dir)
    compute_in(prompted, accelerator.mixed_precision)

    if args.textual_inversion_steps:
        words, folder = words_of(prompted), create_run_folder(output_dir / "textual_inversion")
        state = build_state(
            args, words, args.textual_inversion_learning_rate, args.textual_inversion_steps, accelerator
        )
        fit(args, Run(args, accelerator, state, words, folder, steps=args.textual_inversion_steps), stream, prompted)
        with state.averaged_weights():
            words.settle()
        accelerator.free_memory()
    add_lora(args, prompted)
    state = build_state(args, prompted.unet, args.learning_rate, args.train_steps, accelerator)
    training = Run(args, accelerator, state, prompted, output_dir, args.validation_steps)
    fit(args, training, stream, prompted, validate)
    training.finish()


def fit(args: TextToImageLoraArguments, training: Any, stream: Any, prompted: Any, validate: Any = None) -> None:
    """The loop: trains what has gradients in the model of `training`, a `Run`."""
    from clinsynth.trainers.diffusion.model import DDPMProcess
    from clinsynth.trainers.diffusion.step import step_parts, train_step

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


def describe(args: TextToImageLoraArguments, images: Any, prompted: Any) -> str:
    """What --dry_run prints."""
    from collections import Counter

    from clinsynth.trainers.harness import count_parameters, describe_run
    from clinsynth.trainers.text_to_image.model import add_lora

    add_lora(args, prompted)
    counts = Counter(images.splits["train"]["label"][:])
    rows = [f"{name}: {counts[i]} train pictures, {prompted.prompts[i]!r}" for i, name in prompted.id2label.items()]
    return (
        f"{describe_run(args)}" + "\n".join(rows) + f"\npictures: {prompted.side} x {prompted.side} pixels, colour\n"
        f"LoRA: {count_parameters(prompted.unet)} on {prompted.facts['base_class']}\n"
    )


if __name__ == "__main__":
    run(TextToImageLoraArguments, main)
