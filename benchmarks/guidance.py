"""Which guidance draws best from one checkpoint: by class or by guide, how strong, in which part of the steps.

     python -m benchmarks.guidance --model runs/retina --dataset retinamnist.npz --output_dir runs/guidance
     python -m benchmarks.guidance --model runs/e/snapshot-1 --guide runs/e/snapshot-0.1 --dataset retinamnist.npz \
         --kinds auto --scales 1.5,2 --intervals "0,1;0,0.6" --output_dir runs/guidance

Every row is a set of images with the class shares of the validation split, which alone it is compared with: the choice
must not see test. Fidelity is the Fréchet distance, label agreement the share of images that a small classifier of the
real train split takes for their label; the first row says what that is of real validation images. Finished rows are
kept, so a stopped command goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.samplers import draw_all, labels_like, load_pipeline, our_draw
from benchmarks.score import distances, named_extractor, real_splits
from benchmarks.timing import BenchmarkArguments, markdown, measure_missing
from clinsynth.arguments import run
from clinsynth.models.image_classifiers import predict
from clinsynth.models.image_encoders import default_classifier
from clinsynth.run_folder import create_run_folder


@dataclass(kw_only=True)
class GuidanceArguments(BenchmarkArguments):
    """Draw from one checkpoint with every kind, scale and interval of guidance, and compare with validation."""

    model: str
    """Checkpoint of `clinsynth train ddpm`."""
    guide: str = ""
    """Checkpoint whose network is the guide; default: that of --model, trained with --guide_at."""
    dataset: str = "phantom-fundus"
    """Data set spec."""
    kinds: str = "class,auto"
    """Kinds of guidance, comma-separated."""
    scales: str = "1.25,1.5,2,3"
    """Guidance scales; 1, without guidance, is always a row."""
    intervals: str = "0,1;0,0.6;0.2,0.8"
    """Parts of the steps in which guidance acts, separated by semicolons."""
    num_inference_steps: int = 25
    """Steps of the checkpoint's own sampler."""
    extractor: str = "default"
    """`default` (a CNN trained on the real train split), a path or an id."""
    n: int = 500
    """Images of each set."""


def main(args: GuidanceArguments) -> None:
    """Measure every row that is missing, and write the table after each."""
    torch.set_num_threads(1)
    output_dir = create_run_folder(args.output_dir)
    pipe = load_pipeline(args.model)
    if args.guide:
        pipe.register_modules(guide=load_pipeline(args.guide).unet)
    channels, side, _ = pipe.image_shape
    splits = real_splits(args.dataset, side, channels)
    extract = named_extractor(args.extractor, splits, output_dir / "extractor")
    classifier, _ = default_classifier(splits["train"], splits["validation"], output_dir / "extractor")
    held_out, reference = splits["validation"], extract(splits["validation"].images)
    labels = labels_like(held_out.labels, args.n)

    def measure(name: str, call: dict[str, Any]) -> dict[str, Any]:
        draw = our_draw(pipe, num_inference_steps=args.num_inference_steps, **call)
        images, seconds = draw_all(draw, labels, output_dir / name.replace(" ", "_"))
        agreement = share_taken_for(classifier, images, labels)
        return distances(reference, extract(images), 0) | {"agreement": agreement, "drawing_cpu_seconds": seconds}

    real = {"frechet": None, "agreement": share_taken_for(classifier, held_out.images, held_out.labels)}
    measures = ((name, partial(measure, name, call)) for name, call in settings(args))
    measure_missing(args, "guidance", measures, table, {"real validation": real})


def settings(args: GuidanceArguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of each row and what the pipeline is called with."""
    yield "no guidance", {"guidance_scale": 1.0}
    for kind in args.kinds.split(","):
        for scale in map(float, args.scales.split(",")):
            for interval in args.intervals.split(";"):
                first, last = map(float, interval.split(","))
                call = {"guidance": kind, "guidance_scale": scale, "guidance_interval": (first, last)}
                yield f"{kind} {scale:g} from {first:g} to {last:g}", call


def share_taken_for(classifier: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images, uint8 (n, c, h, w), that the classifier takes for their label."""
    return float((predict(classifier, images).argmax(axis=1) == labels).mean())


def table(rows: dict[str, Any]) -> str:
    """A Markdown table, a row a setting."""
    lines = []
    for name, row in rows.items():
        distance = "" if row["frechet"] is None else f"{row['frechet']:.2f}"
        seconds = f"{row['drawing_cpu_seconds']:.0f}" if "drawing_cpu_seconds" in row else ""
        lines.append([name, distance, f"{row['agreement']:.1%}", seconds])
    return markdown("guidance | Fréchet distance to validation | taken for their label | drawing CPU s", lines)


if __name__ == "__main__":
    run(GuidanceArguments, main)
