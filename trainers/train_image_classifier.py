"""Train image classifiers on real, and on real plus synthetic, pictures, and compare them on real test pictures.

    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --output_dir runs/control
    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --synthetic runs/phantom-synthetic \
        --output_dir runs/arms
    accelerate launch trainers/train_image_classifier.py --config recipes/phantom_classifier.yaml

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments

# Annotations that need these imports are strings: with `from __future__ import annotations` the parser of the command
# line would look up the types of the arguments by running this block, and `--help` would take seconds.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ResNetForImageClassification

    from clinsynth.data.arrays import ImageArrays


@dataclass
class ImageClassifierArguments(ImageDataArguments):
    """Train image classifiers, on real pictures or (with --synthetic) on real and on real plus synthetic pictures."""

    synthetic: str | None = None
    """synthetic pictures of `clinsynth generate images`: a folder or Hub id with columns image and label"""
    synthetic_ratio: float | None = None
    """use at most so many synthetic pictures per real one, drawn at random; default: all of them"""
    model: str = "small-resnet"
    """small-resnet (from scratch), or the folder or Hub id of a transformers image classifier"""
    seeds: int = 3
    """trainings an arm, with the seeds --seed, --seed + 1, …"""
    epochs: int = 20
    """passes over the real train pictures; every arm takes as many optimizer steps as the real one"""
    batch_size: int = 64
    """pictures an optimizer step"""
    learning_rates: list[float] | float | str = 2e-3
    """peak learning rate, or several to try in every training, as a,b,…; in every arm the one with the best validation
    macro-F1 is kept"""
    class_weights: bool = True
    """weight the loss by inverse class frequency"""
    augment: bool = True
    """small random turns, shifts, changes of scale, brightness and contrast"""
    flips: bool = False
    """mirror pictures at random as well; only where a mirrored picture keeps its label and its meaning"""
    seed: int = 0
    """seed of the data's splits and of the first training"""
    output_dir: str = "runs/image-classifier"
    """run folder: results.json, best-real/ and best-composite/ (models), arms/ (one folder a training)"""
    dry_run: bool = False
    """print the resolved settings and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.learning_rates if isinstance(self.learning_rates, list) else str(self.learning_rates).split(",")
        try:
            self.learning_rates = [float(rate) for rate in given]
        except ValueError as error:
            raise ValueError(f"--learning_rates must be numbers, as 0.001,0.003, got {self.learning_rates}") from error


@dataclass
class FitResult:
    """What one training did: `steps` optimizer steps in `seconds`; the epoch (from 1) whose weights the model holds
    and its macro-F1 on validation (nan without a validation split); `history` has one record an epoch."""

    steps: int
    seconds: float
    best_epoch: int
    best_macro_f1: float
    history: list[dict[str, float]]


def build_small_resnet(
    num_labels: int, channels: int, *, input_size: int = 64, seed: int = 0
) -> "ResNetForImageClassification":
    """A ResNet of basic layers (He et al. 2016), 80,000 parameters, its random weights depending on `seed` alone.

    It takes floats (n, channels, s, s) in [-1, 1]. Its stem divides the side by four, which leaves little of small
    pictures: `fit_classifier` and `predict` enlarge them to `input_size`, which is kept in its configuration."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=channels, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic"
    )
    config.update({"num_labels": num_labels, "input_size": input_size})
    config.update({"image_mean": [0.5] * channels, "image_std": [0.5] * channels})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNetForImageClassification(config)


