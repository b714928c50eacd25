"""The data flags that every script on texts shares; their dataclasses inherit from this one."""

from dataclasses import dataclass


@dataclass
class TextDataArguments:
    """Which labelled texts to take, and how many."""

    dataset: str = ""
    """data set: phantom-posts[?seed=0] (built in, made up, no patients), a .csv/.jsonl of text, label[, split], a
    folder of train.csv[, validation.csv, test.csv] or Parquet, the folders of MTS-Dialog and CounselChat as they are
    published, or a Hub id"""
    text_column: str = "text"
    """column that holds the text"""
    label_column: str = "label"
    """column that holds the class: names, or numbers from 0"""
    label_names: list[str] | str | None = None
    """class names in the order of their numbers, as a,b,…; default: the data set's own"""
    train_fraction: float = 1.0
    """share of the train split to use, in (0, 1], stratified by class and seeded; other splits stay whole"""
    few_shot: int | None = None
    """train texts to use a class, seeded; other splits stay whole"""
    min_class_size: int = 2
    """a class with fewer train texts is an error, or dropped by --drop_small_classes"""
    drop_small_classes: bool = False
    """leave classes below --min_class_size out of every split, with a message, instead of an error"""

    def __post_init__(self) -> None:
        if isinstance(self.label_names, str):
            self.label_names = [name.strip() for name in self.label_names.split(",")]
        if self.min_class_size < 1:
            raise ValueError(f"--min_class_size must be at least 1, got {self.min_class_size}")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"--train_fraction must be above 0 and at most 1, got {self.train_fraction}")
        if self.few_shot is not None and self.few_shot < 1:
            raise ValueError(f"--few_shot must be at least 1 text a class, got {self.few_shot}")
        if self.few_shot is not None and self.train_fraction != 1:
            raise ValueError(
                f"--few_shot {self.few_shot} and --train_fraction {self.train_fraction}: give only one of them"
            )
