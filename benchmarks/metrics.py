"""What the evidence costs: Fréchet distance against two peers, precision to coverage against the package prdc.

     python -m benchmarks.metrics --output_dir runs/benchmark-metrics

The Fréchet distance is timed twice: from the features, and from means and covariances that are there already, as after
streaming sums. Peers are the form with `scipy.linalg.sqrtm` and torchmetrics' formula, both in float64. The package
prdc makes 8 threads of its own, so its seconds of processor time are the fair ones. Memory is that of a process that
does nothing else: allocated during the call by Python and numpy (features not included), and the peak resident size.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.metric_peers import (
    distance_by_square_root,
    distance_by_torchmetrics,
    from_features,
    least_work,
    moments,
    moments_by_torchmetrics,
    prdc_by_package,
    two_sides,
)
from clinsynth.arguments import run

if TYPE_CHECKING:
    from benchmarks.timing import Comparison

SECTIONS = ["frechet", "prdc", "memory"]
MEMORY_GOAL = 0.25


@dataclass
class MetricsArguments:
    """Measure the speed and memory of the metrics as ratios, and their agreement."""

    output_dir: str
    """Folder for metrics.json and metrics.md."""
    sections: str = "frechet,prdc,memory"
    """Comma-separated: frechet, prdc, memory."""
    n: int = 10_000
    """Rows of features a side."""
    dimension: int = 1280
    """Columns of features."""
    repeats: int = 3
    """Repeats of A B A B …"""
    threads: int = 1
    """Threads of torch; those of numpy are OMP_NUM_THREADS."""
    clock: str = "cpu"
    """Seconds the table shows: `cpu` (this process's, which others on the machine disturb least) or `wall`."""

    def __post_init__(self) -> None:
        for section in self.sections.split(","):
            if section not in SECTIONS:
                raise ValueError(f"--sections must be of {', '.join(SECTIONS)}, got {section!r}")
        if self.clock not in ("cpu", "wall"):
            raise ValueError(f"--clock must be cpu or wall, got {self.clock!r}")
        for name in ("n", "dimension", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}")


def main(args: MetricsArguments) -> None:
    """Run the sections asked for; print and write their table."""
    wanted = args.sections.split(",")
    # First, since a child's peak resident size starts from its parent's, which the imports below swell.
    memory = compare_memory(args) if "memory" in wanted else None

    import torch

    from benchmarks.timing import table
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    torch.set_num_threads(args.threads)
    output_dir = create_run_folder(args.output_dir)
    record: dict[str, Any] = {"environment": describe_environment(), "arguments": vars(args)}
    comparisons: list[Comparison] = []
    lines: list[str] = []
    if "frechet" in wanted:
        comparisons += compare_frechet(args)
        record["frechet_values"] = values = frechet_values(*two_sides(args.n, args.dimension))
        lines += [f"- Fréchet distance, {name}: {value!r}" for name, value in values.items()]
    if "prdc" in wanted:
        comparisons.append(compare_prdc(args))
        record["prdc_values"] = numbers = prdc_values(*two_sides(args.n, args.dimension))
        lines += [f"- {name}: {text}" for name, text in numbers.items()]
    if memory is not None:
        record["memory"] = memory
        lines.append(describe_memory(memory))
    record["comparisons"] = [comparison.record() for comparison in comparisons]
    text = "\n".join([f"{args}", "", table(comparisons, args.clock), "", *lines]) + "\n"
    atomic_write(output_dir / "metrics.json", json.dumps(record, indent=2) + "\n")
    atomic_write(output_dir / "metrics.md", text)
    print(text)


def frechet_values(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """The distance in all three forms, and the largest relative difference from ours."""
    from clinsynth.metrics.frechet.frechet import frechet_distance

    ours = frechet_distance(real, synthetic)
    theirs = {
        "scipy.linalg.sqrtm": from_features(moments, distance_by_square_root, (real, synthetic)),
        "torchmetrics": from_features(moments_by_torchmetrics, distance_by_torchmetrics, (real, synthetic)),
    }
    difference = max(abs(value / ours - 1) for value in theirs.values())
    return {"clinsynth": ours, **theirs, "largest relative difference": difference}


def compare_frechet(args: MetricsArguments) -> "list[Comparison]":
    """sqrtm's seconds over ours and ours over torchmetrics', from features and from means and covariances."""
    from functools import partial

    from benchmarks.timing import compare
    from clinsynth.metrics.frechet.frechet import GaussianStatistics, frechet_distance, statistics_distance

    sides = two_sides(args.n, args.dimension)
    sums = (GaussianStatistics(), GaussianStatistics())
    for side, rows in zip(sums, sides, strict=True):
        side.update(rows)
    fitted = [(side.mean, side.covariance()) for side in sums]
    peers = {
        "sqrtm": (moments, distance_by_square_root),
        "torchmetrics": (moments_by_torchmetrics, distance_by_torchmetrics),
    }
    comparisons = []
    for what, ours, theirs in (
        (
            f"Fréchet distance, {args.n} x {args.dimension} features",
            partial(frechet_distance, *sides),
            {name: partial(from_features, *peer, sides) for name, peer in peers.items()},
        ),
        (
            f"Fréchet distance, means and covariances of {args.dimension}",
            partial(statistics_distance, *sums),
            {name: partial(peer[1], *fitted) for name, peer in peers.items()},
        ),
    ):
        a, b = ("scipy.linalg.sqrtm", theirs["sqrtm"]), ("torchmetrics", theirs["torchmetrics"])
        comparisons.append(compare(what, a, ("clinsynth", ours), repeats=args.repeats, goal=(">=", 5.0)))
        comparisons.append(compare(what, ("clinsynth", ours), b, repeats=args.repeats, goal=("<=", 1.0)))
    return comparisons + compare_with_least_work(args, sides)


def compare_with_least_work(args: MetricsArguments, sides: "tuple[np.ndarray, np.ndarray]") -> "list[Comparison]":
    """The physical limit from features: ours over it, and how far it is itself from five times the form with sqrtm."""
    from functools import partial

    from benchmarks.timing import compare
    from clinsynth.metrics.frechet.frechet import frechet_distance

    what = f"Fréchet distance, {args.n} x {args.dimension} features, beside bare BLAS and LAPACK"
    bare = ("least work", partial(least_work, *sides))
    square_root = ("scipy.linalg.sqrtm", partial(from_features, moments, distance_by_square_root, sides))
    return [
        compare(what, ("clinsynth", partial(frechet_distance, *sides)), bare, repeats=args.repeats, goal=("<=", 1.25)),
        compare(what, square_root, bare, repeats=args.repeats, goal=(">=", 5.0)),
    ]


def prdc_values(real: np.ndarray, synthetic: np.ndarray) -> dict[str, str]:
    """Each number in both forms."""
    from clinsynth.metrics.prdc.prdc import prdc

    theirs = prdc_by_package(real, synthetic)
    return {name: f"{value!r}, package {theirs[name]!r}" for name, value in prdc(real, synthetic).items()}


def compare_prdc(args: MetricsArguments) -> "Comparison":
    from benchmarks.timing import compare
    from clinsynth.metrics.prdc.prdc import prdc

    sides = two_sides(args.n, args.dimension)
    return compare(
        f"precision to coverage, {args.n} x {args.dimension}",
        ("clinsynth", lambda: prdc(*sides)),
        ("prdc", lambda: prdc_by_package(*sides)),
        repeats=args.repeats,
        goal=("<=", 1.0),
    )


def once(which: str, n: int, dimension: int) -> None:
    """What a process of `compare_memory` does: make the features, run one of the two, print what it allocated."""
    import tracemalloc

    if which == "clinsynth":
        from clinsynth.metrics.prdc.prdc import prdc as measure
    else:
        measure = prdc_by_package
    sides = two_sides(n, dimension)
    tracemalloc.start()
    measure(*sides)
    print(tracemalloc.get_traced_memory()[1] / 1e6)


def compare_memory(args: MetricsArguments) -> dict[str, Any]:
    """MB (10**6 bytes) that ours and the package allocate during the call, and the peaks of their whole processes."""
    measured = {which: memory_of(which, args) for which in ("clinsynth", "prdc")}
    ratios = {kind: measured["clinsynth"][kind] / measured["prdc"][kind] for kind in ("call_mb", "process_mb")}
    return {"mb": measured, "ratios": ratios, "goal": MEMORY_GOAL, "met": ratios["call_mb"] <= MEMORY_GOAL}


def memory_of(which: str, args: MetricsArguments) -> dict[str, float]:
    """Of a process of its own: MB allocated during the call at most, and the peak resident MB with all imports."""
    code = f"from benchmarks.metrics import once; once({which!r}, {args.n}, {args.dimension})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone, not the maximum over all so far
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"the process for {which} failed with status {process.returncode}; its message is above")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {"call_mb": float(printed.split()[-1]), "process_mb": peak}


def describe_memory(memory: dict[str, Any]) -> str:
    """The memory as lines for the table's reader."""
    ours, theirs = memory["mb"]["clinsynth"], memory["mb"]["prdc"]
    met = "met" if memory["met"] else "not met"
    return (
        f"- MB allocated during the call: clinsynth {ours['call_mb']:.0f}, prdc {theirs['call_mb']:.0f}, ratio "
        f"{memory['ratios']['call_mb']:.3f}, goal <= {memory['goal']}: {met}\n"
        f"- peak resident MB of the process (imports and features included): clinsynth {ours['process_mb']:.0f}, prdc "
        f"{theirs['process_mb']:.0f}, ratio {memory['ratios']['process_mb']:.3f}"
    )


if __name__ == "__main__":
    run(MetricsArguments, main)
