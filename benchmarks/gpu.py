"""All that is to be known of a GPU in one go of at most eight minutes: training, what it reaches, sampling.

     python -m benchmarks.gpu --output_dir runs/gpu
     python -m benchmarks.gpu --dataset retinamnist.npz --extractor mobilenet_v2_imagenet --output_dir runs/gpu

Steps of training a second in four ways (float32, bf16, channels last, compiled); the Fréchet distance to train and
test after --minutes of training in the last of them; images drawn a second from its weights. Every row is written
when it is measured; where --budget is spent the rest is left out and named. Without a GPU the same runs on the CPU,
where it is tested.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from benchmarks.equal_time import OurTraining
from benchmarks.samplers import draw_all, labels_like, load_pipeline, our_draw
from benchmarks.score import ImagesArguments, distances, named_extractor
from benchmarks.timing import markdown, write_results
from clinsynth.arguments import parse, run
from clinsynth.run_folder import complete_folder, create_run_folder
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.harness import check_finite

WAYS = {
    "float32": "--mixed_precision no --channels_last false --compile false",
    "bf16": "--mixed_precision bf16 --channels_last false --compile false",
    "bf16, channels last": "--mixed_precision bf16 --channels_last true --compile false",
    "bf16, channels last, compiled": "--mixed_precision bf16 --channels_last true --compile true",
}
"""Rows of training speed: flags of `train ddpm`. The last that works trains on."""


@dataclass(kw_only=True)
class GPUArguments(ImagesArguments):
    """Measure a GPU in one go: steps a second, Fréchet distance after some minutes, images a second."""

    trainer_flags: str = "--preset best"
    """Flags of `train ddpm` that all rows have."""
    ways: str = ";".join(WAYS)
    """Rows of training speed, separated by semicolons."""
    seconds: float = 12.0
    """Wall seconds of each timing, after a warm-up."""
    minutes: float = 3.0
    """Wall minutes of the training whose images are compared."""
    budget: float = 450.0
    """Wall seconds of the whole, after which no row is begun."""
    batch_sizes: str = "64,512"
    """Images drawn at once, of the rows of sampling speed."""
    num_inference_steps: int = 25
    """Steps of drawing."""
    n: int = 1080
    """Images that are compared, with the train split's class shares."""
    extractor: str = "default"
    """`default` (a CNN trained on the real train split), a path or an id."""


def main(args: GPUArguments) -> None:
    """Measure row by row until the budget is spent."""
    begun, output_dir = time.perf_counter(), create_run_folder(args.output_dir)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rows: dict[str, dict[str, Any]] = {}
    for title, measure in plan(args, device, output_dir):
        if time.perf_counter() - begun > args.budget:
            rows[title] = {"left out": "the budget is spent"}
        else:
            rows[title] = measured(measure)
        write_results(args, "gpu", text=f"{name}\n\n{table(rows)}", device=name, rows=rows)


def measured(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns, with its seconds; what this machine cannot do is a row, too."""
    start = time.perf_counter()
    try:
        found = measure()
    except (RuntimeError, FileNotFoundError) as error:  # no compiler, no memory, no checkpoint of the row before
        found = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return found | {"wall_seconds": round(time.perf_counter() - start, 1)}


def plan(
    args: GPUArguments, device: torch.device, output_dir: Path
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Title of each row and what measures it, in the order of what is most worth knowing."""
    data = args.splits
    ways, working = args.ways.split(";"), []

    def build(way: str) -> OurTraining:
        AcceleratorState._reset_state()  # which else keeps the precision of the row before
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        flags = ["--dataset", args.dataset, *shlex.split(f"{args.trainer_flags} {WAYS[way]}")]
        return OurTraining(parse(DDPMArguments, flags), data, output_dir, cpu=device.type == "cpu")

    def steps_a_second(way: str) -> dict[str, Any]:
        training = build(way)
        rate = a_second(training.take_step, args.seconds, device)
        working.append(way)
        memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
        images = rate * training.args.train_batch_size * training.args.gradient_accumulation_steps
        return {"steps a second": rate, "images a second": images, "GB": memory}

    def train_and_compare() -> dict[str, Any]:
        training, seconds = build(working[-1] if working else ways[0]), 60 * args.minutes
        start = time.perf_counter()
        while training.spent < 1:
            loss, norm = training.take_step()
            if training.steps % 20 == 0 or device.type == "cpu":  # the host runs ahead at most so far
                check_finite(training.steps, {"loss": float(loss), "grad_norm": float(norm)}, output_dir)
                training.spent = (time.perf_counter() - start) / seconds
        with complete_folder(output_dir / "checkpoint") as folder:
            training.snapshot(folder)
        pipe = load_pipeline(str(output_dir / "checkpoint")).to(device)
        images, _ = draw_all(
            our_draw(pipe, 1.0, args.num_inference_steps),
            labels_like(data["train"].labels, args.n),
            output_dir / f"images-{training.steps}",
        )
        extract = named_extractor(args.extractor, data, output_dir / "extractor")
        features = extract(images)
        to = {
            f"Fréchet distance to {split}": distances(extract(data[split].images), features, 0)["frechet"]
            for split in ("train", "test")
        }
        return to | {"steps": training.steps, "way": working[-1] if working else ways[0]}

    def images_a_second(batch: int, dtype: torch.dtype) -> dict[str, Any]:
        pipe = load_pipeline(str(output_dir / "checkpoint")).to(device, dtype)
        draw, labels = our_draw(pipe, 1.0, args.num_inference_steps), labels_like(data["train"].labels, batch)
        return {"images a second": batch * a_second(lambda: draw(labels, 0), args.seconds, device)}

    for way in ways:
        yield f"training, {way}", lambda way=way: steps_a_second(way)  # type: ignore[misc]
    yield f"training for {args.minutes:g} minutes", train_and_compare
    for batch in map(int, args.batch_sizes.split(",")):
        for dtype in (torch.float32, torch.bfloat16):
            title = f"drawing, {str(dtype).removeprefix('torch.')}, {batch} at once, {args.num_inference_steps} steps"
            yield title, lambda batch=batch, dtype=dtype: images_a_second(batch, dtype)  # type: ignore[misc]


def a_second(call: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Calls a second, over at least `seconds` after one tenth of them (and three calls) to warm up."""
    repeat(call, seconds / 10, device, least=3)
    calls, took = repeat(call, seconds, device)
    return calls / took


def repeat(call: Callable[[], object], seconds: float, device: torch.device, least: int = 1) -> tuple[int, float]:
    """Call until `seconds` have passed, by rounds that double; how often, and the seconds until the device is done."""
    calls, round_of, start = 0, least, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds or calls < least:
        for _ in range(round_of):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        calls += round_of
        round_of = min(2 * round_of, 64)
    return calls, took


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, a row a measurement."""

    def shown(name: str, value: object) -> str:
        return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"

    found = [[title, ", ".join(shown(*one) for one in row.items())] for title, row in rows.items()]
    return markdown("what | found", found)


if __name__ == "__main__":
    run(GPUArguments, main)
