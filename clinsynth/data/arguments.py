"""The data flags that trainers and scripts share; their dataclasses inherit from these."""

from dataclasses import dataclass


@dataclass
class ImageDataArguments:
    """Which labelled pictures to take, and at which size, mode and number."""

    dataset: str = "phantom-fundus"
    """data set: phantom-fundus[?size=64&seed=0] (built in, procedural, no patients), a Hub id, a folder (class
    folders, Parquet, or DICOM with labels.csv), a MedMNIST-layout .npz, or a .csv/.jsonl of image, label[, split]"""
    resolution: int | None = None
    """side of the square pictures, 28 to 256 pixels; default: the data set's own if all its pictures share one"""
    channels: int | None = None
    """1 (grey) or 3 (colour); default: the data set's own if all its pictures share one"""
    fit: str | None = None
    """what becomes of a picture that is not square: squash, crop (centre) or pad (black); without it, an error"""
    label_column: str = "label"
    """column that holds the class: names, or numbers from 0"""
    label_names: list[str] | str | None = None
    """class names in the order of their numbers, as a,b,…; default: the data set's own"""
    train_fraction: float = 1.0
    """share of the train split to use, in (0, 1], stratified by class and seeded; other splits stay whole"""
    few_shot: int | None = None
    """train images to use a class, seeded; other splits stay whole"""
    min_class_size: int = 2
    """a class with fewer train images is an error; 1 allows one-image classes, an empty class is always an error"""

    def __post_init__(self) -> None:
        if isinstance(self.label_names, str):
            self.label_names = [name.strip() for name in self.label_names.split(",")]


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
