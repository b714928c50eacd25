"""Memory is flat: that of commands on few and on many images or texts.

     python -m benchmarks.memory --output_dir runs/benchmark-memory
     python -m benchmarks.memory --sections images,texts --output_dir runs/benchmark-memory

Images, texts: a table of made-up ones goes through commands that are made short otherwise, of images each twice; the
second start reads what the first has kept. Of the resident memory, pages of a file that is mapped can be dropped at
any time; the rest is the process's own. This needs /proc.

Generating: an untrained network of a few channels draws with one step, so that the measurement is of the writing, not
the network.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.timing import BenchmarkArguments, own_mb, run_alone, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

CLASSES = 5
GOAL_MB = 50.0
EVERY = 0.02
"""Seconds between two looks at a process."""


@dataclass(kw_only=True)
class MemoryArguments(BenchmarkArguments):
    """Compare the peak memory of generating few and many images."""

    known = ("generating", "images", "texts")

    sections: str = "generating"
    """what is measured, separated by commas: generating, images, texts"""
    sets: str = "1000x128,20000x128"
    """images: data sets, as IMAGESxSIDE, in colour"""
    commands: str = "train ddpm,train image-classifier,evaluate images"
    """images: what reads each set twice"""
    texts: str = "10000,1000000"
    """texts: rows of 1 kB in each data set that is summarised"""
    few: int = 1000
    """Pictures of the first run, a multiple of five."""
    many: int = 100_000
    """Pictures of the second run, a multiple of five."""
    resolution: int = 32
    """Height and width in pixels."""
    batch_size: int = 250
    """Pictures a call of the network."""


def main(args: MemoryArguments) -> None:
    """Run what is wanted, print and write what it took."""
    if "generating" in args.wanted:
        measure_generating(args)
    if "images" in args.wanted:
        measure_images(args)
    if "texts" in args.wanted:
        measure_texts(args)


def measure_images(args: MemoryArguments) -> None:
    """Start each command twice on each data set: the second start reads what the first has kept."""
    output_dir, rows = create_run_folder(args.output_dir), []
    save_tiny_extractor(output_dir / "extractor")
    for spec in args.sets.split(","):
        count, side = map(int, spec.split("x"))
        table = write_table(output_dir / spec, count, side)
        environment = {**os.environ, "CLINSYNTH_CACHE": str(output_dir / f"cache-{spec}")}
        for command in args.commands.split(","):
            flags = flags_of(command, table, output_dir, side)
            for start in ("first", "second"):
                target = output_dir / "run"
                shutil.rmtree(target, ignore_errors=True)
                measured = watched([*command.split(), *flags, "--output_dir", str(target)], environment)
                rows.append({"command": command, "set": spec, "start": start, **measured})
        shutil.rmtree(environment["CLINSYNTH_CACHE"], ignore_errors=True)
    write_watched(args, "images", rows)


def flags_of(command: str, table: Path, folder: Path, side: int) -> list[str]:
    """What makes a command short, so that the measurement is of its reading."""
    if command == "train ddpm":
        steps = ["--width", "8", "--train_steps", "4", "--train_batch_size", "4", "--num_train_timesteps", "20"]
        return ["--dataset", str(table), *steps, "--validation_steps", "0"]
    if command == "train image-classifier":
        return ["--dataset", str(table), "--arms", "real", "--seeds", "1", "--epochs", "1"]
    made = folder / f"synthetic-{side}"
    if not made.exists():
        save_synthetic(made, side)
    quick = ["--bootstrap", "0", "--classifier", "none", "--extractor", str(folder / "extractor")]
    return ["--real", str(table), "--synthetic", str(made), *quick]


def measure_texts(args: MemoryArguments) -> None:
    """Summarise each set of texts of 1 kB."""
    output_dir, rows = create_run_folder(args.output_dir), []
    for spec in args.texts.split(","):
        table = output_dir / f"{spec}.csv"
        with table.open("w") as file:
            file.write("text,label\n")
            file.writelines(
                f"{row} {'some words of a note ' * 47}{row * 7919},{'ab'[row % 2]}\n" for row in range(int(spec))
            )
        measured = watched(["summarize", "--dataset", str(table)], dict(os.environ))
        rows.append({"command": "summarize", "set": spec, "start": "only", **measured})
        table.unlink()
    write_watched(args, "texts", rows)


def watched(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Peaks of a command's memory in MB, of its own and with what it has mapped of files, and its processor seconds.

    Raises:
        ValueError: it failed.
    """
    with tempfile.TemporaryFile("w+") as printed:
        whole = [sys.executable, "-m", "clinsynth", *command]
        process = subprocess.Popen(whole, stdout=printed, stderr=subprocess.STDOUT, env=environment)
        own, ended = 0.0, 0
        while not ended:
            own = max(own, own_mb(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(EVERY)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            raise ValueError(f"{' '.join(command)} failed with status {process.returncode}: {printed.read()[-2000:]}")
    peak = usage.ru_maxrss * 1024 / 1e6
    return {"own_mb": own, "peak_mb": peak, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def write_watched(args: MemoryArguments, section: str, rows: list[dict[str, Any]]) -> None:
    """The table of what the commands took."""
    lines = ["| command | rows | start | own MB | resident MB | CPU s |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = f"{row['own_mb']:.0f} | {row['peak_mb']:.0f} | {row['cpu_seconds']:.1f}"
        lines.append(f"| {row['command']} | {row['set']} | {row['start']} | {numbers} |")
    write_results(args, section, text="\n".join(lines), runs=rows)


def write_table(folder: Path, count: int, side: int) -> Path:
    """Images of soft noise as PNG files, and a table of them, in three splits."""
    import csv

    import numpy as np

    table, generator = folder / "set.csv", np.random.default_rng(0)
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(count):
            soft_noise(generator, side).save(folder / f"{row}.png", compress_level=1)
        splits = ["validation", "test", *["train"] * 8]
        with table.open("w", newline="") as file:
            rows = [(f"{row}.png", "ab"[row // 10 % 2], splits[row % 10]) for row in range(count)]
            csv.writer(file).writerows([("image", "label", "split"), *rows])
    return table


def measure_generating(args: MemoryArguments) -> None:
    """Generate few and many images."""
    for name in ("few", "many"):
        if getattr(args, name) % CLASSES:
            raise ValueError(f"--{name} must be a multiple of {CLASSES}, got {getattr(args, name)}")
    output_dir = create_run_folder(args.output_dir)
    save_tiny_pipeline(output_dir / "model", args.resolution)
    rows = [measure(args, output_dir, count) for count in (args.few, args.many)]
    growth = rows[1]["peak_mb"] - rows[0]["peak_mb"]
    lines = ["| images | peak resident MB | CPU s | wall s |", "|---|---|---|---|"]
    for row in rows:
        seconds = f"{row['cpu_seconds']:.0f} | {row['wall_seconds']:.0f}"
        lines.append(f"| {row['pictures']} | {row['peak_mb']:.1f} | {seconds} |")
    met = "met" if growth < GOAL_MB else "not met"
    text = "\n".join([*lines, "", f"growth {growth:.1f} MB, goal < {GOAL_MB:.0f} MB: {met}"])
    write_results(args, "memory", text=text, runs=rows, growth_mb=growth)


def soft_noise(generator: "np.random.Generator", side: int) -> "Image.Image":
    """A colour image of soft noise."""
    import numpy as np
    from PIL import Image

    pixels = generator.integers(0, 256, (side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)


def save_synthetic(folder: Path, side: int) -> None:
    """A set of 200 images as `clinsynth generate images` writes them."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image

    generator, features = np.random.default_rng(1), Features(image=Image(), label=ClassLabel(names=["a", "b"]))
    rows = {"image": [soft_noise(generator, side) for _ in range(200)], "label": [0, 1] * 100}
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(rows, features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def save_tiny_extractor(folder: Path) -> None:
    """An untrained ResNet of transformers, with its processor."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)


def save_tiny_pipeline(folder: Path, resolution: int) -> None:
    """An untrained UNet2DModel of 8 channels in a pipeline folder."""
    from diffusers import DDIMScheduler, UNet2DModel

    from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline

    unet = UNet2DModel(
        sample_size=resolution,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        num_class_embeds=CLASSES + 1,
    )
    ClassConditionedDDPMPipeline(unet, DDIMScheduler()).save_pretrained(folder)


def measure(args: MemoryArguments, output_dir: Path, count: int) -> dict[str, Any]:
    """Generate `count` images in a process of its own; its peak memory in MB (10**6 bytes) and its seconds."""
    target = output_dir / f"generated-{count}"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "clinsynth", "generate", "images", "--model", str(output_dir / "model")]
    command += ["--per_class", str(count // CLASSES), "--num_inference_steps", "1", "--guidance_scale", "1.0"]
    command += ["--batch_size", str(args.batch_size), "--output_dir", str(target)]
    started = time.perf_counter()
    _, usage, peak = run_alone(command)
    seconds = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "wall_seconds": time.perf_counter() - started}
    shutil.rmtree(target)
    return {"pictures": count, "peak_mb": peak, **seconds}


if __name__ == "__main__":
    run(MemoryArguments, main)
