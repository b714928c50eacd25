"""Train a class-conditioned DDPM on labelled images.

    clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom
    accelerate launch trainers/train_ddpm.py --config recipes/ddpm/quickstart.yaml --output_dir runs/phantom
    accelerate launch -m clinsynth.trainers.train_ddpm --dataset retinamnist.npz --output_dir runs/retina
    torchrun --nproc_per_node 2 trainers/train_ddpm.py --dataset retinamnist.npz --output_dir runs/retina

The folder --output_dir then loads with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.
A run that was stopped goes on when the same command is started again, and ends with the same weights.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.run_folder import (
    append_metrics,
    check_same_run,
    config_yaml,
    create_run_folder,
    describe_environment,
    drop_metrics_after,
    write_run_config,
)
from clinsynth.trainers.diffusion.privacy import check_private_flags, plan_privacy, write_privacy

MAY_DIFFER = frozenset(
    "output_dir dry_run log_steps report_to checkpointing_steps checkpoints_total_limit "
    "push_to_hub hub_model_id compile".split()
)


@dataclass
class DDPMArguments(ImageDataArguments):
    """Train a class-conditioned DDPM on labelled images.

    Start the same command again to resume. Example:

      clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom
    """

    output_dir: str = "runs/ddpm"
    """run folder; afterwards itself a checkpoint that DiffusionPipeline.from_pretrained loads"""
    backbone: Literal["unet2d", "context_unet"] = "unet2d"
    """unet2d: diffusers' UNet2DModel; context_unet: the e-health paper's network, 28 to 64 px"""
    width: int = 32
    """channels at full resolution, a multiple of 8: the dial of the network's size (the paper's ContextUnet: 128)"""
    train_steps: int = 5_000
    """optimizer steps; at 32 pixels one takes about a second on one CPU core"""
    train_batch_size: int = 64
    """images a step and process; the global batch is this x processes x accumulation steps"""
    gradient_accumulation_steps: int = 1
    """parts that a global batch is computed in, to save memory"""
    learning_rate: float = 1e-3
    """peak learning rate of AdamW"""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """course of the learning rate over the steps"""
    lr_warmup_steps: int = 100
    """steps over which the learning rate rises from 0"""
    weight_decay: float = 0.0
    """AdamW weight decay"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm; with --dp_epsilon --dp_max_grad_norm takes its place"""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """auto: bf16 where the device computes in it natively, else no; with --dp_epsilon no"""
    compile: bool = False
    """torch.compile the network: slow to start, then faster on a GPU"""
    num_train_timesteps: int = 1000
    """T, the noise levels (the paper: 400)"""
    beta_schedule: Literal["linear", "cosine", "zero_snr"] = "cosine"
    """linear: 1e-4 to 0.02 (the paper's); cosine: Nichol & Dhariwal 2021; zero_snr: linear, rescaled to end in pure
    noise (Lin et al. 2024), which needs v_prediction"""
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    """what the network predicts: the noise (the paper's) or the velocity (Salimans & Ho 2022)"""
    min_snr_gamma: float | None = None
    """gamma of the min-SNR loss weights (Hang et al. 2023), usually 5; null weights all noise levels alike, as the
    paper does: with v_prediction min-SNR nearly leaves out the noisiest levels, where brightness is decided"""
    class_dropout: float = 0.1
    """share of labels replaced by the null class, which guidance needs"""
    class_balanced: bool = False
    """draw every class equally often"""
    horizontal_flip: bool = False
    """mirror left to right at random: only where a mirrored picture is still a true one (laterality!)"""
    vertical_flip: bool = False
    """mirror top to bottom at random"""
    ema_decay: float = 0.999
    """largest decay of the average of the weights that is saved; it warms up with the steps"""
    dp_epsilon: float | None = None
    """train with differential privacy (DP-SGD; needs clinsynth[privacy]) within this epsilon, 8 is usual and 1 strict;
    the spent epsilon and what it covers go to privacy.json. It costs quality: use large batches and many images"""
    dp_delta: float | None = None
    """delta of the guarantee, at most 1/n for n training images; default: n^-1.1"""
    dp_max_grad_norm: float = 1.0
    """with --dp_epsilon, each image's gradient is clipped to this norm"""
    seed: int = 0
    """of the weights' start, the order of images and all noise (with --dp_epsilon of the start alone: the rest must
    not be known, so a resumed run is valid but not the same to the last bit)"""
    log_steps: int = 50
    """steps between two lines of metrics.jsonl"""
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """tracker that gets the same numbers"""
    checkpointing_steps: int = 500
    """steps between two checkpoints"""
    checkpoints_total_limit: int = 2
    """checkpoints that are kept, the newest"""
    validation_steps: int = 1000
    """steps between two validations (picture grid in samples/, Frechet distance and KID against the validation split);
    the best by KID becomes the result. 0: no validation, the last step is the result"""
    push_to_hub: bool = False
    """upload the result to the Hub when done, to a private repository"""
    hub_model_id: str | None = None
    """repository to upload to; default: the name of the output folder"""
    dry_run: bool = False
    """print the resolved settings, the data and the network's size, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "width train_steps train_batch_size gradient_accumulation_steps learning_rate max_grad_norm "
            "num_train_timesteps log_steps checkpointing_steps checkpoints_total_limit dp_max_grad_norm"
        ).split():
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name in ("lr_warmup_steps", "validation_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must be in [0, 1), got {self.ema_decay}; 0.999 is usual")
        if not 0 <= self.class_dropout < 1:
            raise ValueError(f"--class_dropout must be in [0, 1), got {self.class_dropout}; 0.1 is usual")
        if self.beta_schedule == "zero_snr" and self.prediction_type == "epsilon":
            raise ValueError(
                "--beta_schedule zero_snr ends in pure noise, from which --prediction_type epsilon cannot recover the "
                "image; use --prediction_type v_prediction"
            )
        if self.width % 8:
            raise ValueError(f"--width must be a multiple of 8, got {self.width}")
        check_private_flags(self)


def main(args: DDPMArguments) -> None:
    """Train, and leave the pipeline in `args.output_dir`."""
    from clinsynth.data.images import load_image_arrays

    data = load_image_arrays(args, args.seed)
    if args.dry_run:
        print(describe(args, data))
        return
    output_dir = create_run_folder(args.output_dir)
    if list(output_dir.glob("checkpoint-*")):  # a command that failed before its first checkpoint binds nobody
        check_same_run(output_dir, args, MAY_DIFFER)
    train(args, data, output_dir)


def train(args: DDPMArguments, data: dict[str, Any], output_dir: Path) -> None:
    """The loop; `data` holds the splits as `ImageArrays`."""
    import torch
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    from clinsynth.trainers.diffusion.model import resolve_precision
    from clinsynth.trainers.diffusion.privacy import build_private_training
    from clinsynth.trainers.diffusion.step import (
        build_state,
        build_stream,
        build_validation,
        check_finite,
        finish,
        keep_best,
        step_parts,
        train_step,
    )
    from clinsynth.trainers.training_state import checkpoints, drop_old_checkpoints, publish

    tracker = None if args.report_to == "none" else args.report_to
    images = len(data["train"].labels)
    plan = None if args.dp_epsilon is None else plan_privacy(args, images)
    precision = "no" if plan else resolve_precision(args.mixed_precision)
    on_cpu = not torch.accelerator.is_available()  # accelerate sees several CPU processes only when told
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, log_with=tracker, project_dir=output_dir)
    state, pipeline = build_state(args, data["train"], accelerator)
    if accelerator.is_main_process:
        write_run_config(output_dir, args)
    saved = checkpoints(output_dir)
    if saved:
        state.load(saved[-1])
        accelerator.print(f"resuming at step {state.step} of {args.train_steps} from {saved[-1]}")
    if accelerator.is_main_process:
        drop_metrics_after(output_dir, state.step)

    private = build_private_training(state, plan, images, accelerator, output_dir) if plan else None
    if not private:
        compiled = torch.compile(state.model) if args.compile else state.model
        unet, optimizer = accelerator.prepare(compiled, state.optimizer)
    accelerator.init_trackers("clinsynth", {k: str(v) for k, v in dataclasses.asdict(args).items()})
    stream = build_stream(args, data["train"], accelerator, private.secret if private else args.seed)
    validate = build_validation(args, data, output_dir) if accelerator.is_main_process else None
    progress = tqdm(total=args.train_steps, initial=state.step, desc="train", disable=not accelerator.is_main_process)

    while state.step < args.train_steps:
        if private:
            parts = stream.poisson_step(state.step, private.plan.sample_rate, args.train_batch_size)
            loss, norm = private.train_step(parts, pipeline.scheduler, state.step, args.min_snr_gamma)
        else:
            parts = step_parts(args, stream, accelerator, state.step)
            loss, norm = train_step(accelerator, unet, pipeline.scheduler, optimizer, parts, args)
        check_finite(loss, norm, state, output_dir)
        state.advance()
        progress.update()
        progress.set_postfix(loss=f"{loss:.4f}")

        record = {
            "step": state.step,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": state.lr_scheduler.get_last_lr()[0],
        }
        last = state.step == args.train_steps
        saves = last or state.step % args.checkpointing_steps == 0
        if private:
            del record["loss"]  # computed without noise: what is logged may travel
            if saves:
                record["epsilon"] = write_privacy(output_dir, private.plan, state.step)
        if accelerator.is_main_process:
            validated = validate is not None and (last or state.step % args.validation_steps == 0)
            if validate is not None and validated:
                record |= keep_best(state, pipeline, validate, output_dir)
            if validated or last or state.step % args.log_steps == 0 or "epsilon" in record:
                append_metrics(output_dir, record)
                accelerator.log(record, step=state.step)
            if saves:
                state.save(output_dir, pipeline)
                drop_old_checkpoints(output_dir, args.checkpoints_total_limit)
        accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        best = output_dir / "best"
        publish(best if validate is not None else checkpoints(output_dir)[-1], output_dir)
        finish(args, output_dir)
    accelerator.end_training()


def describe(args: DDPMArguments, data: dict[str, Any]) -> str:
    """What --dry_run prints."""
    import json

    import numpy as np

    from clinsynth.trainers.diffusion.model import build_unet

    train = data["train"]
    counts = np.bincount(train.labels, minlength=len(train.label_names))
    model = build_unet(args, train.images.shape[-1], train.images.shape[1], len(train.label_names))
    size = sum(parameter.numel() for parameter in model.parameters())
    plan = None if args.dp_epsilon is None else plan_privacy(args, len(train.labels))
    privacy = "" if plan is None else f"privacy: {json.dumps(plan.record(args.train_steps), indent=2)}\n"
    epochs = args.train_steps * args.train_batch_size * args.gradient_accumulation_steps / len(train.labels)
    return (
        f"{config_yaml(args)}\n{json.dumps(describe_environment(), indent=2)}\n\n"
        + f"train: {len(train.labels)} images, {train.images.shape[1:]} (channels, height, width): "
        + ", ".join(f"{name} {count}" for name, count in zip(train.label_names, counts, strict=True))
        + f"\nnetwork: {args.backbone}, {size / 1e6:.2f} M parameters\n"
        + f"{args.train_steps} steps are {epochs:.1f} epochs on one process\n"
        + privacy
    )


if __name__ == "__main__":
    run(DDPMArguments, main)
