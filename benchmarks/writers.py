"""Valid texts a minute of processor time: transformers and llama.cpp with the same model, by how many at once.

     python -m benchmarks.writers --model SmolLM2-135M-Instruct.Q4_1.gguf --output_dir runs/benchmark-writers

Each back end writes the same requests of a task under its schema, after one text to warm up. A text counts where it is
valid within `--max_attempts`.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from benchmarks.timing import BenchmarkArguments, markdown, measure_missing
from clinsynth.arguments import run
from clinsynth.data.tasks import load_task
from clinsynth.models.language_models import load_writer
from clinsynth.models.writers import Request, WriterArguments
from clinsynth.run_folder import create_run_folder
from clinsynth.synthesis.plan import Prompts

BACK_ENDS: dict[str, dict[str, Any]] = {
    "transformers, float32": {},
    "transformers, bfloat16": {"dtype": "bfloat16"},
    "llama.cpp": {"backend": "llama.cpp"},
}


@dataclass(kw_only=True)
class WritersArguments(BenchmarkArguments):
    """Back ends of text generation side by side."""

    model: str
    """A .gguf file."""
    task: str = "severity-posts"
    """What is written."""
    texts: int = 24
    """Texts of each row."""
    batches: str = "1,8,16"
    """Texts written at once."""
    temperature: float = 0.8
    """Of the model's choice of words."""
    threads: int = 1
    """Of torch and of llama.cpp."""


def main(args: WritersArguments) -> None:
    """Measure every back end with every batch, and write the table."""
    torch.set_num_threads(args.threads)
    create_run_folder(args.output_dir)
    asked, batches = requests(args), map(int, args.batches.split(","))
    measures = (
        (f"{name}, {batch} at once", partial(measure, args, asked, flags, batch))
        for batch in batches
        for name, flags in BACK_ENDS.items()
    )
    measure_missing(args, "writers", measures, table, {})


def requests(args: WritersArguments) -> list[Request]:
    """The chats, label by label in turn, and their seeds."""
    task = load_task(args.task)
    names = list(task.labels)
    prompts = Prompts(task, names, {name: [] for name in names}, 0)
    labels = islice(cycle(range(len(names))), args.texts)
    return [(prompts(label, seed)[0], seed) for seed, label in enumerate(labels)]


def measure(args: WritersArguments, asked: list[Request], flags: dict[str, Any], batch: int) -> dict[str, Any]:
    """What one back end takes for all requests."""
    writer_args = WriterArguments(model=args.model, batch_size=batch, temperature=args.temperature, **flags)
    started = time.process_time()
    writer = load_writer(writer_args, load_task(args.task), "cpu")
    list(writer.write(asked[:1]))
    loading, began, wall = time.process_time() - started, time.process_time(), time.monotonic()
    results = list(writer.write(asked))
    seconds = time.process_time() - began
    valid = [result.data for result in results if result.data is not None]
    return {
        "loading_cpu_seconds": loading,
        "cpu_seconds": seconds,
        "wall_seconds": time.monotonic() - wall,
        "valid": len(valid),
        "asked": len(asked),
        "attempts": sum(result.attempts for result in results),
        "characters": sum(len(json.dumps(data, ensure_ascii=False)) for data in valid),
    }


def table(rows: dict[str, Any]) -> str:
    """A Markdown table, a row a back end and batch."""
    lines = []
    for name, row in rows.items():
        speed = [f"{60 * row['valid'] / row['cpu_seconds']:.1f}", f"{row['characters'] / row['cpu_seconds']:.0f}"]
        valid = [f"{row['valid']} of {row['asked']}", f"{row['attempts']}"]
        lines.append([name, *valid, *speed, f"{row['loading_cpu_seconds']:.0f}"])
    columns = "back end | valid texts | attempts | valid texts a CPU minute | characters a CPU second | loading, CPU s"
    return markdown(columns, lines)


if __name__ == "__main__":
    run(WritersArguments, main)
