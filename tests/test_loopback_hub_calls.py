"""What the loopback Hub answers to single calls, the wrong ones above all."""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

import httpx
from loopback_hub.hub import LoopbackHub

LARGE = bytes(range(256)) * 40
SHA256 = hashlib.sha256(LARGE).hexdigest()
HEADER = {"key": "header", "value": {"summary": "words", "description": ""}}
BATCH = {"operation": "upload", "transfers": ["basic"], "hash_algo": "sha256"}
FILE = {"path": "a.txt", "content": base64.b64encode(b"hello").decode(), "encoding": "base64"}


@pytest.fixture
def client(loopback_hub: LoopbackHub) -> Iterator[httpx.Client]:
    """The owner of the model tester/model."""
    loopback_hub.store.create("model", "tester/model", False, "tester")
    headers = {"Authorization": f"Bearer {loopback_hub.token}"}
    with httpx.Client(base_url=loopback_hub.url, headers=headers, trust_env=False) as owner:
        yield owner


def commit(client: httpx.Client, *lines: dict[str, Any], **query: str) -> httpx.Response:
    """Send a commit."""
    body = "".join(json.dumps(line) + "\n" for line in lines)
    headers = {"Content-Type": "application/x-ndjson"}
    return client.post("/api/models/tester/model/commit/main", content=body, headers=headers, params=query)


