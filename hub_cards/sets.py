"""What a synthetic data set's own files say of it: columns, rows, sizes, who made it and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.hub.hub_columns import Columns, read_columns
from clinsynth.hub.shards import open_shard
from clinsynth.hub_cards.checkpoint import may_have_made, read_checkpoint
from clinsynth.hub_cards.run_files import RunFiles, read_run
from clinsynth.private_words import HIDDEN, without_paths
from clinsynth.run_folder import read_json
from clinsynth.synthesis.provenance import find_provenance

NOT_SHOWN = {"model", "endpoint", "task_sha256", "examples_sha256", "verify_labels_sha256", "seed"}
SHARDS = "data/*.parquet"
SPLIT = "train"
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
LARGEST_SIZE = "10M<n<100M"
COLUMN_WORDS = {
    "image": "the synthetic picture",
    "text": "the synthetic text",
    "label": "the class that was asked for",
    "seed": "of the row's own random generator: it makes the row again",
    "id": "number of the row",
    "example_ids": "real texts that were shown in the row's prompt, by id",
    "attempts": "how often the row was drawn until it was valid",
    "synthetic": "true: a model made the row",
    "generator": "what made the row",
    "revision": "SHA-256 of the generator's weights",
}


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic data set on disk.

    Attributes:
        run: its run folder's files.
        generation: generation.json.
        columns: names and types, as the first shard says.
        num_rows, num_bytes, download_size: of all shards; bytes once decompressed, and as files.
        trained: the generator's run folder, where it lies here and its weights are those that made the set.
    """

    run: RunFiles
    generation: dict[str, Any]
    columns: Columns
    num_rows: int
    num_bytes: int
    download_size: int
    trained: RunFiles | None

    @property
    def of_texts(self) -> bool:
        return all(column["name"] != "image" for column in self.columns)

    @property
    def changed_from_real(self) -> bool:
        """Each picture began as a real one (image-to-image)."""
        return "image_to_image" in self.generation["generator"]

    @property
    def things(self) -> str:
        return "texts" if self.of_texts else "pictures"

    @property
    def labels(self) -> list[str]:
        (label,) = (column["dtype"] for column in self.columns if column["name"] == "label")
        return list(label["class_label"]["names"].values())

    @property
    def model_id(self) -> str | None:
        """The generator's id on the Hub, if it came from there when the set was made."""
        model = self.generation["generator"].get("model") or ""
        return model if "/" in model and find_provenance(self.generation, self.run.folder).generator == model else None

    @property
    def size_category(self) -> str:
        return next((name for name, end in SIZES.items() if self.num_rows < end), LARGEST_SIZE)

    def settings(self) -> dict[str, str]:
        """How the generator was sampled, as text."""
        known = {name: value for name, value in self.generation["generator"].items() if name not in NOT_SHOWN}
        shown = {name: str(value) for name, value in without_paths(known).items() if value is not None}
        return {name: value for name, value in shown.items() if value and HIDDEN not in value}


def read_set(folder: Path) -> SyntheticSet:
    """The synthetic data set in `folder`.

    Raises:
        ValueError: there is none, it is not finished, or a shard cannot be read.
    """
    generation = read_generation(folder)
    files = [open_shard(path) for path in sorted(folder.glob(SHARDS))]
    groups = [file.metadata.row_group(i) for file in files for i in range(file.metadata.num_row_groups)]
    return SyntheticSet(
        read_run(folder),
        generation,
        read_columns(files[0].schema_arrow),
        sum(file.metadata.num_rows for file in files),
        sum(group.total_byte_size for group in groups),
        sum(path.stat().st_size for path in folder.glob(SHARDS)),
        find_training(generation["generator"], folder),
    )


def read_generation(folder: Path) -> dict[str, Any]:
    """generation.json of the synthetic data set in `folder`.

    Raises:
        ValueError: there is no set, or it is not finished.
    """
    generation = read_json(folder / "generation.json")
    if not generation or not any(folder.glob(SHARDS)):
        raise ValueError(
            f"{folder} holds no synthetic data set (generation.json and {SHARDS}); give the --output_dir of "
            "`clinsynth generate images` or `clinsynth generate text`"
        )
    if not generation.get("complete", True):
        raise ValueError(f"{folder} is not finished; start its `clinsynth generate` command again")
    return generation


def find_training(generator: dict[str, Any], folder: Path) -> RunFiles | None:
    """The run folder of the generator, looked for from here and beside the set; None where it is not there.

    A folder of that name that holds no checkpoint, or other weights, is another's.
    """
    model = generator.get("model")
    if not model:
        return None
    for place in (Path(), *folder.resolve().parents):
        found = place / model
        if (found / "config.yaml").exists() and holds_generator(found, generator):
            return read_run(found)
    return None


def holds_generator(run: Path, generator: dict[str, Any]) -> bool:
    """Whether a run folder's checkpoint may have made the set."""
    try:
        return may_have_made(read_checkpoint(run), generator)
    except ValueError:
        return False


def describe_columns(columns: Columns) -> list[list[str]]:
    """Name, type and meaning of each column."""
    return [[column["name"], kind_of(column), COLUMN_WORDS.get(column["name"], "–")] for column in columns]


def kind_of(column: dict[str, Any]) -> str:
    """The type of a column in a word or two."""
    kind = column.get("dtype", "list" if "list" in column else "–")
    if isinstance(kind, dict):
        return "class label" if "class_label" in kind else "picture" if "image" in kind else "–"
    return "picture" if kind == "image" else str(kind)
