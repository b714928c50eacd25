"""The part of an image page that says how well the pictures show their class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clinsynth.reports.report_numbers import format_interval, format_number

ALIGNMENT_NAMES = {
    "checklist_share": "checklist share",
    "class_margin": "class margin",
    "typicality": "typicality",
    "alignment": "alignment",
    "low_alignment_tail": "low-alignment tail",
}


def alignment_table(alignment: dict[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """For "overall" and each class the records of ALIGNMENT_NAMES, in that order; empty where it was not measured."""
    table: dict[str, list[dict[str, Any]]] = {}
    for record in alignment["records"] if alignment else []:
        table.setdefault(record["label"], []).append(record)
    return table


def alignment_findings(alignment: dict[str, Any] | None) -> Iterator[dict[str, str]]:
    """The tail overall, for the head of the page."""
    for row in alignment_table(alignment).get("overall", [])[-1:]:
        yield {"title": "Low-alignment tail, overall", **describe_tail(row)}


def describe_tail(row: dict[str, Any]) -> dict[str, str]:
    if row["value"] is None:
        return {"value": "–", "text": row["note"]}
    interval = f"95 % {format_interval(row['interval'])}" if row["interval"] else "no interval"
    floor = row["floor"] if row["floor"] is not None else row["floor_held_out"]
    against = "" if floor is None else f"; among real pictures {format_number(floor)}"
    return {"value": format_number(row["value"]), "text": f"{interval}{against}"}
