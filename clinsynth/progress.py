"""How far a long command is, and how long it will take: for those who watch, and for those who read its log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

LONG = 3600
"""Seconds from which on a user may want to stop a command, or start it in the evening."""

Announce = Callable[[str], object]
"""Takes the name of a part of the work that begins."""


def no_announcement(name: str) -> None:
    """Says nothing."""


def time_in_words(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h` or `1.5 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


class Stages:
    """Prints `[3/9] distances` where a part of a command begins.

    Args:
        names: of all parts, in their order.
    """

    def __init__(self, names: Sequence[str]):
        self.names, self.started = list(names), time.monotonic()

    def __call__(self, name: str) -> None:
        """Say that the part `name` begins."""
        spent = time_in_words(time.monotonic() - self.started)
        print(f"[{self.names.index(name) + 1}/{len(self.names)}] {name} ({spent} after the start)", flush=True)


class TimedBar(tqdm):  # type: ignore[type-arg]
    """A bar that also says once how long the rest will take: a line in a log is all that many see.

    Args:
        soon: units after which it says so, as many as are done at once.
        warm_up: units before these, which are slower and not timed.
    """

    def __init__(self, *args: Any, soon: int = 10, warm_up: int = 0, **settings: Any):
        self.soon, self.warm_up, self.counted, self.since = soon, warm_up, 0, time.monotonic()
        super().__init__(*args, **settings)

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` units."""
        shown: bool | None = super().update(n)
        self.counted += int(n or 0)
        if self.counted == self.warm_up:
            self.since = time.monotonic()
        if self.counted == self.warm_up + self.soon and not self.disable:
            rest = (self.total - self.n) * (time.monotonic() - self.since) / self.soon
            if rest >= 60:
                self.write(self.forecast(rest))
        return shown

    def forecast(self, rest: float) -> str:
        """What the user is told of so many seconds."""
        unit = "step" if self.unit == "it" else self.unit
        stop = "; it may be stopped, and the same command goes on" if rest >= LONG else ""
        return f"{self.desc}: {self.total - self.n} {unit}s are left, which takes about {time_in_words(rest)}{stop}"
