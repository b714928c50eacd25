"""From two labelled sets to evidence.json and report.html, by `clinsynth evaluate` in a process of its own.

That process can be stopped when its time is over, and gives back all of its memory.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from PIL import Image
from sets import DRAWN, LabelledSet, open_picture

import clinsynth

MIN_REAL = 60
SIDES = (28, 256)
MAX_SECONDS = 900
BOOTSTRAP = 50
BAR = re.compile(r"^(?P<stage>[^|%]{1,80}?):\s+(?P<percent>\d{1,3})%")
Report = Callable[[float, str], None]
"""Takes the share of a stage that is done, 0 .. 1, and what the stage is called."""
MIN_SYNTHETIC = 20
MIN_CLASS = 5
MOST_NAMED = 10  # classes in a message
MIN_REAL_TEXTS = 80
MAX_CHARACTERS = 20_000
MAX_ALL_CHARACTERS = 2_000_000
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_VARIABLE = "STUDIO_TEXT_ENCODER"


def prepare(folder: Path, real: LabelledSet, synthetic: LabelledSet, side: int | None, seed: int) -> None:
    """Write both sets and the configuration of the evaluation into `folder`.

    Args:
        side: pixels that all pictures are brought to; None: as they are.

    Raises:
        ValueError: one class, too few pictures, unknown classes, or sizes that differ.
    """
    names = check_sets(real, synthetic, "pictures", MIN_REAL)
    pictures = {called: decode_set(chosen, side) for called, chosen in (("real", real), ("synthetic", synthetic))}
    check_sizes({called: sizes_of(found) for called, found in pictures.items()})
    path = f"{file_name(real)}.npz"
    labels = np.array([[names.index(label)] for label in real.labels])
    np.savez(folder / path, train_images=stack(pictures["real"]), train_labels=labels)
    write_shard(folder / "synthetic", pictures["synthetic"], synthetic.labels, names)
    settings = {
        "real": path,
        "synthetic": "synthetic",
        "output_dir": "evidence",
        "label_names": names,
        "classifier": "none",
        "bootstrap": BOOTSTRAP,
        "seed": seed,
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def decode_set(chosen: LabelledSet, side: int | None) -> list[Image.Image]:
    """All pictures, brought to `side` pixels where it is given (bicubic)."""
    pictures = []
    for number, content in enumerate(chosen.contents, start=1):
        assert isinstance(content, bytes)
        picture = open_picture(content, f"{chosen.name}, picture {number},")
        if picture.width != picture.height:
            raise ValueError(
                f"{chosen.name}, picture {number} is {picture.width}x{picture.height} pixels, which is not square; "
                "crop its set to squares"
            )
        if side is not None and picture.width != side:
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        pictures.append(picture)
    return pictures


def sizes_of(pictures: list[Image.Image]) -> Counter[int]:
    return Counter(picture.width for picture in pictures)


def check_sizes(sizes: dict[str, Counter[int]]) -> None:
    found = sorted({side for counts in sizes.values() for side in counts})
    if len(found) > 1:
        told = "; ".join(
            f"{called}: " + ", ".join(f"{n} of {side}x{side}" for side, n in sorted(counts.items())[:4])
            for called, counts in sizes.items()
        )
        raise ValueError(f"the pictures differ in size ({told}); choose a resolution that all are brought to")
    if not SIDES[0] <= found[0] <= SIDES[1]:
        raise ValueError(
            f"the pictures are {found[0]}x{found[0]} pixels; only {SIDES[0]} to {SIDES[1]} are compared: choose a "
            "resolution"
        )


def file_name(chosen: LabelledSet) -> str:
    """What the report calls the real set."""
    return f"phantom-fundus-seed-{DRAWN[chosen.name]}" if chosen.name in DRAWN else "real"


def stack(pictures: list[Image.Image]) -> np.ndarray:
    """uint8 (n, side, side), or (n, side, side, 3) where one of them is in colour."""
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    return np.stack([np.asarray(picture.convert(mode)) for picture in pictures])


def write_shard(folder: Path, pictures: list[Image.Image], labels: list[str], names: list[str]) -> None:
    """A folder as `clinsynth generate images` leaves it, with one shard."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    from clinsynth.data.sources import png_cell

    cells = [png_cell(Image.fromarray(pixels)) for pixels in stack(pictures)]
    features = Features(image=ImageFeature(), label=ClassLabel(names=names))
    (folder / "data").mkdir(parents=True)
    columns = {"image": cells, "label": [names.index(label) for label in labels]}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def evaluate(folder: Path, report: Report, seconds: float = MAX_SECONDS, kind: str = "images") -> Path:
    """Run the evaluation that was written down; the folder that holds evidence.json and report.html.

    Args:
        kind: "images" or "text", as `prepare` or `prepare_texts` wrote it.

    Raises:
        ValueError: it failed, or took longer than `seconds`.
    """
    command = [sys.executable, "-m", "clinsynth", "evaluate", kind, "--config", "evaluate.yaml"]
    beside = [str(Path(clinsynth.__file__).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, beside)),  # a Space carries the package as a folder beside its app
        "TMPDIR": str(folder),
    }
    if kind == "images":
        environment["HF_HUB_OFFLINE"] = "1"  # texts need an encoder, which may come from the Hub
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        last = follow(process, report, time.monotonic() + seconds)
    finally:
        process.kill()
        process.wait()
    if last is None:
        raise ValueError(f"the comparison took longer than {seconds:.0f} s; give fewer or smaller pictures")
    if process.returncode:
        raise ValueError(last.partition("error: ")[2] or "the comparison failed; give other pictures")
    return folder / "evidence"


