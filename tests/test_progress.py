"""What is said of how far a command is, and of how long it takes."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from clinsynth import progress
from clinsynth.progress import Stages, TimedBar, time_in_words


def test_durations_in_words() -> None:
    assert [time_in_words(seconds) for seconds in (0.4, 89, 90, 3000, 6000, 172_800)] == [
        "0 s",
        "89 s",
        "2 min",
        "50 min",
        "1.7 h",
        "2.0 days",
    ]


def test_stages_are_numbered_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    begins = Stages(["both sets", "features", "report"])
    begins("both sets")
    begins("report")
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] both sets (0 s after the start)",
        "[3/3] report (0 s after the start)",
    ]


@pytest.mark.parametrize(
    ("total", "done", "seconds", "said"),
    [
        (30, 0, 1, []),  # less than a minute is left
        (112, 1, 10, ["eyes: 100 steps are left, which takes about 17 min"]),
        (
            2011,
            0,
            10,
            ["eyes: 2000 steps are left, which takes about 5.6 h; it may be stopped, and"],
        ),
    ],
)
def test_a_bar_says_once_how_long_the_rest_takes(
    total: int, done: int, seconds: float, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes so many seconds, and the first one, which is not timed, a thousand."""
    ticks = itertools.chain([0], itertools.count(1000, seconds))
    now = [next(ticks)]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bar: Any = TimedBar(total=total, initial=done, desc="eyes", warm_up=1, file=open("/dev/null", "w"))
    lines: list[str] = []
    bar.write = lines.append
    for _ in range(done, min(total, 20)):
        now[0] = next(ticks)
        bar.update()
    assert len(lines) == len(said) and all(line.startswith(words) for line, words in zip(lines, said, strict=True))
