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
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config

MAY_DIFFER = frozenset("output_dir dry_run log_steps checkpointing_steps checkpoints_total_limit".split())


@dataclass
class TextToImageLoraArguments(ImageDataArguments):
    """Fine-tune a text-to-image model (LoRA) on labelled pictures, each class behind a prompt.

    --resolution is what the model draws, by default the base's own; smaller pictures are enlarged, grey ones made
    colour. Start the same command again to resume. Example:

      clinsynth train text-to-image-lora --model stable-diffusion-v1-5/stable-diffusion-v1-5 --dataset ham10000 --fit squash --prompt_template "a dermatoscopic picture of {label}" --output_dir runs/derm-lora
    """  # noqa: E501

    model: str = ""
    """base model: folder or Hub id of Stable Diffusion 1.5, 2.1, XL or their kin, with safetensors"""
    revision: str | None = None
    """commit, branch or tag of --model on the Hub; the commit that was taken is kept in text_to_image.json"""
    output_dir: str = "runs/text-to-image-lora"
    """run folder; afterwards holds pytorch_lora_weights.safetensors, learned_embeds.safetensors, text_to_image.json"""
    prompt_template: str = "a picture of {label}"
    """prompt of each class; {label} stands for its name, or with --textual_inversion_steps for its learned word"""
    prompts: str | None = None
    """other prompts for some classes: LABEL=PROMPT,LABEL=PROMPT, or a YAML file of LABEL: PROMPT"""
    textual_inversion_steps: int = 0
    """steps in which a word for each class is learned before the LoRA (MAGIC: 500); 0: no learned words"""
    textual_inversion_learning_rate: float = 5e-4
    """peak learning rate of the words"""
    rank: int = 32
    """rank of the LoRA: the dial of how much it can learn"""
    target_modules: str = "to_q,to_k,to_v,to_out.0"
    """layers of the U-Net to adapt: the ends of their names"""
    train_steps: int = 3_000
    """optimizer steps of the LoRA"""
    train_batch_size: int = 8
    """pictures a step and process; the global batch is this x processes x accumulation steps"""
    gradient_accumulation_steps: int = 1
    """parts that a global batch is computed in, to save memory"""
    gradient_checkpointing: bool = False
    """compute activations twice instead of keeping them: less memory, a quarter slower"""
    learning_rate: float = 1e-4
    """peak learning rate of AdamW (MAGIC: 5e-6)"""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """course of the learning rate over the steps"""
    lr_warmup_steps: int = 100
    """steps over which the learning rate rises from 0"""
    weight_decay: float = 0.0
    """AdamW weight decay"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """auto: bf16 where the device computes in it natively, else no; what is trained stays float32"""
    min_snr_gamma: float | None = None
    """gamma of the min-SNR loss weights (Hang et al. 2023), usually 5; null weights all noise levels alike"""
    class_dropout: float = 0.1
    """share of prompts replaced by the empty one, which guidance needs"""
    class_balanced: bool = False
    """draw every class equally often"""
    horizontal_flip: bool = False
    """take each picture mirrored left to right too: only where that is still a true one (laterality!)"""
    vertical_flip: bool = False
    """take each picture mirrored top to bottom too"""
    ema_decay: float = 0.999
    """largest decay of the average of the weights that is saved; it warms up with the steps"""
    guidance_scale: float = 5.0
    """guidance of the pictures in samples/, and of `generate images` unless told otherwise; 1 is without"""
    seed: int = 0
    """of the LoRA's start, the order of pictures and all noise"""
    log_steps: int = 50
    """steps between two lines of metrics.jsonl"""
    checkpointing_steps: int = 250
    """steps between two checkpoints"""
    checkpoints_total_limit: int = 2
    """checkpoints that are kept, the newest"""
    validation_steps: int = 500
    """steps between two validations: a picture grid in samples/ and the loss on validation pictures; 0: none"""
    validation_pictures: int = 4
    """pictures of each class in the grid"""
    dry_run: bool = False
    """print the resolved settings, the prompts, the data and the LoRA's size, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError("--model is missing; give a folder or Hub id of Stable Diffusion 1.5, 2.1 or XL")
        if self.channels == 1:
            raise ValueError("--channels 1: text-to-image models draw colour, grey pictures become it; leave it out")
        for name in (
            "rank train_steps train_batch_size gradient_accumulation_steps learning_rate max_grad_norm log_steps "
            "textual_inversion_learning_rate checkpointing_steps checkpoints_total_limit validation_pictures"
        ).split():
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name in ("lr_warmup_steps", "validation_steps", "weight_decay", "textual_inversion_steps", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        for name, usual in (("ema_decay", 0.999), ("class_dropout", 0.1)):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} must be in [0, 1), got {getattr(self, name)}; {usual} is usual")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"--min_snr_gamma must be above 0, got {self.min_snr_gamma}; 5 is usual")
        if not self.guidance_scale >= 1:
            raise ValueError(f"--guidance_scale must be at least 1, got {self.guidance_scale}; 1 is without guidance")


def main(args: TextToImageLoraArguments) -> None:
    """Train, and leave the LoRA in `args.output_dir`."""
    from clinsynth.data.images import open_enlarged
    from clinsynth.trainers.text_to_image.model import build_prompted, open_base_of

    pipe, facts = open_base_of(args)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pictures = open_enlarged(args, side, args.seed)
    prompted = build_prompted(args, pipe, facts, pictures.label_names)
    if args.dry_run:
        print(describe(args, pictures, prompted))
        return
    output_dir = create_run_folder(args.output_dir)
    if [*output_dir.glob("checkpoint-*"), *output_dir.glob("textual_inversion/checkpoint-*")]:
        check_same_run(output_dir, args, MAY_DIFFER)
    train(args, pictures, prompted, output_dir)


def train(args: TextToImageLoraArguments, pictures: Any, prompted: Any, output_dir: Path) -> None:
    """Learn the words, then the LoRA; `prompted` is the base model."""
    import torch
    from accelerate import Accelerator

    from clinsynth.trainers.diffusion.model import resolve_precision
    from clinsynth.trainers.text_to_image.latents import latent_stream, latent_validation
    from clinsynth.trainers.text_to_image.model import add_lora, compute_in, words_of
    from clinsynth.trainers.training_state import checkpoints, publish

    on_cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=resolve_precision(args.mixed_precision))
    if accelerator.is_main_process:
        write_run_config(output_dir, args)
    prompted.to(accelerator.device)
    prompted.set_progress_bar_config(disable=True)
    stream = latent_stream(args, pictures, prompted)
    validate = None
    if args.validation_steps and accelerator.is_main_process:
        validate = latent_validation(args, pictures, prompted, output_dir)
    compute_in(prompted, accelerator.mixed_precision)

    if args.textual_inversion_steps:
        words = words_of(prompted)
        settings = (args.textual_inversion_learning_rate, args.textual_inversion_steps)
        state = fit(args, accelerator, prompted, words, words, stream, output_dir / "textual_inversion", settings)
        with state.averaged_weights():
            words.settle()
        accelerator.free_memory()
    add_lora(args, prompted)
    settings = (args.learning_rate, args.train_steps)
    fit(args, accelerator, prompted, prompted.unet, prompted, stream, output_dir, settings, validate)

    if accelerator.is_main_process:
        publish(checkpoints(output_dir)[-1], output_dir)
        print(f"text-to-image LoRA: {output_dir}")
    accelerator.end_training()


def fit(
    args: TextToImageLoraArguments,
    accelerator: Any,
    prompted: Any,
    model: Any,
    saved_as: Any,
    stream: Any,
    folder: Path,
    settings: tuple[float, int],
    validate: Any = None,
) -> Any:
    """The loop: trains what has gradients in `model`; returns its state after the last step.

    Args:
        saved_as: what writes the result of a checkpoint (`save_pretrained`).
        folder: of checkpoints and metrics.jsonl.
        settings: learning rate and steps.
    """
    from tqdm.auto import tqdm

    from clinsynth.run_folder import append_metrics, drop_metrics_after
    from clinsynth.trainers.diffusion.step import check_finite, step_parts, train_step
    from clinsynth.trainers.text_to_image.model import build_state
    from clinsynth.trainers.training_state import checkpoints, drop_old_checkpoints

    as_ddpm: Any = args  # whose step needs no more than these flags
    learning_rate, steps = settings
    state = build_state(args, model, learning_rate, steps, accelerator)
    saved = checkpoints(folder)
    if saved:
        state.load(saved[-1])
        accelerator.print(f"resuming at step {state.step} of {steps} from {saved[-1]}")
    if accelerator.is_main_process:
        create_run_folder(folder)
        drop_metrics_after(folder, state.step)
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)
    progress = tqdm(total=steps, initial=state.step, desc=folder.name, disable=not accelerator.is_main_process)

    while state.step < steps:
        parts = step_parts(as_ddpm, stream, accelerator, state.step)
        loss, norm = train_step(accelerator, unet, prompted.scheduler, optimizer, parts, as_ddpm)
        check_finite(loss, norm, state, folder)
        state.advance()
        progress.update()
        progress.set_postfix(loss=f"{loss:.4f}")
        record = {"step": state.step, "loss": loss, "grad_norm": norm}
        record["learning_rate"] = state.lr_scheduler.get_last_lr()[0]
        last = state.step == steps
        if accelerator.is_main_process:
            validated = validate is not None and (last or state.step % args.validation_steps == 0)
            if validated:
                with state.averaged_weights():
                    record |= validate(state.model, state.step)
            if validated or last or state.step % args.log_steps == 0:
                append_metrics(folder, record)
            if last or state.step % args.checkpointing_steps == 0:
                state.save(folder, saved_as)
                drop_old_checkpoints(folder, args.checkpoints_total_limit)
        accelerator.wait_for_everyone()
    progress.close()
    return state


def describe(args: TextToImageLoraArguments, pictures: Any, prompted: Any) -> str:
    """What --dry_run prints."""
    import json
    from collections import Counter

    from clinsynth.run_folder import config_yaml, describe_environment
    from clinsynth.trainers.text_to_image.model import add_lora

    add_lora(args, prompted)
    size = sum(weight.numel() for weight in prompted.unet.parameters() if weight.requires_grad)
    counts = Counter(pictures.splits["train"]["label"][:])
    rows = [f"{name}: {counts[i]} train pictures, {prompted.prompts[i]!r}" for i, name in prompted.id2label.items()]
    return (
        f"{config_yaml(args)}\n{json.dumps(describe_environment(), indent=2)}\n\n"
        + "\n".join(rows)
        + f"\npictures: {prompted.side} x {prompted.side} pixels, colour\n"
        + f"LoRA: {size / 1e6:.2f} M parameters on {prompted.facts['base_class']}\n"
    )


if __name__ == "__main__":
    run(TextToImageLoraArguments, main)
