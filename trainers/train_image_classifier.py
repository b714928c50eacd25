"""Train image classifiers in the arms of a study, real and synthetic, and compare them on real test images.

    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --output_dir runs/control
    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --synthetic runs/phantom-synthetic \
        --arms real_strong,composite,balanced,smote --few_shot 20 --output_dir runs/arms
    accelerate launch trainers/train_image_classifier.py --config recipes/classifier/phantom.yaml

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped;
after a change of flags or data only the trainings that it concerns are repeated. The arms are listed in
trainers/classifiers/arms.py.
"""

from dataclasses import dataclass
from typing import ClassVar

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.trainers.classifiers.arms import ARMS, SMALL_RESNET, ArmArguments


@dataclass(kw_only=True)
class ImageClassifierArguments(ArmArguments, ImageDataArguments):
    """Train image classifiers in several arms, real and synthetic, and compare each arm with a real-only control."""

    essentials: ClassVar[str] = (
        "dataset synthetic output_dir model arms resolution channels seeds epochs input_size seed dry_run"
    )

    arms: list[str] | str | None = None
    """arms, as a,b,…: real, real_strong, synthetic, composite, balanced, pretrain_finetune, random_oversampling,
    smote, borderline_smote, adasyn; last layer only: real_features and, with _features, synthetic, composite, balanced
    and the four over-samplings; default: real,real_strong, with --synthetic also synthetic,composite"""
    control: str = "real_strong"
    """real_strong (strong augmentation, mixup, class weights) or real; every other arm is compared with it and, but
    for real, augmented and weighted alike; or real_features with --features_from model, for arms with _features: last
    layers on a pretrained body that is not trained, in minutes on a CPU"""
    model: str = SMALL_RESNET
    """small-resnet (from scratch), or the folder or Hub id of a transformers image classifier"""
    input_size: int | None = None
    """side in pixels at which images enter the classifier (bilinear), for architectures that take any; default: what
    --model asks for, else the images' own and at least 64"""
    epochs: int = 20
    batch_size: int = 64
    learning_rates: list[float] | float | str | None = 2e-3
    class_weights: bool = True
    """weight the loss by inverse class frequency; real_strong and the arms compared with it always do"""
    augment: bool = True
    """light augmentation (small random turns, shifts, changes of scale, brightness and contrast) of real and, with
    --control real, of the arms compared with it"""
    flips: bool = False
    """mirror images at random as well; only where a mirrored image keeps its label and its meaning"""
    output_dir: str = "runs/image-classifier"

    def __post_init__(self) -> None:
        ImageDataArguments.__post_init__(self)
        super().__post_init__()
        self.choose_arms(ARMS)


def main(args: ImageClassifierArguments) -> None:
    """Train every arm and seed, write results.json and the best model of each arm, print scores and verdict."""
    from clinsynth.run_folder import config_yaml

    if args.dry_run:
        print(config_yaml(args), end="")
        return
    from clinsynth.data.images import load_image_arrays
    from clinsynth.trainers.classifiers.kinds import ImageClassifiers
    from clinsynth.trainers.classifiers.study import run_study_command

    settings = (args.augment, args.flips, args.input_size, args.class_weights)
    run_study_command(args, load_image_arrays, lambda args, train: ImageClassifiers(*settings))


if __name__ == "__main__":
    run(ImageClassifierArguments, main)
