"""Train image classifiers in the arms of a study, real and synthetic, and compare them on real test pictures.

    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --output_dir runs/control
    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --synthetic runs/phantom-synthetic \
        --arms real_strong,composite,balanced,smote --few_shot 20 --output_dir runs/arms
    accelerate launch trainers/train_image_classifier.py --config recipes/classifier/phantom.yaml

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped;
after a change of flags or data only the trainings that it concerns are repeated. The arms are listed in
trainers/classifiers/arms.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.models.classifier_fitting import FitResult, macro_f1
from clinsynth.trainers.classifiers.arms import parse_arms, parse_rates, resolve_arms

# Annotations that need these imports are strings: with `from __future__ import annotations` the parser of the command
# line would look up the types of the arguments by running this block, and `--help` would take seconds.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ResNetForImageClassification

    from clinsynth.data.images import ImageArrays

CPU_PIXELS = 4 * 224**2  # of a batch: clinsynth/models/image_encoders.py says why so few


@dataclass
class ImageClassifierArguments(ImageDataArguments):
    """Train image classifiers in several arms, real and synthetic, and compare each arm with a real-only control."""

    synthetic: str | None = None
    """synthetic pictures of `clinsynth generate images`: a folder or Hub id with columns image and label; several as
    name=folder,name=folder, which gives each arm of synthetic pictures once for each"""
    arms: list[str] | str | None = None
    """arms, as a,b,…: real, real_strong, synthetic, composite, balanced, pretrain_finetune, random_oversampling,
    smote, borderline_smote, adasyn; last layer only: real_features and, with _features, synthetic, composite, balanced
    and the four over-samplings; default: real,real_strong, with --synthetic also synthetic,composite"""
    control: str = "real_strong"
    """real_strong (strong augmentation, mixup, class weights) or real; every other arm is compared with it and, but
    for real, augmented and weighted alike; or real_features with --features_from model, for arms with _features: last
    layers on a pretrained body that is not trained, in minutes on a CPU"""
    synthetic_ratio: float | None = None
    """composite: at most so many synthetic pictures per real one, drawn at random; default: all of them"""
    balance_to: int | None = None
    """balanced and over-sampling: pictures to bring each class to that has fewer; default: those of the largest"""
    keep_agreeing: bool = False
    """use only synthetic pictures whose label the control's classifier of the same seed gives them too"""
    features_from: str = "control"
    """body of the arms in feature space: control (the control's classifier of the same seed), or model (--model as it
    is, not fine-tuned)"""
    model: str = "small-resnet"
    """small-resnet (from scratch), or the folder or Hub id of a transformers image classifier"""
    from_scratch: bool = False
    """take only the architecture of --model, with random weights"""
    input_size: int | None = None
    """side in pixels at which pictures enter the classifier (bilinear), for architectures that take any; default: what
    --model asks for, else the pictures' own and at least 64"""
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
    """weight the loss by inverse class frequency; real_strong and the arms compared with it always do"""
    augment: bool = True
    """light augmentation (small random turns, shifts, changes of scale, brightness and contrast) of real and, with
    --control real, of the arms compared with it"""
    flips: bool = False
    """mirror pictures at random as well; only where a mirrored picture keeps its label and its meaning"""
    seed: int = 0
    """seed of the data's splits and of the first training"""
    output_dir: str = "runs/image-classifier"
    """run folder: results.json, best-ARM/ (models), arms/ (one folder a training)"""
    cache_dir: str | None = None
    """where --features_from model keeps its features, under a hash of model and pictures, so that several classifiers
    share them; default: --output_dir"""
    dry_run: bool = False
    """print the resolved settings and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.learning_rates = parse_rates(self.learning_rates)
        self.arms = parse_arms(self.arms, bool(self.synthetic), "real_strong")
        resolve_arms(self.arms, self.control, [self.synthetic] if self.synthetic else [])  # refuses what it must


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
    strong: bool = False,
) -> FitResult:
    """Train `model` in place with AdamW, 10 % warm-up and cosine decay; it ends with the weights of the epoch whose
    macro-F1 on `validation` is best (the last epoch's without one).

    An epoch is `steps_per_epoch` batches (None: one pass over `train`). The result depends on `seed` and not on the
    global random generators, which are left as they were. `progress` names the bar; None shows none. `strong` takes
    strong augmentation and mixup in place of `augment`.

    Raises:
        ValueError: a loss that is not finite (names the step), or a class without a train picture to weight.
    """
    from clinsynth.models.classifier_fitting import balancing_weights, fit

    weight = balancing_weights(train).to(model.device) if class_weights else None
    return fit(
        model,
        lambda rows: batch_loss(model, train, rows, weight, augment, flips, strong),
        None if validation is None else lambda: validation_macro_f1(model, validation),
        rows=len(train.labels),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        progress=progress,
        on_epoch=on_epoch,
    )


def batch_loss(
    model: "PreTrainedModel",
    data: "ImageArrays",
    rows: np.ndarray,
    weight: "torch.Tensor | None",
    augment: bool,
    flips: bool,
    strong: bool = False,
) -> "torch.Tensor":
    """Cross-entropy of the pictures at `rows`, classes weighted by `weight` (classes,), on random views of them;
    `strong`: on strong ones, mixed up."""
    import torch
    import torch.nn.functional as F

    from clinsynth.models.classifier_fitting import mixup_loss, random_views, strong_views
    from clinsynth.models.image_classifiers import model_inputs

    pixels = model_inputs(model, data.images[rows])
    labels = torch.as_tensor(data.labels[rows], device=model.device)
    if strong:
        return mixup_loss(model, strong_views(pixels, flips), labels, weight)
    if augment:
        pixels = random_views(pixels, flips)
    return F.cross_entropy(model(pixels).logits, labels, weight=weight)


def validation_macro_f1(model: "PreTrainedModel", validation: "ImageArrays") -> float:
    """Mean of the classes' F1 on `validation`; a class neither there nor predicted counts 0."""
    return macro_f1(validation.labels, predict(model, validation.images).argmax(1), len(validation.label_names))


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
    """`compute` of the model's inputs, float32 (n, …), in evaluation mode and without gradients.

    A CPU takes fewer at once where they are large: MobileNetV2 at 224 px needs 41 ms a picture by fours, 105 by 64."""
    import torch

    from clinsynth.models.image_classifiers import model_inputs

    if len(images) == 0:
        raise ValueError("there are no pictures to classify; give at least one")
    if model.device.type == "cpu":
        batch_size = min(batch_size, max(1, CPU_PIXELS // model.config.input_size**2))
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
    from clinsynth.trainers.classifiers.images import run_and_report

    run_and_report(args)


if __name__ == "__main__":
    run(ImageClassifierArguments, main)
