"""Killed commands leave what uninterrupted ones do: a few kills of the harness that `python -m tests.kills` runs."""

from warm_python import WarmPython


def test_a_few_kills_change_nothing() -> None:
    with WarmPython("-m", "tests.kills", "--kills", "4", "--only", "summarize,train gan") as process:
        code, said, error = process.end()
    assert code == 0 and "| all | | " in said and said.rstrip().endswith("| 0 |"), said + error
