"""Fréchet distance and KID of drawn pictures against real train and test, beside the floor and the anchors.

     python -m benchmarks.score --dataset retinamnist.npz --samples runs/equal-time --extractors default,mobilenet_v2 \
         --output_dir runs/equal-time/scores

`--samples` is a folder in which equal_time.py wrote `<name>/samples.npz` with their `samples.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.arguments import run


@dataclass
class ScoreArguments:
    """Score sets of drawn pictures against real ones, as a Markdown table."""

    samples: str
    """Folder that is searched for samples.npz (images: uint8 (n, c, r, r)) with a samples.json of facts beside it."""
    dataset: str
    """The real data set the pictures were modelled on."""
    output_dir: str
    """Folder for scores.json, scores.md and the default extractor."""
    extractors: str = "default"
    """Comma-separated: `default` (a CNN trained on the real train split), paths or ids."""
    n_bootstrap: int = 50
    """Bootstrap replicates of the intervals; 0 for none. With 1280 features each costs about a second a cell."""


def main(args: ScoreArguments) -> None:
    """Score every set with every extractor; print and write the tables."""
    from benchmarks.features import named_extractor, real_splits
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    sets = find_samples(Path(args.samples))
    shape = sets[0]["images"].shape
    splits = real_splits(args.dataset, shape[2], shape[1])
    output_dir = create_run_folder(args.output_dir)
    record: dict[str, Any] = {"environment": describe_environment(), "arguments": vars(args), "extractors": {}}
    text = []
    for name in args.extractors.split(","):
        extract = named_extractor(name, splits, output_dir / "extractor")
        rows = score_all(extract, splits["train"].images, splits["test"].images, sets, args.n_bootstrap)
        record["extractors"][extract.name] = rows
        text.append(score_table(extract.name, rows))
        atomic_write(output_dir / "scores.json", json.dumps(record, indent=2) + "\n")
        atomic_write(output_dir / "scores.md", "\n\n".join(text) + "\n")
        print(text[-1] + "\n")


def find_samples(folder: Path) -> list[dict[str, Any]]:
    """Every complete set under `folder`: its facts and `images`, in the order of arm and budget."""
    sets = []
    for path in sorted(folder.rglob("samples.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            sets.append(json.loads((path.parent / "samples.json").read_text()) | {"images": arrays["images"]})
    if not sets:
        raise ValueError(f"--samples {folder} holds no samples.npz; draw some with `python -m benchmarks.equal_time`")
    return sorted(sets, key=lambda s: (s["name"], s["cpu_seconds"], s["sampler"]))


def score_all(
    extract: Any, train: np.ndarray, test: np.ndarray, sets: list[dict[str, Any]], n_bootstrap: int
) -> list[dict[str, Any]]:
    """One row a set, the floor and the anchors first; each against train and test."""
    from benchmarks.anchors import references
    from benchmarks.features import distances

    real = {"train": extract(train), "test": extract(test)}
    fixed = [{"name": name, "images": images} for name, images in references(train, test).items()]
    rows = []
    for item in fixed + sets:
        features = extract(item["images"])
        row = {key: value for key, value in item.items() if key != "images"}
        for split, reference in real.items():
            if (item["name"], split) != ("floor: real test", "test"):  # test against itself says nothing
                row[split] = distances(reference, features, n_bootstrap)
        rows.append(row)
    return rows


def score_table(extractor: str, rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all rows, with the extractor's name over it."""
    from benchmarks.features import cells

    lines = [
        f"Extractor: {extractor} ({rows[0]['train']['dimension']} features). Fréchet distance and "
        "1000 × KID, 95 % bootstrap intervals in brackets.",
        "",
        "| generator | CPU s of training | steps | M parameters | sampler | n | Fréchet, train | KID, train "
        "| Fréchet, test | KID, test |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        facts = training_facts(row)
        test = cells(row["test"]) if "test" in row else " | "
        lines.append(f"| {row['name']} | {' | '.join(facts)} | {row['train']['n']} | {cells(row['train'])} | {test} |")
    return "\n".join(lines)


def training_facts(row: dict[str, Any]) -> list[str]:
    """Seconds, steps, size and sampler as cells; empty for the floor and the anchors, which nobody trained."""
    if "sampler" not in row:
        return ["", "", "", ""]
    return [f"{row['cpu_seconds']:.0f}", str(row["steps"]), f"{row['parameters'] / 1e6:.2f}", row["sampler"]]


if __name__ == "__main__":
    run(ScoreArguments, main)
