"""`clinsynth WORDS`, whose study starts its steps as forks of itself: they need not wait for torch again.

Run it in a warm process (`helpers.run_study`). A step is a process that has its own end and can be killed, and it ends
with its study where it is to: what the study sets for it before its start is done in the fork.
"""

import atexit
import os
import runpy
import subprocess
import sys
import traceback
from typing import Any

start = subprocess.run


def run(words: list[str], **settings: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` that forks where the command line is to start."""
    if words[1:3] != ["-m", "clinsynth"]:
        return start(words, **settings)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        if settings["preexec_fn"] is not None:
            settings["preexec_fn"]()
        os._exit(status_of(words[2:]))
    return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def status_of(words: list[str]) -> int:
    """Run the command line to its end; what its process would return."""
    sys.argv, status = words, 0
    try:
        runpy.run_module("clinsynth", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    subprocess.run = run  # type: ignore[assignment]
    sys.argv = ["clinsynth", *sys.argv[1:]]
    runpy.run_module("clinsynth", run_name="__main__", alter_sys=True)
