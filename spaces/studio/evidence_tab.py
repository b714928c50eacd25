"""The tab Evidence: a synthetic set of images or texts against a real one, measured by the package's own report.

`clinsynth evaluate` runs in a process of its own, which can be stopped when its time is over, and gives back all of
its memory.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import limits
import numpy as np
import page
import yaml
from drawn_sets import default_sets, drawn_names, read_any
from models import ModelList, Tell
from page import HandOver, downloadable, errors_as_messages, escape, removed_afterwards, set_fields
from PIL import Image
from sets import PHANTOM_IMAGES, LabelledSet, check_same_kind, open_image, read_set

import clinsynth

MIN_REAL = {"image": 60, "text": 80}
SIDES = (28, 256)
BOOTSTRAP = 50
BAR = re.compile(r"^(?P<stage>[^|%]{1,80}?):\s+(?P<percent>\d{1,3})%")
MIN_SYNTHETIC = 20
MIN_CLASS = 5
MOST_NAMED = 10  # classes in a message
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
INTRODUCTION = (
    "Measures how far a synthetic set of images or texts lies from a real one, beside the floor that two parts "
    "of the real set reach.\n\n"
    f"- Images: {MIN_REAL['image']} to {limits.MOST_ROWS} real and at least {MIN_SYNTHETIC} synthetic ones, in "
    "class folders (.zip) or as .parquet with columns image and label.\n"
    f"- Texts: {MIN_REAL['text']} to {limits.MOST_ROWS} real and at least {MIN_SYNTHETIC} synthetic ones, as .csv, "
    ".jsonl or .parquet with columns text and label.\n\n"
    f"It takes minutes, {limits.EVIDENCE_SECONDS // 60} at most. A fifth of the real set is held out. Uploads are "
    "removed afterwards. The report on images shows real ones, so keep it as private as they are; that on texts "
    "shows none. The fields hold an example of phantoms: press Compare."
)
SNIPPET = """from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
summary, (report, evidence) = client.predict(
    real="phantom eyes, seed 0", synthetic_file=handle_file("synthetic-images.zip"), api_name="/evidence"
)
"""
SUFFIXES = [".parquet", ".csv", ".jsonl"]
SMALLEST, OWN_SIZE = "the smaller of both", "as they are"
RESOLUTIONS = [SMALLEST, OWN_SIZE, "28", "32", "64", "128"]
TABLE_COLUMNS = ["metric", "value", "95 % interval", "floor", "floor, held out", "real", "synthetic"]
TABLE_WIDTHS: list[str | int] = ["180px", "90px", "150px", "90px", "100px", "80px", "100px"]
"""Of these columns: a phone is to scroll through them, not to break their words."""
FLOORS = (
    "*Floor*: the same number between two halves of the held-out real samples. *Floor, held out*: between real train "
    "and real held-out samples. No synthetic set can be expected to do better. The report has the plots, every class "
    "and the privacy readings."
)


def build(models: ModelList | None = None) -> HandOver:
    """The components of the tab, inside the `gr.Blocks` that is open; where a set may be handed over to."""
    made, true = default_sets(models)
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        real, real_file = set_fields("Real set", true, SUFFIXES)
    with gr.Row():
        synthetic, synthetic_file = set_fields("Synthetic set", made, SUFFIXES, *drawn_names(models))
    with gr.Row():
        resolution = gr.Dropdown(RESOLUTIONS, value=SMALLEST, label="Resolution of images in pixels")
        seed = gr.Number(0, precision=0, minimum=0, label="Seed of the measurements")
    compare_button = gr.Button("Compare", variant="primary")
    findings = gr.Markdown("What is found appears here.")
    summary = gr.JSON(visible=False, label="summary")
    with gr.Column(visible=False) as results:
        metrics = gr.Dataframe(
            headers=TABLE_COLUMNS, column_widths=TABLE_WIDTHS, label="Overall numbers", interactive=False, wrap=True
        )
        gr.Markdown(FLOORS)
        files = gr.File(label="report.html and evidence.json", file_count="multiple", interactive=False, height=140)
        report = gr.HTML()
    compared = compare_button.click(
        evidence_event(models),
        [real, real_file, synthetic, synthetic_file, resolution, seed],
        [summary, files],
        api_name="evidence",
        concurrency_limit=1,
        concurrency_id="evidence",
        show_progress_on=[findings],
    )
    shown = [results, findings, metrics, report, real_file, synthetic_file]
    compared.success(show_report, [summary, files], shown, api_visibility="private", show_progress="hidden")
    page.snippet(SNIPPET)
    return HandOver(synthetic_file)


def evidence_event(models: ModelList | None) -> Any:
    """The event of the tab."""

    @errors_as_messages()
    def compare(
        real: str | None = None,
        real_file: str | None = None,
        synthetic: str | None = None,
        synthetic_file: str | None = None,
        resolution: str = SMALLEST,
        seed: float = 0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (gradio looks for just this)
    ) -> tuple[dict[str, Any], list[str]]:
        """Measure a synthetic set beside a real one; a set is a name to pick, or else a file.

        Returns:
            What stands at the head of the report ("findings") and the overall numbers beside real samples
            ("measurements"); and the files report.html and evidence.json.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with removed_afterwards(real_file, synthetic_file):
                progress(0, desc="reading")
                true = read_set(real, real_file, "the real set")
                made = read_any(models, synthetic, synthetic_file, "the synthetic set")
                kind = prepare(folder, true, made, side_of(resolution, true, made), seed)
            progress(0, desc="starting the comparison")
            result = evaluate(folder, kind, lambda share, stage: progress(share, desc=stage))
            report, evidence = result / "report.html", result / "evidence.json"
            summary = summarise(kind, json.loads(evidence.read_text(encoding="utf-8"))) | {
                "real": {"name": name_of(real, real_file), "n": len(true.labels)},
                "synthetic": {"name": name_of(synthetic, synthetic_file), "n": len(made.labels)},
            }
            return summary, [downloadable(path.name, path.read_bytes()) for path in (report, evidence)]

    return compare


