"""Small real things that several tests use."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file
from warm_python import ONE_THREAD, WarmPython

from clinsynth.arguments import parse
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline, ContextUnet
from clinsynth.scripts.study import recipe_first
from clinsynth.study.arguments import StudyArguments
from clinsynth.study.plan import plan_study

REPOSITORY = Path(__file__).parent.parent
FORKING_STUDY = REPOSITORY / "tests" / "forking_study.py"
LABELS = {0: "healthy", 1: "mild", 2: "severe"}
WITHOUT_CLINSYNTH = """
import sys
for name in ["clinsynth", *sys.modules]:
    if name.partition(".")[0] == "clinsynth":
        sys.modules[name] = None
"""
"""Python that makes clinsynth, and whatever is imported of it, one that is not installed."""


def tiny_unet(backbone: str = "unet2d", channels: int = 1) -> torch.nn.Module:
    """An untrained network for 28 px and three classes, whose prediction depends on the class."""
    torch.manual_seed(0)
    if backbone == "context_unet":
        return ContextUnet(28, channels, channels, num_classes=3, n_feat=8).eval()
    return tiny_unet_of(28, channels)


def tiny_unet_of(side: int, channels: int, classes: int = 3, **changes: Any) -> UNet2DModel:
    """An untrained UNet2DModel of two levels; its last class, number `classes`, is the null class."""
    settings = {"block_out_channels": (8, 8), "norm_num_groups": 4} | changes
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        num_class_embeds=classes + 1,
        **settings,
    ).eval()


def tiny_pipeline(backbone: str = "unet2d", channels: int = 1, **scheduler: object) -> ClassConditionedDDPMPipeline:
    """A pipeline around `tiny_unet`."""
    pipeline = ClassConditionedDDPMPipeline(tiny_unet(backbone, channels), DDPMScheduler(**scheduler), LABELS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(*seeds: int) -> list[torch.Generator]:
    """One generator a sample."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def write_npz(path: Path, per_class: int = 6, size: int = 28, classes: int = 3, channels: int = 1) -> Path:
    """A MedMNIST-layout file of noise around a grey level that tells the class."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", per_class), ("val", 2), ("test", 2)):
        labels = np.repeat(np.arange(classes), count)
        shape = (len(labels), size, size) if channels == 1 else (len(labels), size, size, channels)
        level = (60 + 60 * labels).reshape(-1, *[1] * (len(shape) - 1))
        arrays[f"{split}_images"] = np.clip(level + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(path, **arrays)
    return path


UNET = "unet/diffusion_pytorch_model.safetensors"


def same_weights(first: Path, second: Path, file: str = UNET) -> bool:
    """Whether two checkpoints hold the same tensors in `file`."""
    left, right = load_file(first / file), load_file(second / file)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def flags_of(args: Any) -> list[str]:
    """The fields of a command's arguments as words of its command line."""
    return [f"--{name}={value}" for name, value in dataclasses.asdict(args).items() if value is not None]


def stopping(sample: Any, after: int) -> Callable[..., Any]:
    """The sampler `sample` of images, which is interrupted after so many."""
    drawn = 0

    def stopped(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal drawn
        drawn += len(seeds)
        if drawn > after:
            raise KeyboardInterrupt
        images: tuple[np.ndarray, np.ndarray] = sample(labels, seeds)
        return images

    return stopped


def clinsynth(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a process of its own, on one thread."""
    return run_warm("-m", "clinsynth", *words, check=check)


def run_warm(*words: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, on one thread, with large libraries imported."""
    with WarmPython(*words, **environment) as process:
        code, stdout, stderr = process.end()
    if code is None or (check and code):
        raise AssertionError(f"{process.words} ended with {code}:\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(process.words, code, stdout, stderr)


def kill_when(ready: Callable[[], object], *words: object) -> None:
    """Start the command line in a process of its own and kill it as soon as `ready()`."""
    with WarmPython("-m", "clinsynth", *words) as process:
        wait_for(ready, process)


def wait_for(ready: Callable[[], object], process: WarmPython) -> None:
    """Wait until `ready()`, while the process runs."""
    deadline = time.monotonic() + 300
    while not ready():
        running = not process.has_ended and time.monotonic() < deadline
        assert running, f"it ended, or was too slow, before it was killed: {process.end(0)}"
        time.sleep(0.005)


def run_python(*words: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, on one thread."""
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, env=one_thread(**environment), timeout=500)
    if check and result.returncode:
        raise AssertionError(f"{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def one_thread(**environment: str) -> dict[str, str]:
    """The environment with one thread a process, so that sums are in the same order in every run."""
    return os.environ | ONE_THREAD | environment


def run_study(*words: object) -> str:
    """What `clinsynth study WORDS` prints in a process of its own, whose steps are forks of it."""
    return run_warm(FORKING_STUDY, "study", *words).stdout


def run_study_and_kill(step: str, folder: Path, *words: object) -> None:
    """Run a study until `step` has begun to write its folder in `folder`, and kill it; its step has to end with it."""
    with WarmPython(FORKING_STUDY, "study", *words) as study:
        wait_for(lambda: list(folder.glob(f"{step.replace(' ', '-')}*/*")), study)
        kill_study(study.pid)
        _, said, _ = study.end()
    assert f"] {step}: clinsynth" in said, "the step was never begun"


def kill_in_each_step(recipe: Path, study: Path, first: int = 0) -> None:
    """Kill a study in each of its steps from number `first` on; what was finished stays. Then let it end."""
    steps = plan_study(parse(StudyArguments, recipe_first([str(recipe), "--output_dir", str(study)]))).steps
    marks: dict[Path, int] = {}
    for step in steps[first:]:
        run_study_and_kill(step.name, study, recipe, "--output_dir", study)
        assert not step.finished
        kept = {path: path.stat().st_mtime_ns for path in study.glob("*/step.json")}
        assert marks.items() <= kept.items() and len(kept) == steps.index(step)
        marks = kept
    run_study(recipe, "--output_dir", study)


def kill_study(pid: int) -> None:
    """Kill the process of a study alone, and wait until the step that it had begun has ended too."""
    (step,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    if sys.platform != "linux":  # where nothing ends the step
        step.kill()
    deadline = time.monotonic() + 300
    while has_not_ended(step):
        assert time.monotonic() < deadline, f"the step outlives its study: {step}"
        time.sleep(0.02)


def has_not_ended(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
