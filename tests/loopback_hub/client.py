"""Run a program that uses the loopback Hub, in a process of its own."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from .hub import LoopbackHub

PREAMBLE = """
import json
from pathlib import Path
found = {}
def outcome(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except Exception as error:
        return type(error).__name__
    return "done"
"""


def run_client(hub: LoopbackHub, code: str, folder: Path, **environment: Any) -> dict[str, Any]:
    """Run Python code that fills the dict `found`, and return it.

    Args:
        hub: the Hub that the environment names.
        code: may call `outcome(function, …)`, which is "done" or the name of the exception.
        folder: the working directory.
        environment: arguments of `LoopbackHub.environment`.
    """
    program = PREAMBLE + textwrap.dedent(code) + "\nprint(json.dumps(found))"
    answer = run(hub, [sys.executable, "-c", program], folder, **environment)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def run(hub: LoopbackHub, command: list[str], folder: Path, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, which must succeed."""
    answer = subprocess.run(command, cwd=folder, env=hub.environment(**environment), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer
