"""The tab Evidence: a synthetic set of images or texts against a real one, measured by the package's own report."""

from __future__ import annotations

import html
import json
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import limits
from evidence_run import MIN_REAL, MIN_SYNTHETIC, evaluate, prepare, summarise
from page import downloadable, errors_as_messages, removed_afterwards, set_fields
from sets import read_set

INTRODUCTION = (
    "Measures how far a synthetic set of images or texts lies from a real one, beside the floor that two parts "
    "of the real set reach.\n\n"
    f"- Images: {MIN_REAL['image']} to {limits.MOST_ROWS} real and at least {MIN_SYNTHETIC} synthetic ones, in "
    "class folders (.zip) or as .parquet with columns image and label.\n"
    f"- Texts: {MIN_REAL['text']} to {limits.MOST_ROWS} real and at least {MIN_SYNTHETIC} synthetic ones, as .csv, "
    ".jsonl or .parquet with columns text and label.\n\n"
    f"It takes minutes, {limits.EVIDENCE_SECONDS // 60} at most. A fifth of the real set is held out. Uploads are "
    "removed afterwards. The report on images shows real ones, so keep it as private as they are; that on texts "
    "shows none."
)
SUFFIXES = [".parquet", ".csv", ".jsonl"]
OWN_SIZE = "as they are"
RESOLUTIONS = [OWN_SIZE, "28", "32", "64", "128"]
TABLE_COLUMNS = ["metric", "value", "95 % interval", "floor", "floor, held out", "real", "synthetic"]
TABLE_WIDTHS: list[str | int] = ["180px", "90px", "150px", "90px", "100px", "80px", "100px"]
"""Of these columns: a phone is to scroll through them, not to break their words."""
FLOORS = (
    "*Floor*: the same number between two halves of the held-out real samples. *Floor, held out*: between real train "
    "and real held-out samples. No synthetic set can be expected to do better. The report has the plots, every class "
    "and the privacy readings."
)


def build() -> None:
    """The components of the tab, inside the `gr.Blocks` that is open."""
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        real, real_file = set_fields("Real set", "drawn eyes, seed 0", SUFFIXES)
    with gr.Row():
        synthetic, synthetic_file = set_fields("Synthetic set", "drawn eyes, seed 1", SUFFIXES)
    with gr.Row():
        resolution = gr.Dropdown(RESOLUTIONS, value=OWN_SIZE, label="Resolution of pictures in pixels")
        seed = gr.Number(0, precision=0, minimum=0, label="Seed of the measurements")
    compare_button = gr.Button("Compare", variant="primary")
    findings = gr.Markdown()
    summary = gr.JSON(visible=False)
    metrics = gr.Dataframe(
        headers=TABLE_COLUMNS, column_widths=TABLE_WIDTHS, label="Overall numbers", interactive=False, wrap=True
    )
    gr.Markdown(FLOORS)
    files = gr.File(label="report.html and evidence.json", file_count="multiple", interactive=False, height=140)
    report = gr.HTML()
    compared = compare_button.click(
        compare,
        [real, real_file, synthetic, synthetic_file, resolution, seed],
        [summary, files],
        api_name="evidence",
        concurrency_limit=1,
        concurrency_id="evidence",
        show_progress_on=[metrics],
    )
    shown = [findings, metrics, report, real_file, synthetic_file]
    compared.success(show_report, [summary, files], shown, api_visibility="private", show_progress="hidden")


@errors_as_messages()
def compare(
    real: str | None,
    real_file: str | None,
    synthetic: str | None,
    synthetic_file: str | None,
    resolution: str,
    seed: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  (gradio looks for just this)
) -> tuple[dict[str, Any], list[str]]:
    """Measure a synthetic set beside a real one.

    Returns:
        What stands at the head of the report ("findings") and the overall numbers beside real samples
        ("measurements"); and the files report.html and evidence.json.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with removed_afterwards(real_file, synthetic_file):
            progress(0, desc="reading")
            true = read_set(real, real_file, "the real set")
            made = read_set(synthetic, synthetic_file, "the synthetic set")
            kind = prepare(folder, true, made, None if resolution == OWN_SIZE else int(resolution), seed)
        progress(0, desc="starting the comparison")
        result = evaluate(folder, kind, lambda share, stage: progress(share, desc=stage))
        report, evidence = result / "report.html", result / "evidence.json"
        summary = summarise(kind, json.loads(evidence.read_text(encoding="utf-8")))
        return summary, [downloadable(path.name, path.read_bytes()) for path in (report, evidence)]


def show_report(summary: dict[str, Any], files: list[str]) -> list[Any]:
    """Findings, table, report in the page, and both upload fields empty."""
    tiles = "\n".join(tile_line(tile) for tile in summary["findings"])
    size = f", images at {summary['resolution']} pixels" if "resolution" in summary else ""
    extractor = f"Extractor: {summary['extractor']}{size}."
    report = Path(files[0]).read_text(encoding="utf-8")
    frame = (
        f'<iframe title="Report" sandbox style="width: 100%; height: 80vh; border: 0" srcdoc="{html.escape(report)}">'
        "</iframe>"
    )
    return [f"{tiles}\n\n{extractor}", [measurement_cells(row) for row in summary["measurements"]], frame, None, None]


def tile_line(tile: dict[str, Any]) -> str:
    more = f" ({tile['text']})" if tile["text"] else ""
    return f"- **{tile['title']}: {tile['value']}**{more}"


def measurement_cells(row: dict[str, Any]) -> list[str]:
    """Cells in the order of TABLE_COLUMNS."""
    from clinsynth.metrics.registry import IMAGE_METRICS
    from clinsynth.reports.page import format_interval, format_number

    name = row.get("title") or IMAGE_METRICS[row["metric"]].column
    numbers = [format_number(row[key]) for key in ("floor", "floor_held_out")]
    counts = [str(row["n_real"]), str(row["n_synthetic"])]
    return [name, format_number(row["value"]), format_interval(row["interval"]), *numbers, *counts]
