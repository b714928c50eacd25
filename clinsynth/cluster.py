"""Ray, which does the work of a command on several machines, or on the cores of this one, where --engine ray is given.

Each machine must see the files of the command under the same paths, and have the same clinsynth.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth import __version__

ENGINES = ("process", "ray")
RETRIES = 10
"""How often what a lost worker was doing is begun again."""
ANSWER_SECONDS = 10


@dataclass(kw_only=True)
class EngineArguments:
    """Where the work of a command is done."""

    engine: str = "process"
    """process: on this machine; ray: on a cluster of Ray (pip install clinsynth[cluster]), with the same result. One
    may go on with what the other has begun"""
    address: str | None = None
    """--engine ray: auto (the cluster that this machine belongs to) or HOST:PORT; default: what the variable
    RAY_ADDRESS says, else a cluster that is started for this command on this machine"""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"--address {self.address} is about --engine ray; give that too, or leave it out")


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` within the block; says where its dashboard is.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster answers at `address`, or it is of another version of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"--engine ray needs Ray ({error}); pip install clinsynth[cluster]") from error
    hint = "start one with `ray start --head`, or leave --address out to start one on this machine for this command"
    check_answers(address, hint)
    try:
        context = ray.init(address=address, logging_level=logging.WARNING)
    except Exception as error:  # of that very class where a machine is too slow
        (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
        what = f"--address {address} is no cluster of Ray that can be used" if address else "Ray did not start here"
        raise ValueError(f"{what} ({reason}); {hint}") from error
    try:
        totals = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        size = f"{totals.get('CPU', 0):g} CPUs, {totals.get('GPU', 0):g} GPUs, nodes: {nodes}"
        print(f"Ray: {size}; dashboard: {context.dashboard_url or 'none'}", flush=True)
        yield ray
    finally:
        ray.shutdown()


def check_answers(address: str | None, hint: str) -> None:
    """Raise a `ValueError` where nothing listens at HOST:PORT, for which Ray alone would try for a minute."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--address {address}: nothing answers there ({error}); {hint}") from error


@dataclass(frozen=True)
class Workplace:
    """What every worker must share with the command that asked for it.

    Attributes:
        folder: in which the command was started; relative paths begin there.
        output_dir: of the command, absolute.
    """

    folder: Path
    output_dir: Path
    version: str = __version__

    @classmethod
    def of(cls, output_dir: Path) -> Workplace:
        return cls(Path.cwd(), output_dir.resolve())

    def enter(self) -> None:
        """Go there, in a worker.

        Raises:
            ValueError: the worker's clinsynth is another one, or its machine does not see the folders.
        """
        where = f"the worker on {platform.node()}"
        if self.version != __version__:
            raise ValueError(
                f"{where} has clinsynth {__version__}, the command {self.version}; install this one there"
            )
        for path in (self.folder, self.output_dir):
            if not path.is_dir():
                raise ValueError(f"{where} does not see the folder {path}; keep it on storage that all machines share")
        os.chdir(self.folder)


def check_sizes(nodes: list[dict[str, Any]], needs: dict[str, dict[str, float]]) -> None:
    """Refuse what no machine of the cluster can ever do, for which Ray would wait without an end.

    Args:
        nodes: as `ray.nodes()` lists them.
        needs: by name of the work: of Ray's resources (CPU, GPU, memory in bytes) how much it takes.

    Raises:
        ValueError: names the work, what it asks for, and what there is.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    for name, need in needs.items():
        if not any(all(node.get(kind, 0) >= amount for kind, amount in need.items()) for node in there):
            asked = ", ".join(f"{kind} {amount:g}" for kind, amount in need.items() if amount)
            best = ", ".join(f"{kind} {max(node.get(kind, 0) for node in there):g}" for kind in need)
            raise ValueError(
                f"{name} asks for {asked}, and no machine of the cluster has that (at most {best}); ask for less in "
                "`resources:` of the recipe, or add a machine"
            )
