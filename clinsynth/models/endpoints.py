"""A language model behind the OpenAI chat protocol (vLLM, TGI, llama.cpp, an Inference Endpoint) as a writer of rows.

Before the first row a canary request proves that the server holds to a JSON schema. Each answer is checked against the
schema again here, as the local pipeline does. Failures that pass (429, 5xx, a broken connection, a timeout) are tried
again after a wait; others end the run, whose finished shards are kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal

from clinsynth.models.addresses import is_loopback, key_variable, read_key
from clinsynth.models.writers import Messages, Request, attempt_seed, check_answer, closed_schema, token_budget
from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

    from clinsynth.models.writers import WriterArguments
    from clinsynth.pipelines.structured_medical_text.prompts import Task

logger = logging.getLogger("clinsynth")

UNKNOWN_FORM = (400, 422, 500, 501)
"""How servers refuse a `response_format` that they do not know; llama-cpp-python says 500."""
CANARY_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["quartz-7261"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
CANARY = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
"""No model answers quartz-7261 by itself: only a server that holds to the schema does."""
MOST_TRIES, MOST_TIMEOUTS = 5, 2
"""How often a server is asked in all; one that hangs costs the whole time each time."""
MOST_BYTES = 16 << 20
"""Of an answer; those of this project are a few thousand."""
PASSING = (408, 409, 429)
"""Statuses below 500 after which the client asks again."""
NO_COMPLETION = "what came is no chat completion"


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as OpenAI defines it."""
    return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema, "strict": True}}


