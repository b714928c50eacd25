"""The contestants of equal_time.py: a training that steps, saves itself and leaves snapshots to draw from."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.peers import MEND, build_peer, count_parameters
from clinsynth.data.images import ImageArrays
from clinsynth.run_folder import complete_folder
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.step import build_state, build_stream, step_parts, train_step
from clinsynth.trainers.harness import check_finite
from clinsynth.trainers.train_ddpm import DDPMArguments
from clinsynth.trainers.training_state import checkpoints, flatten_moments, load_moments

if TYPE_CHECKING:
    from benchmarks.equal_time import EqualTimeArguments


class Training(Protocol):
    """What equal_time.py asks of a contestant."""

    network: nn.Module

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

    def __init__(self, args: DDPMArguments, data: dict[str, ImageArrays], output_dir: Path):
        from accelerate import Accelerator

        from clinsynth.trainers.diffusion.model import DDPMProcess, resolve_precision

        self.args, self.output_dir = args, output_dir
        self.accelerator = Accelerator(mixed_precision=resolve_precision(args.mixed_precision), cpu=True)
        self.state, self.pipeline = build_state(args, data["train"], self.accelerator)
        self.network = self.state.model
        self.prepared, self.optimizer = self.accelerator.prepare(self.network, self.state.optimizer)
        self.process = DDPMProcess(self.pipeline.scheduler, args.min_snr_gamma)
        self.stream = build_stream(args, data["train"], self.accelerator.device, args.seed)

    @property
    def steps(self) -> int:
        return self.state.step

    def step(self) -> None:
        sizes = self.args.train_batch_size, self.args.gradient_accumulation_steps
        parts = step_parts(self.stream, self.accelerator, self.state.step, *sizes)
        loss, norm = train_step(
            self.accelerator, self.prepared, self.process, self.optimizer, parts, self.args.max_grad_norm
        )
        check_finite(self.state.step + 1, {"loss": float(loss), "grad_norm": float(norm)}, self.output_dir)
        self.state.advance()

    def save(self, folder: Path) -> None:
        self.state.save(folder, self.pipeline)

    def load(self, folder: Path) -> None:
        self.state.load(checkpoints(folder)[-1])

    def snapshot(self, folder: Path) -> None:
        with self.state.averaged_weights():
            self.pipeline.save_pretrained(folder)


class PeerTraining:
    """denoising-diffusion-pytorch's Unet and GaussianDiffusion under the recipe of its Trainer: Adam with betas 0.9
    and 0.99, gradients clipped to norm 1, ema_pytorch with decay 0.995 every 10 steps.

    Its Trainer itself takes no labels. Batch order is that of our stream; pictures are given in [0, 1], as it wants
    them, and never mirrored.
    """

    def __init__(self, args: "EqualTimeArguments", data: dict[str, ImageArrays], dim: int):
        from clinsynth.trainers.diffusion.model import TrainingStream

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
    """The peer's network and process for the pictures of `data`, as the `--peer_…` flags say."""
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


def our_parameters(args: DDPMArguments, data: dict[str, ImageArrays]) -> int:
    """The size of the network that `args` asks for."""
    from clinsynth.trainers.diffusion.model import build_unet

    shape = data["train"].images.shape
    return count_parameters(build_unet(args, shape[-1], shape[1], len(data["train"].label_names)))
