"""The state of a training run and its checkpoints: complete or absent, safetensors and JSON only.

checkpoint-500/                  a pipeline folder (averaged weights) that `DiffusionPipeline.from_pretrained` loads
checkpoint-500/training_state/   model.safetensors, optimizer.safetensors, state.json: what resuming needs besides;
                                 of a GAN also the discriminator's, of a LoRA the averaged weights (ema.safetensors)
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from clinsynth.run_folder import complete_folder, explained_where_damaged, explained_where_full

STATE = "training_state"
INDICES = "model_index.json", "text_to_image.json"
"""Of the files that make a folder loadable it has one."""
OLDER = "delete it, and the same command goes on from the checkpoint before it, or from the start"


@dataclass
class TrainingState:
    """What a step changes."""

    model: torch.nn.Module
    ema: EMAModel
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    scaler: Any = None
    step: int = 0
    best_kid: float = math.inf
    component: str = "unet"  # what the pipeline calls the model

    def advance(self) -> None:
        """After an optimizer step: learning rate, averaged weights, count."""
        self.lr_scheduler.step()
        self.ema.step(self.trained())
        self.step += 1

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.lr_scheduler.get_last_lr()[0])

    def trained(self) -> list[torch.nn.Parameter]:
        """The weights that are averaged."""
        return list(self.model.parameters())

    def weights(self) -> dict[str, torch.Tensor]:
        """What is saved of the model, by name."""
        return self.model.state_dict()

    def take_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """The inverse of `weights`; a RuntimeError says that they are of another network."""
        self.model.load_state_dict(weights)

    def save(self, output_dir: Path, pipeline: Any) -> Path:
        """Write `checkpoint-<step>`; `pipeline` holds `model`, whose averaged weights it is saved with."""
        path = output_dir / f"checkpoint-{self.step}"
        with complete_folder(path) as folder:
            with self.averaged_weights():
                pipeline.save_pretrained(folder)
            (folder / STATE).mkdir()
            self.write(folder / STATE)
        return path

    def write(self, folder: Path) -> None:
        """Write all but the averaged weights into `folder`."""
        weights = {name: tensor.contiguous() for name, tensor in self.weights().items()}
        save_file(weights, folder / "model.safetensors")
        save_file(flatten_moments(self.optimizer), folder / "optimizer.safetensors")
        rest = {
            "step": self.step,
            "best_kid": None if math.isinf(self.best_kid) else self.best_kid,
            "ema_step": self.ema.optimization_step,
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        (folder / "state.json").write_text(json.dumps(rest, indent=2) + "\n")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, in evaluation mode."""
        self.ema.store(self.trained())
        self.ema.copy_to(self.trained())
        self.model.eval()
        yield
        self.model.train()
        self.ema.restore(self.trained())

    def load(self, checkpoint: Path) -> None:
        """Take over everything from a folder that `save` wrote.

        Raises:
            ValueError: the checkpoint is of another network, as when the data set has got other classes since.
        """
        try:
            with explained_where_damaged(checkpoint, OLDER):
                self.read(checkpoint / STATE)
        except RuntimeError as error:
            raise ValueError(
                f"{checkpoint} does not fit the network that the flags and the data set ask for (other classes, size "
                f"or channels?); use the data it was trained on, or another --output_dir: {error}"
            ) from error
        with explained_where_damaged(checkpoint, OLDER):
            self.read_averaged(checkpoint)

    def read_averaged(self, checkpoint: Path) -> None:
        """Take over the averaged weights from the pipeline in `checkpoint`."""
        averaged = load_file(checkpoint / self.component / "diffusion_pytorch_model.safetensors")
        for shadow, (name, _) in zip(self.ema.shadow_params, self.model.named_parameters(), strict=True):
            shadow.copy_(averaged[name])

    def read(self, folder: Path) -> None:
        """The inverse of `write`."""
        self.take_weights(load_file(folder / "model.safetensors"))
        load_moments(self.optimizer, load_file(folder / "optimizer.safetensors"))
        rest = json.loads((folder / "state.json").read_text())
        self.step = rest["step"]
        self.best_kid = math.inf if rest["best_kid"] is None else rest["best_kid"]
        self.ema.optimization_step = rest["ema_step"]
        self.lr_scheduler.load_state_dict(rest["lr_scheduler"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.scaler is not None and rest["scaler"]:
            self.scaler.load_state_dict(rest["scaler"])


class LoraState(TrainingState):
    """Of a model most of which stays as it is: what has gradients is trained, averaged and saved, nothing else.

    `ema` and `optimizer` are of `[p for p in model.parameters() if p.requires_grad]`.
    """

    def trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def names(self) -> list[str]:
        """Of the weights of `trained`."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in zip(self.names(), self.trained(), strict=True)}

    def take_weights(self, weights: dict[str, torch.Tensor]) -> None:
        mine = self.weights()
        if {name: tensor.shape for name, tensor in mine.items()} != {n: t.shape for n, t in weights.items()}:
            raise RuntimeError(f"{len(weights)} saved weights are not the {len(mine)} that are trained")
        for name, weight in mine.items():
            weight.copy_(weights[name])

    def write(self, folder: Path) -> None:
        super().write(folder)
        save_file(dict(zip(self.names(), self.ema.shadow_params, strict=True)), folder / "ema.safetensors")

    def read_averaged(self, checkpoint: Path) -> None:
        averaged = load_file(checkpoint / STATE / "ema.safetensors")
        for name, shadow in zip(self.names(), self.ema.shadow_params, strict=True):
            shadow.copy_(averaged[name])


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if (path / STATE / "state.json").exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def drop_old_checkpoints(output_dir: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints."""
    for path in checkpoints(output_dir)[:-keep]:
        shutil.rmtree(path)


def publish(pipeline_folder: Path, output_dir: Path) -> None:
    """Copy a pipeline folder into `output_dir` itself; the file that makes it loadable comes last."""
    with explained_where_full(output_dir):
        copy_pipeline(pipeline_folder, output_dir)


def copy_pipeline(pipeline_folder: Path, output_dir: Path) -> None:
    """The copying of `publish`."""
    index = next(name for name in INDICES if (pipeline_folder / name).exists())
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
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
