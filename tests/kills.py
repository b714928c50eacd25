"""Every command that writes, killed again and again: in the end it leaves what an uninterrupted run leaves.

    python -m tests.kills                        # 200 kills over all commands
    python -m tests.kills --kills 4 --only "generate images"

A command runs in a fork of this process, which has imported everything, as a session of its own. It is killed with
SIGKILL right before it changes its k-th file (opens it for writing, renames or deletes it, makes a folder), or after a
random time; the same command starts again, is killed up to three times in all, and then runs to its end. Wrong is a
run that ends with an error, or whose files or their contents differ from the uninterrupted run's, and a process that
outlives its command. Of a push, what is published must be nothing or all of it after each kill. Of `torchrun` the
launcher alone is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
CHANGES = frozenset("os.rename os.remove os.mkdir os.rmdir os.link os.symlink os.truncate".split())
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
IN_TWO, TORCHRUN = "train ddpm in two processes", "train ddpm by torchrun"
AT_MOST = {TORCHRUN: 3, "study": 6, "train text-to-image-lora": 6, "evaluate images": 8}
"""Kills of commands that take long."""
SECONDS = 300
"""The longest that a command may run."""


@dataclass
class Command:
    """A command, and what its uninterrupted run told."""

    name: str
    words: list[str]
    content: Any = None
    operations: int = 0
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    wrong: list[str] = field(default_factory=list)


class Killed:
    """Counts the changes of files of this process and its forks, and kills them all before number `at`."""

    def __init__(self, at: int = 0) -> None:
        self.shared, self.at = mmap.mmap(-1, 8), at

    @property
    def count(self) -> int:
        return int(struct.unpack("q", self.shared[:8])[0])

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(args[0], str) or not int(args[2] or 0) & WRITING or args[0].startswith("/dev/"):
                return
        elif event not in CHANGES:
            return
        self.shared[:8] = struct.pack("q", self.count + 1)
        if self.count == self.at:
            os.killpg(0, signal.SIGKILL)


def start(words: list[str], said: Path, hook: Killed, after: float = 0.0) -> int:
    """The process number of a fork that runs a command, and is killed after so many seconds, if any."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    tqdm.set_lock(threading.RLock())  # that of the forks is one semaphore, which a killed one keeps for ever
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.addaudithook(hook)
    if after:  # the alarm kills as SIGKILL does: nothing of the process runs any more
        signal.setitimer(signal.ITIMER_REAL, after)
    status = 70
    try:
        status = status_of(words)
    finally:
        os._exit(status)


def status_of(words: list[str]) -> int:
    """Run a command to its end in this process; its exit status."""
    import forking_study

    if words[0] == TORCHRUN:
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            "clinsynth",
        ]
        os.execv(sys.executable, [*launcher, *words[1:]])
    if words[0] == IN_TWO:
        return status_of_two(words[1:])
    subprocess.run = forking_study.run  # type: ignore[assignment]
    return int(forking_study.status_of(["clinsynth", *words]))


def status_of_two(words: list[str]) -> int:
    """Run a command in two forks that share the work, with the environment that torchrun gives them."""
    from warm_python import free_port

    port = str(free_port())
    workers = []
    for rank in ("0", "1"):
        worker = os.fork()
        if worker == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
            os._exit(status_of(words))
        workers.append(worker)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    return max(map(abs, statuses))


def end_of(process: int) -> int:
    """Wait for the end of a process and of all that it started; its exit status.

    Raises:
        AssertionError: it is too slow, or one that it started outlives it.
    """
    limit = time.monotonic() + SECONDS
    ended, status = 0, 0
    while not ended:
        ended, status = os.waitpid(process, os.WNOHANG)
        if time.monotonic() > limit:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise AssertionError(f"it does not end in {SECONDS} s")
        time.sleep(0.005)
    limit = time.monotonic() + 60
    while has_group(process):
        if time.monotonic() > limit:
            os.killpg(process, signal.SIGKILL)
            raise AssertionError("a process outlives its command")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(status)


