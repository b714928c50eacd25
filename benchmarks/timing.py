"""Ratios of two timings with their spread: A B A B …, so that a drift of the machine's speed meets both alike."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

Run = Callable[[], object]


@dataclass(kw_only=True)
class BenchmarkArguments:
    """The flag that all benchmarks share.

    Attributes:
        known: what `--sections` may name, where there is such a flag.
        may_be_zero: the whole numbers that may.
    """

    known: ClassVar[tuple[str, ...]] = ()
    may_be_zero: ClassVar[frozenset[str]] = frozenset()

    output_dir: str
    """Folder for the results: a table in Markdown, and JSON of all that was measured."""

    def __post_init__(self) -> None:
        for section in self.wanted:
            if section not in self.known:
                raise ValueError(f"--sections must be of {', '.join(self.known)}, got {section!r}")
        for name, value in vars(self).items():
            if type(value) is int and value < 1 and name not in self.may_be_zero:
                raise ValueError(f"--{name} must be 1 or more, got {value}")

    @property
    def wanted(self) -> list[str]:
        """The sections asked for."""
        return getattr(self, "sections", "").split(",") if self.known else []


@dataclass(kw_only=True)
class TimingArguments(BenchmarkArguments):
    """The flags that timings share."""

    repeats: int = 5
    """Repeats of A B A B …"""
    threads: int = 1
    """Threads of torch; those of numpy are OMP_NUM_THREADS."""
    clock: Literal["cpu", "wall"] = "cpu"
    """Seconds the table shows: `cpu` (of processes, which others on the machine disturb least) or `wall`."""

    def begin(self) -> Path:
        """Set the threads, and make the folder."""
        import torch

        torch.set_num_threads(self.threads)
        return create_run_folder(self.output_dir)


@dataclass(frozen=True)
class Comparison:
    """Timings of A and B, one entry a repeat, both in seconds.

    Attributes:
        what: what is compared, for the table.
        a, b: names of the two sides.
        wall: seconds by the clock on the wall, {"a": [...], "b": [...]}.
        cpu: seconds of processor time of this process and its children, over all threads.
        goal: what the median of A / B is to be: ("<=", 1.03).
        note: how the two were run, for the table's reader.
    """

    what: str
    a: str
    b: str
    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    goal: tuple[str, float]
    note: str = ""

    def ratios(self, clock: str) -> list[float]:
        """A / B, pair by pair, by `clock`, "cpu" or "wall"."""
        seconds = self.cpu if clock == "cpu" else self.wall
        return [a / b for a, b in zip(seconds["a"], seconds["b"], strict=True)]

    def met(self, clock: str) -> bool:
        """Whether the median ratio meets the goal."""
        relation, bound = self.goal
        median = statistics.median(self.ratios(clock))
        return median <= bound if relation == "<=" else median >= bound

    def record(self) -> dict[str, Any]:
        """Everything measured, for JSON."""
        return {
            **asdict(self),
            **{f"ratio_{clock}": spread(self.ratios(clock)) for clock in ("cpu", "wall")},
            **{f"met_{clock}": self.met(clock) for clock in ("cpu", "wall")},
        }


def compare(
    what: str,
    a: tuple[str, Run],
    b: tuple[str, Run],
    *,
    repeats: int,
    goal: tuple[str, float],
    scale: tuple[float, float] = (1.0, 1.0),
    note: str = "",
    check: Callable[[], object] | None = None,
) -> Comparison:
    """Run both sides once to warm up, then `repeats` times in turn.

    `scale` multiplies the seconds of A and B where a run does a known part (or multiple) of the whole work; `check` is
    called after each run and not timed.
    """
    runs = {"a": a[1], "b": b[1]}
    factors = {"a": scale[0], "b": scale[1]}
    wall: dict[str, list[float]] = {"a": [], "b": []}
    cpu: dict[str, list[float]] = {"a": [], "b": []}
    for repeat in range(repeats + 1):
        for side, run in runs.items():
            seconds = timed(run)
            if check:
                check()
            if repeat:
                wall[side].append(seconds[0] * factors[side])
                cpu[side].append(seconds[1] * factors[side])
    return Comparison(what, a[0], b[0], wall, cpu, goal, note)


def timed(run: Run) -> tuple[float, float]:
    """Seconds (wall, processor) of one call, the processor's of the children that it waits for as well."""
    wall, cpu = time.perf_counter(), processor_seconds()
    run()
    return time.perf_counter() - wall, processor_seconds() - cpu


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(values: Sequence[float], digits: int = 3) -> str:
    """Median (minimum to maximum), as text."""
    s = spread(values)
    return f"{s['median']:.{digits}f} ({s['min']:.{digits}f} to {s['max']:.{digits}f})"


def table(comparisons: Sequence[Comparison], clock: str) -> str:
    """The comparisons as a Markdown table, seconds by `clock`; each cell is median (minimum to maximum)."""
    rows = []
    for c in comparisons:
        seconds = c.cpu if clock == "cpu" else c.wall
        cells = [c.what, c.a, c.b, show(seconds["a"]), show(seconds["b"]), show(c.ratios(clock))]
        rows.append([*cells, f"{c.goal[0]} {c.goal[1]:g}", "yes" if c.met(clock) else "no", str(len(seconds["a"]))])
    columns = f"what | A | B | A, {clock} s | B, {clock} s | A / B | goal | met | n"
    notes = [f"- {c.what}: {c.note}" for c in comparisons if c.note]
    return "\n".join([markdown(columns, rows), *([""] if notes else []), *notes])


def markdown(columns: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `columns` are the titles with ` | ` between them."""
    titles = columns.split(" | ")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def write_results(
    args: BenchmarkArguments, name: str, comparisons: Sequence[Comparison] = (), text: str = "", **more: object
) -> None:
    """Print the table and `text`, and write them to `name`.md; the same and `more` to `name`.json."""
    shown_table = table(comparisons, args.clock) if isinstance(args, TimingArguments) and comparisons else ""
    record = {"environment": describe_environment(), "arguments": vars(args), **more}
    record["comparisons"] = [comparison.record() for comparison in comparisons]
    folder, shown = Path(args.output_dir), "\n\n".join(filter(None, (f"{args}", shown_table, text))) + "\n"
    atomic_write(folder / f"{name}.json", json.dumps(record, indent=2) + "\n")
    atomic_write(folder / f"{name}.md", shown)
    print(shown)


def measure_missing(
    args: BenchmarkArguments,
    name: str,
    measures: Iterable[tuple[str, Callable[[], dict[str, Any]]]],
    table: Callable[[dict[str, Any]], str],
    known: dict[str, Any],
) -> None:
    """Measure every row that `name`.json of a stopped command lacks, and write both files after each.

    Args:
        measures: name of each row, and what measures it.
        table: of all rows, as text.
        known: rows that need no measuring.
    """
    path = Path(args.output_dir) / f"{name}.json"
    rows: dict[str, Any] = known | (json.loads(path.read_text())["rows"] if path.exists() else {})
    for title, measure in measures:
        if title not in rows:
            rows[title] = measure()
            write_results(args, name, text=table(rows), rows=rows)


def run_alone(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, Any, float]:
    """What a process of its own printed, what it used (of `os.wait4`), and its peak resident MB (10**6 bytes).

    Raises:
        ValueError: it failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone, not the maximum over all so far
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{' '.join(command)} failed with status {process.returncode}: {printed[-2000:]}")
    return printed, usage, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def own_mb(process: int | str = "self") -> float:
    """Resident memory of a process that is no page of a file, in MB (10**6 bytes); 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon"))
