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

import limits
import numpy as np
import yaml
from models import Tell
from PIL import Image
from sets import PHANTOM_IMAGES, LabelledSet, check_same_kind, open_image

import clinsynth

MIN_REAL = {"image": 60, "text": 80}
SIDES = (28, 256)
BOOTSTRAP = 50
BAR = re.compile(r"^(?P<stage>[^|%]{1,80}?):\s+(?P<percent>\d{1,3})%")
MIN_SYNTHETIC = 20
MIN_CLASS = 5
MOST_NAMED = 10  # classes in a message
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


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
    """The class names, sorted.

    Raises:
        ValueError: two kinds, too few samples, one class, a class that is too small or that the real set has not.
    """
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
    """Write sets of images; returns what the configuration says of them.

    Raises:
        ValueError: an image is damaged or not square, or their sizes differ.
    """
    from datasets import Image as ImageFeature

    from clinsynth.data.sources import png_cell

    images = {called: decode_set(chosen, side) for called, chosen in (("real", real), ("synthetic", synthetic))}
    check_sizes({called: Counter(image.width for image in found) for called, found in images.items()})
    path = f"{name_in_report(real)}.npz"
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


def name_in_report(chosen: LabelledSet) -> str:
    """What the report calls the real set."""
    return f"phantom-fundus-seed-{PHANTOM_IMAGES[chosen.name]}" if chosen.name in PHANTOM_IMAGES else "real"


def stack_images(images: list[Image.Image]) -> np.ndarray:
    """uint8 (n, side, side), or (n, side, side, 3) where one of them is in colour."""
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    return np.stack([np.asarray(image.convert(mode)) for image in images])


def write_text_sets(folder: Path, real: LabelledSet, synthetic: LabelledSet, names: list[str]) -> dict[str, Any]:
    """Write sets of texts; returns what the configuration says of them.

    Raises:
        ValueError: a text, or all of a set, is too long.
    """
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
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "bufsize": 0}
    process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    try:
        last = follow(process, tell, time.monotonic() + seconds)
    finally:
        process.kill()
        process.wait()
    if last is None:
        raise ValueError(f"the comparison took longer than {seconds:.0f} s; give fewer samples or smaller images")
    if process.returncode:
        raise ValueError(last.partition("error: ")[2] or "the comparison failed; give other sets")
    return folder / "evidence"


def follow(process: subprocess.Popen[bytes], tell: Tell, deadline: float) -> str | None:
    """Hand on what the progress bars say until the process ends; its last line, None where the time is over."""
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stderr is not None
    threading.Thread(target=put_lines, args=(process.stderr, lines.put), daemon=True).start()
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
            tell(int(bar["percent"]) / 100, bar["stage"])
        else:
            last = line
    return None


def put_lines(stream: IO[bytes], put: Callable[[str | None], None]) -> None:
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


def summarise(kind: str, evidence: dict[str, Any]) -> dict[str, Any]:
    """What stands at the head of the report, and the overall numbers of samples of this kind."""
    return summarise_texts(evidence) if kind == "text" else summarise_images(evidence)


def summarise_images(evidence: dict[str, Any]) -> dict[str, Any]:
    """The findings of the report, and every overall number beside the held-out split."""
    from clinsynth.reports.images import image_tiles

    rows = [row for row in evidence["measurements"] if (row["reference"], row["label"]) == ("test", "overall")]
    return {
        "findings": list(image_tiles(evidence)),
        "measurements": rows,
        "extractor": evidence["extractor"]["name"],
        "resolution": evidence["data"]["resolution"],
    }


def summarise_texts(evidence: dict[str, Any]) -> dict[str, Any]:
    """The findings of the report, and the overall numbers of its tables, under the tables' titles."""
    from clinsynth.metrics.registry import TEXT_TABLES
    from clinsynth.reports.texts import build_table, text_tiles

    tables = [build_table(evidence, table) for table in TEXT_TABLES]
    rows = [
        {"table": table["title"], **{name: value for name, value in row.items() if name != "marks"}}
        for table in tables
        for row in table["rows"]
    ]
    return {
        "findings": list(text_tiles(evidence["findings"])),
        "measurements": rows,
        "extractor": evidence["encoder"]["name"],
    }
