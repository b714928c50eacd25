"""Make the front page's figure: a row of real phantom images, a row of synthetic ones, and what the evidence says.

    python docs/figure.py

It runs the three commands below (stopped half-way, it goes on), takes the first images of each class in both sets,
none chosen by eye, and writes docs/figures/front.png. No patient stands behind phantom-fundus.
"""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from pyarrow import parquet

from clinsynth.data.phantom_fundus import draw_split, parse_spec

COMMANDS = [
    "train ddpm --dataset phantom-fundus --resolution 32 --channels 3 --width 16 --train_steps 1200"
    " --lr_scheduler cosine --class_balanced --validation_steps 0 --output_dir runs/front",
    "generate images --model runs/front --per_class 60 --scheduler ddim --num_inference_steps 100"
    " --output_dir runs/front-synthetic",
    "evaluate images --real phantom-fundus --synthetic runs/front-synthetic --output_dir runs/front-evidence",
]
CLASSES, EACH = 5, 2
TILE, GAP, LEFT, TOP = 128, 8, 190, 70


def main() -> None:
    """Run the commands, unless a set and its evidence are named, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=Path, help="a set of phantom-fundus that is there, with --evidence")
    parser.add_argument("--evidence", type=Path, help="its folder of evidence")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "figures" / "front.png")
    args = parser.parse_args()
    if args.synthetic is None:
        for command in COMMANDS:
            subprocess.run([sys.executable, "-m", "clinsynth", *command.split()], check=True)
    synthetic = args.synthetic or Path("runs/front-synthetic")
    evidence = json.loads(((args.evidence or Path("runs/front-evidence")) / "evidence.json").read_text())
    rows = {"real": list(first_of_each(real_rows())), "synthetic": list(first_of_each(synthetic_rows(synthetic)))}
    draw(rows, list(verdicts(evidence))).save(args.output, optimize=True)


def real_rows() -> Iterator[tuple[int, Image.Image]]:
    """Class and image of the rows of phantom-fundus's test split."""
    for row in draw_split("test", parse_spec("phantom-fundus", 32)):
        yield row["label"], open_image(row["image"])


def synthetic_rows(folder: Path) -> Iterator[tuple[int, Image.Image]]:
    """Class and image of the rows of a synthetic set."""
    for shard in sorted((folder / "data").glob("*.parquet")):
        for row in parquet.read_table(shard, columns=["label", "image"]).to_pylist():
            yield row["label"], open_image(row["image"])


def open_image(cell: dict[str, Any]) -> Image.Image:
    """The image in a cell of an Image column."""
    return Image.open(io.BytesIO(cell["bytes"]))


def first_of_each(rows: Iterable[tuple[int, Image.Image]]) -> Iterator[Image.Image]:
    """The first images of every class, class by class."""
    found: dict[int, list[Image.Image]] = {label: [] for label in range(CLASSES)}
    for label, image in rows:
        found[label] += [image] if len(found[label]) < EACH else []
        if all(len(images) == EACH for images in found.values()):
            break
    return (image for label in range(CLASSES) for image in found[label])


def verdicts(evidence: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The questions that an evidence.json answers, and its answers in words."""
    distance = next(
        row
        for row in evidence["measurements"]
        if (row["metric"], row["reference"], row["label"]) == ("frechet", "test", "overall")
    )
    yield "Does it look alike?", f"distance {distance['value']:.2g}; real images {distance['floor_held_out']:.2g}"
    yield "Does it repeat itself?", "mode collapse" if evidence["collapse"]["flag"] else "no mode collapse"
    comparison = evidence["classifier"]["comparisons"][0]
    labels = f"; labels {comparison['labels']}" if "labels" in comparison else ""
    yield "Does it help a classifier?", comparison["verdict"] + labels
    yield "Does it leak training images?", evidence["privacy"]["verdict"]


def draw(rows: dict[str, list[Image.Image]], answers: list[tuple[str, str]]) -> Image.Image:
    """The figure: two rows of enlarged images with their classes above, and the answers on the right."""
    grid = LEFT + CLASSES * EACH * (TILE + GAP)
    figure = Image.new("RGB", (grid + 560, TOP + 2 * (TILE + GAP) + 30), "white")
    pen = ImageDraw.Draw(figure)
    small, large = ImageFont.load_default(size=30), ImageFont.load_default(size=34)
    for label in range(CLASSES):
        middle = LEFT + label * EACH * (TILE + GAP) + EACH * (TILE + GAP) // 2
        pen.text((middle, TOP - 16), f"grade {label}", fill="#444", font=small, anchor="ms")
    for place, (name, images) in enumerate(rows.items()):
        top = TOP + place * (TILE + GAP)
        pen.text((LEFT - 20, top + TILE // 2), name, fill="#111", font=large, anchor="rm")
        for column, image in enumerate(images):
            tile = image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
            figure.paste(tile, (LEFT + column * (TILE + GAP), top))
    for place, (question, answer) in enumerate(answers):
        top = 16 + place * 87
        pen.text((grid + 40, top), question, fill="#444", font=small)
        pen.text((grid + 40, top + 34), answer, fill="#111", font=large)
    return figure


if __name__ == "__main__":
    main()