def as_json_object(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as other servers take it: llama-cpp-python reads `schema`, TGI `value`."""
    return {"type": "json_object", "schema": schema, "value": schema}


@dataclass
class Endpoint:
    """A writer of rows at a server.

    Attributes:
        schema: of a row; sent with each request, and each answer is checked against it.
        max_tokens: of an answer.
        form: how the server takes a schema; `prove_schema` finds it.
        served_model: the model's name as the server says it, from then on.
    """

    url: str
    model: str
    schema: dict[str, Any]
    max_tokens: int
    key: str | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    max_attempts: int = 3
    concurrency: int = 8
    timeout_s: float = 120.0
    form: Callable[[dict[str, Any]], dict[str, Any]] = as_json_schema
    served_model: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the model."""
        return {
            "weights_sha256": None,
            "network": "served over the OpenAI protocol",
            "served_model": self.served_model,
        }

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request.

        Raises:
            ValueError: the server failed for good; says how, and what to do.
        """
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.connect()) as client:
            at_once = anyio.CapacityLimiter(self.concurrency)
            rows = [portal.start_task_soon(self.write_row, client, at_once, request) for request in requests]
            for row in rows:
                yield row.result()

    @asynccontextmanager
    async def connect(self, final: tuple[int, ...] = ()) -> AsyncIterator[AsyncOpenAI]:
        """A client of the server; answers of the statuses `final` are not asked for again."""
        answers = WholeAnswers(self.url, self.key, self.timeout_s, final)
        settings = {"base_url": self.url, "api_key": "none", "max_retries": MOST_TRIES - 1}
        async with import_openai().AsyncOpenAI(http_client=answers, **settings) as client:
            yield client

    async def write_row(self, client: AsyncOpenAI, at_once: anyio.CapacityLimiter, request: Request) -> RowResult:
        """One row, with a new seed for each attempt after the first."""
        messages, seed = request
        reasons: list[str] = []
        async with at_once:
            while len(reasons) < self.max_attempts:
                drawn = attempt_seed(seed, len(reasons))
                answer = await self.ask(client, messages, drawn, self.form(self.schema))
                data, reason = read_answer(answer, self.schema)
                if reason is None:
                    return RowResult(data, seed, len(reasons) + 1, reasons)
                reasons.append(reason)
        return RowResult(None, seed, len(reasons), reasons)

    async def ask(self, client: AsyncOpenAI, messages: Messages, seed: int, form: dict[str, Any]) -> ChatCompletion:
        """An answer with at least one choice, asked for again where the server fails in passing."""
        request: Any = {
            "messages": messages,
            "model": self.model,
            "response_format": form,
            "seed": seed,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        try:
            answer: ChatCompletion = await client.chat.completions.create(**request)
            if not isinstance(getattr(answer, "choices", None), list) or not answer.choices:
                raise NoAnswerError(NO_COMPLETION)
        except (NoAnswerError, import_openai().OpenAIError) as error:
            tries = tries_of(error)
            times = f" after {tries} tries" if tries > 1 else ""
            raise ValueError(
                f"--endpoint {self.url} failed{times} ({describe_failure(error)}); finished shards are kept: "
                f"{hint_for(error, key_variable(self.url))}"
            ) from error
        return answer

    def prove_schema(self) -> None:
        """Find the form in which the server holds to a schema, and the model's name as the server says it.

        Raises:
            ValueError: it holds to none; says what came instead.
        """
        with start_blocking_portal() as portal:
            portal.call(self.find_form)

    async def find_form(self) -> None:
        """`prove_schema`."""
        seen = []
        async with self.connect(UNKNOWN_FORM) as client:
            for form in (as_json_schema, as_json_object):
                asked = form(CANARY_SCHEMA)
                try:
                    answer = await self.ask(client, CANARY, 0, asked)
                except ValueError as error:
                    if status_of(error.__cause__) not in UNKNOWN_FORM:
                        raise
                    seen.append(f"{asked['type']}: {quote_failure(error.__cause__, self.key)}")
                    continue
                reason = read_answer(answer, CANARY_SCHEMA)[1]
                if reason is None:
                    self.form, self.served_model = form, str(answer.model)
                    return
                seen.append(f"{asked['type']}: its answer was {reason}")
        raise ValueError(
            f"--endpoint {self.url} does not hold to the JSON schema of response_format, which a first request asked "
            f"for in two forms ({'; '.join(seen)}); use a server with structured outputs (vLLM, TGI, llama.cpp), or "
            "check its settings and --model"
        )


def read_answer(answer: ChatCompletion, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """`check_answer` of the first choice."""
    choice = answer.choices[0]
    content = getattr(getattr(choice, "message", None), "content", None)
    return check_answer(content, getattr(choice, "finish_reason", None), schema)


def open_endpoint(url: str, args: WriterArguments, task: Task) -> Endpoint:
    """The server at `url`, proven to hold to schemas.

    Raises:
        ValueError: the server cannot be had or does not hold to a schema, or the task's is not valid.
        ImportError: the package openai is not installed; says how to.
    """
    endpoint = Endpoint(
        url=url,
        model=args.model,
        schema=closed_schema(task.schema),
        max_tokens=token_budget(task.schema, args.max_new_tokens),
        key=read_key(url),
        temperature=args.temperature,
        top_p=args.top_p,
        max_attempts=args.max_attempts,
        concurrency=args.concurrency,
        timeout_s=args.timeout_s,
    )
    endpoint.prove_schema()
    return endpoint


class WholeAnswers(httpx2.AsyncClient):
    """The way to one server, for `AsyncOpenAI`: what is sent carries nothing of the environment, and what comes back
    is read whole, within a time and a size.

    A request holds the given key or none, and none of the headers that the environment or the client would add; one to
    this machine passes no proxy, and none follows a redirect.

    Args:
        timeout_s: for the whole of a request and its answer, from connecting to the last byte.
        final: statuses after which the client is told not to ask again.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float, final: tuple[int, ...] = ()):
        limits = httpx2.Limits(max_connections=None)
        super().__init__(timeout=None, limits=limits, trust_env=not is_loopback(url))
        self.url, self.key, self.timeout_s, self.final = url, key, timeout_s, final

    async def send(self, request: httpx2.Request, **settings: Any) -> httpx2.Response:
        """The whole answer.

        Raises:
            httpx2.RequestError: there is none, and the client asks again.
            NoAnswerError: there is none, and it is not to ask again.
        """
        tries = int(request.headers.get("x-stainless-retry-count", "0")) + 1
        request.extensions["tries"] = tries
        request.headers = self.own_headers(request)
        try:
            with anyio.fail_after(self.timeout_s):
                response = await self.read(request)
        except TimeoutError as error:
            self.warn(tries, "no answer in time")
            if tries >= MOST_TIMEOUTS:
                raise NoAnswerError("no answer in time", request) from error
            raise httpx2.ReadTimeout("no answer in time", request=request) from error
        except httpx2.RequestError as error:
            self.warn(tries, cause_of(error))
            raise
        if response.status_code in self.final:
            response.headers["x-should-retry"] = "false"
        elif response.status_code in PASSING or response.status_code >= 500:
            self.warn(tries, f"status {response.status_code}")
        return response

    def own_headers(self, request: httpx2.Request) -> httpx2.Headers:
        """What a request says besides its body."""
        kept = ("host", "content-type", "content-length")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        headers |= {"accept": "application/json", "accept-encoding": "identity", "user-agent": "clinsynth"}
        return httpx2.Headers(headers | ({"authorization": f"Bearer {self.key}"} if self.key else {}))

    async def read(self, request: httpx2.Request) -> httpx2.Response:
        """The answer with its body as it came: a compressed one, not asked for, could unfold to any size."""
        response, body = await super().send(request, stream=True, follow_redirects=False), bytearray()
        try:
            async for part in response.aiter_raw():
                body += part
                if len(body) > MOST_BYTES:
                    raise NoAnswerError(f"an answer of more than {MOST_BYTES >> 20} MB", request)
        finally:
            await response.aclose()
        headers = response.headers
        if response.is_success and ("json" not in headers.get("content-type", "") or "content-encoding" in headers):
            raise httpx2.DecodingError(f"{NO_COMPLETION} but another kind of page", request=request)
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)

    def warn(self, tries: int, failure: str) -> None:
        logger.warning("%s: %s; that was try %d of at most %d", self.url, failure, tries, MOST_TRIES)


