"""The two sides of an evaluation of texts, brought to one numbering of classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.metrics.texts.canaries import Canaries
from clinsynth.metrics.texts.text_words import TextSet

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.scripts.evaluate_text import EvaluateTextArguments

MEND = "give the folder that `clinsynth generate text` wrote"
SPLITS = ("train", "validation", "test")
DATA_FLAGS = (
    "text_column",
    "label_column",
    "label_names",
    "train_fraction",
    "few_shot",
    "min_class_size",
    "drop_small_classes",
)


def load_real_texts(args: EvaluateTextArguments) -> tuple[dict[str, TextSet], list[str]]:
    """Splits train, validation and test of `--real`, and the names of the classes."""
    from clinsynth.data.texts import TextDataArguments, load_text_dataset

    flags = {name: getattr(args, name) for name in DATA_FLAGS}
    try:
        splits = load_text_dataset(TextDataArguments(dataset=args.real, **flags), args.seed)
    except ValueError as error:
        raise ValueError(str(error).replace("--dataset", "--real")) from error
    return {name: TextSet.of(splits[name]) for name in SPLITS}, list(splits["train"].features["label"].names)


def read_text_generation(folder: Path) -> dict[str, Any] | None:
    """How the synthetic set was made: its generation.json, None where it has none.

    Raises:
        ValueError: the generation was stopped and has not finished, or the file is damaged.
    """
    path = folder / "generation.json"
    if not path.exists():
        return None
    mend = "start its `clinsynth generate text` command again"
    try:
        generation: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--synthetic {folder}: generation.json is damaged ({error}); {mend}") from error
    if not generation.get("complete", True):
        raise ValueError(f"--synthetic {folder} is not finished; {mend}")
    return generation


def load_canaries(path: str | None, generation: dict[str, Any] | None) -> Canaries | None:
    """The sentences in the file `path`; where none is given, those that the generator was fine-tuned with, if any.

    Raises:
        ValueError: no such file, or not what `clinsynth train text-lora --canaries` writes.
    """
    if path is None:
        generator = (generation or {}).get("generator") or {}
        own = Path(str(generator.get("model", ""))) / "canaries.json"
        if not own.is_file():
            return None
        path = str(own)
    mend = "give the canaries.json of a folder that `clinsynth train text-lora --canaries` wrote"
    try:
        return Canaries(**json.loads(Path(path).read_text()))
    except FileNotFoundError as error:
        raise ValueError(f"--canaries {path}: there is no such file; {mend}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"--canaries {path} is not a list of canaries ({error}); {mend}") from error


def load_synthetic_texts(folder: Path, label_names: list[str]) -> TextSet:
    """The Parquet shards of `folder`, labels numbered as in `label_names`; some of these may have no text.

    Columns text (string) and label (with class names, or names themselves); example_ids and id where they are there.

    Raises:
        ValueError: no folder, shard, row or column of that kind, an empty text, or a class that the real set lacks.
    """
    dataset = read_synthetic(folder)
    given = given_labels(dataset, folder)
    texts = dataset["text"][:]
    empty = next((row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()), None)
    if empty is not None:
        raise ValueError(f"--synthetic {folder}: row {empty} holds no text; leave it out, or generate the set again")
    unknown = sorted(set(given) - set(label_names))
    if unknown:
        raise ValueError(
            f"--synthetic {folder} has labels {', '.join(sorted(set(given)))}, --real has {', '.join(label_names)}: "
            f"{', '.join(unknown)} is not among these; give the --real that the texts were made for, or name its "
            "classes in the order of their numbers with --label_names"
        )
    numbers = [label_names.index(name) for name in given]
    dataset = dataset.remove_columns("label").add_column("label", numbers)
    made = TextSet.of(dataset)
    return replace(made, labels=np.asarray(numbers, dtype=np.int64))


def read_synthetic(folder: Path) -> Dataset:
    """All rows of the folder's shards.

    Raises:
        ValueError: there is no folder, shard, row, or column text or label.
    """
    from datasets import concatenate_datasets

    from clinsynth.synthesis.sets import read_shard

    if not folder.is_dir():
        raise ValueError(f"--synthetic {folder} is not a folder; {MEND}")
    shards = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))
    if not shards:
        raise ValueError(f"--synthetic {folder} holds no .parquet file; {MEND}")
    dataset = concatenate_datasets([read_shard(path) for path in shards])
    if len(dataset) == 0:
        raise ValueError(f"--synthetic {folder} holds no text; {MEND}")
    for column in ("text", "label"):
        if column not in dataset.column_names:
            raise ValueError(
                f"--synthetic {folder} has no column {column!r}; it has {', '.join(dataset.column_names)}: {MEND}"
            )
    return dataset


def given_labels(dataset: Dataset, folder: Path) -> list[str]:
    """The label of each row by its name.

    Raises:
        ValueError: labels are numbers without names, or missing.
    """
    names = getattr(dataset.features["label"], "names", None)
    values = dataset["label"][:]
    if names is not None and all(value is not None and 0 <= value < len(names) for value in values):
        return [names[value] for value in values]
    if names is None and all(isinstance(value, str) for value in values):
        return list(values)
    raise ValueError(f"--synthetic {folder}: labels need names, in each row; {MEND}")
