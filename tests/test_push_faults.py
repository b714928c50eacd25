"""What a fault leaves of a push: nothing or all of it, and a state from which the same command goes on."""

import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

from loopback_hub.hub import LoopbackHub
from pushing import MODEL, SET, SET_FILES, Client, files_of, pushing_client, sound_hub, wait_until  # noqa: F401

WHOLE = "published whole or not at all: start the same command again"
COMMITS = "[0-9a-f]" * 8
FAULTS = {
    "GET */whoami-v2": ("logging in", None),
    "POST */repos/create": ("creating", None),
    "GET */datasets/tester/FAULTY": ("looking at", None),
    "PUT */FAULTY/settings": ("setting up", None),
    "POST */FAULTY/branch/v2": ("setting up", None),
    "POST */FAULTY/preupload/*": ("uploading", 501),
    "POST */FAULTY.git/info/lfs/objects/batch": ("uploading", 501),
    "PUT /upload/*/FAULTY/*": ("uploading", 501),
    "GET */FAULTY/tree/v2*": ("looking at", 501),
    "POST */FAULTY/commit/*": ("committing", None),
}
"""Calls, the step that they belong to, and the status of the answer: None closes the connection. Where huggingface_hub
tries for 23 seconds to connect again, a status that it does not wait for takes its place."""
KILLS = {
    "PUT */tester/FAULTY/*": (2, []),
    "POST */tester/FAULTY/commit/*": (1, []),
    f"GET */tester/FAULTY/tree/{COMMITS}*": (1, SET_FILES),
}
"""Calls in which the client is killed, at which of them, and what is published then."""


@pytest.mark.parametrize("pattern", FAULTS)
def test_a_server_that_goes_down_leaves_nothing_half(client: Client, hub: LoopbackHub, pattern: str) -> None:
    name, (step, status) = f"down{list(FAULTS).index(pattern)}", FAULTS[pattern]
    calls, command = pattern.replace("FAULTY", name), f"{SET}{name} --revision v2 --gated auto"
    fault = hub.fail(calls, status=status, times=None) if status else hub.drop(calls, times=None)
    message = client.refused(command)
    assert step in message and "start the same command again" in message and fault.happened
    if ("dataset", f"tester/{name}") in hub.store.repositories:
        repo = hub.repo("dataset", f"tester/{name}")
        assert [commit.title for commit in repo.commits()] == ["initial commit"]
    hub.clear_faults()
    client.done(command)
    assert files_of(hub, "dataset", name, "v2") == SET_FILES and files_of(hub, "dataset", name) == []


def test_what_fails_after_the_commit_leaves_a_whole_set(client: Client, hub: LoopbackHub) -> None:
    """Reading back, the collection and loading anew: the message says that the set itself stands."""
    after = {
        f"GET */tester/after/tree/{COMMITS}*": "reading back tester/after",
        "POST */api/collections": "The dataset itself is published",
        "GET */tester/after/resolve/*": "tester/after is published, but does not load in a fresh process",
    }
    for pattern, words in after.items():
        hub.clear_faults()
        fault = hub.fail(pattern, status=501, times=None)
        assert words in client.refused(f"{SET}after --collection Eyes --verify") and fault.happened
        assert files_of(hub, "dataset", "after") == SET_FILES
    hub.clear_faults()
    assert "loaded back" in client.done(f"{SET}after --collection Eyes --verify")
    assert len(hub.repo("dataset", "tester/after").commits()) == 2


def test_a_busy_server_is_waited_for_but_not_for_ever(client: Client, hub: LoopbackHub) -> None:
    patterns = ["POST */repos/create", "POST */busy/preupload/*", "PUT */tester/busy/*", "POST */busy/commit/*"]
    faults = [hub.fail(pattern, status=429, retry_after=0) for pattern in patterns]
    assert "the Hub is busy (429)" in client.done(f"{SET}busy")
    assert [fault.happened for fault in faults] == [1] * 4 and files_of(hub, "dataset", "busy") == SET_FILES
    hub.fail("POST */tester/busier/commit/*", status=429, retry_after=0, times=None)
    assert "the server answered 429" in client.refused(f"{SET}busier") and files_of(hub, "dataset", "busier") == []
    hub.clear_faults()
    puts = len(hub.calls("PUT */tester/busier/*"))
    client.done(f"{SET}busier")
    assert files_of(hub, "dataset", "busier") == SET_FILES and len(hub.calls("PUT */tester/busier/*")) == puts


