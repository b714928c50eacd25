"""Generation's memory is flat: peak resident memory of `clinsynth generate images` at two counts.

     python -m benchmarks.memory --output_dir runs/benchmark-memory

An untrained network of a few channels draws with one step, so that the measurement is of the writing, not the network.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import BenchmarkArguments, run_alone, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder

CLASSES = 5
GOAL_MB = 50.0


@dataclass(kw_only=True)
class MemoryArguments(BenchmarkArguments):
    """Compare the peak memory of generating few and many pictures."""

    few: int = 1000
    """Pictures of the first run, a multiple of five."""
    many: int = 100_000
    """Pictures of the second run, a multiple of five."""
    resolution: int = 32
    """Height and width in pixels."""
    batch_size: int = 250
    """Pictures a call of the network."""


def main(args: MemoryArguments) -> None:
    """Run both, print and write what they took."""
    for name in ("few", "many"):
        if getattr(args, name) % CLASSES:
            raise ValueError(f"--{name} must be a multiple of {CLASSES}, got {getattr(args, name)}")
    output_dir = create_run_folder(args.output_dir)
    save_tiny_pipeline(output_dir / "model", args.resolution)
    rows = [measure(args, output_dir, count) for count in (args.few, args.many)]
    growth = rows[1]["peak_mb"] - rows[0]["peak_mb"]
    lines = ["| pictures | peak resident MB | CPU s | wall s |", "|---|---|---|---|"]
    for row in rows:
        seconds = f"{row['cpu_seconds']:.0f} | {row['wall_seconds']:.0f}"
        lines.append(f"| {row['pictures']} | {row['peak_mb']:.1f} | {seconds} |")
    met = "met" if growth < GOAL_MB else "not met"
    text = "\n".join([*lines, "", f"growth {growth:.1f} MB, goal < {GOAL_MB:.0f} MB: {met}"])
    write_results(args, "memory", text=text, runs=rows, growth_mb=growth)


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
    """Generate `count` pictures in a process of its own; its peak memory in MB (10**6 bytes) and its seconds."""
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
