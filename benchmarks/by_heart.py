"""Is a DDPM that has learned its images by heart refused, and is what it copies found as often as the report says?

    python -m benchmarks.by_heart --dataset retinamnist.npz --output_dir runs/by-heart

Trains on a few train images for long, draws, and measures the evidence as anyone would: `train ddpm`, `generate
images`, `evaluate images`, each of which goes on where it was stopped. The gate then reads the evidence. Which drawn
images are copies is told without the gate's own views, by plain pixels (Carlini et al. 2023): the nearest train image
is less than `NEARER` as far as the next one. Of these the check of single images must find as many as its power says
of copies "redrawn by heart", as far as the 95 % intervals of both tell.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.score import ImagesArguments, real_splits
from benchmarks.timing import run_alone, write_results
from clinsynth.arguments import run
from clinsynth.metrics.privacy.power import describe_power
from clinsynth.run_folder import create_run_folder, read_json

NEARER = 0.5
KIND = "redrawn by heart"


@dataclass(kw_only=True)
class ByHeartArguments(ImagesArguments):
    """Overfit a DDPM on purpose, and look at it through the gate. The data set is a MedMNIST-layout .npz."""

    may_be_zero = frozenset({"seed"})

    images: int = 10
    """train images, drawn in equal parts of each class"""
    train_steps: int = 2000
    """optimizer steps: enough to draw the images themselves"""
    drawn: int = 50
    """images that are drawn"""
    seed: int = 0
    """of the choice of images, of training and of drawing"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset.endswith(".npz"):
            raise ValueError(f"--dataset must be a MedMNIST-layout .npz, got {self.dataset}; give retinamnist.npz")


def main(args: ByHeartArguments) -> None:
    """Train, draw, measure; print and write what the gate said."""
    from clinsynth.hub.gate import Thresholds, read_gate

    output_dir = create_run_folder(args.output_dir)
    few = output_dir / "few.npz"
    classes = write_few(args, few)
    common = ["--resolution", str(args.resolution), "--channels", str(args.channels), "--seed", str(args.seed)]
    command("train", "ddpm", "--dataset", few, *common, *training(args), "--output_dir", output_dir / "ddpm")
    per_class = str(-(-args.drawn // classes))
    drawing = ["--model", output_dir / "ddpm", "--per_class", per_class, "--seed", str(args.seed)]
    command("generate", "images", *drawing, "--output_dir", output_dir / "drawn")
    measuring = ["--real", few, "--synthetic", output_dir / "drawn", "--classifier", "none", "--bootstrap", "0"]
    command("evaluate", "images", *measuring, "--output_dir", output_dir / "evidence")
    evidence = read_json(output_dir / "evidence" / "evidence.json")
    refused = [str(reading) for reading in read_gate(evidence, Thresholds()) if not reading.passed]
    copied, flagged, views = looked_at(args, few, output_dir / "drawn")
    (power,) = (one for one in evidence["privacy"]["power"] if one["kind"] == KIND)
    record = record_of(copied, flagged, power, evidence["privacy"]["verdict"], refused)
    write_results(args, "by-heart", text=table(record), views=views.tolist(), **record)


def write_few(args: ByHeartArguments, path: Path) -> int:
    """The data set with a few of its train images, validation and test as they are; how many classes it has."""
    arrays = dict(np.load(args.dataset))
    labels = arrays["train_labels"].ravel()
    generator, classes = np.random.default_rng(args.seed), np.unique(labels)
    each = max(1, args.images // len(classes))
    rows = np.concatenate([generator.permutation(np.flatnonzero(labels == label))[:each] for label in classes])
    arrays |= {f"train_{part}": arrays[f"train_{part}"][rows] for part in ("images", "labels")}
    if not path.exists():
        np.savez_compressed(path, **arrays)
    return len(classes)


def training(args: ByHeartArguments) -> list[str]:
    """Flags that leave out all that keeps a network from learning by heart."""
    steps = ["--train_steps", str(args.train_steps), "--checkpointing_steps", "500", "--validation_steps", "0"]
    return [*steps, "--train_batch_size", str(args.images), "--class_dropout", "0", "--augment", "0", "--dropout", "0"]


def command(*words: str | Path) -> None:
    """Run a command of clinsynth in a process of its own."""
    run_alone([sys.executable, "-m", "clinsynth", *map(str, words)])


def looked_at(args: ByHeartArguments, few: Path, drawn: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each drawn image whether it is a copy by plain pixels, whether the check of single images takes it for one,
    and how far beyond the thresholds it is; (n,) each."""
    from clinsynth.metrics.images.privacy import exact_rows
    from clinsynth.metrics.privacy.copies import ThumbnailSpace, duplicated
    from clinsynth.metrics.privacy.power import beyond
    from clinsynth.metrics.privacy.views import ViewSpace, certain_thresholds
    from clinsynth.synthesis.sets import load_synthetic_images

    splits = real_splits(str(few), args.resolution, args.channels)
    train, held_out = splits["train"].images, splits["test"].images
    images = load_synthetic_images(drawn).images
    space = ViewSpace.of(train)
    same = duplicated(ThumbnailSpace.of(train).closest(held_out)) | (exact_rows(held_out, train) >= 0)
    thresholds = certain_thresholds(space.closest(held_out[~same])[0])
    assert thresholds is not None
    far = np.linalg.norm(rows_of(images)[:, None] - rows_of(train)[None], axis=2)
    nearest, second = np.sort(far, axis=1)[:, :2].T
    views = beyond(space.closest(images)[0], thresholds)
    return nearest < NEARER * second, views > 1, views


def rows_of(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def record_of(
    copied: np.ndarray, flagged: np.ndarray, power: dict[str, Any], verdict: str, refused: list[str]
) -> dict[str, Any]:
    """What was found of the copies, beside what the power says."""
    (low, high), found = power["interval"], None
    if copied.any():
        found = describe_power(KIND, int(copied.sum()), int((flagged & copied).sum()), len(copied))
    return {
        "drawn": len(copied),
        "found": found,
        "others_flagged": int((flagged & ~copied).sum()),
        "power": power,
        "agrees": found is not None and found["interval"][0] <= high and found["interval"][1] >= low,
        "verdict": verdict,
        "refused": refused,
    }


def table(record: dict[str, Any]) -> str:
    found = record["found"]
    rows = {
        "images drawn": record["drawn"],
        "copies among them, by plain pixels": found["planted"] if found else 0,
        "of these the check of single images finds": share_in_words(found) if found else "nothing to find",
        f"the report's power, of planted copies {KIND}": share_in_words(record["power"]),
        "the intervals overlap": "yes" if record["agrees"] else "no",
        "other images taken for copies": record["others_flagged"],
        "verdict": record["verdict"],
        "the gate refuses": "; ".join(record["refused"]) or "nothing",
    }
    return "\n".join(["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def share_in_words(power: dict[str, Any]) -> str:
    low, high = power["interval"]
    return f"{power['found']} of {power['planted']}, {power['share']:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    run(ByHeartArguments, main)
