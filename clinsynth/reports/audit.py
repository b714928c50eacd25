"""audit.json and audit.html of a synthetic set of texts: what the audit found, in numbers, and texts where asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinsynth.judges.text_audit import TextJudge, audit_texts
from clinsynth.judges.text_rules import AUDIT_FILE, Category
from clinsynth.reports.page import render_page
from clinsynth.run_folder import atomic_write, create_run_folder
from clinsynth.synthesis.sets import WROTE_TEXTS, SetReader
from clinsynth.synthesis.shard_files import hash_shards


def audit_set(
    folder: Path,
    output_dir: Path,
    categories: Sequence[Category],
    judges: Sequence[TextJudge],
    show_texts: bool | None,
) -> str:
    """Audit the set in `folder`, write audit.json and audit.html into `output_dir`, and say in a line what came out.

    Args:
        show_texts: the flagged texts stand on the page; None for no page.

    Raises:
        ValueError: there is no set in the folder.
    """
    reader = SetReader.open(folder, WROTE_TEXTS)
    texts = reader.values("text")
    record = {"shards_sha256": hash_shards(folder)} | audit_texts(texts, reader.label_names(), categories, judges)
    create_run_folder(str(output_dir))
    shown = {row["row"]: texts[row["row"]] for row in record["rows"]} if show_texts else {}
    if show_texts is not None:
        values = {"record": record, "name": folder.name, "shown": shown}
        atomic_write(output_dir / "audit.html", render_page("report_audit", audit_limits(record), **values))
    atomic_write(output_dir / AUDIT_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return f"{audit_in_words(record)}: {output_dir / AUDIT_FILE}"


def audit_in_words(record: dict[str, Any]) -> str:
    """What an audit found, in a line."""
    flagged, by = record["flagged"], record["by_category"]
    kinds = f" ({', '.join(f'{name} {count}' for name, count in by.items())})" if by else ""
    unread = f", {record['not_judged']} not judged by all" if record["not_judged"] else ""
    who = " and ".join(judge["kind"] for judge in record["judges"])
    return f"audit by {who}: {flagged['count']} of {flagged['n']} texts flagged{kinds}{unread}"


def audit_limits(record: dict[str, Any]) -> list[str]:
    """What the numbers do not say, in plain words."""
    limits = [
        "Distress, a wish to be dead, symptoms and reported abuse are not counted: they are what such texts tell of."
    ]
    kinds = {judge["kind"] for judge in record["judges"]}
    if kinds == {"rules"}:
        limits.append(
            "Rules know English words alone. Nothing found is no proof: ask a guard model (--guard) or experts."
        )
    if "experts" not in kinds:
        limits.append("No expert has looked at these texts.")
    return limits
