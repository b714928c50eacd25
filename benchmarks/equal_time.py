"""Train contestants for the same processor time on the same data and draw from each: the images score.py compares.

     python -m benchmarks.equal_time --arm unet2d --name "UNet2DModel" --dataset retinamnist.npz --cpu_budget 3600 \
         --output_dir runs/equal-time/unet2d
     python -m benchmarks.equal_time --arm context_unet --name "ContextUnet" --trainer_flags "--width 128" …
     python -m benchmarks.equal_time --arm gan --name "WGAN-GP" --trainer_flags "--loss wgan_gp" …
     python -m benchmarks.equal_time --arm denoising_diffusion_pytorch --name "denoising-diffusion-pytorch" …

The budget counts processor seconds of the training steps alone (one thread), so that it is fair on a shared machine:
neither the start, nor saving, nor drawing. Our learning rate falls with the budget instead of a number of steps.
Snapshots are taken at fractions of it. Stopped runs go on when the same command is started again.
"""

import json
import math
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.samplers import (
    MEND,
    Draw,
    build_peer,
    choose_dim,
    count_parameters,
    draw_all,
    labels_like,
    load_pipeline,
    our_draw,
    peer_draw,
    with_scheduler,
)
from benchmarks.score import ImagesArguments
from benchmarks.timing import timed
from clinsynth.arguments import parse, run
from clinsynth.data.images import ImageArrays
from clinsynth.run_folder import check_same_run, complete_folder, create_run_folder, write_run_config
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.model import build_state
from clinsynth.trainers.diffusion.network import build_unet
from clinsynth.trainers.diffusion.process import DDPMProcess, timestep_density, train_step
from clinsynth.trainers.gan import step as gan
from clinsynth.trainers.gan.arguments import GANArguments
from clinsynth.trainers.harness import check_finite, resolve_precision
from clinsynth.trainers.stream import TrainingStream, step_parts
from clinsynth.trainers.training_state import checkpoints, flatten_moments, load_moments


class Training(Protocol):
    """What equal_time.py asks of a contestant."""

    network: nn.Module
    spent: float
    """Share of the budget, set before each step."""

    @property
    def steps(self) -> int: ...

    def step(self) -> None:
        """Everything that training does for one batch, averaging of weights included."""

    def save(self, folder: Path) -> None:
        """Write what `load` needs to go on as if nothing had happened; `folder` is empty."""

    def load(self, folder: Path) -> None: ...

    def snapshot(self, folder: Path) -> None:
        """Write the averaged weights, to be drawn from."""


class OurTraining:
    """clinsynth's trainer: the body of its loop, without validation and logging."""

    spent = 0.0

    def __init__(self, args: DDPMArguments, data: dict[str, ImageArrays], output_dir: Path, cpu: bool = True):
        self.args, self.output_dir = args, output_dir
        self.accelerator = Accelerator(mixed_precision=resolve_precision(args.mixed_precision), cpu=cpu)
        self.state, self.pipeline = build_state(args, data["train"], self.accelerator)
        self.network = self.state.model
        compiled = torch.compile(self.network) if args.compile else self.network
        self.prepared, self.optimizer = self.accelerator.prepare(compiled, self.state.optimizer)
        self.process = DDPMProcess.of(self.pipeline, args.min_snr_gamma)
        drawn = (args.num_train_timesteps, args.class_dropout)
        density = timestep_density(args, self.process.scheduler)
        self.stream = TrainingStream.of(
            data["train"],
            args,
            self.accelerator.device,
            *drawn,
            encode=self.pipeline.encode,
            density=density,
            augment=args.augment,
        )

    @property
    def steps(self) -> int:
        return self.state.step

    def step(self) -> None:
        loss, norm = self.take_step()
        check_finite(self.state.step, {"loss": float(loss), "grad_norm": float(norm)}, self.output_dir)

    def take_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A step whose loss and norm of the gradient are left on the device, as the trainer leaves them."""
        sizes = self.args.train_batch_size, self.args.gradient_accumulation_steps
        parts = step_parts(self.stream, self.accelerator, self.state.step, *sizes)
        loss, norm = train_step(
            self.accelerator, self.prepared, self.process, self.optimizer, parts, self.args.max_grad_norm
        )
        self.state.advance()
        warmup, total = self.args.lr_warmup_steps, self.args.train_steps
        at = self.steps if self.steps < warmup else warmup + self.spent * (total - warmup)
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.args.learning_rate * self.state.lr_scheduler.lr_lambdas[0](at)  # type: ignore[attr-defined]
        return loss, norm

    def save(self, folder: Path) -> None:
        self.state.save(folder, self.pipeline)

    def load(self, folder: Path) -> None:
        self.state.load(checkpoints(folder)[-1])

    def snapshot(self, folder: Path) -> None:
        with self.state.averaged_weights():
            self.pipeline.save_pretrained(folder)


class GANTraining:
    """clinsynth's GANs: the body of their loop. The learning rate is constant, as theirs is."""

    spent = 0.0

    def __init__(self, args: GANArguments, data: dict[str, ImageArrays], output_dir: Path):
        self.args, self.output_dir, device = args, output_dir, torch.device("cpu")
        self.stream = TrainingStream.of(data["train"], args, device)
        self.state, self.pipeline = gan.build_state(args, data["train"], self.stream, device)
        self.network = self.state.model

    @property
    def steps(self) -> int:
        return self.state.step

    def step(self) -> None:
        numbers = gan.train_step(self.args, self.state, self.stream)
        self.state.advance()
        check_finite(self.steps, {name: float(value) for name, value in numbers.items()}, self.output_dir)

    save, load, snapshot = OurTraining.save, OurTraining.load, OurTraining.snapshot


