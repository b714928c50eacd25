"""The Space spaces/studio as a server in a process of its own, with tiny models, that several tests ask."""

import atexit
import functools
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from helpers import REPOSITORY, one_thread, tiny_pipeline
from text_models import save_tiny_model

SPACE = REPOSITORY / "spaces" / "studio"
START_SECONDS = 300
TRAINED_ON = {"dataset": "phantom-fundus?train=60&validation=5&test=5", "resolution": 28, "channels": 1, "seed": 0}


@dataclass
class Studio:
    """A running Space."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    ready_after: float

    def client(self) -> Any:
        """A `gradio_client.Client` of its own."""
        from gradio_client import Client

        return Client(self.url, verbose=False, ssl_verify=False, download_files=str(self.folder / "downloads"))

    def memory(self) -> float:
        """Resident memory of the server, in MB."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


def start_studio(folder: Path, *words: str, app: Path = SPACE / "app.py", **environment: str) -> Studio:
    """Start the Space's app and wait until it answers.

    Raises:
        AssertionError: it ends, or does not answer in five minutes; holds what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"GRADIO_TEMP_DIR": str(folder / "gradio"), "HF_HOME": str(folder / "home"), **environment}
    log = folder / "app.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(app), "--port", str(port), *words],
            cwd=folder, env=one_thread(**environment), stdout=output, stderr=output,
        )  # fmt: skip
    atexit.register(process.kill)
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    with httpx.Client(trust_env=False, timeout=60) as client:  # one, since each reads all certificates
        while not answers(client, url):
            assert process.poll() is None and time.monotonic() < started + START_SECONDS, log.read_text()[-3000:]
            time.sleep(0.2)
    return Studio(url, process, folder, time.monotonic() - started)


def answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/config").status_code == 200
    except httpx.TransportError:
        return False


@functools.cache
def tiny_studio() -> Studio:
    """One for all tests of this process: models `eyes` (its training data are known), `skin` and `words`."""
    folder = Path(tempfile.mkdtemp(prefix="studio"))
    tiny_pipeline("context_unet").save_pretrained(folder / "eyes")
    (folder / "eyes" / "config.yaml").write_text(yaml.safe_dump(TRAINED_ON))
    tiny_pipeline().save_pretrained(folder / "skin")
    save_tiny_model(folder / "words")
    return start_studio(folder, "--models", "eyes,skin,words")
