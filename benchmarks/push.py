"""What a push costs beside the bare upload: `clinsynth push dataset` against `hf upload` of the same files.

    python -m benchmarks.push --output_dir runs/benchmark-push

Both send a synthetic set of 32 x 32 grey pictures in Parquet shards, as `clinsynth generate images` writes them, to a
Hub on this machine (tests/loopback_hub), each time into a new private repository, in processes of their own, and both
send the shards as they are: generation has marked each picture. The push also passes its gate, for which it hashes the
shards, writes a card and reads everything back. The evidence is a stand-in: the gate reads it, nothing was measured.
Seconds of processor time are those of the client; seconds by the clock hold the Hub's work, too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.arguments import run

if TYPE_CHECKING:
    from benchmarks.timing import Comparison

Command = Callable[[str], list[str]]
GOAL = ("<=", 1.3)
LABELS = {0: "healthy", 1: "mild", 2: "severe"}
SPLITS = ("synthetic", "train", "test")
SIZE = 32


@dataclass
class PushArguments:
    """Measure `clinsynth push dataset` against `hf upload` of the same files."""

    output_dir: str
    """Folder for the set, the Hub, push.json and push.md."""
    n: int = 50_000
    """Pictures."""
    shard_size: int = 500
    """Pictures a shard; 500 is what `clinsynth generate images` writes unless told otherwise."""
    repeats: int = 5
    """Repeats of A B A B …"""
    clock: str = "wall"
    """Seconds that the table shows: `wall`, or `cpu` of the clients."""

    def __post_init__(self) -> None:
        for name in ("n", "shard_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}")
        if self.clock not in ("cpu", "wall"):
            raise ValueError(f"--clock must be cpu or wall, got {self.clock!r}")


def main(args: PushArguments) -> None:
    """Make the set, push and upload it by turns, print and write the table."""
    from benchmarks.timing import table
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    output_dir = create_run_folder(args.output_dir)
    made = make_set(output_dir / f"set-{args.n}-{args.shard_size}", args.n, args.shard_size)
    evidence = stand_in_evidence(made)
    with running_hub(output_dir) as environment:
        comparison = compare_push(environment, made, evidence, args.repeats)
    record = {"environment": describe_environment(), "arguments": vars(args), "comparison": comparison.record()}
    text = "\n".join([f"{args}", "", table([comparison], args.clock)]) + "\n"
    atomic_write(output_dir / "push.json", json.dumps(record, indent=2) + "\n")
    atomic_write(output_dir / "push.md", text)
    print(text)


def make_set(folder: Path, n: int, shard_size: int) -> Path:
    """`n` pictures as `clinsynth generate images` writes them; a folder that is finished is taken as it is."""
    from clinsynth.synthesis.image_shards import ImageShards, write_image_shards

    labels = np.sort(np.arange(n) % len(LABELS)).tolist()
    plan = ImageShards(folder, labels, LABELS, 0, shard_size)
    generator = {"model": "runs/benchmark", "network": "none", "weights_sha256": "0" * 64, "seed": 0}
    folder.mkdir(parents=True, exist_ok=True)
    plan.begin(generator)
    write_image_shards(plan, draw_pictures, shard_size)
    plan.finish(generator)
    return folder


def draw_pictures(labels: list[int], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a dark ground with noise, one a label and seed: uint8 (n, 1, 32, 32), all of them usable."""
    across = np.linspace(-1, 1, SIZE)
    distance = np.hypot(across[:, None], across)
    pictures = []
    for label, seed in zip(labels, seeds, strict=True):
        noise = np.random.default_rng(seed).normal(0, 6, (SIZE, SIZE))
        disc = 60 + 40 * label - 90 * (distance - 0.7).clip(0)
        pictures.append((disc + noise).clip(0, 255).astype(np.uint8)[None])
    return np.stack(pictures), np.ones(len(labels), dtype=bool)


def stand_in_evidence(made: Path) -> Path:
    """A folder with an evidence.json on exactly this set that passes the gate, though nothing was measured."""
    from clinsynth.run_folder import atomic_write
    from clinsynth.synthesis.shard_files import hash_shards

    generation = json.loads((made / "generation.json").read_text())
    counts = generation["produced"]
    n = sum(counts.values())
    share = {"metric": "dcr_share", "label": "overall", "value": 0.5, "interval": [0.4, 0.6], "floor": 0.5}
    share |= {"floor_range": [0.4, 0.6], "chance_range": [0.4, 0.6], "n_synthetic": n, "n_train": n, "n_held_out": n}
    share |= {"extractor": "none", "replicates": 0, "seed": 0, "note": ""}
    evidence: dict[str, Any] = {
        "data": {"real": "", "label_names": list(counts), "counts": dict.fromkeys(SPLITS, counts)},
        "generation": generation,
        "extractor": {"name": "none", "note": ""},
        "measurements": [],
        "collapse": {"sentence": "Not measured."},
        "privacy": {"verdict": "no sign", "text": "Not measured.", "pairs": [], "n": dict.fromkeys(SPLITS, n)},
        "classifier": None,
        "environment": {},
    }
    evidence["privacy"] |= {"copies": [no_copies(n)], "records": [share]}
    evidence["data"]["shards_sha256"] = hash_shards(made)
    folder = made.with_name(f"{made.name}-evidence")
    folder.mkdir(exist_ok=True)
    atomic_write(folder / "evidence.json", json.dumps(evidence) + "\n")
    return folder