def follow(process: subprocess.Popen[bytes], report: Report, deadline: float) -> str | None:
    """Hand on what the progress bars say until the process ends; its last line, None where the time is over."""
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stderr is not None
    threading.Thread(target=read_lines, args=(process.stderr, lines.put), daemon=True).start()
    last = ""
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            process.wait()
            return last
        bar = BAR.match(line)
        if bar:
            report(int(bar["percent"]) / 100, bar["stage"])
        else:
            last = line
    return None


def read_lines(stream: IO[bytes], put: Callable[[str | None], None]) -> None:
    """Lines and states of progress bars as they come, then None."""
    for line in split_lines(stream):
        put(line)
    put(None)


def split_lines(stream: IO[bytes]) -> Iterator[str]:
    rest = b""
    while chunk := stream.read(4096):
        *whole, rest = re.split(rb"[\r\n]+", rest + chunk)
        yield from (line.decode(errors="replace").strip() for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace").strip()


def check_sets(real: LabelledSet, synthetic: LabelledSet, noun: str, min_real: int) -> list[str]:
    """The class names, sorted.

    Args:
        noun: what a message calls the samples, in the plural.
        min_real: the fewest real samples.

    Raises:
        ValueError: too few samples, one class, a class that is too small or that the real set has not.
    """
    for chosen, least in ((real, min_real), (synthetic, MIN_SYNTHETIC)):
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


def prepare_texts(folder: Path, real: LabelledSet, synthetic: LabelledSet, seed: int) -> None:
    """Write both sets and the configuration of the evaluation into `folder`.

    Raises:
        ValueError: one class, too few or too long texts, or unknown classes.
    """
    names = check_sets(real, synthetic, "texts", MIN_REAL_TEXTS)
    check_lengths(real)
    check_lengths(synthetic)
    rows = [{"text": text, "label": label} for text, label in zip(real.contents, real.labels, strict=True)]
    (folder / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_text_shard(folder / "synthetic", synthetic, names)
    settings = {
        "real": "real.jsonl",
        "synthetic": "synthetic",
        "output_dir": "evidence",
        "encoder": encoder(),
        "bootstrap": BOOTSTRAP,
        "seed": seed,
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def encoder() -> str:
    """The encoder of the embeddings: a folder or Hub id in STUDIO_TEXT_ENCODER, else all-MiniLM-L6-v2."""
    named = os.environ.get(ENCODER_VARIABLE) or ENCODER
    return str(Path(named).resolve()) if Path(named).exists() else named


def check_lengths(chosen: LabelledSet) -> None:
    lengths = [len(text) for text in chosen.contents]
    if max(lengths) > MAX_CHARACTERS:
        row = lengths.index(max(lengths)) + 1
        raise ValueError(
            f"{chosen.name}: the text of row {row} has {max(lengths)} characters, more than {MAX_CHARACTERS}; cut it "
            "into parts, or leave it out"
        )
    if sum(lengths) > MAX_ALL_CHARACTERS:
        raise ValueError(
            f"{chosen.name} has {sum(lengths)} characters in all, more than {MAX_ALL_CHARACTERS}; draw a smaller part "
            "at random"
        )


def write_text_shard(folder: Path, chosen: LabelledSet, names: list[str]) -> None:
    """A folder as `clinsynth generate text` leaves it, with one shard."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(text=Value("string"), label=ClassLabel(names=names))
    (folder / "data").mkdir(parents=True)
    columns = {"text": chosen.contents, "label": [names.index(label) for label in chosen.labels]}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def summarise_texts(evidence: dict[str, Any]) -> dict[str, Any]:
    """The findings of the report, and the overall numbers of its tables, under the tables' titles."""
    from clinsynth.scripts.report_texts import TABLES, build_table, tiles

    tables = [build_table(evidence, *entry) for entry in TABLES]
    rows = [
        {"table": table["title"], **{name: value for name, value in row.items() if name != "marks"}}
        for table in tables
        for row in table["rows"]
    ]
    return {
        "findings": list(tiles(evidence["findings"])),
        "measurements": rows,
        "extractor": evidence["encoder"]["name"],
    }
