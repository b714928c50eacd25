"""Train image classifiers in the arms of a study, real and synthetic, and compare them on real test pictures.

    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --output_dir runs/control
    clinsynth train image-classifier --dataset phantom-fundus --resolution 32 --synthetic runs/phantom-synthetic \
        --arms real_strong,composite,balanced,smote --few_shot 20 --output_dir runs/arms
    accelerate launch trainers/train_image_classifier.py --config recipes/classifier/phantom.yaml

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped;
after a change of flags or data only the trainings that it concerns are repeated. The arms are listed in
trainers/classifiers/arms.py.
"""

from dataclasses import dataclass

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.trainers.classifiers.arms import parse_arms, parse_rates, resolve_arms


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
