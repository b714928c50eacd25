"""The state of a training run and its checkpoints: complete or absent, safetensors and JSON only.

checkpoint-500/                  a pipeline folder (averaged weights) that `DiffusionPipeline.from_pretrained` loads
checkpoint-500/training_state/   model.safetensors, optimizer.safetensors, state.json: what resuming needs besides;
                                 of a GAN also the discriminator's, of a LoRA, an autoencoder and with
                                 --augment the averaged weights (ema.safetensors)
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from clinsynth.run_folder import complete_folder, explained_where_damaged, explained_where_full
from clinsynth.trainers.arguments import DescentArguments

STATE = "training_state"
INDICES = "model_index.json", "text_to_image.json", "config.json"
"""Of the files that make a folder loadable it has one."""
OLDER = "delete it, and the same command goes on from the checkpoint before it, or from the start"


class Savable(Protocol):
    """What writes a model as others load it: a pipeline, or what is trained of one."""

    def save_pretrained(self, folder: Path, /) -> object: ...


@dataclass
class TrainingState:
    """What a step changes."""

    model: torch.nn.Module
    ema: EMAModel
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    best_kid: float = math.inf
    stopped: bool = False  # before the number of steps that was asked for; set, the step just taken is the last one
    component: str = "unet"  # what the pipeline calls the model
    averages_more: bool = False  # than the pipeline holds, so that the averaged weights are saved apart

    @classmethod
    def begin(
        cls, model: torch.nn.Module, args: DescentArguments, accelerator: Accelerator, weight_decay: float = 0.0
    ) -> Self:
        """The state before the first step of AdamW on what has gradients in `model`, which goes to the device."""
        model.to(accelerator.device).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        betas = (0.9, args.adam_beta2)
        optimizer = torch.optim.AdamW(
            trained, lr=args.learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )
        warmup, steps = args.lr_warmup_steps, args.train_steps
        schedule = get_scheduler(args.lr_scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        ema = EMAModel(trained, decay=args.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        return cls(model, ema, optimizer, schedule, accelerator.scaler)

    def advance(self) -> None:
        """After an optimizer step: learning rate, averaged weights, count."""
        self.lr_scheduler.step()
        self.ema.step(self.trained().values())
        self.step += 1

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.lr_scheduler.get_last_lr()[0])

    @property
    def is_adapter(self) -> bool:
        """Whether most of the model stays as it is: then what has gradients is saved, and nothing else."""
        return not all(parameter.requires_grad for parameter in self.model.parameters())

    @property
    def averages_apart(self) -> bool:
        """Whether the averaged weights are a file of their own in a checkpoint."""
        return self.is_adapter or self.averages_more

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The weights that are trained and averaged, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def save(self, output_dir: Path, saved_as: Savable) -> Path:
        """Write `checkpoint-<step>`; `saved_as` holds `model`, whose averaged weights it is saved with."""
        path = output_dir / f"checkpoint-{self.step}"
        with complete_folder(path) as folder:
            with self.averaged_weights():
                saved_as.save_pretrained(folder)
            (folder / STATE).mkdir()
            self.write(folder / STATE)
        return path

    def write(self, folder: Path) -> None:
        """Write all but the averaged weights into `folder`."""
        weights = self.trained() if self.is_adapter else self.model.state_dict()
        save_file(
            {name: weight.detach().contiguous() for name, weight in weights.items()}, folder / "model.safetensors"
        )
        save_file(flatten_moments(self.optimizer), folder / "optimizer.safetensors")
        if self.averages_apart:
            save_file(dict(zip(self.trained(), self.ema.shadow_params, strict=True)), folder / "ema.safetensors")
        rest = {
            "step": self.step,
            "best_kid": None if math.isinf(self.best_kid) else self.best_kid,
            "stopped": self.stopped,
            "ema_step": self.ema.optimization_step,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        (folder / "state.json").write_text(json.dumps(rest, indent=2) + "\n")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, in evaluation mode."""
        self.ema.store(self.trained().values())
        self.ema.copy_to(self.trained().values())
        self.model.eval()
        yield
        self.model.train()
        self.ema.restore(self.trained().values())

    def load(self, checkpoint: Path) -> None:
        """Take over everything from a folder that `save` wrote.

        Raises:
            ValueError: the checkpoint is of another network, as when the data set has got other classes since.
        """
        with explained_where_damaged(checkpoint, OLDER):
            try:
                self.read(checkpoint / STATE)
            except RuntimeError as error:
                raise ValueError(
                    f"{checkpoint} does not fit the network that the flags and the data set ask for (other classes, "
                    f"size or channels?); use the data it was trained on, or another --output_dir: {error}"
                ) from error
            whole = checkpoint / self.component / "diffusion_pytorch_model.safetensors"  # of the averaged weights
            averaged = load_file(checkpoint / STATE / "ema.safetensors" if self.averages_apart else whole)
            for name, shadow in zip(self.trained(), self.ema.shadow_params, strict=True):
                shadow.copy_(averaged[name])

    def read(self, folder: Path) -> None:
        """The inverse of `write`; a RuntimeError says that the weights are of another network."""
        weights = load_file(folder / "model.safetensors")
        if self.is_adapter and weights.keys() != self.trained().keys():
            raise RuntimeError(f"{len(weights)} saved weights are not the {len(self.trained())} that are trained")
        self.model.load_state_dict(weights, strict=not self.is_adapter)
        load_moments(self.optimizer, load_file(folder / "optimizer.safetensors"))
        rest = json.loads((folder / "state.json").read_text())
        self.step = rest["step"]
        self.best_kid = math.inf if rest["best_kid"] is None else rest["best_kid"]
        self.stopped = rest.get("stopped", False)
        self.ema.optimization_step = rest["ema_step"]
        self.lr_scheduler.load_state_dict(rest["lr_scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.scaler is not None and rest["scaler"]:
            self.scaler.load_state_dict(rest["scaler"])


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return [path for path in numbered_checkpoints(output_dir) if (path / STATE / "state.json").exists()]


def numbered_checkpoints(output_dir: Path) -> list[Path]:
    """The folders checkpoint-<step>, by step."""
    return sorted(output_dir.glob("checkpoint-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a folder checkpoint-<step> was written after."""
    return int(checkpoint.name.split("-")[1])


def publish(pipeline_folder: Path, output_dir: Path) -> None:
    """Copy a pipeline folder into `output_dir` itself; the file that makes it loadable comes last."""
    index = next(name for name in INDICES if (pipeline_folder / name).exists())
    with explained_where_full(output_dir):
        (output_dir / index).unlink(missing_ok=True)
        for source in pipeline_folder.iterdir():
            if source.is_dir() and source.name != STATE:
                shutil.copytree(source, output_dir / source.name, dirs_exist_ok=True)
            elif source.suffix in (".py", ".safetensors"):
                shutil.copyfile(source, output_dir / source.name)
        shutil.copyfile(pipeline_folder / index, output_dir / f".{index}.tmp")
        (output_dir / f".{index}.tmp").replace(output_dir / index)


def flatten_moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as `{"parameter number.moment": tensor}`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": torch.as_tensor(value).contiguous() for i, row in state.items() for key, value in row.items()
    }


def load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `flatten_moments`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        weight = weights[int(index)]
        if tensor.shape == weight.shape:  # the kernel of all moments wants them in the weights' order of memory
            tensor = torch.empty_like(weight, device=tensor.device, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