@contextmanager
def running_hub(folder: Path) -> Iterator[dict[str, str]]:
    """A Hub on this machine while the block runs; the environment of its clients.

    Raises:
        ValueError: it does not start, or was called in ways that it does not know.
    """
    command = [sys.executable, "-m", "tests.loopback_hub", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        environment = {**json.loads(hub.stdout.readline()), "PYTHONPYCACHEPREFIX": str(folder.resolve() / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation keeps its bytecode; the warm-up writes it
        yield environment
        hub.communicate()
    if hub.returncode:
        raise ValueError(f"{' '.join(command[1:])} ended with {hub.returncode}")


def compare_push(environment: dict[str, str], made: Path, evidence: Path, repeats: int) -> "Comparison":
    """Push and upload by turns, once to warm up and then `repeats` times, each into a new repository."""
    from benchmarks.timing import Comparison

    clients = {"a": push_command(made, evidence), "b": upload_command(made)}
    seconds: dict[str, dict[str, list[float]]] = {clock: {"a": [], "b": []} for clock in ("wall", "cpu")}
    for turn in range(repeats + 1):
        for side, command in clients.items():
            wall, cpu = timed_client(environment, command(f"tester/{side}{turn}"))
            print(f"{turn or 'warm-up'} {side}: {wall:.2f} s, {cpu:.2f} s of processor time", flush=True)
            if turn:
                seconds["wall"][side].append(wall)
                seconds["cpu"][side].append(cpu)
            check_arrived(environment, f"tester/{side}{turn}", made)
    n = sum(json.loads((made / "generation.json").read_text())["produced"].values())
    shards = [path.stat().st_size for path in made.glob("data/*.parquet")]
    what = f"{n:,} pictures, {len(shards)} shards, {sum(shards) / 1e6:.1f} MB"
    return Comparison(what, "clinsynth push dataset", "hf upload", seconds["wall"], seconds["cpu"], GOAL)


def no_copies(n: int) -> dict[str, Any]:
    """The record of no copy among n pictures."""
    record = {"metric": "exact copy", "detector": "pixels", "count": 0, "value": 0.0, "interval": [0.0, 0.0]}
    record |= {"floor": 0.0, "threshold": None, "rank": None, "expected_false_alarms": 0.0, "p_value": None}
    return record | {"n_synthetic": n, "n_train": n, "n_held_out": n, "n_excluded": 0}


def push_command(made: Path, evidence: Path) -> Command:
    """`clinsynth push dataset` into the repository of a name."""
    start = [sys.executable, "-m", "clinsynth", "push", "dataset", str(made.resolve())]
    return lambda name: [*start, "--repo_id", name, "--evidence", str(evidence.resolve())]


def upload_command(made: Path) -> Command:
    """`hf upload` of the shards into the repository of a name."""
    start = [str(Path(sys.executable).with_name("hf")), "upload"]
    return lambda name: [*start, name, str((made / "data").resolve()), "data", "--repo-type", "dataset", "--private"]


def timed_client(environment: dict[str, str], command: list[str]) -> tuple[float, float]:
    """Seconds (wall, processor of the client) of a command, which must succeed."""
    start = time.perf_counter()
    client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert client.stderr is not None
    said = client.stderr.read()
    _, status, usage = os.wait4(client.pid, 0)  # the usage of this child alone
    client.returncode = os.waitstatus_to_exitcode(status)
    if client.returncode:
        raise ValueError(f"{' '.join(command[:4])} ended with {client.returncode}: {said[-2000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def check_arrived(environment: dict[str, str], name: str, made: Path) -> None:
    """All shards must lie in the private repository, which is then deleted.

    Raises:
        ValueError: they do not.
    """
    from huggingface_hub import HfApi

    api = HfApi(environment["HF_ENDPOINT"], environment["HF_TOKEN"])
    found = api.dataset_info(name)
    arrived = {entry.rfilename for entry in found.siblings or []}
    missing = {f"data/{path.name}" for path in made.glob("data/*.parquet")} - arrived
    if missing or not found.private:
        raise ValueError(f"{name} lacks {len(missing)} shards, or is not private: this measured nothing")
    api.delete_repo(name, repo_type="dataset")


if __name__ == "__main__":
    run(PushArguments, main)
