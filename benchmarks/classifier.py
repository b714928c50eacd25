"""What training a classifier costs over the network's own work: one command, ratios with their spread.

    OMP_NUM_THREADS=1 python -m benchmarks.classifier --output_dir runs/benchmark-classifier

Both sides train a ResNet of 18 layers (He et al. 2016) on colour images for as many steps. Ours is
`fit_image_classifier` as the control's arm calls it, with strong augmentation, mixup and clipping; the bare one is
forward, cross-entropy, backward and `torch.optim.AdamW` as it comes, on a fixed batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from benchmarks.timing import Run, TimingArguments, compare, write_results
from clinsynth.arguments import run
from clinsynth.data.images import ImageArrays
from clinsynth.models.classifiers import FitSettings
from clinsynth.models.image_classifiers import fit_image_classifier, model_inputs


@dataclass(kw_only=True)
class ClassifierBenchmarkArguments(TimingArguments):
    """Measure the cost of a classifier's training step as a ratio."""

    input_size: int = 32
    """Side of the images."""
    batch_size: int = 64
    """Pictures a step."""
    steps: int = 4
    """Training steps a repeat."""
    repeats: int = 7
    """Repeats of A B A B …"""


def main(args: ClassifierBenchmarkArguments) -> None:
    """Time both sides in turn; print and write the table."""
    args.begin()
    comparison = compare(
        "classifier's training over bare steps",
        ("fit_image_classifier", our_training(args)),
        ("bare steps", bare_training(args)),
        repeats=args.repeats,
        goal=("<=", 1.1),
        note=f"ResNet-18, {args.input_size} px, {args.steps} steps of {args.batch_size} images, float32",
    )
    write_results(args, "classifier", [comparison])


def resnet18(side: int) -> PreTrainedModel:
    """Random weights; inputs of `side` pixels, seven classes."""
    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=7)
    config.update({"input_size": side, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return ResNetForImageClassification(config)


def random_images(args: ClassifierBenchmarkArguments) -> ImageArrays:
    """A set of noise that lasts for the steps of a repeat."""
    n = args.steps * args.batch_size
    images = np.random.default_rng(0).integers(0, 256, (n, 3, args.input_size, args.input_size), dtype=np.uint8)
    return ImageArrays(images, np.arange(n) % 7, [str(i) for i in range(7)])


def our_training(args: ClassifierBenchmarkArguments) -> Run:
    """One epoch of the control's arm."""
    model, data = resnet18(args.input_size), random_images(args)
    settings = FitSettings(1, args.batch_size, learning_rate=1e-3, seed=0, class_weights=True, views="strong")
    return lambda: fit_image_classifier(model, data, None, settings, flips=True)


def bare_training(args: ClassifierBenchmarkArguments) -> Run:
    """As many steps of the network alone, with an optimizer of its own each time, as ours has."""
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
