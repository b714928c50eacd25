"""How time and memory of evidence grow with the rows: Fréchet distances from sums, and copies by an index.

     python -m benchmarks.scale --output_dir runs/benchmark-scale

Features are made up: rows about class centres in 64 directions of 1,280, with noise in all of them, in a file that is
mapped. The Fréchet distance is taken from sums over blocks. Copies: of a sample of queries, half of them rows with
noise, the closest row is looked for by the index and, up to 100,000 rows, by comparing with every row. Each number
comes from a process of its own; its memory is what is not a page of a file. The time of as many queries as rows is
that of building the index and of the sample, carried on.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from benchmarks.timing import BenchmarkArguments, own_mb, run_alone, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder

BLOCK = 8192
CLASSES, DIRECTIONS = 20, 64
QUERIES = 400
MOST_COMPARED = 100_000
"""Rows up to which each is compared, too."""
WORK = ("frechet", "copies by index", "copies by every row")


@dataclass(kw_only=True)
class ScaleArguments(BenchmarkArguments):
    """Measure evidence at growing numbers of rows."""

    rows: str = "10000,100000,1000000"
    """numbers of rows, separated by commas"""
    dimension: int = 1280
    """values of a row"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", self.rows):
            raise ValueError(f"--rows must be whole numbers with commas between, got {self.rows!r}; give 10000,100000")


def main(args: ScaleArguments) -> None:
    """Measure each work at each size, print and write times, memory and exponents."""
    sizes = [int(size) for size in args.rows.split(",")]
    features = create_run_folder(args.output_dir) / "features.npy"
    write_features(features, max(sizes), args.dimension)
    measured = [measure(features, work, size) for work in WORK for size in sizes if is_feasible(work, size)]
    features.unlink()
    lines = [
        "| work | rows | CPU s for as many queries | memory, MB | recall | right copies |",
        "|---|---|---|---|---|---|",
    ]
    for one in measured:
        shares = " | ".join("–" if one[name] is None else f"{one[name]:.3f}" for name in ("recall", "copies"))
        lines.append(f"| {one['work']} | {one['rows']:,} | {one['seconds']:,.0f} | {one['own_mb']:,.0f} | {shares} |")
    exponents = {work: exponent([one for one in measured if one["work"] == work]) for work in WORK}
    grows = "; ".join(f"{work}: n^{power:.2f}" for work, power in exponents.items() if power is not None)
    write_results(args, "scale", text="\n".join([*lines, "", grows]), runs=measured, exponents=exponents)


def is_feasible(work: str, size: int) -> bool:
    return work != "copies by every row" or size <= MOST_COMPARED


def write_features(path: Path, count: int, dimension: int) -> None:
    """`count` made-up rows, float32, as a .npy file."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, dimension))
    for start, block in zip(range(0, count, BLOCK), made_up(dimension, 0), strict=False):
        rows[start : start + BLOCK] = block[: count - start]
    rows.flush()


def made_up(dimension: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (8192, d) without end, all of one distribution."""
    shared, generator = np.random.default_rng(99), np.random.default_rng(seed)
    centres = shared.normal(size=(CLASSES, DIRECTIONS)) * 2
    spread = shared.normal(size=(DIRECTIONS, dimension)) / DIRECTIONS**0.5
    while True:
        inner = centres[generator.integers(CLASSES, size=BLOCK)] + generator.normal(size=(BLOCK, DIRECTIONS))
        noise = generator.standard_normal((BLOCK, dimension), dtype=np.float32)
        yield (inner @ spread + 0.1 * noise).astype(np.float32)


def measure(features: Path, work: str, size: int) -> dict[str, Any]:
    """One work at one size, in a process of its own."""
    printed = run_alone([sys.executable, "-m", "benchmarks.scale", "--child", str(features), work, str(size)])[0]
    return {"work": work, "rows": size, **json.loads(printed.strip().splitlines()[-1])}


def child(features: Path, work: str, size: int) -> dict[str, Any]:
    """What `measure` reads: CPU seconds for as many queries as rows, memory of its own, recall, right copies."""
    rows = np.load(features, mmap_mode="r")[:size]
    return sum_frechet(rows) if work == "frechet" else look_for_copies(rows, by_index=work.endswith("index"))


def sum_frechet(rows: np.ndarray) -> dict[str, Any]:
    """The distance between the rows and as many others, from sums."""
    from clinsynth.metrics.frechet.frechet import GaussianStatistics, statistics_distance

    before, others = own_mb(), made_up(rows.shape[1], 1)
    sides, seconds = (GaussianStatistics(), GaussianStatistics()), 0.0
    for start in range(0, len(rows), BLOCK):
        pair = rows[start : start + BLOCK], next(others)[: len(rows) - start]
        begun = process_time()
        for side, block in zip(sides, pair, strict=True):
            side.update(block)
        seconds += process_time() - begun
    begun = process_time()
    statistics_distance(*sides)
    seconds += process_time() - begun
    return {"seconds": seconds, "own_mb": own_mb() - before, "recall": None, "copies": None}


def look_for_copies(rows: np.ndarray, by_index: bool) -> dict[str, Any]:
    """The closest row of a sample of queries, half of which are rows with noise."""
    from clinsynth.metrics import nearest as search

    generator = np.random.default_rng(2)
    copied = np.sort(generator.permutation(len(rows))[: QUERIES // 2])
    noisy = rows[copied] + 0.05 * generator.standard_normal((len(copied), rows.shape[1]), dtype=np.float32)
    queries = np.concatenate([noisy, next(made_up(rows.shape[1], 3))[: QUERIES // 2]])
    search.INDEXED_ROWS = 0 if by_index else len(rows) + 1
    before, begun = own_mb(), process_time()
    index = search.index_of(rows)
    built = process_time()
    found = search.closest_rows(search.as_views(queries), rows)
    each = (process_time() - built) / len(queries)
    return {
        "seconds": built - begun + each * len(rows),
        "own_mb": own_mb() - before,
        "recall": index.recall if index else None,
        "copies": float((found.numbers[: len(copied), 0] == copied).mean()),
    }


def exponent(measured: list[dict[str, Any]]) -> float | None:
    """The slope of log seconds over log rows; None of a single size."""
    if len(measured) < 2:
        return None
    across = [math.log(one["rows"]) for one in measured]
    up = [math.log(one["seconds"]) for one in measured]
    return float(np.polynomial.Polynomial.fit(across, up, 1).convert().coef[1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
    else:
        run(ScaleArguments, main)