def upload(client: httpx.Client, content: bytes = LARGE) -> httpx.Response:
    """Announce `LARGE` and put `content`; the storage is asked without a token, as clients do."""
    objects = [{"oid": SHA256, "size": len(LARGE)}]
    answer = client.post("/tester/model.git/info/lfs/objects/batch", json={**BATCH, "objects": objects})
    return httpx.put(answer.json()["objects"][0]["actions"]["upload"]["href"], content=content, trust_env=False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/api/nonsense", None, 501, "unknown call"),
        ("GET", "/api/models/tester/model/nonsense", None, 501, "unknown call"),
        ("GET", "/api/models/tester/model?nonsense=1", None, 400, "nonsense"),
        ("GET", "/api/models/tester/model?expand=nonsense", None, 400, "nonsense"),
        ("POST", "/api/repos/create", {"name": "new", "nonsense": 1}, 400, "nonsense"),
        ("POST", "/api/repos/create", {"name": "a b"}, 400, "name"),
        ("POST", "/api/repos/create", {"name": "new", "type": "space"}, 400, "sdk"),
        ("PUT", "/api/models/tester/model/settings", {"gated": "maybe"}, 400, "gated"),
        ("POST", "/api/models/tester/model/preupload/main", {"files": []}, 400, "files"),
        ("POST", "/api/models/tester/model/variables", {"key": "A", "value": "1"}, 501, "model"),
        (
            "POST",
            "/tester/model.git/info/lfs/objects/batch",
            {**BATCH, "objects": [{"oid": "1", "size": 1}]},
            400,
            "oid",
        ),
    ],
)
def test_a_wrong_call_is_refused_and_noted(
    loopback_hub: LoopbackHub, client: httpx.Client, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    assert (
        len(loopback_hub.errors) == 1
        and words in loopback_hub.errors[0]
        and path.split("?")[0] in str(loopback_hub.errors)
    )
    loopback_hub.errors.clear()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"key": "file", "value": FILE}], "header"),
        ([HEADER, {"key": "nonsense", "value": {}}], "nonsense"),
        ([HEADER, {"key": "file", "value": {**FILE, "mode": "x"}}], "mode"),
        ([HEADER, {"key": "file", "value": {**FILE, "path": "../a"}}], "../a"),
        ([HEADER, {"key": "file", "value": {**FILE, "content": "%"}}], "base64"),
        ([HEADER, {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": SHA256}}], "does not exist"),
    ],
)
def test_a_malformed_commit_changes_nothing(
    loopback_hub: LoopbackHub, client: httpx.Client, lines: list[dict[str, Any]], words: str
) -> None:
    assert commit(client, *lines).status_code == 400
    assert words in loopback_hub.errors.pop() and loopback_hub.errors == []
    assert len(loopback_hub.repo("model", "tester/model").commits()) == 1


def test_an_error_of_the_client_fails_the_test(tmp_path: Any) -> None:
    from loopback_hub.hub import running_hub

    with pytest.raises(AssertionError, match="GET /api/nonsense: unknown call"), running_hub(tmp_path) as hub:
        httpx.get(f"{hub.url}/api/nonsense", trust_env=False)


def test_what_is_not_the_announced_content_is_refused(loopback_hub: LoopbackHub, client: httpx.Client) -> None:
    for content, words in ((LARGE[::-1], "BadDigest"), (LARGE[:-1], "bytes"), (LARGE + b"1", "bytes")):
        assert upload(client, content).status_code == 400
        assert words in loopback_hub.errors.pop()
    repo = loopback_hub.repo("model", "tester/model")
    assert not repo.lfs_path(SHA256).exists() and not list((loopback_hub.folder / "hub" / "uploads").iterdir())
    assert upload(client).status_code == 200 and repo.lfs_path(SHA256).read_bytes() == LARGE
    verify = "/tester/model.git/info/lfs/objects/verify"
    assert client.post(verify, json={"oid": SHA256, "size": len(LARGE)}).status_code == 200
    objects = [{"oid": SHA256, "size": len(LARGE)}]
    again = client.post("/tester/model.git/info/lfs/objects/batch", json={**BATCH, "objects": objects})
    assert "actions" not in again.json()["objects"][0]


def test_ranges_headers_and_the_storage(loopback_hub: LoopbackHub, client: httpx.Client) -> None:
    upload(client)
    value = {"path": "big.bin", "algo": "sha256", "oid": SHA256, "size": len(LARGE)}
    oid = commit(client, HEADER, {"key": "lfsFile", "value": value}, {"key": "file", "value": FILE}).json()[
        "commitOid"
    ]
    small = client.get("/tester/model/resolve/main/a.txt")
    assert small.content == b"hello" and small.headers["x-repo-commit"] == oid
    assert small.headers["etag"] == '"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"'  # git hash-object of "hello"
    part = client.get(f"/tester/model/resolve/{oid}/a.txt", headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"el", "bytes 1-2/5")
    assert client.get("/tester/model/resolve/main/a.txt", headers={"Range": "bytes=9-"}).status_code == 416
    head = client.head("/tester/model/resolve/main/big.bin")
    assert head.status_code == 302 and head.headers["x-linked-etag"] == f'"{SHA256}"'
    assert head.headers["x-linked-size"] == str(len(LARGE)) and "xet" not in str(head.headers).lower()
    place = head.headers["location"]
    tail = httpx.get(place, headers={"Range": "bytes=-7"}, trust_env=False)
    assert (tail.status_code, tail.content) == (206, LARGE[-7:])
    assert httpx.get(place.split("?")[0], trust_env=False).status_code == 403
    assert client.get(place).status_code == 400 and "token" in loopback_hub.errors.pop()
    absent = client.head("/tester/model/resolve/main/absent")
    assert (absent.status_code, absent.headers["x-error-code"]) == (404, "EntryNotFound")
    assert absent.headers["x-repo-commit"] == oid


def test_codes_by_which_clients_know_what_is_wrong(loopback_hub: LoopbackHub, client: httpx.Client) -> None:
    def ask(path: str, token: str | None = None) -> tuple[int, str | None]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(loopback_hub.url + path, headers=headers, trust_env=False)
        return answer.status_code, answer.headers.get("x-error-code")

    loopback_hub.add_user("other", "hf_other")
    commit(client, HEADER, {"key": "file", "value": FILE})
    file, info = "/tester/model/resolve/main/a.txt", "/api/models/tester/model"
    assert ask(file) == (200, None) and ask(info + "/revision/v9") == (404, "RevisionNotFound")
    assert ask(info + "/tree/main/none") == (404, "EntryNotFound")
    assert client.put(info + "/settings", json={"gated": "manual"}).json()["gated"] == "manual"
    assert ask(file) == (401, "GatedRepo") and ask(file, "hf_other") == (403, "GatedRepo")
    assert ask(info, "hf_other") == (200, None)
    loopback_hub.grant("model", "tester/model", "other")
    assert ask(file, "hf_other") == (200, None)
    client.put(info + "/settings", json={"visibility": "private"})
    for token in (None, "hf_other"):
        assert ask(file, token) == ask(info, token) == ask(info + "/tree/main", token) == (404, "RepoNotFound")
    wrong = httpx.get(loopback_hub.url + info, headers={"Authorization": "Bearer hf_wrong"}, trust_env=False)
    assert wrong.status_code == 401
    assert wrong.headers["x-error-message"] == "Invalid credentials in Authorization header"
    assert ask("/api/whoami-v2") == (401, None)


@pytest.mark.parametrize(
    ("kind", "metadata", "words"),
    [
        ("model", "license: mine", "license"),
        ("model", "tags: [1]", "tags"),
        ("model", "model-index: [{name: m, results: [{task: {type: t}, metrics: []}]}]", "dataset.type"),
        ("dataset", "size_categories: [tiny]", "size_categories"),
        ("dataset", "configs: [{data_files: x}]", "config_name"),
        ("space", "sdk: flask", "sdk"),
        ("space", "sdk: gradio\ncolorFrom: teal", "colorFrom"),
        ("model", "a: [", "malformed"),
    ],
)
def test_cards_are_checked(client: httpx.Client, kind: str, metadata: str, words: str) -> None:
    content = {"content": f"---\n{metadata}\n---\n# Words\n", "repoType": kind}
    answer = client.post("/api/validate-yaml", json=content)
    assert answer.status_code == 400 and words in answer.json()["errors"][0]["message"]
    good = {"content": "---\nsdk: gradio\nlicense: cc-by-4.0\n---\n", "repoType": kind}
    assert client.post("/api/validate-yaml", json=good).json() == {"errors": [], "warnings": []}
