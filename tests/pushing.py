"""What the tests of pushing share: a checkpoint, a synthetic set with its evidence, and commands on a loopback Hub."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from helpers import run_warm, tiny_pipeline
from loopback_hub.hub import LoopbackHub, running_hub
from warm_python import WarmPython

from clinsynth.hub.seal import sign
from clinsynth.synthesis.shard_files import hash_shards

MODEL, SET = "push model retina --repo_id tester/", "push dataset set --evidence evidence --repo_id tester/"
SET_FILES = [
    "README.md",
    "croissant.json",
    *(f"data/train-0000{i}-of-00003.parquet" for i in range(3)),
    "evidence.json",
    "generation.json",
    "samples.png",
]
MAKE = """
import sys
from clinsynth.cli import main
folder = sys.argv[1]
for words in (
    f"generate images --model {folder}/retina --per_class 8 --num_inference_steps 2 --shard_size 10 "
    f"--output_dir {folder}/set",
    f"evaluate images --real {folder}/patients.npz --label_names healthy,mild,severe --synthetic {folder}/set "
    f"--bootstrap 4 --classifier none --output_dir {folder}/evidence",
):
    sys.argv = ["clinsynth", *words.split()]
    main(sys.argv[1:])
"""
CLIENT = """
import contextlib, io, json, os, sys, traceback
from clinsynth.cli import main
folder, asked, answers = sys.argv[1:]
os.chdir(folder)
answers = open(answers, "w")
for line in open(asked):
    words, token = json.loads(line)
    os.environ["HF_TOKEN"] = token
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code
        except Exception:
            code = "no error of a user"
            traceback.print_exc()
    print(json.dumps([code, said.getvalue()]), file=answers, flush=True)
"""


def make_pictures(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise around a grey level that tells the class: uint8 (n, 28, 28) and labels (n,)."""
    labels = np.repeat([0, 1, 2], per_class)
    noise = np.random.default_rng(seed).integers(0, 90, size=(len(labels), 28, 28))
    return (noise + 60 * labels[:, None, None]).astype(np.uint8), labels


def make_runs(folder: Path) -> Path:
    """`retina` (an untrained checkpoint), `set` (24 pictures in 3 shards) and `evidence` on it, by the commands."""
    arrays = {}
    for seed, (split, count) in enumerate((("train", 16), ("val", 8), ("test", 15))):
        images, labels = make_pictures(count, seed)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None]}
    np.savez(folder / "patients.npz", **arrays)
    tiny_pipeline("context_unet").save_pretrained(folder / "retina")
    run_warm("-c", MAKE, folder)
    stamp(folder / "evidence", folder / "set")
    return folder


def copy_runs(factory: pytest.TempPathFactory) -> Path:
    """A new folder with the files of `make_runs`, which are made once for all modules and processes of a session."""
    base = factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs-to-push"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            made.mkdir()
            make_runs(made)
    return Path(shutil.copytree(made, factory.mktemp("push"), dirs_exist_ok=True))


@pytest.fixture(scope="module", name="client")
def pushing_client(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Client]":
    """A client in a folder of those files, and a Hub of its own."""
    folder = copy_runs(tmp_path_factory)
    with running_hub(folder) as hub:
        client = Client(hub, folder)
        yield client
        client.close()


@pytest.fixture(name="hub")
def sound_hub(client: "Client") -> LoopbackHub:
    """The client's Hub, without the faults of the test before."""
    client.hub.clear_faults()
    return client.hub


def files_of(hub: LoopbackHub, kind: str, name: str, revision: str = "main") -> list[str]:
    found = hub.repo(kind, f"tester/{name}").files(revision)
    return sorted(path for path in found if path != ".gitattributes")


def stamp(evidence: Path, made: Path, **privacy: Any) -> None:
    """Let the evidence be about exactly the shards of a set, with other readings where some are given."""
    path = evidence / "evidence.json"
    content = json.loads(path.read_text())
    content["data"]["shards_sha256"] = hash_shards(made)
    content["privacy"] |= privacy
    write_signed(evidence, content)


def write_signed(evidence: Path, content: dict[str, Any]) -> None:
    """Evidence with this content, as if a run had found it."""
    (evidence / "evidence.json").write_text(json.dumps(content | {"signature": sign(content)}))


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "that never came"
        time.sleep(0.02)


class Client:
    """`clinsynth push` commands against a loopback Hub, one after the other in one process of their own.

    Args:
        folder: the working directory.
        xet: whether the client would use Xet.
    """

    def __init__(self, hub: LoopbackHub, folder: Path, xet: bool = True) -> None:
        self.hub, self.folder, self.xet = hub, folder, xet
        self.start()

    def start(self) -> None:
        """Begin the process, which waits for commands."""
        self.place = tempfile.TemporaryDirectory()
        pipes = Path(self.place.name)
        for name in ("asked", "answers"):
            os.mkfifo(pipes / name)
        environment = self.hub.environment(xet=self.xet) | {"HF_HUB_OFFLINE": "0"}
        self.process = WarmPython("-c", CLIENT, self.folder, pipes / "asked", pipes / "answers", **environment)
        self.answers = open(pipes / "answers")
        self.asked = open(pipes / "asked", "w")

    def begin(self, command: str, token: str | None = None) -> None:
        """Start a command, as "push model retina --repo_id tester/retina"; ~ stands for a space within a word."""
        words = [word.replace("~", " ") for word in command.split()]
        self.asked.write(json.dumps([words, self.hub.token if token is None else token]) + "\n")
        self.asked.flush()

    def end(self) -> tuple[int, str]:
        """Exit code and output of the command that was begun; neither holds the token."""
        code, said = json.loads(self.answers.readline())
        assert self.hub.token not in said
        return code, said

    def run(self, command: str, token: str | None = None) -> tuple[int, str]:
        self.begin(command, token)
        return self.end()

    def done(self, command: str) -> str:
        """What a command prints that must succeed."""
        code, said = self.run(command)
        assert code == 0, said
        return said

    def refused(self, command: str, token: str | None = None) -> str:
        """The message of a command that must end with an error."""
        code, said = self.run(command, token)
        assert code == 2, said
        return said[said.index("error: ") :]

    def close(self) -> None:
        """Kill the process, whatever it is at."""
        self.process.__exit__(None, None, None)
        self.answers.close()
        self.asked.close()
        self.place.cleanup()
