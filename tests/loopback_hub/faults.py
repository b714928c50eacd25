"""Failures on command, and the log of what was asked."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass
class Request:
    """A call as it was made: `path` still quoted, `status` 0 until it is answered, -1 where nothing was answered."""

    method: str
    path: str
    query: str
    size: int
    user_agent: str
    status: int = 0
    fault: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f"?{self.query}" if self.query else "")


@dataclass
class Fault:
    """Something that goes wrong with the nth to the (nth + times − 1)th call that matches `pattern`.

    Args:
        pattern: a shell pattern of "METHOD /path?query", as in `"POST */commit/*"`.
        kind: "status" answers with `status`; "slow" waits `seconds`, then goes on; "drop" closes the connection after
            `after_bytes` of the request's body, or of the answer's for GET; "lose" does the work and closes the
            connection instead of answering; "disk" lets the disk be full for an upload.
        nth: first call that fails, counted from 1.
        times: how many fail; None for all that follow.
        retry_after: seconds, sent as `Retry-After` with `status`.
    """

    pattern: str
    kind: Literal["status", "slow", "drop", "lose", "disk"]
    status: int = 500
    nth: int = 1
    times: int | None = 1
    retry_after: int | None = None
    seconds: float = 0.0
    after_bytes: int = 0
    seen: int = field(default=0, init=False)
    happened: int = field(default=0, init=False)

    def takes(self, request: Request) -> bool:
        """Whether this call is one to fail; counts it."""
        if not fnmatchcase(str(request), self.pattern):
            return False
        self.seen += 1
        due = self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)
        self.happened += due
        return due


class Gate:
    """The outermost layer of the server: it writes the log and lets calls fail.

    Args:
        app: what answers.
        abort: closes the connection of a call, given its scope, at once.
    """

    def __init__(self, app: App, abort: Callable[[Message], None]) -> None:
        self.app, self.abort = app, abort
        self.faults: list[Fault] = []
        self.requests: list[Request] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one call, or let it fail."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = read_request(scope)
        self.requests.append(request)
        fault = next((fault for fault in list(self.faults) if fault.takes(request)), None)
        request.fault = fault.kind if fault else None
        scope["path"] = request.path  # still quoted, so that refs%2Fpr%2F1 is one part of the path

        async def logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        await self.answer(fault, scope, receive, logged)
        request.status = request.status or -1

    async def answer(self, fault: Fault | None, scope: Message, receive: Receive, send: Send) -> None:
        """Let a fault happen around the app."""
        if fault is None:
            await self.app(scope, receive, send)
        elif fault.kind == "status":
            await read_to_end(receive)
            await send_error(fault, send)
        elif fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            await self.app(scope, receive, send)
        elif fault.kind == "disk":
            await self.app({**scope, "disk_full": True}, receive, send)
        elif fault.kind == "lose" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, self.cut(send, scope, fault))
        else:
            await read_to_end(receive, fault.after_bytes)
            self.abort(scope)

    def cut(self, send: Send, scope: Message, fault: Fault) -> Send:
        """A `send` that closes the connection before the answer, or after `after_bytes` of its body."""
        left, cut = fault.after_bytes, False

        async def cutting(message: Message) -> None:
            nonlocal left, cut
            body = message.get("body", b"")
            if not cut and (fault.kind == "lose" or left == 0 or len(body) > left):
                cut = True
                if body and left:
                    await send({**message, "body": body[:left], "more_body": True})
                    await asyncio.sleep(0.05)  # so that these bytes leave before the connection closes
                self.abort(scope)
            if not cut:
                left -= len(body)
                await send(message)

        return cutting


def read_request(scope: Message) -> Request:
    """What the log keeps of a call; tokens are not among it."""
    headers = dict(scope["headers"])
    size = int(headers.get(b"content-length", b"0"))
    agent = headers.get(b"user-agent", b"").decode()
    return Request(scope["method"], scope["raw_path"].decode(), scope["query_string"].decode(), size, agent)


async def read_to_end(receive: Receive, limit: float = float("inf")) -> None:
    """Read a request's body, at most until `limit` bytes have arrived."""
    received, more = 0, True
    while more and received < limit:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)


async def send_error(fault: Fault, send: Send) -> None:
    """The answer of a fault with a status."""
    body = json.dumps({"error": f"fault on command: {fault.status}"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after is not None:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
