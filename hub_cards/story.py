"""What the evidence says, in the order in which a card tells it; and its numbers in the Hub's model-index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from clinsynth.hub_cards import image_evidence, text_evidence
from clinsynth.hub_cards.evidence import Evidence
from clinsynth.hub_cards.sources import Source
from clinsynth.hub_cards.tables import Table, without_empty_columns
from clinsynth.reports import images as report
from clinsynth.reports import texts as report_texts

SHOWN_DIGITS = 4


@dataclass(frozen=True)
class Story:
    """`answers` to plain questions; `tables` a dimension and of `privacy`; `limits` of all these numbers."""

    answers: list[tuple[str, str]]
    tables: list[Table]
    privacy: list[Table]
    limits: list[str]


def tell(evidence: Evidence | None) -> Story | None:
    """The story of the evidence; None without any."""
    if evidence is None:
        return None
    told = text_evidence if evidence.of_texts else image_evidence
    limits = report_texts.limits if evidence.of_texts else report.limits
    content = evidence.content
    return Story(
        list(told.answers(content)),
        [without_empty_columns(table) for table in told.tables(content) if table.rows],
        [without_empty_columns(table) for table in told.privacy_tables(content) if table.rows],
        list(limits(content)),
    )


def eval_results(evidence: Evidence | None, source: Source, task: str) -> list[EvalResult] | None:
    """The measured records of the whole set beside the real test split; None where there are none.

    The interval, floors and sizes of each stand in its `args`: the format has no other place for them.
    """
    if evidence is None:
        return None
    titles = text_evidence.INDEXED if evidence.of_texts else image_evidence.INDEXED
    name = source.name or "real data"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=source.hub_id or name.lower().replace(" ", "-"),
            dataset_name=name,
            dataset_split="test",
            metric_type=record["metric"],
            metric_name=f"{titles[record['metric']]} ({record['extractor']})",
            metric_value=rounded(record["value"]),
            metric_args=describe_args(record),
        )
        for record in evidence.measurements
        if (record["label"], record["reference"]) == ("overall", "test")
        and record["metric"] in titles
        and record["value"] is not None
    ]
    return results or None


def describe_args(record: dict[str, Any]) -> dict[str, Any]:
    values = {
        "interval_95": [rounded(end) for end in record["interval"]] if record["interval"] else None,
        "floor_other_real": rounded(record["floor_held_out"]),
        "floor_real_halves": rounded(record["floor"]),
        "n_real": record["n_real"],
        "n_synthetic": record["n_synthetic"],
        "extractor": record["extractor"],
    }
    return {name: value for name, value in values.items() if value is not None}


def rounded(value: float | None) -> float | None:
    """Four significant digits."""
    return None if value is None else float(f"{value:.{SHOWN_DIGITS}g}")
