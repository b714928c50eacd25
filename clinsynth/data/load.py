"""From a data set spec string to a `datasets.DatasetDict` with train, validation and test, image and label.

| spec | what it is |
|---|---|
| `phantom-fundus[?size=64&seed=0&train=1080&validation=120&test=400]` | built in, procedural, no patients |
| `file.npz` | MedMNIST layout |
| `file.csv`, `file.jsonl` | columns image (path relative to the file), label[, split, subgroups] |
| folder | class folders, or Parquet (also what `clinsynth generate` writes) |
| `folder[?window=40,400]` | DICOM files with labels.csv; window centre and width instead of each file's own |
| anything else | an id on the Hugging Face Hub |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clinsynth.data import dicom, phantom_fundus, sources
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.checks import check_classes, check_not_empty
from clinsynth.data.labels import with_class_labels, without_identifiers
from clinsynth.data.medmnist_names import published_names
from clinsynth.data.splits import choose_train, with_all_splits

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load_image_dataset(args: ImageDataArguments, seed: int = 0) -> DatasetDict:
    """Splits train, validation and test: `image` (Image), `label` (ClassLabel) and the data set's subgroup columns.

    Missing splits are cut off train (20 % test, 10 % validation), always in the same way. `--train_fraction` and
    `--few_shot` choose from train by `seed`.

    Raises:
        ValueError: whatever is wrong with the data set or a flag, with its name, value and mend.
    """
    from datasets import DatasetDict

    splits = read_splits(args)
    check_not_empty(splits)
    splits = with_class_labels(splits, args.label_column, label_names(args))
    splits = without_identifiers(with_all_splits(splits))
    splits["train"] = choose_train(splits["train"], args, seed)
    names = splits["train"].features["label"].names
    counts = np.bincount(splits["train"]["label"][:], minlength=len(names))
    check_classes(counts, names, args.min_class_size)
    return DatasetDict(splits)


def read_splits(args: ImageDataArguments) -> dict[str, Dataset]:
    """The splits that are there, with the columns they came with."""
    spec, (name, _, options) = args.dataset, args.dataset.partition("?")
    path = Path(name)
    if name == phantom_fundus.NAME:
        return phantom_fundus.build_splits(phantom_fundus.parse_spec(spec, args.resolution))
    if path.is_dir() and dicom.is_dicom_folder(path):
        return dicom.read_dicom_folder(path, dicom.parse_window(options))
    if options:
        raise ValueError(
            f"--dataset {spec}: only {phantom_fundus.NAME} and DICOM folders take options after a ?; "
            f"leave ?{options} out"
        )
    if path.is_dir():
        return sources.read_folder(path)
    if path.suffix not in (".npz", ".csv", ".jsonl"):
        return sources.read_hub(spec)
    if not path.is_file():
        raise ValueError(f"--dataset {spec}: there is no such file; check the path")
    return sources.read_npz(path) if path.suffix == ".npz" else sources.read_table(path)


def label_names(args: ImageDataArguments) -> list[str] | None:
    path = Path(args.dataset)
    if args.label_names is None and path.suffix == ".npz":
        return published_names(path.stem)
    assert not isinstance(args.label_names, str)  # its __post_init__ sees to that
    return args.label_names
