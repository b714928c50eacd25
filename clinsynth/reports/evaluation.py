"""What an evaluation leaves beside evidence.json: its page, its numbers as a table, and the verdict on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from clinsynth.metrics.verdicts import judge
from clinsynth.reports.page import Made, records_as_csv, training_curves
from clinsynth.run_folder import atomic_write, read_metrics

FILES = ("evidence.json", "evidence.csv")
Render = Callable[[dict[str, Any], dict[str, Any], Made], str]


def write_report(
    output_dir: Path,
    evidence: dict[str, Any],
    render: Render,
    samples: dict[str, Any],
    started: float,
    shown: str,
    author: str,
) -> None:
    """Write evidence.csv and report.html, and print the verdict.

    Args:
        render: the page from evidence, samples and how they were made.
        samples: what the page shows.
        started: `time.monotonic()` when the measurement began.
        shown: what the page holds of real samples, in words.
        author: who answers for it, or empty.
    """
    model = ((evidence.get("generation") or {}).get("generator") or {}).get("model")
    curves = training_curves(read_metrics(Path(str(model)))) if model else []
    made = Made(f"{date.today()}", time.monotonic() - started, FILES, curves, author)
    atomic_write(output_dir / FILES[1], records_as_csv(evidence))
    atomic_write(output_dir / "report.html", render(evidence, samples, made))
    print("\n".join(judge(evidence).lines()))
    print(f"evidence: {output_dir / FILES[0]}")
    print(f"report ({shown}): {output_dir / 'report.html'}")
