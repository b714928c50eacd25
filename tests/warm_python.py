"""Processes of Python that do not wait for torch, diffusers and transformers: a server has imported them, and forks.

Each is a process of its own with its own words, output and end, and can be killed, like `python WORDS`. It differs in
what the libraries read from the environment while they are imported: they have read the server's. A test of that, or
of what a command imports, starts Python anew (`helpers.run_python`).
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from types import TracebackType
from unittest import mock

LIBRARIES = """
    PIL.ImageDraw PIL.ImageFont PIL.JpegImagePlugin PIL.PngImagePlugin
    accelerate datasets datasketch docstring_parser evaluate jinja2 jsonargparse jsonschema llguidance.hf rich.progress
    diffusers.models.unets.unet_2d diffusers.optimization diffusers.pipelines.ddpm diffusers.pipelines.pipeline_utils
    diffusers.schedulers.scheduling_ddim diffusers.schedulers.scheduling_ddpm diffusers.training_utils
    peft pydantic scipy.io scipy.stats sklearn.linear_model sklearn.metrics trl
    transformers.generation.utils transformers.modeling_utils transformers.models.auto transformers.pipelines
    transformers.models.bert.modeling_bert transformers.models.llama.modeling_llama
    transformers.models.resnet.modeling_resnet transformers.models.vit transformers.trainer_pt_utils
""".split()
"""What most commands import, now or later; one that is not installed is left out."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(LIBRARIES)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
"""One thread a process, so that sums are in the same order in every run."""


class WarmPython:
    """`python WORDS`, begun; it is killed where the block ends before it."""

    def __init__(self, *words: object, **environment: str) -> None:
        self.words = [*map(str, words)]
        self.folder = tempfile.TemporaryDirectory()
        self.files = [Path(self.folder.name, name) for name in ("stdout", "stderr")]
        with mock.patch.dict(os.environ, ONE_THREAD):
            forkserver.ensure_running()
        settings = os.environ | ONE_THREAD | environment
        self.process = CONTEXT.Process(target=run, args=(self.words, settings, self.files))
        self.process.start()

    def __enter__(self) -> "WarmPython":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return not self.process.is_alive()

    def end(self, timeout: float = 500) -> tuple[int | None, str, str]:
        """Wait for its end, seconds at most; its exit code (None: it still runs) and what it printed, and where to."""
        self.process.join(timeout)
        stdout, stderr = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self.files)
        return self.process.exitcode, stdout, stderr


def run(words: list[str], environment: dict[str, str], files: list[Path]) -> None:
    """What the forked process does."""
    gc.freeze()  # what was imported stays: it need not be searched for garbage
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    atexit._run_exitfuncs()  # multiprocessing ends a process without them


def run_in_two(*words: object) -> str:
    """Run `python WORDS` in two processes that share the work, with the environment that torchrun gives them; what the
    first printed. The launchers themselves are shown by a test of `generate images` and one of `train ddpm`."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    place |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with WarmPython(*words, RANK="0", LOCAL_RANK="0", **place) as first:
        with WarmPython(*words, RANK="1", LOCAL_RANK="1", **place) as second:
            ends = [first.end(), second.end()]
    assert [code for code, _, _ in ends] == [0, 0], ends
    return ends[0][1]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