def has_group(number: int) -> bool:
    """Whether a process of this session is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, 0)
        return True
    return False


class Harness:
    """The commands, and the folder in which they run."""

    def __init__(self, folder: Path, hub: dict[str, str], seed: int) -> None:
        self.folder, self.hub, self.random = folder, hub, random.Random(seed)
        self.run, self.said = folder / "run", folder / "said.txt"

    def prepare(self, only: str) -> list[Command]:
        """Write the sources, run what others build on, and run each command once."""
        from kill_runs import commands, write_sources

        write_sources(self.folder)
        words = commands(self.folder, self.run)
        words |= {name: [name, *words["train ddpm"]] for name in (IN_TWO, TORCHRUN)}
        chosen = [Command(name, words[name]) for name in (only.split(",") if only else words)]
        for command in chosen:
            self.make_what_is_read(command.words)
        for command in chosen:
            begun = time.monotonic()
            command.operations = self.finish(command.words)
            command.seconds, command.content = time.monotonic() - begun, self.content(command)
            self.clear()
        return chosen

    def make_what_is_read(self, words: list[str]) -> None:
        """Run the commands that others build on, where their folders stand among these words."""
        from kill_runs import MADE_FIRST, commands

        for name, maker in MADE_FIRST.items():
            made = self.folder / f"made-{name}"
            if any(str(made) in word for word in words) and not made.exists():
                own = commands(self.folder, made)[maker]
                self.make_what_is_read(own[:-1])
                self.finish(own)

    def finish(self, words: list[str]) -> int:
        """Run a command to its end; how many files it changes.

        Raises:
            AssertionError: it ends with an error.
        """
        hook = Killed()
        status = end_of(start(words, self.said, hook))
        assert status == 0, f"`{' '.join(words[:2])}` ended with {status}: …{self.said.read_text()[-700:]}"
        return hook.count

    def try_once(self, command: Command, kills: int) -> None:
        """Kill a command so many times, let it end, and compare."""
        command.trials += 1
        places: list[str] = []
        try:
            for _ in range(kills):
                places.append(self.kill(command))
            self.finish(command.words)
            self.compare(command)
        except AssertionError as error:
            command.wrong.append(f"{command.name}, killed {', '.join(places)}: {error}")
            print(command.wrong[-1], file=sys.stderr, flush=True)
        self.clear()

    def kill(self, command: Command) -> str:
        """Kill a command once; where. One that ends before counts as none."""
        by_time = command.name == TORCHRUN or self.random.random() < 0.4
        at = 0 if by_time else self.random.randint(1, max(1, command.operations))
        after = self.random.uniform(0.01, command.seconds) if by_time else 0.0
        status = end_of(start(command.words, self.said, Killed(at), after))
        place = f"after {after:.2f} s" if by_time else f"before change {at}"
        if status < 0:
            command.kills["time" if by_time else "change"] += 1
            if command.name.startswith("push"):
                self.check_published(command)
            return place
        assert status == 0, f"started again it ended with {status}: …{self.said.read_text()[-700:]}"
        return f"{place} (it had ended)"

    def content(self, command: Command) -> Any:
        """What a command has left: files of its run folder, or of its repository."""
        from kill_runs import content_of

        if command.name.startswith("push"):
            return self.published(command)
        files = (path for path in self.run.rglob("*") if path.is_file() and path.name != "environment.json")
        return {path.relative_to(self.run).as_posix(): content_of(path) for path in files}

    def compare(self, command: Command) -> None:
        found, names = self.content(command), command.content.keys()
        assert found.keys() == names, f"files: {sorted(found.keys() ^ names)[:9]}"
        differ = [told for name in sorted(names) for told in differences(found[name], command.content[name], name)]
        assert not differ, f"contents differ: {'; '.join(differ[:9])}"

    def published(self, command: Command) -> dict[str, Any]:
        """The files of the repository that a command pushes to; empty where there is none."""
        kind = command.words[1]
        found = self.ask("GET", f"/api/{kind}s/tester/{repository(command)}/tree/main?recursive=true")
        return {row["path"]: row["oid"] for row in found or () if row["path"] != ".gitattributes"}

    def check_published(self, command: Command) -> None:
        found = self.published(command)
        assert found.keys() in (set(), command.content.keys()), f"half published: {sorted(found)}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The Hub's answer; None where it has no such thing, or where there is no Hub."""
        if not self.hub:
            return None
        head = {"Authorization": f"Bearer {self.hub['HF_TOKEN']}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.hub["HF_ENDPOINT"] + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError:
            return None

    def clear(self) -> None:
        """Forget the run, what was pushed, and decoded images."""
        for name in ("run", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for kind, name in (("dataset", "set"), ("model", "model")):
            self.ask("DELETE", "/api/repos/delete", {"name": name, "organization": "tester", "type": kind})


def differences(found: Any, wanted: Any, place: str) -> Iterator[str]:
    """Where two contents differ, down to the value in JSON."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        for name in wanted:
            yield from differences(found[name], wanted[name], f"{place}: {name}")
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for row, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, f"{place}: {row}")
    elif found != wanted:
        one, other = str(found), str(wanted)
        start = max(0, next((at for at, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), 0) - 40)
        yield f"{place}, {one[start : start + 90]!r} for {other[start : start + 90]!r}"


def repository(command: Command) -> str:
    (name,) = (word for word in command.words if word.startswith("--repo_id="))
    return name.rpartition("/")[2]


def main() -> int:
    """Kill, compare, and print the table; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", default="", help="commands, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was started in the background
    pushes = "push" in args.only or not args.only
    with temporary_folder() as folder, running_hub(folder / "hub") if pushes else contextlib.nullcontext({}) as hub:
        settle(folder, hub)
        harness = Harness(folder, hub, args.seed)
        commands = harness.prepare(args.only)
        with contextlib.suppress(KeyboardInterrupt):  # it tells what it has found by then
            for command, kills in in_turn(commands, harness.random):
                total = sum(one.kills.total() for one in commands)
                print(f"{total} kills, now {command.name}", file=sys.stderr, flush=True)
                if total >= args.kills:
                    break
                harness.try_once(command, kills)
    print(table(commands))
    return int(any(command.wrong for command in commands))


def in_turn(commands: list[Command], chance: random.Random) -> Iterator[tuple[Command, int]]:
    """The commands one after the other, without end, each with how many times it is killed now."""
    while True:
        for command in commands:
            if command.kills.total() < AT_MOST.get(command.name, sys.maxsize):
                yield command, chance.randint(1, 3)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that this process alone deletes; that of `tempfile.TemporaryDirectory` each fork would, at its end."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of clients of a Hub in a process of its own."""
    command = [sys.executable, "-m", "tests.loopback_hub", str(folder)]
    hub = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hub.stdout is not None
    try:
        yield json.loads(hub.stdout.readline())
    finally:
        hub.communicate()


def settle(folder: Path, hub: dict[str, str]) -> None:
    """The environment of all forks, and what they need not import."""
    os.environ |= hub | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "XDG_CONFIG_HOME": str(folder / "config")}
    os.environ |= {"CLINSYNTH_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1", "PYTHONPATH": str(REPOSITORY)}
    os.environ.pop("HF_HUB_OFFLINE", None)
    sys.path.insert(0, str(HERE))
    import warm_libraries

    from clinsynth.data import cache

    warm_libraries.read_environment_again()
    cache.kept_array.__defaults__ = (0,)  # so that small splits are kept, too


def table(commands: list[Command]) -> str:
    """A Markdown table, a row a command, and what was wrong."""
    lines = ["| command | changes of files | kills before one | at a random time | trials | wrong |", "|---" * 6 + "|"]
    for one in commands:
        kills = one.kills["change"], one.kills["time"]
        lines.append(f"| {one.name} | {one.operations} | {kills[0]} | {kills[1]} | {one.trials} | {len(one.wrong)} |")
    total = [sum(one.kills[kind] for one in commands) for kind in ("change", "time")]
    wrong = [told for one in commands for told in one.wrong]
    lines.append(f"| all | | {total[0]} | {total[1]} | {sum(one.trials for one in commands)} | {len(wrong)} |")
    return "\n".join([*lines, "", *wrong])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError:
        traceback.print_exc()
        sys.exit(2)
