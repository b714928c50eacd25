"""The section quality of sampling.py: is the fast sampler's Fréchet distance no worse than that of the paper's?

Both samplers draw n pictures with the same weights and the train split's class shares, batch by batch into files, so
that the same command goes on where it stopped. Seconds are those that each batch took when it was drawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.features import cells, distances, named_extractor, real_splits
from benchmarks.samples import draw_all, labels_like, our_draw, paper_draw

if TYPE_CHECKING:
    from benchmarks.sampling import SamplingArguments


def measure_quality(args: "SamplingArguments", pipe: Any, scheduler: Any, output_dir: Path) -> dict[str, Any]:
    """Draw with both samplers and compare each with the real train split.

    Args:
        pipe: the pipeline with the fast scheduler.
        scheduler: the checkpoint's own, whose noise levels the weights were trained with.
    """
    config = pipe.unet.config
    splits = real_splits(args.dataset, config.sample_size, config.in_channels)
    labels = labels_like(splits["train"].labels, args.n)
    pipe.to(args.device, getattr(torch, args.precision))
    ours = f"{type(pipe.scheduler).__name__}-{args.num_inference_steps}-guidance-{args.guidance_scale:g}"
    paper = f"paper-{args.paper_levels}-levels-guidance-{args.paper_guidance_scale:g}"
    draws = {
        ours: our_draw(pipe, args.guidance_scale, args.num_inference_steps),
        paper: paper_draw(pipe, scheduler, args.paper_guidance_scale, args.paper_levels),
    }
    extract = named_extractor(args.extractor, splits, output_dir / "extractor")
    real = extract(splits["train"].images)
    rows = {}
    for name, draw in draws.items():
        images, seconds = draw_all(draw, labels, output_dir / name, args.batch_size)
        rows[name] = distances(real, extract(images), args.n_bootstrap) | {
            "cpu_seconds": seconds,
            "device": args.device,
            "precision": args.precision,
        }
    rows["floor: real test"] = distances(real, extract(splits["test"].images), args.n_bootstrap)
    return {"extractor": extract.name, "dataset": args.dataset, "rows": rows}


def quality_table(measured: dict[str, Any]) -> str:
    """A Markdown table, a row a sampler, and the extractor's name under it."""
    lines = [
        "| against real train | n | Fréchet distance (95 %) | 1000 × KID (95 %) | CPU s |",
        "|---|---|---|---|---|",
    ]
    for name, row in measured["rows"].items():
        seconds = f"{row['cpu_seconds']:.0f}" if row.get("device") == "cpu" else ""
        lines.append(f"| {name} | {row['n']} | {cells(row)} | {seconds} |")
    return "\n".join([*lines, "", f"Extractor: {measured['extractor']}. Real: {measured['dataset']}, train split."])
