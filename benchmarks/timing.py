"""Ratios of two timings with their spread: A B A B …, so that a drift of the machine's speed meets both alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Run = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """Timings of A and B, one entry a repeat, both in seconds.

    Attributes:
        what: what is compared, for the table.
        a, b: names of the two sides.
        wall: seconds by the clock on the wall, {"a": [...], "b": [...]}.
        cpu: seconds of processor time of this process, over all its threads.
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
) -> Comparison:
    """Run both sides once to warm up, then `repeats` times in turn.

    `scale` multiplies the seconds of A and B where a run does a known part (or multiple) of the whole work.
    """
    runs = {"a": a[1], "b": b[1]}
    factors = {"a": scale[0], "b": scale[1]}
    wall: dict[str, list[float]] = {"a": [], "b": []}
    cpu: dict[str, list[float]] = {"a": [], "b": []}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for side, run in runs.items():
            seconds = timed(run)
            wall[side].append(seconds[0] * factors[side])
            cpu[side].append(seconds[1] * factors[side])
    return Comparison(what, a[0], b[0], wall, cpu, goal, note)


def timed(run: Run) -> tuple[float, float]:
    """Seconds (wall, processor) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(values: Sequence[float], digits: int = 3) -> str:
    """Median (minimum to maximum), as text."""
    s = spread(values)
    return f"{s['median']:.{digits}f} ({s['min']:.{digits}f} to {s['max']:.{digits}f})"


def table(comparisons: Sequence[Comparison], clock: str) -> str:
    """The comparisons as a Markdown table, seconds by `clock`; each cell is median (minimum to maximum)."""
    lines = [
        f"| what | A | B | A, {clock} s | B, {clock} s | A / B | goal | met | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        seconds = c.cpu if clock == "cpu" else c.wall
        cells = [c.what, c.a, c.b, show(seconds["a"]), show(seconds["b"]), show(c.ratios(clock))]
        cells += [f"{c.goal[0]} {c.goal[1]:g}", "yes" if c.met(clock) else "no", str(len(seconds["a"]))]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {c.what}: {c.note}" for c in comparisons if c.note]
    return "\n".join(lines + ([""] if notes else []) + notes)