def fit_classifier(
    model: "PreTrainedModel",
    train: "ImageArrays",
    validation: "ImageArrays | None",
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    class_weights: bool,
    augment: bool,
    seed: int,
    progress: str | None = None,
    flips: bool = False,
    steps_per_epoch: int | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Train `model` in place with AdamW, 10 % warm-up and cosine decay; it ends with the weights of the epoch whose
    macro-F1 on `validation` is best (the last epoch's without one).

    An epoch is `steps_per_epoch` batches (None: one pass over `train`). The result depends on `seed` and not on the
    global random generators, which are left as they were. `progress` names the bar; None shows none.

    Raises:
        ValueError: a loss that is not finite (names the step), or a class without a train picture to weight.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import get_cosine_schedule_with_warmup

    from clinsynth.trainers.classifier_inputs import balancing_weights, endless_batches

    started = time.perf_counter()
    batch_size = min(batch_size, len(train.labels))
    steps_per_epoch = steps_per_epoch or math.ceil(len(train.labels) / batch_size)
    steps = epochs * steps_per_epoch
    weight = balancing_weights(train).to(model.device) if class_weights else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    history: list[dict[str, float]] = []
    best_epoch, best_macro_f1, best_weights = epochs, math.nan, None
    with torch.random.fork_rng(), tqdm(total=steps, desc=progress, disable=progress is None) as bar:
        torch.manual_seed(seed)
        batches = endless_batches(len(train.labels), batch_size)
        for epoch in range(1, epochs + 1):
            model.train()
            losses = []
            for step in range((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1):
                loss = batch_loss(model, train, next(batches), weight, augment, flips)
                losses.append(loss.item())
                bar.update()
                if not math.isfinite(losses[-1]):
                    raise ValueError(
                        f"the training loss of {progress or 'the classifier'} is {losses[-1]} at step {step}; "
                        "give smaller --learning_rates"
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            record = {"epoch": epoch, "step": step, "loss": float(np.mean(losses)), "learning_rate": learning_rate}
            if validation is not None:
                score = validation_macro_f1(model, validation)
                record["validation_macro_f1"] = score
                if best_weights is None or score > best_macro_f1:
                    best_epoch, best_macro_f1 = epoch, score
                    best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            history.append(record)
            bar.set_postfix({k: f"{record[k]:.3f}" for k in ("loss", "validation_macro_f1") if k in record})
            if on_epoch:
                on_epoch(record)
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
    return FitResult(steps, time.perf_counter() - started, best_epoch, best_macro_f1, history)


def batch_loss(
    model: "PreTrainedModel",
    data: "ImageArrays",
    rows: np.ndarray,
    weight: "torch.Tensor | None",
    augment: bool,
    flips: bool,
) -> "torch.Tensor":
    """Cross-entropy of the pictures at `rows`, classes weighted by `weight` (classes,), on random views of them."""
    import torch
    import torch.nn.functional as F

    from clinsynth.trainers.classifier_inputs import model_inputs, random_views

    pixels = model_inputs(model, data.images[rows])
    if augment:
        pixels = random_views(pixels, flips)
    labels = torch.as_tensor(data.labels[rows], device=model.device)
    return F.cross_entropy(model(pixels).logits, labels, weight=weight)


def validation_macro_f1(model: "PreTrainedModel", validation: "ImageArrays") -> float:
    """Mean of the classes' F1 on `validation`; a class neither there nor predicted counts 0."""
    from sklearn.metrics import f1_score

    predicted = predict(model, validation.images).argmax(1)
    classes = np.arange(len(validation.label_names))
    return float(f1_score(validation.labels, predicted, labels=classes, average="macro", zero_division=0))


def predict(model: "PreTrainedModel", images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Class probabilities, float32 (n, classes), of uint8 pictures (n, channels, r, r)."""
    return in_batches(model, images, batch_size, lambda pixels: model(pixels).logits.softmax(-1))


def pooled_features(model: "PreTrainedModel", images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """The features that the last layer sees, float32 (n, d), of uint8 pictures (n, channels, r, r); for classifiers
    whose body pools, such as ResNet (the small one: d = 64) and MobileNet."""
    return in_batches(model, images, batch_size, lambda pixels: model.base_model(pixels).pooler_output.flatten(1))


def in_batches(
    model: "PreTrainedModel", images: np.ndarray, batch_size: int, compute: Callable[[Any], Any]
) -> np.ndarray:
    """`compute` of the model's inputs, float32 (n, …), in evaluation mode and without gradients."""
    import torch

    from clinsynth.trainers.classifier_inputs import model_inputs

    if len(images) == 0:
        raise ValueError("there are no pictures to classify; give at least one")
    model.eval()
    with torch.inference_mode():
        parts = [
            compute(model_inputs(model, images[start : start + batch_size])).float().cpu().numpy()
            for start in range(0, len(images), batch_size)
        ]
    return np.concatenate(parts)


def main(args: ImageClassifierArguments) -> None:
    """Train every arm and seed, write results.json and the best model of each arm, print scores and verdict."""
    from clinsynth.run_folder import config_yaml

    if args.dry_run:
        print(config_yaml(args), end="")
        return
    from clinsynth.trainers.classifier_arms import run_and_report

    run_and_report(args)


if __name__ == "__main__":
    run(ImageClassifierArguments, main)