class PeerTraining:
    """denoising-diffusion-pytorch's Unet and GaussianDiffusion under the recipe of its Trainer: Adam with betas 0.9
    and 0.99, gradients clipped to norm 1, ema_pytorch with decay 0.995 every 10 steps.

    Its Trainer itself takes no labels. Batch order is that of our stream; images are given in [0, 1], as it wants
    them, and never mirrored.
    """

    spent = 0.0

    def __init__(self, args: "EqualTimeArguments", data: dict[str, ImageArrays], dim: int):
        try:
            from ema_pytorch import EMA
        except ImportError as error:
            raise ImportError(f"ema_pytorch, the peer's averaging of weights, is missing; {MEND}") from error
        train = data["train"]
        self.args, self.step_number = args, 0
        self.images, self.labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
        self.stream = TrainingStream(self.images, self.labels, len(train.label_names), 1000, seed=args.seed)
        torch.manual_seed(derive_seed(args.seed, 2))
        self.network = peer_diffusion(args, data, dim)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=args.peer_learning_rate, betas=(0.9, 0.99))
        self.ema = EMA(self.network, beta=0.995, update_every=10)

    @property
    def steps(self) -> int:
        return self.step_number

    def step(self) -> None:
        index = self.stream.indices(self.step_number * self.args.peer_batch_size, self.args.peer_batch_size)
        torch.manual_seed(derive_seed(self.args.seed, 3, self.step_number))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.peer_precision == "bf16"):
            loss = self.network(self.images[index].float() / 255, classes=self.labels[index])
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the peer's training diverged at step {self.step_number}: loss {loss.item()}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
        self.step_number += 1

    def save(self, folder: Path) -> None:
        with complete_folder(folder / f"checkpoint-{self.step_number}") as target:
            save_file(self.ema.state_dict(), target / "model.safetensors")
            save_file(flatten_moments(self.optimizer), target / "optimizer.safetensors")
            (target / "state.json").write_text(json.dumps({"step": self.step_number}))

    def load(self, folder: Path) -> None:
        newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        self.ema.load_state_dict(load_file(newest / "model.safetensors"))
        load_moments(self.optimizer, load_file(newest / "optimizer.safetensors"))
        self.step_number = json.loads((newest / "state.json").read_text())["step"]

    def snapshot(self, folder: Path) -> None:
        save_file(self.ema.ema_model.state_dict(), folder / "model.safetensors")


def peer_diffusion(args: "EqualTimeArguments", data: dict[str, ImageArrays], dim: int, eta: float = 1.0) -> Any:
    """The peer's network and process for the images of `data`, as the `--peer_…` flags say."""
    shape = data["train"].images.shape
    return build_peer(
        dim,
        len(data["train"].label_names),
        channels=shape[1],
        image_size=shape[-1],
        sampling_timesteps=args.num_inference_steps,
        dim_mults=dim_mults(args),
        eta=eta,
        class_dropout=args.peer_class_dropout,
    )


