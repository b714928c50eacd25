"""A small server of the OpenAI chat protocol, whose answers and failures a test writes down beforehand."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = "rain walks over the quiet house while old friends count small lamps and nobody sleeps till morning".split()

Answer = tuple[int, dict[str, str], bytes | Iterator[bytes]]
"""Status, headers and body, whole or in parts that are sent one by one; a status of 0 breaks the connection."""


def chat(content: str | None, finish: str = "stop") -> Answer:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return as_json(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny-1", "choices": [choice]})


def as_json(status: int, body: Any, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode()


def write_by_schema(schema: dict[str, Any], seed: int, prompt: str) -> dict[str, Any]:
    """An object whose texts depend on seed and prompt."""
    rng = random.Random(f"{seed} {prompt}")

    def value(part: dict[str, Any]) -> Any:
        if "properties" in part:
            return {name: value(inner) for name, inner in part["properties"].items()}
        if "enum" in part:
            return part["enum"][0]
        return " ".join(rng.choice(WORDS) for _ in range(60))[: part["maxLength"]]

    written: dict[str, Any] = value(schema)
    return written


def obey(body: dict[str, Any]) -> Answer:
    """What a server does that holds to the schema in OpenAI's form, and to no other."""
    form = body["response_format"]
    if form["type"] != "json_schema":
        return as_json(422, {"detail": "response_format is not known"})
    prompt = body["messages"][-1]["content"]
    return chat(json.dumps(write_by_schema(form["json_schema"]["schema"], body["seed"], prompt)))


def is_canary(body: dict[str, Any]) -> bool:
    return "capital of France" in body["messages"][-1]["content"]


@dataclass
class ChatServer:
    """What was asked of the server, and how it answers.

    Attributes:
        answer: from the body of a request to the answer.
        bodies, headers: of the requests, in the order of their arrival.
        most: requests that were under way at once.
    """

    answer: Callable[[dict[str, Any]], Answer] = obey
    delay_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    running: int = 0
    port: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The requests for rows."""
        return [body for body in self.bodies if not is_canary(body)]

    def take(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            time.sleep(self.delay_s)
            return self.answer(body) if path == "/v1/chat/completions" else as_json(404, {"detail": "Not Found"})
        finally:
            with self.lock:
                self.running -= 1

    @contextmanager
    def serve(self, port: int = 0) -> Iterator["ChatServer"]:
        """Serve on 127.0.0.1 within the block, on a free port or `port`."""
        server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(self))
        server.daemon_threads, server.block_on_close = True, False
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def handler_of(chat_server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            own = {name.lower(): value for name, value in self.headers.items()}
            status, headers, content = chat_server.take(self.path, own, body)
            if not status:
                self.close_connection = True
                return
            with suppress(ConnectionError):  # the other side may have given up
                self.send_response(status)
                length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
                self.close_connection = not length  # which is then the end of the body
                for name, value in {**headers, **length}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [content] if isinstance(content, bytes) else content:
                    self.wfile.write(part)
                    self.wfile.flush()

        def log_message(self, *words: Any) -> None:
            """Tests are quiet."""

    return Handler
