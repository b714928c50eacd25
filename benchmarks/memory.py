"""Memory is flat: that of `clinsynth generate images` at two counts, and that of reading data sets.

     python -m benchmarks.memory --output_dir runs/benchmark-memory
     python -m benchmarks.memory --sections reading --output_dir runs/benchmark-memory

Reading: made-up images, a table of PNG files, are loaded and gone through in batches of 64, twice, each time by a
process of its own; the second start reads what the first has kept. Of the resident memory, pages of a file that is
mapped can be dropped at any time; the rest is the process's own.

Generating: an untrained network of a few channels draws with one step, so that the measurement is of the writing, not
the network.
"""

import os
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
    """Compare the peak memory of generating few and many images."""

    known = ("generating", "reading", "texts")

    sections: str = "generating"
    """what is measured, separated by commas: generating, reading, texts"""
    sets: str = "1000x128,100000x128"
    """reading: data sets, as IMAGESxSIDE, in colour"""
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
    if "reading" in args.wanted:
        measure_reading(args)
    if "texts" in args.wanted:
        measure_texts(args)


OWN = """
import sys
def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000
"""
READ = f"""{OWN}
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_arrays
before = own()
images = load_image_arrays(ImageDataArguments(sys.argv[1]))["train"].images
total = sum(int(images[first : first + 64].sum()) for first in range(0, len(images), 64))
print("read", own() - before, total)
"""


def measure_reading(args: MemoryArguments) -> None:
    """Load each data set twice: memory beyond the imports, the peak of all, and seconds."""
    output_dir, rows = create_run_folder(args.output_dir), []
    environment = {**os.environ, "CLINSYNTH_CACHE": str(output_dir / "cache")}
    for spec in args.sets.split(","):
        count, side = map(int, spec.split("x"))
        table = write_table(output_dir / spec, count, side)
        for start in ("first", "second"):
            rows.append({"set": spec, "start": start, **grown(READ, table, environment)})
    shutil.rmtree(output_dir / "cache", ignore_errors=True)
    write_grown(args, "reading", rows)


SUMMARIZE = f"""{OWN}
from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.summary import summarize_loaded
from clinsynth.data.texts import open_text_dataset
before = own()
loaded = open_text_dataset(TextDataArguments(sys.argv[1]))
print("read", own() - before, summarize_loaded(loaded)["smallest class"]["train"])
"""


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
        rows.append({"set": spec, "start": "only", **grown(SUMMARIZE, table, dict(os.environ))})
    write_grown(args, "texts", rows)


def grown(code: str, table: Path, environment: dict[str, str]) -> dict[str, float]:
    """Memory of its own that a process takes to read a table, the peak of all, and seconds."""
    printed, usage, peak = run_alone([sys.executable, "-c", code, str(table)], environment)
    own = float(printed.rsplit("read ", 1)[1].split()[0])
    return {"own_mb": own, "peak_mb": peak, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def write_grown(args: MemoryArguments, section: str, rows: list[dict[str, Any]]) -> None:
    """The table of what reading took."""
    lines = ["| rows | start | own MB beyond the imports | peak resident MB | CPU s |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = f"{row['own_mb']:.0f} | {row['peak_mb']:.0f} | {row['cpu_seconds']:.1f}"
        lines.append(f"| {row['set']} | {row['start']} | {numbers} |")
    write_results(args, section, text="\n".join(lines), runs=rows)


def write_table(folder: Path, count: int, side: int) -> Path:
    """Images of soft noise as PNG files, and a table of them, in three splits."""
    import csv

    import numpy as np
    from PIL import Image

    table, generator = folder / "set.csv", np.random.default_rng(0)
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(count):
            pixels = generator.integers(0, 256, (side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
            image.save(folder / f"{row}.png", compress_level=1)
        splits = ["validation", "test", *["train"] * 8]
        with table.open("w", newline="") as file:
            rows = [(f"{row}.png", "ab"[row % 2], splits[row % 10]) for row in range(count)]
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
