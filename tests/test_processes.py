"""Run folders: one process at a time, dead ones do not count, and what they left is swept; SIGTERM says what to do."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import REPOSITORY

from clinsynth.processes import LOCK, held, one_at_a_time, release_locks, wait_until_free
from clinsynth.run_folder import complete_folder, create_run_folder, remove_folder

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
HOLD = "import sys, time; from clinsynth.run_folder import create_run_folder; create_run_folder(sys.argv[1]); "
WAIT = "print('held', flush=True); time.sleep(600)"
RUN = """
import sys, time
from dataclasses import dataclass
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder
@dataclass
class Arguments:
    output_dir: str = ""
    \"\"\"the folder\"\"\"
def main(args):
    create_run_folder(args.output_dir)
    print("held", flush=True)
    time.sleep(600)
run(Arguments, main)
"""


def start(folder: Path, code: str = HOLD + WAIT, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """A process that has the folder by now."""
    command, pipes = [sys.executable, "-c", code, *(words or [str(folder)])], {"text": True, "cwd": REPOSITORY}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"is in use by process {first.pid} on .+, since 20\d\d-"):
        create_run_folder(tmp_path / "run")
    create_run_folder(tmp_path / "run", "cache_dir")  # caches are shared
    worker = start(tmp_path / "run", RANK="1")  # another process of the same run
    for process in (first, worker):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == first.pid
    create_run_folder(tmp_path / "run")
    create_run_folder(tmp_path / "run")  # it is this process's own by now
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    release_locks()
    assert not held and not (tmp_path / "run" / LOCK).exists()


def replace_best(folder: Path) -> None:
    with complete_folder(folder) as aside:
        for name in ("a", "b"):
            (aside / name).write_text("new")


def test_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "data").mkdir()
    left = [tmp_path / f".config.yaml.{ended.pid}.tmp", tmp_path / f".writable.{ended.pid}"]
    left += [tmp_path / "data" / f".train.parquet.{ended.pid}.tmp"]
    kept = [tmp_path / f".config.yaml.{os.getpid()}.tmp", tmp_path / ".notes.tmp", tmp_path / "data" / "12.tmp"]
    for path in [*left, *kept]:
        path.write_text("half")
    create_run_folder(tmp_path)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def die_before_change(number: int) -> None:
    """End this process right before it changes that many files."""
    changes = itertools.count(1)
    sys.addaudithook(lambda event, _: event in CHANGES and next(changes) == number and os._exit(9))


@pytest.mark.parametrize(("act", "may_be"), [(replace_best, {"old", "new"}), (remove_folder, {"old", None})])
def test_a_folder_that_is_replaced_or_deleted_is_whole_or_gone_after_a_kill(
    act: Callable[[Path], None], may_be: set[str | None], tmp_path: Path
) -> None:
    ends, seen = iter(range(1, 50)), set()
    ended = 9
    while ended:  # killed before the first change of a file, before the second, … until it comes to its end
        run = tmp_path / f"run-{(last := next(ends))}"
        (run / "best").mkdir(parents=True)
        for name in ("a", "b"):
            (run / "best" / name).write_text("old")
        child = os.fork()
        if child == 0:
            die_before_change(last)
            act(run / "best")
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        create_run_folder(run)
        release_locks()
        found = {file.read_text() for file in (run / "best").glob("*")} or {None}
        assert found <= may_be and len(found) == 1 and len(list((run / "best").glob("*"))) in (0, 2)
        assert {path.name for path in run.iterdir()} <= {"best", ".best.tmp"}  # the next writing of best takes it away
        seen |= found
    assert seen == may_be and last > 4


def test_those_that_share_a_cache_wait_for_each_other(tmp_path: Path) -> None:
    kept, (reading, writing) = tmp_path / "cache" / "kept", os.pipe()
    other = os.fork()
    if other == 0:
        with one_at_a_time(kept):
            os.write(writing, b".")
            time.sleep(0.3)
            kept.write_text("made")
        os._exit(0)
    os.read(reading, 1)
    with one_at_a_time(kept):
        assert kept.read_text() == "made"
    os.waitpid(other, 0)
    assert [*kept.parent.iterdir()] == [kept]


def test_a_folder_is_free_when_its_process_has_ended(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    began = time.monotonic()
    wait_until_free(tmp_path / "run", seconds=0.3)
    assert time.monotonic() - began >= 0.3
    process.kill()
    began = time.monotonic()
    wait_until_free(tmp_path / "run")
    assert time.monotonic() - began < 30
    process.communicate()


def test_sigterm_says_what_to_do_and_lets_go(tmp_path: Path) -> None:
    process = start(tmp_path / "run", RUN, "--output_dir", str(tmp_path / "run"))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143 and said.endswith("stopped by SIGTERM; start the same command again to go on\n")
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at a parent's death is Linux's")
def test_a_worker_ends_with_its_torchrun(tmp_path: Path) -> None:
    launcher = (
        "import subprocess, sys, time; worker = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); worker.wait()"
    )
    words = [RUN, "--output_dir", str(tmp_path / "run")]
    process = start(tmp_path / "run", launcher, *words, TORCHELASTIC_RUN_ID="none")
    process.kill()
    process.communicate()  # ends when the worker, which has the same output, has ended
    create_run_folder(tmp_path / "run")
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