class NoAnswerError(Exception):
    """The server gives no answer that can be used, and is not asked again."""

    def __init__(self, message: str, request: httpx2.Request | None = None):
        super().__init__(message)
        self.request = request


def import_openai() -> Any:
    """The package openai.

    Raises:
        ImportError: it is not installed; says how to.
    """
    try:
        import openai
    except ImportError as error:
        raise ImportError(f"a model at a server needs openai ({error}); pip install clinsynth[text]") from error
    return openai


def status_of(error: BaseException | None) -> int | None:
    """The status of an answer that was a failure; None of any other failure."""
    return getattr(error, "status_code", None)


def tries_of(error: BaseException) -> int:
    """How often the server was asked."""
    request = getattr(error, "request", None)
    return request.extensions.get("tries", 1) if request is not None else 1


def cause_of(error: BaseException) -> str:
    """What broke a connection, in the words of the system where it was one of its errors."""
    known, inner = str(error) or type(error).__name__, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno:
            known = f"[Errno {inner.errno}] {os.strerror(inner.errno)}"
        inner = inner.__cause__ or inner.__context__
    return known


def describe_failure(error: BaseException | None) -> str:
    """What went wrong."""
    status = status_of(error)
    if status is not None:
        return f"status {status}"
    broken = error.__cause__ if error is not None else None
    return cause_of(broken) if isinstance(broken, httpx2.RequestError) else str(error)


def quote_failure(error: BaseException | None, secret: str | None) -> str:
    """`describe_failure`, and what the server itself says; for requests without real texts."""
    response = getattr(error, "response", None)
    said = " ".join(response.text.split()) if response is not None else ""
    said = said.replace(secret, "***") if secret else said
    return f"{describe_failure(error)}: {said[:300]}" if said else describe_failure(error)


def hint_for(error: BaseException, variable: str) -> str:
    """What the user can do about an error that ends the run; `variable` is that of the key."""
    status = status_of(error)
    if status in (401, 403):
        return f"put a key that it takes into the environment variable {variable}"
    if status == 404 or (status is not None and status < 400):
        return "check the address, which mostly ends in /v1, and the name in --model"
    if status is not None and status < 500 and status not in PASSING:
        return (
            "mostly prompt and --max_new_tokens exceed its context, which the server's log says: lower --k_shot or "
            "--max_new_tokens, or start it with a longer context"
        )
    if isinstance(error.__cause__, TimeoutError):
        return "raise --timeout_s, lower --concurrency, or start the server anew and then the same command"
    if status is not None:
        return "the server's log says why; once it is well, start the same command again"
    return "check that the address is right and the server runs, then start the same command again"
