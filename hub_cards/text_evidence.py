"""What a card says of the evidence on texts: answers in plain words, and a table a dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clinsynth.hub_cards.render import RECORD_COLUMNS, Table, record_row, with_interval
from clinsynth.reports.texts import CONTENT, DISTANCES, MEMORISATION, TABLES, build_table

QUESTIONS = {
    "copies": "Are real texts copied?",
    "leaks": "Are names, dates or numbers of real texts leaked?",
    "repeats itself": "Does the generator repeat itself?",
    "softened tone": "Is the tone softened?",
}
INDEXED = {name: title for name, (title, _) in (DISTANCES | CONTENT).items()}
CLASS_COLUMNS = ("mmd_squared", "coverage", "label_recovery")


def answers(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions that a reader asks, and what was found."""
    for name, finding in content["findings"].items():
        yield QUESTIONS.get(name, f"{name.capitalize()}?"), finding["sentence"]


def tables(content: dict[str, Any]) -> Iterator[Table]:
    """A table a dimension, privacy apart."""
    yield from tables_of(content, {"fidelity", "diversity"})
    found = {
        (record["label"], record["metric"]): record
        for record in content["fidelity"]
        if record["reference"] == "test" or record["metric"] == "label_recovery"
    }
    counts = content["data"]["counts"]
    rows = [
        [
            label,
            f"{counts['test'].get(label, 0):,} / {counts['synthetic'][label]:,}",
            *(with_interval(found.get((label, metric))) for metric in CLASS_COLUMNS),
        ]
        for label in content["data"]["label_names"]
        if counts["synthetic"].get(label)
    ]
    columns = ["class", "real test / synthetic", *((DISTANCES | CONTENT)[metric][0] for metric in CLASS_COLUMNS)]
    yield Table("Each class", columns, rows, "In brackets: 95 % intervals. A dash: too few texts to measure.")


def privacy_tables(content: dict[str, Any]) -> Iterator[Table]:
    """Closeness to the train texts, what is shared with them, and what of them is leaked."""
    yield from tables_of(content, {"privacy"})


def tables_of(content: dict[str, Any], sections: set[str]) -> Iterator[Table]:
    """The tables of the page of evidence that belong to `sections`, of the whole set."""
    for section, title, part, metrics, reference in TABLES:
        if section not in sections:
            continue
        built = build_table(content, section, title, part, metrics, reference)
        rows = [record_row(row, row["title"], row["better"]) for row in built["rows"] if row["value"] is not None]
        note = f"Embeddings of: {content['encoder']['name']}." if metrics in (DISTANCES, MEMORISATION) else ""
        yield Table(title, RECORD_COLUMNS, rows, note)
