"""Processes and run folders: one at a time writes into a folder, and none outlives the one that started it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LOCK = ".lock"
LEFT = re.compile(r"\..+\.(\d+)\.tmp|\.writable\.(\d+)")
"""What a killed process leaves that was writing a file aside, or trying a folder; with its number."""
OLD, GONE = ".old", ".gone"
"""How the name of a folder ends that is being replaced, and of one that is being deleted."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
TERMINATED = 128 + signal.SIGTERM

held: dict[Path, IO[str]] = {}
"""Lock files of this process, open as long as it holds them."""


def lock_folder(folder: Path, flag: str) -> None:
    """Make sure that no other process writes into a run folder while this one lives, and sweep what dead ones left.

    The lock is the kernel's, which lets it go when its process dies. Of several processes of one run the first has it.

    Raises:
        ValueError: another process has it; says which, on what host, and since when.
    """
    folder = folder.resolve()
    if os.environ.get("RANK", "0") != "0" or (folder in held and is_same_file(held[folder], folder / LOCK)):
        return
    file = open(folder / LOCK, "a+", encoding="utf-8")
    if not try_lock(file):
        file.seek(0)
        raise ValueError(f"--{flag} {folder} {describe_holder(file.read())}; wait for its end, or name another folder")
    if not is_same_file(file, folder / LOCK):  # its holder has ended, and taken the file away, meanwhile
        file.close()
        lock_folder(folder, flag)
        return
    file.truncate(0)
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    json.dump({"host": platform.node(), "pid": os.getpid(), "since": now}, file)
    file.flush()
    held[folder] = file
    sweep(folder)


def try_lock(file: IO[str]) -> bool:
    """Whether this process has the lock of an open file now; True, and a line, where there are no locks."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError) as error:
        print(f"{file.name} cannot be locked ({error}): see to it yourself that no two processes write there")
    return True


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Of the processes that share a cache, one at a time makes what is to be kept at `path`; others wait for its end.

    Whoever comes in looks first whether it is there by now.
    """
    lock = path.with_name(f".{path.name}{LOCK}")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(lock, "a+", encoding="utf-8")
        wait_for_lock(file)
        if is_same_file(file, lock):
            break
        file.close()  # the one that had it has taken it away
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def wait_for_lock(file: IO[str]) -> None:
    """Have the lock of an open file; at once where there are no locks."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return


def is_same_file(file: IO[str], path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def describe_holder(content: str) -> str:
    """As "is in use by process 12 on node3, since 2026-12-01 09:00:00 +0000"."""
    try:
        holder: dict[str, Any] = json.loads(content)
        return f"is in use by process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "is in use by another process"


def wait_until_free(folder: Path, seconds: float = 60) -> None:
    """Wait, seconds at most, until no process writes into a folder: one whose worker was lost may still be ending."""
    end = time.monotonic() + seconds
    while (folder / LOCK).exists() and time.monotonic() < end:
        with open(folder / LOCK, "a+", encoding="utf-8") as file:
            if try_lock(file):
                return
        time.sleep(0.2)


def release_locks() -> None:
    """Let go of all that this process holds."""
    while held:
        folder, file = held.popitem()
        if is_same_file(file, folder / LOCK):
            (folder / LOCK).unlink()
        file.close()


def sweep(folder: Path) -> None:
    """Delete what dead processes of this machine were writing in a run folder, or in a folder of it."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        found = LEFT.fullmatch(path.name)
        if found and not is_alive(int(found.group(1) or found.group(2))):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder.glob(f".*{GONE}"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".*{OLD}"):
        recover(path)


def recover(old: Path) -> None:
    """Bring back a folder whose replacement was cut off before the new one stood in its place; else delete it."""
    whole = old.with_name(old.name[1 : -len(OLD)])
    if old.exists() and not whole.exists():
        os.replace(old, whole)
    shutil.rmtree(old, ignore_errors=True)


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux end this process when the one that started it dies, be it by SIGKILL.

    A step that outlives its study, or a worker its `torchrun`, would write into the folder of the next start.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


@contextmanager
def ended_properly() -> Iterator[None]:
    """Within the block SIGTERM, and Ctrl-C, end this process with a line of what to do; locks are let go after it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGKILL)
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as error:
        if error.code == TERMINATED:
            print("\nstopped by SIGTERM; start the same command again to go on", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("\nstopped; start the same command again to go on", file=sys.stderr)
        sys.exit(130)
    finally:
        release_locks()
        signal.signal(signal.SIGTERM, before)


UNREAD = 128 + signal.SIGPIPE
"""The status of a program that ends since nobody reads what it writes, as a shell gives it."""


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """End without a word once nobody reads standard output any more, as after `clinsynth list | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_unread():  # a pipe of another kind
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its end
        sys.exit(UNREAD)


def is_unread() -> bool:
    """Whether standard output is a pipe without a reader."""
    waiting = select.poll()
    waiting.register(1, 0)
    return any(event & select.POLLERR for _, event in waiting.poll(0))
