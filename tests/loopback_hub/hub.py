"""The loopback Hub as an object of a test: its address and accounts, what it was asked, and how it is to fail."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import build_app
from .faults import Fault, Gate, Message, Request
from .repository import Repository
from .store import Store, User

NAME, TOKEN = "tester", "hf_loopbacktester"


class LoopbackHub:
    """A Hub on this machine, in a thread of this process; its clients are other processes.

    Args:
        folder: repositories are kept in `folder/hub`, and the clients' caches in `folder/home`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "hub")
        self.gate = Gate(build_app(self.store), self._abort)
        self.name, self.token = NAME, TOKEN
        self.add_user(NAME, TOKEN)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = self.store.url = f"http://127.0.0.1:{self._port}"
        self.store.storage_url = f"http://localhost:{self._port}"  # another origin, as the Hub's storage is

    def start(self) -> None:
        """Listen; after `stop` on the same address again, with everything still there."""
        config = uvicorn.Config(self.gate, "127.0.0.1", self._port, log_level="critical", lifespan="off", http="h11")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="loopback hub", daemon=True)
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"the loopback Hub does not start at {self.url}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Close all connections and stop listening: the server is down."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the loopback Hub does not stop"
        self._server = self._thread = None

    def _abort(self, scope: Message) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, H11Protocol) and connection.client == tuple(scope["client"]):
                connection.transport.abort()

    @property
    def requests(self) -> list[Request]:
        """Every call so far, in the order of arrival."""
        return self.gate.requests

    @property
    def errors(self) -> list[str]:
        """What clients did that the Hub does not know; the fixture fails the test if any is left at its end."""
        return self.store.errors

    def calls(self, pattern: str) -> list[Request]:
        """The calls so far that match a pattern like that of `fail`."""
        return [request for request in self.requests if Fault(pattern, "slow").takes(request)]

    def add_user(self, name: str, token: str, role: str = "write", organizations: tuple[str, ...] = ()) -> User:
        """One more account; `role` is "write" or "read"."""
        self.store.users[token] = User(name, token, role, organizations)
        return self.store.users[token]

    def repo(self, kind: str, repo_id: str) -> Repository:
        """A repository, whoever may see it: `.files()`, `.read(path)`, `.commits()`, `.settings`."""
        return self.store.repositories[kind, repo_id]

    def grant(self, kind: str, repo_id: str, user: str) -> None:
        """Let a user read a gated repository."""
        self.repo(kind, repo_id).settings["granted"].append(user)

    def serve_space(self, repo_id: str, url: str) -> None:
        """Say that the app of a space runs at `url`, where `gradio_client` then finds it."""
        self.store.app_hosts[repo_id] = url

    def fail(
        self, pattern: str, status: int = 503, nth: int = 1, times: int | None = 1, retry_after: int | None = None
    ) -> Fault:
        """Answer calls that match with an error; see `Fault` for the pattern and the counting."""
        return self._add(Fault(pattern, "status", status, nth, times, retry_after))

    def slow(self, pattern: str, seconds: float, nth: int = 1, times: int | None = 1) -> Fault:
        """Let calls that match wait."""
        return self._add(Fault(pattern, "slow", nth=nth, times=times, seconds=seconds))

    def drop(self, pattern: str, after_bytes: int = 0, nth: int = 1, times: int | None = 1) -> Fault:
        """Close the connection of calls that match within the request's body, or within the answer of a GET."""
        return self._add(Fault(pattern, "drop", nth=nth, times=times, after_bytes=after_bytes))

    def lose_answer(self, pattern: str, nth: int = 1, times: int | None = 1) -> Fault:
        """Do what calls that match ask, then close the connection without an answer."""
        return self._add(Fault(pattern, "lose", nth=nth, times=times))

    def fill_disk(self, pattern: str = "PUT *", nth: int = 1, times: int | None = 1) -> Fault:
        """Let the server's disk be full in the middle of uploads that match: they are answered 507."""
        return self._add(Fault(pattern, "disk", nth=nth, times=times))

    def _add(self, fault: Fault) -> Fault:
        self.gate.faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        """Nothing fails any more."""
        self.gate.faults.clear()

    def environment(self, token: str | None = TOKEN, home: str = "home", xet: bool = False) -> dict[str, str]:
        """The environment of a client process.

        Args:
            token: the token to log in with; None for none.
            home: name of the folder that the client keeps its cache in; another name is a client that knows nothing.
            xet: leave out `HF_HUB_DISABLE_XET=1`, without which uploads of large files fail here.
        """
        dropped = ("HF_", "HUGGING", "XDG_CACHE", "http_proxy", "https_proxy", "all_proxy")
        kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(tuple(one.upper() for one in dropped))}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.folder / home), "NO_PROXY": "127.0.0.1,localhost"}
        kept["no_proxy"] = kept["NO_PROXY"]
        if token is not None:
            kept["HF_TOKEN"] = token
        return kept if xet else kept | {"HF_HUB_DISABLE_XET": "1"}


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[LoopbackHub]:
    """A loopback Hub that listens while the block runs; what clients did wrong is an error at its end."""
    hub = LoopbackHub(folder)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
    assert not hub.errors, "clients called the Hub in ways that it does not know:\n" + "\n".join(hub.errors)
