"""What training a classifier costs over the network's own work: one command, ratios with their spread.

    OMP_NUM_THREADS=1 python -m benchmarks.classifier --output_dir runs/benchmark-classifier

Both sides train a ResNet of 18 layers (He et al. 2016) on colour images for as many steps. Ours is
`fit_image_classifier` as the control's arm calls it, with strong augmentation, mixup and clipping; the bare one is
forward, cross-entropy, backward and `torch.optim.AdamW` as it comes, on a fixed batch.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinsynth.arguments import run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from benchmarks.timing import Run
    from clinsynth.data.images import ImageArrays


@dataclass
class ClassifierBenchmarkArguments:
    """Measure the cost of a classifier's training step as a ratio."""

    output_dir: str
    """Folder for classifier.json and classifier.md."""
    input_size: int = 32
    """Side of the images."""
    batch_size: int = 64
    """Pictures a step."""
    steps: int = 4
    """Training steps a repeat."""
    repeats: int = 7
    """Repeats of A B A B …"""
    threads: int = 1
    """Threads of torch."""
    clock: str = "cpu"
    """Seconds the table shows: `cpu` (this process's, which others on the machine disturb least) or `wall`."""


def main(args: ClassifierBenchmarkArguments) -> None:
    """Time both sides in turn; print and write the table."""
    import torch

    from benchmarks.timing import compare, table
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    if args.clock not in ("cpu", "wall"):
        raise ValueError(f"--clock must be cpu or wall, got {args.clock!r}")
    torch.set_num_threads(args.threads)
    output_dir = create_run_folder(args.output_dir)
    comparison = compare(
        "classifier's training over bare steps",
        ("fit_image_classifier", our_training(args)),
        ("bare steps", bare_training(args)),
        repeats=args.repeats,
        goal=("<=", 1.1),
        note=f"ResNet-18, {args.input_size} px, {args.steps} steps of {args.batch_size} images, float32",
    )
    text = f"{args}\n\n{table([comparison], args.clock)}\n"
    record = {"environment": describe_environment(), "arguments": vars(args), "comparisons": [comparison.record()]}
    atomic_write(output_dir / "classifier.json", json.dumps(record, indent=2) + "\n")
    atomic_write(output_dir / "classifier.md", text)
    print(text)


def resnet18(side: int) -> "PreTrainedModel":
    """Random weights; inputs of `side` pixels, seven classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=7)
    config.update({"input_size": side, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return ResNetForImageClassification(config)


def random_images(args: ClassifierBenchmarkArguments) -> "ImageArrays":
    """A set of noise that lasts for the steps of a repeat."""
    import numpy as np

    from clinsynth.data.images import ImageArrays

    n = args.steps * args.batch_size
    images = np.random.default_rng(0).integers(0, 256, (n, 3, args.input_size, args.input_size), dtype=np.uint8)
    return ImageArrays(images, np.arange(n) % 7, [str(i) for i in range(7)])


def our_training(args: ClassifierBenchmarkArguments) -> "Run":
    """One epoch of the control's arm."""
    from clinsynth.models.classifiers import FitSettings
    from clinsynth.models.image_classifiers import fit_image_classifier

    model, data = resnet18(args.input_size), random_images(args)
    settings = FitSettings(epochs=1, batch_size=args.batch_size, learning_rate=1e-3, seed=0)
    return lambda: fit_image_classifier(model, data, None, settings, class_weights=True, views="strong", flips=True)


def bare_training(args: ClassifierBenchmarkArguments) -> "Run":
    """As many steps of the network alone, with an optimizer of its own each time, as ours has."""
    import torch
    import torch.nn.functional as F

    from clinsynth.models.image_classifiers import model_inputs

    model, data = resnet18(args.input_size).train(), random_images(args)
    pixels = model_inputs(model, data.images[: args.batch_size])
    labels = torch.as_tensor(data.labels[: args.batch_size])

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(args.steps):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels).logits, labels).backward()
            optimizer.step()

    return train


if __name__ == "__main__":
    run(ClassifierBenchmarkArguments, main)