def dim_mults(args: "EqualTimeArguments") -> tuple[int, ...]:
    """`--peer_dim_mults 1,2,4` as numbers."""
    return tuple(int(part) for part in args.peer_dim_mults.split(","))


@dataclass(kw_only=True)
class EqualTimeArguments(ImagesArguments):
    """Train one contestant for a budget of processor seconds, and draw from its snapshots."""

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"seed"})

    arm: Literal["unet2d", "context_unet", "gan", "denoising_diffusion_pytorch"]
    """Whose network and recipe."""
    name: str
    """The row's name in the table."""
    cpu_budget: float = 3600.0
    """Processor seconds of training steps."""
    fractions: str = "0.25,0.5,1"
    """Fractions of the budget at which a snapshot is taken, rising."""
    save_every: float = 120.0
    """Processor seconds between two saved states."""
    threads: int = 1
    """Threads of torch."""
    seed: int = 0
    """Of everything."""
    trainer_flags: str = ""
    """Further flags of `clinsynth train ddpm`, of the arm gan of `train gan`;
    for the peer they say whose size it is to match."""
    num_inference_steps: int = 50
    """Steps of drawing, the same for all contestants."""
    guidance_scales: str = "1,2,3"
    """Guidance scales to draw with, diffusers' meaning; each is a row."""
    scheduler: str | None = None
    """Scheduler of our arms, a class of diffusers; default: that of the checkpoint."""
    n: int | None = None
    """Pictures of each set, with the train split's class shares; default: as many as train has."""
    peer_etas: str = "1,0"
    """The peer's DDIM randomness values to draw with; each is a row. 1 is its default."""
    peer_dim_mults: str = "1,2,4"
    """The peer's widths relative to its `dim`, which is chosen to match our number of parameters."""
    peer_learning_rate: float = 1e-4
    """The peer's learning rate; 1e-4 is its Trainer's."""
    peer_batch_size: int = 16
    """The peer's batch; 16 is its Trainer's."""
    peer_class_dropout: float = 0.5
    """The peer's share of masked labels; 0.5 is its Unet's."""
    peer_precision: Literal["no", "bf16"] = "no"
    """The peer's mixed precision; no is its Trainer's."""


def main(args: EqualTimeArguments) -> None:
    """Train to the end of the budget, then draw every set that is missing."""
    torch.set_num_threads(args.threads)
    data = args.splits
    output_dir = create_run_folder(args.output_dir)
    drawing = "name fractions guidance_scales scheduler n peer_etas num_inference_steps output_dir save_every"
    check_same_run(output_dir, args, frozenset(drawing.split()))
    write_run_config(output_dir, args)
    training = build_training(args, data, output_dir)
    train(args, training, output_dir)
    for fraction in fractions(args):
        snapshot = output_dir / f"snapshot-{fraction:g}"
        facts = json.loads((snapshot / "facts.json").read_text())
        for sampler, draw in samplers(args, data, snapshot).items():
            draw_set(args, data, draw, snapshot / sampler.replace(" ", "_"), facts | {"sampler": sampler})


def fractions(args: EqualTimeArguments) -> list[float]:
    """`--fractions` as numbers.

    Raises:
        ValueError: they do not rise, or leave (0, 1].
    """
    values = [float(part) for part in args.fractions.split(",")]
    if values != sorted(set(values)) or not 0 < values[0] <= values[-1] <= 1:
        raise ValueError(f"--fractions must rise within (0, 1], got {args.fractions}")
    return values


def trainer_arguments(args: EqualTimeArguments) -> DDPMArguments:
    """The arguments of our trainer for this contestant."""
    backbone = "context_unet" if args.arm == "context_unet" else "unet2d"
    flags = ["--backbone", backbone, "--seed", str(args.seed), "--dataset", args.dataset]
    return parse(DDPMArguments, [*flags, *shlex.split(args.trainer_flags)])


def peer_dim(args: EqualTimeArguments, data: dict[str, ImageArrays]) -> int:
    """The peer's `dim` that comes closest to the size of our network."""
    shape, classes = data["train"].images.shape, len(data["train"].label_names)
    ours = build_unet(trainer_arguments(args), shape[-1], shape[1], classes)
    return choose_dim(count_parameters(ours), classes, args.channels, dim_mults(args))