def name_of(picked: str | None, uploaded: str | None) -> str:
    """What a set is called: the file's name where one was uploaded."""
    return Path(uploaded).name if uploaded else str(picked)


def side_of(resolution: str, *chosen: LabelledSet) -> int | None:
    """The pixels that all images are brought to; None: as they are.

    Raises:
        ValueError: the resolution is none of RESOLUTIONS.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"the resolution must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}")
    if resolution == OWN_SIZE or any(each.kind == "text" for each in chosen):
        return None
    if resolution != SMALLEST:
        return int(resolution)
    sides = {Image.open(io.BytesIO(content)).width for each in chosen for content in each.contents}  # type: ignore[arg-type]
    return min(sides) if len(sides) > 1 else None


def show_report(summary: dict[str, Any], files: list[str]) -> list[Any]:
    """What was hidden, findings, table, report in the page, and both upload fields empty."""
    tiles = ""
    for tile in summary["findings"]:
        tiles += f"- **{tile['title']} {tile['value']}** ({tile['text']})\n"
    size = f", images at {summary['resolution']} pixels" if "resolution" in summary else ""
    compared = " with ".join(
        f"{summary[which]['n']} {which} ones of {escape(summary[which]['name'])}" for which in ("synthetic", "real")
    )
    extractor = f"Compared: {compared}. Extractor: {summary['extractor']}{size}."
    report = Path(files[0]).read_text(encoding="utf-8")
    frame = (
        f'<iframe title="Report" sandbox style="width: 100%; height: 80vh; border: 0" srcdoc="{html.escape(report)}">'
        "</iframe>"
    )
    numbers = [measurement_cells(row) for row in summary["measurements"]]
    return [gr.Column(visible=True), f"{tiles}\n{extractor}", numbers, frame, None, None]


def measurement_cells(row: dict[str, Any]) -> list[str]:
    """Cells in the order of TABLE_COLUMNS."""
    from clinsynth.metrics.registry import IMAGE_METRICS
    from clinsynth.reports.page import format_interval, format_number

    name = row.get("title") or IMAGE_METRICS[row["metric"]].column
    numbers = [format_number(row[key]) for key in ("floor", "floor_held_out")]
    counts = [str(row["n_real"]), str(row["n_synthetic"])]
    return [name, format_number(row["value"]), format_interval(row["interval"]), *numbers, *counts]


def prepare(folder: Path, real: LabelledSet, synthetic: LabelledSet, side: int | None, seed: float) -> str:
    """Write both sets and the configuration of the evaluation into `folder`; returns their kind.

    Args:
        side: pixels that all images are brought to; None: as they are.

    Raises:
        ValueError: the sets differ in kind, or an evaluation of them would mean nothing.
    """
    seed = limits.whole_number("the seed", seed, 0, limits.MOST_SEED)
    names = check_sets(real, synthetic)
    if real.kind == "text":
        settings = write_text_sets(folder, real, synthetic, names)
    else:
        settings = write_image_sets(folder, real, synthetic, names, side)
    settings |= {"synthetic": "synthetic", "output_dir": "evidence", "bootstrap": BOOTSTRAP, "seed": seed}
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return real.kind


def check_sets(real: LabelledSet, synthetic: LabelledSet) -> list[str]:
    """The class names, sorted."""
    check_same_kind(real, synthetic)
    noun = f"{real.kind}s"
    for chosen, least in ((real, MIN_REAL[real.kind]), (synthetic, MIN_SYNTHETIC)):
        if len(chosen.labels) < least:
            raise ValueError(
                f"{chosen.name} has {len(chosen.labels)} {noun}, fewer than {least}; give more: so few make no "
                "distance mean anything"
            )
    counts = Counter(real.labels)
    if len(counts) < 2:
        raise ValueError(f"{real.name} has one class, {next(iter(counts))!r}; give {noun} of at least two classes")
    name, least_count = min(counts.items(), key=lambda pair: pair[1])
    if least_count < MIN_CLASS:
        raise ValueError(
            f"{real.name} has {least_count} {noun} of class {name!r}, fewer than {MIN_CLASS}; add some, or leave "
            "the class out of both sets"
        )
    unknown = sorted(set(synthetic.labels) - set(counts))
    if unknown:
        raise ValueError(
            f"{synthetic.name} has classes that {real.name} has not: {', '.join(unknown[:MOST_NAMED])} (real: "
            f"{', '.join(sorted(counts)[:MOST_NAMED])}); rename them alike, or leave them out"
        )
    return sorted(counts)


def write_image_sets(
    folder: Path, real: LabelledSet, synthetic: LabelledSet, names: list[str], side: int | None
) -> dict[str, Any]:
    """Write sets of images; returns what the configuration says of them."""
    from datasets import Image as ImageFeature

    from clinsynth.data.tables import png_cell

    images = {called: decode_set(chosen, side) for called, chosen in (("real", real), ("synthetic", synthetic))}
    check_sizes({called: Counter(image.width for image in found) for called, found in images.items()})
    # what the report calls the real set
    path = f"phantom-fundus-seed-{PHANTOM_IMAGES[real.name]}.npz" if real.name in PHANTOM_IMAGES else "real.npz"
    labels = np.array([[names.index(label)] for label in real.labels])
    np.savez(folder / path, train_images=stack_images(images["real"]), train_labels=labels)
    cells = [png_cell(Image.fromarray(pixels)) for pixels in stack_images(images["synthetic"])]
    write_shard(folder / "synthetic", "image", ImageFeature(), cells, synthetic.labels, names)
    return {"real": path, "label_names": names, "classifier": "none"}


def decode_set(chosen: LabelledSet, side: int | None) -> list[Image.Image]:
    """All images, brought to `side` pixels where it is given (bicubic)."""
    images = []
    for number, content in enumerate(chosen.contents, start=1):
        assert isinstance(content, bytes)
        image = open_image(content, f"{chosen.name}, image {number},")
        if image.width != image.height:
            raise ValueError(
                f"{chosen.name}, image {number} is {image.width}x{image.height} pixels, which is not square; "
                "crop its set to squares"
            )
        if side is not None and image.width != side:
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        images.append(image)
    return images


def check_sizes(sizes: dict[str, Counter[int]]) -> None:
    found = sorted({side for counts in sizes.values() for side in counts})
    if len(found) > 1:
        told = "; ".join(
            f"{called}: " + ", ".join(f"{n} of {side}x{side}" for side, n in sorted(counts.items())[:4])
            for called, counts in sizes.items()
        )
        raise ValueError(f"the images differ in size ({told}); choose a resolution that all are brought to")
    if not SIDES[0] <= found[0] <= SIDES[1]:
        raise ValueError(
            f"the images are {found[0]}x{found[0]} pixels; only {SIDES[0]} to {SIDES[1]} are compared: choose a "
            "resolution"
        )


def stack_images(images: list[Image.Image]) -> np.ndarray:
    """uint8 (n, side, side), or (n, side, side, 3) where one of them is in colour."""
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    return np.stack([np.asarray(image.convert(mode)) for image in images])


def write_text_sets(folder: Path, real: LabelledSet, synthetic: LabelledSet, names: list[str]) -> dict[str, Any]:
    """Write sets of texts; returns what the configuration says of them."""
    from datasets import Value

    check_lengths(real)
    check_lengths(synthetic)
    rows = [{"text": text, "label": label} for text, label in zip(real.contents, real.labels, strict=True)]
    (folder / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_shard(folder / "synthetic", "text", Value("string"), synthetic.contents, synthetic.labels, names)
    return {"real": "real.jsonl", "encoder": text_encoder()}


def text_encoder() -> str:
    """The encoder of the embeddings: a folder or Hub id in STUDIO_TEXT_ENCODER, else all-MiniLM-L6-v2."""
    named = os.environ.get("STUDIO_TEXT_ENCODER") or ENCODER
    return str(Path(named).resolve()) if Path(named).exists() else named


def check_lengths(chosen: LabelledSet) -> None:
    lengths = [len(text) for text in chosen.contents]
    if max(lengths) > limits.MOST_CHARACTERS:
        row = lengths.index(max(lengths)) + 1
        raise ValueError(
            f"{chosen.name}: the text of row {row} has {max(lengths)} characters, more than {limits.MOST_CHARACTERS}; "
            "cut it into parts, or leave it out"
        )
    if sum(lengths) > limits.MOST_CHARACTERS_IN_ALL:
        raise ValueError(
            f"{chosen.name} has {sum(lengths)} characters in all, more than {limits.MOST_CHARACTERS_IN_ALL}; draw a "
            "smaller part at random"
        )


def write_shard(
    folder: Path, column: str, feature: Any, cells: list[Any], labels: list[str], names: list[str]
) -> None:
    """A folder as `clinsynth generate` leaves it, with one shard."""
    from datasets import ClassLabel, Dataset, Features

    features = Features({column: feature, "label": ClassLabel(names=names)})
    (folder / "data").mkdir(parents=True)
    columns = {column: cells, "label": [names.index(label) for label in labels]}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def evaluate(folder: Path, kind: str, tell: Tell, seconds: float = limits.EVIDENCE_SECONDS) -> Path:
    """Run the evaluation that was written down; the folder that holds evidence.json and report.html.

    Args:
        kind: of the sets, as `prepare` returned it.
        tell: takes the share of a stage that is done and what the stage is called.

    Raises:
        ValueError: it failed, or took longer than `seconds`.
    """
    words = ["evaluate", "text" if kind == "text" else "images", "--config", "evaluate.yaml"]
    beside = [str(Path(clinsynth.__file__).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, beside)),  # a Space carries the package as a folder beside its app
        "TMPDIR": str(folder),
    }
    if kind != "text":
        environment["HF_HUB_OFFLINE"] = "1"  # texts need an encoder, which may come from the Hub
    command = [sys.executable, "-m", "clinsynth", *words]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
    deadline = limits.Deadline(seconds)
    process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    stopped = threading.Timer(seconds, process.kill)
    stopped.start()
    try:
        last = follow(process.stderr, tell)
        process.wait()
    finally:
        stopped.cancel()
        process.kill()
        process.wait()
    if process.returncode and deadline.is_over:
        raise ValueError(f"the comparison took longer than {seconds:.0f} s; give fewer samples or smaller images")
    if process.returncode:
        raise ValueError(last.partition("error: ")[2] or "the comparison failed; give other sets")
    return folder / "evidence"


def follow(lines: Iterable[str], tell: Tell) -> str:
    """Hand on what progress bars say, each state of which is a line; the last line that is none."""
    last = ""
    for line in filter(None, map(str.strip, lines)):
        if bar := BAR.match(line):
            tell(int(bar["percent"]) / 100, bar["stage"])
        else:
            last = line
    return last


def summarise(kind: str, evidence: dict[str, Any]) -> dict[str, Any]:
    """What stands at the head of the report, and the overall numbers beside the held-out split or of its tables."""
    from clinsynth.metrics.registry import TEXT_TABLES
    from clinsynth.metrics.verdicts import judge
    from clinsynth.reports.page import answer_tiles
    from clinsynth.reports.texts import build_table

    findings = answer_tiles(judge(evidence).answers)
    if kind == "text":
        tables = [build_table(evidence, table) for table in TEXT_TABLES]
        rows = [{"table": table["title"], **row} for table in tables for row in table["rows"]]
        return {
            "findings": findings,
            "measurements": [{name: value for name, value in row.items() if name != "marks"} for row in rows],
            "extractor": evidence["encoder"]["name"],
        }
    rows = [row for row in evidence["measurements"] if (row["reference"], row["label"]) == ("test", "overall")]
    return {
        "findings": findings,
        "measurements": rows,
        "extractor": evidence["extractor"]["name"],
        "resolution": evidence["data"]["resolution"],
    }
