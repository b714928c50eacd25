"""The data flags that trainers and scripts share; their dataclasses inherit from these."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clinsynth.arguments import check_at_least


@dataclass(kw_only=True)
class WayInArguments:
    """What comes in beside samples and labels, what stays together, and what becomes of what is wrong."""

    subgroups: list[str] | str | None = None
    """columns of subgroups, as age,sex,site, or none; no other column comes in. Default: age, sex, skin type, side,
    view and body site, where a column has such a name and such values"""
    group_column: str | None = None
    """column that tells whose a row is: one person's rows never stand in two splits; none treats each row as a person
    of its own. Default: found by its name (patient, subject, case, user, author, lesion, … id)"""
    allow_shared_groups: bool = False
    """go on, with a warning in every report, where the given splits share persons"""
    merge_alike_labels: bool = False
    """take class names that differ by blanks, case or Unicode form alone for one class, instead of an error"""
    on_bad_file: Literal["error", "skip"] = "error"
    """what becomes of files and texts that cannot be read: one error that names them, or left out and counted"""

    def __post_init__(self) -> None:
        if isinstance(self.subgroups, str):
            self.subgroups = split_names(self.subgroups)

    @property
    def declared(self) -> list[str] | None:
        """`subgroups` as they are after parsing; None where none were named."""
        assert not isinstance(self.subgroups, str)
        return [] if self.subgroups == ["none"] else self.subgroups


def split_names(text: str) -> list[str]:
    """`a, b` as a list."""
    return [name.strip() for name in text.split(",")]


@dataclass
class DataArguments(WayInArguments):
    """Which labelled data set to take, and how much of it."""

    noun: ClassVar[str]
    """What a row is called in messages."""

    dataset: str = ""
    """data set: a file, a folder or a Hub id"""
    label_column: str = "label"
    """column that holds the class: names, or numbers from 0; or a finding that rows name among several"""
    label_names: list[str] | str | None = None
    """class names in the order of their numbers, as a,b,…; default: the data set's own. Labels that are names already
    are matched by name, in whatever order these stand"""
    train_fraction: float = 1.0
    """share of the train split to use, in (0, 1], stratified by class and seeded; other splits stay whole"""
    few_shot: int | None = None
    """train samples to use a class, seeded; other splits stay whole"""
    min_class_size: int = 2
    """a class with fewer train samples is an error; 1 allows classes of one, an empty class is always an error"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.label_names, str):
            self.label_names = split_names(self.label_names)
        check_at_least(self, 1, ["min_class_size"])
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"--train_fraction must be above 0 and at most 1, got {self.train_fraction}")
        if self.few_shot is not None and self.few_shot < 1:
            raise ValueError(f"--few_shot must be at least 1 {self.noun} a class, got {self.few_shot}")
        if self.few_shot is not None and self.train_fraction != 1:
            raise ValueError(
                f"--few_shot {self.few_shot} and --train_fraction {self.train_fraction}: give only one of them"
            )

    @property
    def class_names(self) -> list[str] | None:
        """`label_names` as they are after parsing."""
        assert not isinstance(self.label_names, str)
        return self.label_names


@dataclass(kw_only=True)
class IntensityArguments:
    """How images of more than 8 bits become 8."""

    intensity: str | None = None
    """of images of more than 8 bits: full (range of the declared bits, the default for grey), window:CENTRE,WIDTH or
    percentile:0.5,99.5 (of each image's own values)"""

    def limits(self) -> tuple[str, float, float] | None:
        """("full", 0, 0), ("window", centre, width) or ("percentile", low, high); None where nothing was asked for.

        Raises:
            ValueError: anything else.
        """
        kind, _, numbers = (self.intensity or "").partition(":")
        try:
            low, high = map(float, numbers.split(",")) if numbers else (0.0, 0.0)
            good = {"full": not numbers, "window": high > 0, "percentile": 0 <= low < high <= 100, "": not numbers}[
                kind
            ]
        except (KeyError, ValueError):
            good = False
        if not good:
            raise ValueError(
                f"--intensity must be full, window:CENTRE,WIDTH or percentile:LOW,HIGH, got {self.intensity}"
            )
        return (kind, low, high) if kind else None


@dataclass
class ImageDataArguments(DataArguments, IntensityArguments):
    """Which labelled images to take, and at which size, mode and number."""

    noun: ClassVar[str] = "image"

    dataset: str = "phantom-fundus"
    """data set: phantom-fundus[?size=64&seed=0] (built in, procedural, no patients), a Hub id, a folder (class
    folders, Parquet, or a table of images; also DICOM?window=C,W&frame=N and NIfTI?plane=axial&slice=middle), a
    MedMNIST-layout .npz, or a .csv, .tsv, .jsonl or .parquet of image, label[, split]"""
    resolution: int | None = None
    """side of the square images, 28 to 256 pixels; default: the data set's own if all its images share one"""
    channels: int | None = None
    """1 (grey) or 3 (colour); default: the data set's own if all its images share one"""
    fit: str | None = None
    """what becomes of an image that is not square: squash, crop (centre) or pad (black); without it, an error"""


@dataclass
class TextDataArguments(DataArguments):
    """Which labelled texts to take, and how many."""

    noun: ClassVar[str] = "text"

    dataset: str = ""
    """data set: phantom-posts[?seed=0] (built in, made up, no patients), a .csv/.jsonl/.parquet of text, label[,
    split], a folder of train.csv[, validation.csv, test.csv] or Parquet, the folders of MTS-Dialog and CounselChat as
    they are published, or a Hub id"""
    text_column: str = "text"
    """column that holds the text"""
    drop_small_classes: bool = False
    """leave classes below --min_class_size out of every split, with a message, instead of an error"""
