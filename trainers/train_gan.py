"""Train a class-conditional GAN on labelled images: the baseline that diffusion models are compared with.

    clinsynth train gan --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom-gan
    clinsynth train gan --loss wgan_gp --dataset retinamnist.npz --output_dir runs/retina-wgan
    python trainers/train_gan.py --loss dcgan --dataset retinamnist.npz --output_dir runs/retina-dcgan

The folder --output_dir then loads with `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`, and
`clinsynth generate images --model` takes it. A run that was stopped goes on when the same command is started again,
and ends with the same weights.
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

MAY_DIFFER = frozenset(
    "output_dir dry_run log_steps report_to checkpointing_steps checkpoints_total_limit "
    "push_to_hub hub_model_id".split()
)

# What each loss was published with: learning rate, Adam's betas, discriminator updates for one of the generator.
# dcgan: Radford et al. 2016; wgan_gp: Gulrajani et al. 2017, algorithm 1; hinge: Miyato et al. 2018, table 1, row C.
PUBLISHED = {
    "dcgan": (2e-4, 0.5, 0.999, 1),
    "wgan_gp": (1e-4, 0.0, 0.9, 5),
    "hinge": (2e-4, 0.5, 0.999, 1),
}


@dataclass
class GANArguments(ImageDataArguments):
    """Train a class-conditional GAN on labelled images.

    Start the same command again to resume. Example:

      clinsynth train gan --dataset phantom-fundus --resolution 32 --channels 1 --output_dir runs/phantom-gan
    """

    output_dir: str = "runs/gan"
    """run folder; afterwards itself a checkpoint that DiffusionPipeline.from_pretrained loads"""
    loss: Literal["dcgan", "wgan_gp", "hinge"] = "hinge"
    """dcgan: non-saturating, with DCGAN's discriminator (Radford et al. 2016); wgan_gp: Wasserstein with gradient
    penalty (Gulrajani et al. 2017); hinge: with a spectrally normalised discriminator (Miyato et al. 2018)"""
    width: int = 64
    """channels at half the full resolution in both networks: the dial of their size"""
    latent_dim: int = 128
    """numbers of noise an image is made from"""
    train_steps: int = 10_000
    """updates of the generator"""
    train_batch_size: int = 64
    """images in an update, and as many generated ones"""
    learning_rate: float | None = None
    """of the generator's Adam; default: the loss's own, 2e-4, for wgan_gp 1e-4"""
    discriminator_learning_rate: float | None = None
    """of the discriminator's Adam; default: as --learning_rate"""
    beta1: float | None = None
    """decay of Adam's first moment; default: the loss's own, 0.5, for wgan_gp 0"""
    beta2: float | None = None
    """decay of Adam's second moment; default: the loss's own, 0.999, for wgan_gp 0.9"""
    n_critic: int | None = None
    """updates of the discriminator for one of the generator; default: the loss's own, 1, for wgan_gp 5"""
    gradient_penalty: float = 10.0
    """lambda of the loss wgan_gp"""
    diff_augment: bool = True
    """colour, translation and cutout for real and generated images alike before the discriminator sees them (Zhao et
    al. 2020): without it a few hundred images are soon learned by heart; the generated pictures do not show it"""
    class_balanced: bool = False
    """draw every class equally often"""
    horizontal_flip: bool = False
    """mirror left to right at random: only where a mirrored picture is still a true one (laterality!)"""
    vertical_flip: bool = False
    """mirror top to bottom at random"""
    ema_decay: float = 0.999
    """largest decay of the average of the generator's weights that is saved; it warms up with the steps"""
    seed: int = 0
    """of the weights' start, the order of images and all noise"""
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
    """print the resolved settings, the data and the networks' sizes, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        rate, beta1, beta2, n_critic = PUBLISHED[self.loss]
        self.learning_rate = rate if self.learning_rate is None else self.learning_rate
        if self.discriminator_learning_rate is None:
            self.discriminator_learning_rate = self.learning_rate
        self.beta1 = beta1 if self.beta1 is None else self.beta1
        self.beta2 = beta2 if self.beta2 is None else self.beta2
        self.n_critic = n_critic if self.n_critic is None else self.n_critic
        for name in (
            "width latent_dim train_steps train_batch_size learning_rate discriminator_learning_rate n_critic "
            "log_steps checkpointing_steps checkpoints_total_limit"
        ).split():
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        for name in ("validation_steps", "gradient_penalty", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} must be in [0, 1), got {getattr(self, name)}")


def main(args: GANArguments) -> None:
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


def train(args: GANArguments, data: dict[str, Any], output_dir: Path) -> None:
    """The loop; `data` holds the splits as `ImageArrays`."""
    import torch
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    from clinsynth.trainers.diffusion.step import finish, keep_best
    from clinsynth.trainers.gan.step import build_state, build_stream, build_validation, check_finite, train_step
    from clinsynth.trainers.training_state import checkpoints, drop_old_checkpoints, publish

    tracker = None if args.report_to == "none" else args.report_to
    on_cpu = not torch.accelerator.is_available()  # accelerate sees several CPU processes only when told
    accelerator = Accelerator(cpu=on_cpu, log_with=tracker, project_dir=output_dir)
    if accelerator.num_processes > 1:
        raise ValueError(
            f"a GAN trains in one process, so that a batch is normalised as a whole, but {accelerator.num_processes} "
            "were started; use `accelerate launch --num_processes 1` or the plain command"
        )
    stream = build_stream(args, data["train"], accelerator.device)
    state, pipeline = build_state(args, data["train"], stream, accelerator.device)
    write_run_config(output_dir, args)
    saved = checkpoints(output_dir)
    if saved:
        state.load(saved[-1])
        print(f"resuming at step {state.step} of {args.train_steps} from {saved[-1]}")
    drop_metrics_after(output_dir, state.step)

    accelerator.init_trackers("clinsynth", {k: str(v) for k, v in dataclasses.asdict(args).items()})
    validate = build_validation(args, data, output_dir)
    progress = tqdm(total=args.train_steps, initial=state.step, desc="train")

    while state.step < args.train_steps:
        numbers = train_step(args, state, stream)
        check_finite(numbers, state, output_dir)
        state.advance()
        progress.update()
        progress.set_postfix({name: f"{numbers[name]:.3f}" for name in ("generator_loss", "discriminator_loss")})

        record = {"step": state.step, **numbers}
        last = state.step == args.train_steps
        validated = validate is not None and (last or state.step % args.validation_steps == 0)
        if validate is not None and validated:
            record |= keep_best(state, pipeline, validate, output_dir)
        if validated or last or state.step % args.log_steps == 0:
            append_metrics(output_dir, record)
            accelerator.log(record, step=state.step)
        if last or state.step % args.checkpointing_steps == 0:
            state.save(output_dir, pipeline)
            drop_old_checkpoints(output_dir, args.checkpoints_total_limit)

    publish(output_dir / "best" if validate is not None else checkpoints(output_dir)[-1], output_dir)
    finish(args, output_dir)  # type: ignore[arg-type]  # it reads what both dataclasses have
    accelerator.end_training()


def describe(args: GANArguments, data: dict[str, Any]) -> str:
    """What --dry_run prints."""
    import json

    import numpy as np

    from clinsynth.trainers.gan.networks import build_networks

    train = data["train"]
    counts = np.bincount(train.labels, minlength=len(train.label_names))
    networks = build_networks(args, train.images.shape[-1], train.images.shape[1], len(train.label_names))
    generator, discriminator = (sum(p.numel() for p in network.parameters()) / 1e6 for network in networks)
    assert args.n_critic is not None  # settled by __post_init__
    epochs = args.train_steps * args.train_batch_size * args.n_critic / len(train.labels)
    return (
        f"{config_yaml(args)}\n{json.dumps(describe_environment(), indent=2)}\n\n"
        + f"train: {len(train.labels)} images, {train.images.shape[1:]} (channels, height, width): "
        + ", ".join(f"{name} {count}" for name, count in zip(train.label_names, counts, strict=True))
        + f"\nnetworks: generator {generator:.2f} M parameters, discriminator {discriminator:.2f} M\n"
        + f"{args.train_steps} steps show the discriminator {epochs:.1f} epochs\n"
    )


if __name__ == "__main__":
    run(GANArguments, main)