def test_broken_uploads_are_taken_up_again(client: Client, hub: LoopbackHub) -> None:
    fault = hub.drop("PUT */tester/dropped/*", after_bytes=4000)
    client.done(f"{SET}dropped")
    assert fault.happened == 1 and files_of(hub, "dataset", "dropped") == SET_FILES
    hub.fill_disk("PUT */tester/full/*", nth=2, times=None)
    assert "the server has no room" in client.refused(f"{SET}full") and files_of(hub, "dataset", "full") == []
    hub.clear_faults()
    before = len(hub.calls("PUT */tester/full/*"))
    client.done(f"{SET}full")
    again = len(hub.calls("PUT */tester/full/*")) - before
    assert files_of(hub, "dataset", "full") == SET_FILES and again == 3  # of three shards and a picture one is there


def test_a_full_disk_here_does_not_hinder_a_push(client: Client, hub: LoopbackHub) -> None:
    """No file can grow beyond 999 bytes, as on a full disk: a push writes none, and loading anew names the cause."""
    words = f"{SET}disk --verify"
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (999, 999)); from clinsynth.cli import main; "
        f"main({words.split()})"
    )
    command = [sys.executable, "-c", code]
    # bytecode would be cut off too, and stay so for the tests that come after
    environment = {**hub.environment(xet=True), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command, cwd=client.folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and f"published: {len(SET_FILES)} files" in ended.stdout, ended
    assert "is published, but does not load in a fresh process" in ended.stderr and "File too large" in ended.stderr
    assert files_of(hub, "dataset", "disk") == SET_FILES
    assert "loaded back" in client.done(words) and len(hub.repo("dataset", "tester/disk").commits()) == 2


def test_a_commit_whose_answer_is_lost_stands(client: Client, hub: LoopbackHub) -> None:
    fault = hub.lose_answer("POST */tester/lost/commit/*")
    client.done(f"{SET}lost")
    assert fault.happened == 1 and files_of(hub, "dataset", "lost") == SET_FILES
    assert len(hub.repo("dataset", "tester/lost").commits()) == 2


def test_a_branch_that_moves_meanwhile_is_not_committed_to(client: Client, hub: LoopbackHub) -> None:
    """Two pushes at once would mix their sets: what one of them does not know, it does not delete."""
    fault = hub.slow("GET */tester/moved/tree/main*", seconds=2)
    client.begin(f"{SET}moved")
    wait_until(lambda: fault.happened)
    repo = hub.repo("dataset", "tester/moved")
    other = repo.commit("main", {"data/other.parquet": repo.store_blob(b"rows")}, "another push", "", "tester")
    code, said = client.end()
    assert code == 2 and "committing to tester/moved failed: the server answered 412" in said and WHOLE in said
    assert repo.resolve() == other
    client.done(f"{SET}moved")
    assert files_of(hub, "dataset", "moved") == SET_FILES


def test_wrong_tokens_are_named_and_not_shown(client: Client, hub: LoopbackHub) -> None:
    message = client.refused(f"{MODEL}token", token="hf_nobodysnobodysnobody")
    assert "does not take the token" in message and "hf auth login" in message and "hf_nobody" not in message
    hub.add_user("reader", "hf_readersreadersreaders", role="read", organizations=())
    message = client.refused("push model retina --repo_id reader/token", token="hf_readersreadersreaders")
    assert "the token may not" in message and "hf_readers" not in message
    assert ("model", "tester/token") not in hub.store.repositories


@pytest.mark.parametrize("pattern", KILLS)
def test_a_killed_client_leaves_nothing_or_all_and_goes_on(client: Client, hub: LoopbackHub, pattern: str) -> None:
    name, (which, left) = f"killed{list(KILLS).index(pattern)}", KILLS[pattern]
    uploads, fault = f"PUT */tester/{name}/*", hub.slow(pattern.replace("FAULTY", name), seconds=30, nth=which)
    client.begin(SET + name)
    in_flight = 1 if pattern.startswith("PUT") else 0
    wait_until(lambda: fault.happened and count_done(hub, uploads) == 4 - in_flight)
    client.close()
    hub.clear_faults()
    assert files_of(hub, "dataset", name) == left
    before = len(hub.calls(uploads))
    client.start()
    client.done(SET + name)
    assert files_of(hub, "dataset", name) == SET_FILES and len(hub.repo("dataset", f"tester/{name}").commits()) == 2
    assert len(hub.calls(uploads)) - before == in_flight


def count_done(hub: LoopbackHub, pattern: str) -> int:
    return sum(call.status == 200 for call in hub.calls(pattern))
