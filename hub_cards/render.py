"""From a template and what was read of a run to the text of a card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CardData
from markupsafe import Markup

from clinsynth import __version__
from clinsynth.metrics.registry import Metric
from clinsynth.private_words import BIDI, refuse_private
from clinsynth.reports.page import format_interval, format_number

RECORD_COLUMNS = [
    "measure",
    "value",
    "95 % interval",
    "better",
    "floor: other real ones",
    "floor: halves of the real ones",
    "n real / synthetic",
]


@dataclass(frozen=True)
class Table:
    """A Markdown table under a heading; `note` stands below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def record_row(record: dict[str, Any], metric: Metric) -> list[str]:
    """A measurement with all that belongs to it, in the order of RECORD_COLUMNS."""
    return [
        f"{metric.heading} (biased, reads high)" if record["biased"] else metric.heading,
        format_number(record["value"]),
        format_interval(record["interval"]) if record["interval"] else "–",
        metric.better,
        format_number(record["floor_held_out"]),
        format_number(record["floor"]),
        f"{record['n_real']:,} / {record['n_synthetic']:,}",
    ]


def with_interval(record: dict[str, Any] | None) -> str:
    """`0.51 (0.47 to 0.55)`, a dash where nothing was measured."""
    if record is None or record["value"] is None:
        return "–"
    interval = f" ({format_interval(record['interval'])})" if record["interval"] else ""
    return f"{format_number(record['value'])}{interval}"


def without_empty_columns(table: Table) -> Table:
    """The table without columns that hold dashes alone."""
    kept = [i for i, _ in enumerate(table.columns) if any(row[i] != "–" for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.title, [table.columns[i] for i in kept], rows, table.note)


CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")


def one_line(value: object) -> str:
    """A text without line breaks, control characters and signs that turn the direction of reading."""
    return " ".join(CONTROL.sub("", BIDI.sub("", str(value))).split())


def cell(value: object) -> Markup:
    """Text as it may stand in a Markdown table or sentence: no mark-up of its own, on one line.

    What is `Markup` has been through here, or is Markdown that clinsynth itself writes; it stays as it is.
    """
    if isinstance(value, Markup):
        return value
    text = one_line(value)
    for sign in "\\`*[]|":
        text = text.replace(sign, f"\\{sign}")
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;"))


def code(value: object) -> Markup:
    """Text as inline code in a Markdown table."""
    return Markup(f"`{one_line(value).replace('`', '')}`".replace("|", "\\|"))


def as_json(value: object) -> Markup:
    """A value in a block of Python code."""
    return Markup(BIDI.sub(lambda sign: f"\\u{ord(sign.group()):04x}", json.dumps(value, ensure_ascii=False)))


def command(line: str) -> Markup:
    """A line in a block of shell commands, which no line break may end."""
    return Markup(re.sub(r"[\r\n]+", " ", BIDI.sub("", line)))


LOCAL = "path/of/this/folder"
"""What a snippet loads where no repository is named."""


def render_card(template: str, data: CardData, **values: object) -> str:
    """The card: its metadata as YAML between lines of dashes, then the Markdown of `template`.jinja.

    Every value that a template shows passes `cell`, once: `Markup` alone is shown as it is.

    Raises:
        ValueError: the card would give something private away.
    """
    import jinja2  # not before a card is written: a push sends meanwhile

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=cell,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": cell, "code": code, "listed": listed, "json": as_json, "command": command}
    body = environment.get_template(f"{template}.jinja").render(version=__version__, **values)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return refuse_private(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def listed(names: Iterable[str], most: int = 12) -> str:
    """`a, b and c`; of a long list the first `most`, and how many more there are; a template escapes it."""
    shown = list(names)
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def repository_name(repo_id: str | None) -> str:
    """`retina-ddpm` of `me/retina-ddpm`; empty without a repository."""
    return (repo_id or "").rpartition("/")[2]
