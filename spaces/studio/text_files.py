"""Labelled texts: read from an uploaded .csv or .jsonl, or written by a program."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITTEN = {"made-up posts, seed 0": 0, "made-up posts, seed 1": 1}
"""Built-in sets of texts, and the seeds that they are written with."""
WRITTEN_ROWS = 200
SUFFIXES = {".csv", ".jsonl"}
MEND = "give columns text and label, in UTF-8"


def read_text_file(path: Path, called: str, most_rows: int) -> tuple[list[str], list[str]]:
    """Texts and labels of a .csv with a head line, or of a .jsonl with one object a line.

    Raises:
        ValueError: it is damaged, lacks a column, has an empty cell, or more than `most_rows` rows.
    """
    texts, labels = [], []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True) if path.suffix.lower() == ".csv" else read_lines(file)
            for number, row in enumerate(rows, start=1):
                if number > most_rows:
                    raise ValueError(f"{called} has more than {most_rows} rows; draw a smaller part at random")
                texts.append(cell(row, "text", f"{called}, row {number},"))
                labels.append(cell(row, "label", f"{called}, row {number},"))
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{called}: {path.name} cannot be read ({type(error).__name__}); {MEND}") from error
    if not texts:
        raise ValueError(f"{called} is empty; {MEND}")
    return texts, labels


def read_lines(file: Any) -> Iterator[Any]:
    return (json.loads(line) for line in file if line.strip())


def cell(row: Any, column: str, place: str) -> str:
    """A cell as text; a label may be a number."""
    value = row.get(column) if isinstance(row, dict) else None
    if column == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place} has no {column}; {MEND}")
    return value


def write_posts(seed: int) -> tuple[list[str], list[str]]:
    """Posts of four severities and their labels; no person stands behind them."""
    from clinsynth.data.phantom_posts import LABELS, write_split

    rows = list(write_split("test", WRITTEN_ROWS, seed))
    return [row["text"] for row in rows], [LABELS[row["label"]] for row in rows]
