"""Each failure that the loopback Hub can be told to have, and what huggingface_hub makes of it."""

import os
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

import httpx
from loopback_hub.client import run_client
from loopback_hub.hub import LoopbackHub

PREPARE = """
from huggingface_hub import HfApi
api = HfApi()
def push(name):
    api.create_repo(name, exist_ok=True)
    return api.upload_folder(repo_id=f"tester/{name}", folder_path="files")
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with `files/`: a text and a large file."""
    files = tmp_path / "work" / "files"
    files.mkdir(parents=True)
    (files / "notes.txt").write_text("notes\n")
    (files / "model.safetensors").write_bytes(os.urandom(400_000))
    return tmp_path / "work"


def test_failed_uploads_are_repeated_and_failed_commits_are_not(loopback_hub: LoopbackHub, work: Path) -> None:
    hub = loopback_hub
    faults = {
        "busy": hub.fail("PUT */tester/busy/*", status=503),
        "limited": hub.fail("POST */tester/limited/preupload/*", status=429, retry_after=0),
        "dropped": hub.drop("PUT */tester/dropped/*", after_bytes=200_000),
        "full": hub.fill_disk("PUT */tester/full/*"),
        "uncommitted": hub.drop("POST */tester/uncommitted/commit/*", after_bytes=10),
        "broken": hub.fail("POST */tester/broken/commit/*", status=500),
        "lost": hub.lose_answer("POST */tester/lost/commit/*"),
    }
    code = PREPARE + f"for name in {list(faults)}:\n    found[name] = [outcome(push, name), outcome(push, name)]"
    found = run_client(hub, code, work)
    assert {name: fault.happened for name, fault in faults.items()} == dict.fromkeys(faults, 1)
    for name in ("busy", "limited", "dropped"):
        assert found[name] == ["done", "done"]
    assert found["full"] == ["RuntimeError", "done"] and found["broken"] == ["HfHubHTTPError", "done"]
    assert found["uncommitted"] == found["lost"] == ["RemoteProtocolError", "done"]
    for name in faults:
        repo = hub.repo("model", f"tester/{name}")
        assert len(repo.commits()) == 2 and sorted(repo.files()) == [
            ".gitattributes",
            "model.safetensors",
            "notes.txt",
        ]
        assert repo.read("model.safetensors") == (work / "files" / "model.safetensors").read_bytes()
        assert len(hub.calls(f"PUT */tester/{name}/*")) == (2 if name in ("busy", "dropped", "full") else 1)
    assert [call.status for call in hub.calls("PUT */tester/full/*")] == [507, 200]
    assert [call.status for call in hub.calls("POST */tester/lost/commit/*")] == [-1]
    assert not list((hub.folder / "hub" / "uploads").iterdir())


def test_upload_folder_may_leave_a_folder_half_published(loopback_hub: LoopbackHub, work: Path) -> None:
    """Where Xet is not turned off it commits 250 files at a time: `clinsynth push` commits all at once, by itself."""
    for number in range(300):
        (work / "files" / f"{number}.txt").write_text("notes\n")
    (work / "files" / "model.safetensors").unlink()  # for whose storage there is no server here
    loopback_hub.fail("POST */commit/*", status=501, nth=2, times=None)
    found = run_client(loopback_hub, PREPARE + "found['push'] = outcome(push, 'many')", work, xet=True)
    assert found["push"] == "HfHubHTTPError"
    assert len(loopback_hub.repo("model", "tester/many").files()) == 1 + 250


def test_a_dropped_download_goes_on_where_it_stopped(loopback_hub: LoopbackHub, work: Path) -> None:
    (work / "files" / "model.safetensors").write_bytes(os.urandom(12_000_000))  # clients write 10 MiB at a time
    fault = loopback_hub.drop("GET /storage/*", after_bytes=11_000_000)
    code = PREPARE + (
        "push('model')\n"
        "path = api.hf_hub_download('tester/model', 'model.safetensors')\n"
        "found['same'] = Path(path).read_bytes() == Path('files/model.safetensors').read_bytes()"
    )
    assert run_client(loopback_hub, code, work)["same"] is True
    assert fault.happened == 1
    assert [call.status for call in loopback_hub.calls("GET /storage/*")] == [200, 206]


def test_a_server_that_was_down_has_everything_when_it_is_back(loopback_hub: LoopbackHub, work: Path) -> None:
    loopback_hub.store.create("model", "tester/model", False, "tester")
    loopback_hub.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(loopback_hub.url, trust_env=False)
    back = threading.Timer(1.5, loopback_hub.start)
    back.start()
    code = "from huggingface_hub.utils import http_backoff\nimport os\n"
    code += "url = os.environ['HF_ENDPOINT'] + '/api/models/tester/model'\n"
    code += "found['id'] = http_backoff('GET', url).json()['id']"
    assert run_client(loopback_hub, code, work) == {"id": "tester/model"}
    back.join()


def test_faults_count_and_wait(loopback_hub: LoopbackHub) -> None:
    loopback_hub.store.create("model", "tester/model", False, "tester")
    loopback_hub.fail("GET */tester/model", status=500, nth=2, times=2, retry_after=7)
    loopback_hub.slow("HEAD *", seconds=0.3)
    with httpx.Client(base_url=loopback_hub.url, trust_env=False) as client:
        answers = [client.get("/api/models/tester/model") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 500, 500, 200]
        assert answers[1].headers["retry-after"] == "7"
        start = time.monotonic()
        client.head("/tester/model/resolve/main/.gitattributes")
        assert time.monotonic() - start >= 0.3
        loopback_hub.fail("GET *", status=503, times=None)
        assert {client.get("/api/models").status_code for _ in range(3)} == {503}
        loopback_hub.clear_faults()
        assert client.get("/api/models").status_code == 200
        loopback_hub.drop("GET *")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/api/models")
    assert [call.fault for call in loopback_hub.calls("GET */tester/model")] == [None, "status", "status", None]
