"""What a push costs beside the bare upload: `clinsynth push dataset` against `hf upload` of the same files.

    python -m benchmarks.push --output_dir runs/benchmark-push

Both send a synthetic set of 32 x 32 grey images in Parquet shards, as `clinsynth generate images` writes them, to a
Hub on this machine (tests/loopback_hub), each time into a new private repository, in processes of their own, and both
send the shards as they are: generation has marked each image. The push also passes its gate, for which it hashes the
shards, writes a card and reads everything back. The evidence is a stand-in that the gate reads and whose risk is
accepted: nothing was measured.
Seconds of processor time are those of the client; seconds by the clock hold the Hub's work, too.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.timing import Comparison, TimingArguments, compare, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import atomic_write

GOAL = ("<=", 1.3)
LABELS = {0: "healthy", 1: "mild", 2: "severe"}
SPLITS = ("synthetic", "train", "test")
SIZE = 32


@dataclass(kw_only=True)
class PushArguments(TimingArguments):
    """Measure `clinsynth push dataset` against `hf upload` of the same files."""

    n: int = 50_000
    """Pictures."""
    shard_size: int = 500
    """Pictures a shard; 500 is what `clinsynth generate images` writes unless told otherwise."""
    clock: Literal["cpu", "wall"] = "wall"
    """Seconds that the table shows: `wall`, or `cpu` of the clients."""


def main(args: PushArguments) -> None:
    """Make the set, push and upload it by turns, print and write the table."""
    output_dir = args.begin()
    made = make_set(output_dir / f"set-{args.n}-{args.shard_size}", args.n, args.shard_size)
    evidence = stand_in_evidence(made)
    with running_hub(output_dir) as environment:
        comparison = compare_push(environment, made, evidence, args.repeats)
    write_results(args, "push", [comparison])


def make_set(folder: Path, n: int, shard_size: int) -> Path:
    """`n` images as `clinsynth generate images` writes them; a folder that is finished is taken as it is."""
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
    """A folder with an evidence.json on exactly this set that the gate reads, though nothing was measured."""
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
        environment: dict[str, str] = json.loads(hub.stdout.readline())
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation keeps its bytecode; the warm-up writes it
        yield environment
        hub.communicate()
    if hub.returncode:
        raise ValueError(f"{' '.join(command[1:])} ended with {hub.returncode}")


def compare_push(environment: dict[str, str], made: Path, evidence: Path, repeats: int) -> Comparison:
    """Push and upload by turns, each into a new repository that must then hold all shards."""
    names, used = (f"tester/push{number}" for number in count()), []
    ours = [
        sys.executable,
        "-m",
        "clinsynth",
        "push",
        "dataset",
        f"{made.resolve()}",
        "--evidence",
        f"{evidence.resolve()}",
        "--accept_risk",
        "discs drawn for a benchmark",
    ]
    bare = [str(Path(sys.executable).with_name("hf")), "upload", "--repo-type", "dataset", "--private"]

    def push() -> None:
        used.append(next(names))
        run_client(environment, [*ours, "--repo_id", used[-1]])

    def upload() -> None:
        used.append(next(names))
        run_client(environment, [*bare, used[-1], str((made / "data").resolve()), "data"])

    n = sum(json.loads((made / "generation.json").read_text())["produced"].values())
    shards = [path.stat().st_size for path in made.glob("data/*.parquet")]
    return compare(
        f"{n:,} images, {len(shards)} shards, {sum(shards) / 1e6:.1f} MB",
        ("clinsynth push dataset", push),
        ("hf upload", upload),
        repeats=repeats,
        goal=GOAL,
        check=lambda: check_arrived(environment, used[-1], made),
    )


def no_copies(n: int) -> dict[str, Any]:
    """The record of no copy among n images."""
    record = {"metric": "exact copy", "detector": "pixels", "count": 0, "value": 0.0, "interval": [0.0, 0.0]}
    record |= {"floor": 0.0, "threshold": None, "rank": None, "expected_false_alarms": 0.0, "p_value": None}
    return record | {"n_synthetic": n, "n_train": n, "n_held_out": n, "n_excluded": 0}


def run_client(environment: dict[str, str], command: list[str]) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr[-2000:]}")


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