def build_training(args: EqualTimeArguments, data: dict[str, ImageArrays], output_dir: Path) -> Training:
    """The contestant, untrained."""
    if args.arm == "gan":
        flags = ["--seed", str(args.seed), "--dataset", args.dataset, *shlex.split(args.trainer_flags)]
        return GANTraining(parse(GANArguments, flags), data, output_dir)
    if args.arm == "denoising_diffusion_pytorch":
        return PeerTraining(args, data, peer_dim(args, data))
    return OurTraining(trainer_arguments(args), data, output_dir)


def train(args: EqualTimeArguments, training: Training, output_dir: Path) -> None:
    """Step until the budget is spent; snapshots on the way, states to go on from."""
    spent = resume(training, output_dir)
    marks = [f for f in fractions(args) if not (output_dir / f"snapshot-{f:g}" / "facts.json").exists()]
    next_save = spent + args.save_every
    while marks:
        if spent >= marks[0] * args.cpu_budget:
            take_snapshot(args, training, output_dir / f"snapshot-{marks.pop(0):g}", spent)
            continue
        training.spent = spent / args.cpu_budget
        spent += timed(training.step)[1]
        if spent >= next_save:
            save(training, output_dir, spent)
            next_save = spent + args.save_every
            print(f"{args.name}: step {training.steps}, {spent:.0f} of {args.cpu_budget:.0f} CPU s", flush=True)


def save(training: Training, output_dir: Path, spent: float) -> None:
    """Write the state and the seconds spent; the folder before it is dropped when this one is complete."""
    with complete_folder(output_dir / "state") as folder:
        training.save(folder)
        (folder / "spent.json").write_text(json.dumps({"cpu_seconds": spent}))


def resume(training: Training, output_dir: Path) -> float:
    """Load the saved state, if there is one; the processor seconds spent so far."""
    folder = output_dir / "state"
    if not folder.exists():
        return 0.0
    training.load(folder)
    return float(json.loads((folder / "spent.json").read_text())["cpu_seconds"])


def take_snapshot(args: EqualTimeArguments, training: Training, folder: Path, spent: float) -> None:
    """Write the averaged weights and what they cost."""
    facts: dict[str, Any] = {"name": args.name, "arm": args.arm, "cpu_seconds": spent, "steps": training.steps}
    facts["parameters"] = count_parameters(training.network)
    with complete_folder(folder) as target:
        training.snapshot(target)
        (target / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{args.name}: snapshot after {spent:.0f} CPU s, {training.steps} steps", flush=True)


def samplers(args: EqualTimeArguments, data: dict[str, ImageArrays], snapshot: Path) -> dict[str, Draw]:
    """Every way to draw from a snapshot, by the name that the table shows."""
    scales = [float(part) for part in args.guidance_scales.split(",")]
    steps = args.num_inference_steps
    if args.arm == "gan":
        return {"one pass": our_draw(load_pipeline(str(snapshot)), 1.0, 1)}
    if args.arm != "denoising_diffusion_pytorch":
        pipe = with_scheduler(load_pipeline(str(snapshot)), args.scheduler)
        return {f"{args.scheduler} {steps} guidance {scale:g}": our_draw(pipe, scale, steps) for scale in scales}
    draws: dict[str, Draw] = {}
    for eta in (float(part) for part in args.peer_etas.split(",")):
        diffusion = peer_diffusion(args, data, peer_dim(args, data), eta).eval()
        diffusion.load_state_dict(load_file(snapshot / "model.safetensors"))
        draws |= {f"DDIM {steps} eta {eta:g} guidance {scale:g}": peer_draw(diffusion, scale) for scale in scales}
    return draws


def draw_set(
    args: EqualTimeArguments, data: dict[str, ImageArrays], draw: Draw, folder: Path, facts: dict[str, Any]
) -> None:
    """Draw one set into `folder`: samples.json and, last, samples.npz, which says that the set is complete."""
    if (folder / "samples.npz").exists():
        return
    labels = labels_like(data["train"].labels, args.n or len(data["train"].labels))
    images, seconds = draw_all(draw, labels, folder / "batches")
    facts |= {"drawing_cpu_seconds": seconds, "n": len(labels)}
    (folder / "samples.json").write_text(json.dumps(facts, indent=2) + "\n")
    np.savez_compressed(folder / "samples.tmp.npz", images=images, labels=labels)
    (folder / "samples.tmp.npz").rename(folder / "samples.npz")
    shutil.rmtree(folder / "batches")


if __name__ == "__main__":
    run(EqualTimeArguments, main)
