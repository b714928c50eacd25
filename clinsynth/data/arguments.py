"""The data flags that every trainer and script shares; their dataclasses inherit from this one."""

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
