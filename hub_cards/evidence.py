"""The evidence that a card reports, and whether it is about what the card is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from clinsynth.hub_cards.sources import Source
from clinsynth.metrics.registry import IMAGE_METRICS, TEXT_METRICS
from clinsynth.private_words import describe_command, without_paths
from clinsynth.run_folder import read_json

FILE = "evidence.json"
SAME_DATA_FLAGS = ("few_shot", "train_fraction", "min_class_size")


@dataclass(frozen=True)
class Evidence:
    """What evidence.json holds.

    Attributes:
        folder: where it lies.
        real: the real data set as --real named it, paths and all; empty where it is not known.
        content: the rest, without paths.
    """

    folder: Path
    real: str
    content: dict[str, Any]

    @property
    def of_texts(self) -> bool:
        return "fidelity" in self.content

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """The records beside real splits that say how alike the sets are."""
        key = "fidelity" if self.of_texts else "measurements"
        records: list[dict[str, Any]] = self.content[key]
        return records

    @property
    def generation(self) -> dict[str, Any]:
        """generation.json of the set that was measured, without paths."""
        return self.content.get("generation") or {}

    @property
    def commands(self) -> list[str | None]:
        """How the set that was measured was made, and how it was measured."""
        made, measured = (part.get("environment") or {} for part in (self.generation, self.content))
        return [describe_command(part.get("command"), self.folder) for part in (made, measured)]

    def counts(self, split: str) -> dict[str, int]:
        """Samples a class of "train", "validation", "test" or "synthetic"; empty where it is not known."""
        found: dict[str, int] = self.content["data"]["counts"].get(split, {})
        return found


def read_evidence(path: str | Path | None) -> Evidence | None:
    """The evidence in a file, or in a folder that holds evidence.json; None of None.

    Raises:
        ValueError: there is none, or it is damaged or no evidence.
    """
    if path is None:
        return None
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    content = read_json(file)
    if not {"data", "privacy", "environment"} <= set(content):
        raise ValueError(
            f"evidence {path} holds no evidence.json of `clinsynth evaluate images` or `… text`; give the "
            "--output_dir of one"
        )
    return Evidence(file.parent, content["data"].get("real", ""), without_paths(content))


def check_about_set(evidence: Evidence, generation: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError where the evidence measured another synthetic set than that in `folder`."""
    measured, own = evidence.generation, without_paths(generation)
    for part in ("generator", "produced"):
        if measured and own.get(part) != measured.get(part):
            raise ValueError(
                f"evidence {evidence.folder} is about a set with another {part!r} than {folder}; evaluate this set"
            )
    produced = {name: count for name, count in (own.get("produced") or {}).items() if count}
    counted = {name: count for name, count in evidence.counts("synthetic").items() if count}
    if produced and produced != counted:
        raise ValueError(
            f"evidence {evidence.folder} counted {sum(counted.values())} samples, {folder} holds "
            f"{sum(produced.values())}, or others a class; evaluate this set"
        )


def same_train_data(evidence: Evidence, config: dict[str, Any], evaluation: dict[str, Any]) -> bool:
    """Whether the train split that the evidence counted is the one that a run of `config` was trained on."""
    here, there = (Path(spec or "").name for spec in (config.get("dataset"), evidence.real))
    return bool(here) and here == there and all(config.get(name) == evaluation.get(name) for name in SAME_DATA_FLAGS)


SHOWN_DIGITS = 4


def eval_results(evidence: Evidence | None, source: Source, task: str) -> list[EvalResult] | None:
    """The measured records of the whole set beside the real test split; None where there are none.

    The interval, floors and sizes of each stand in its `args`: the format has no other place for them.
    """
    if evidence is None:
        return None
    metrics = TEXT_METRICS if evidence.of_texts else IMAGE_METRICS
    name = source.name or "real data"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=source.hub_id or name.lower().replace(" ", "-"),
            dataset_name=name,
            dataset_split="test",
            metric_type=record["metric"],
            metric_name=f"{metrics[record['metric']].heading} ({record['extractor']})",
            metric_value=rounded(record["value"]),
            metric_args={name: value for name, value in describe_args(record) if value is not None},
        )
        for record in evidence.measurements
        if (record["label"], record["reference"]) == ("overall", "test") and record["value"] is not None
    ]
    return results or None


def describe_args(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "interval_95", [rounded(end) for end in record["interval"]] if record["interval"] else None
    yield "floor_other_real", rounded(record["floor_held_out"])
    yield "floor_real_halves", rounded(record["floor"])
    yield from ((name, record[name]) for name in ("n_real", "n_synthetic", "extractor"))


def rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.{SHOWN_DIGITS}g}")
