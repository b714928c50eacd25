"""A language model behind the OpenAI chat protocol (vLLM, TGI, llama.cpp, an Inference Endpoint) as a writer of rows.

Before the first row a canary request proves that the server holds to a JSON schema. Each answer is checked against the
schema again here, as the local pipeline does. Failures that pass (429, 5xx, a broken connection, a timeout) are tried
again after a wait; others end the run, whose finished shards are kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal

from clinsynth.models.writers import (
    Messages,
    Request,
    WriterArguments,
    as_json_schema,
    attempt_seed,
    check_answer,
    closed_schema,
    is_loopback,
    key_variable,
    read_key,
    token_budget,
)
from clinsynth.pipelines.structured_medical_text.text_rows import Outcome, RowResult

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

logger = logging.getLogger("clinsynth")

UNKNOWN_FORM = (400, 422, 500, 501)
"""How servers refuse a `response_format` that they do not know; llama-cpp-python says 500."""
CANARY_SCHEMA = closed_schema(
    {"type": "object", "properties": {"answer": {"type": "string", "enum": ["quartz-7261"]}}}
)
CANARY = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
"""No model answers quartz-7261 by itself: only a server that holds to the schema does."""
MOST_TRIES, MOST_TIMEOUTS = 5, 2
"""How often a server is asked in all; one that hangs costs the whole time each time."""
THINK = {"chat_template_kwargs": {"enable_thinking": True}}
"""What vLLM and llama.cpp's server tell a chat template; the OpenAI protocol itself has no such field."""
MOST_BYTES = 16 << 20
"""Of an answer; those of this project are a few thousand."""
PASSING = (408, 409, 429)
"""Statuses below 500 after which the client asks again."""
NO_COMPLETION, TOO_LATE = "what came is no chat completion", "no answer in time"


def as_json_object(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as other servers take it: llama-cpp-python reads `schema`, TGI `value`."""
    return {"type": "json_object", "schema": schema, "value": schema}


def open_endpoint(args: WriterArguments, schema: dict[str, Any], flag: str = "--endpoint") -> Endpoint:
    """The server that `args` name, proven to hold to schemas; `flag` named its address.

    Raises:
        ValueError: the server cannot be had or does not hold to a schema, or `schema` is not valid.
        ImportError: the package openai is not installed; says how to.
    """
    budget = token_budget(schema, args.max_new_tokens)
    endpoint = Endpoint(args, closed_schema(schema), budget, read_key(str(args.endpoint), flag))
    endpoint.prove_schema()
    return endpoint


@dataclass
class Endpoint:
    """A writer of rows at a server.

    Attributes:
        args: its address as `endpoint`, and how it is asked.
        schema: of a row; sent with each request, and each answer is checked against it.
        max_tokens: of an answer.
        form: how the server takes a schema; `prove_schema` finds it.
        served_model: the model's name as the server says it, from then on.
    """

    args: WriterArguments
    schema: dict[str, Any]
    max_tokens: int
    key: str | None = None
    form: Callable[[dict[str, Any]], dict[str, Any]] = as_json_schema
    served_model: str = ""

    @property
    def url(self) -> str:
        return str(self.args.endpoint)

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the model."""
        network = "served over the OpenAI protocol"
        return {"weights_sha256": None, "network": network, "served_model": self.served_model}

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request.

        Raises:
            ValueError: the server failed for good; says how, and what to do.
        """
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.connect()) as client:
            at_once = anyio.CapacityLimiter(self.args.concurrency)
            rows = [portal.start_task_soon(self.write_row, client, at_once, request) for request in requests]
            yield from (row.result() for row in rows)

    async def write_row(self, client: AsyncOpenAI, at_once: anyio.CapacityLimiter, request: Request) -> RowResult:
        """One row, with a new seed for each attempt after the first."""
        (messages, seed), data = request, None
        reasons: list[str] = []
        thought = 0
        async with at_once:
            while data is None and len(reasons) < self.args.max_attempts:
                drawn = attempt_seed(seed, len(reasons))
                answer = await self.ask(client, messages, drawn, self.schema, self.form)
                data, reason = read_answer(answer, self.schema)
                thought += thought_tokens(answer)
                reasons += [] if reason is None else [reason]
        return RowResult(data, seed, len(reasons) + (data is not None), reasons, thought)

    def say(self, chats: Sequence[Messages]) -> Iterator[str | None]:
        """An answer in free text to each chat, None where it is cut short or empty; errors are those of `write`."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.connect()) as client:
            at_once = anyio.CapacityLimiter(self.args.concurrency)
            said = [portal.start_task_soon(self.say_one, client, at_once, messages) for messages in chats]
            yield from (one.result() for one in said)

    async def say_one(self, client: AsyncOpenAI, at_once: anyio.CapacityLimiter, messages: Messages) -> str | None:
        async with at_once:
            answer = await self.ask(client, messages, 0, {}, lambda schema: None)
        content = getattr(getattr(answer.choices[0], "message", None), "content", None)
        return content if isinstance(content, str) else None

    @asynccontextmanager
    async def connect(self, final: tuple[int, ...] = ()) -> AsyncIterator[AsyncOpenAI]:
        """A client of the server; answers of the statuses `final` are not asked for again."""
        way = WholeAnswers(self.url, self.key, self.args.timeout_s, final)
        settings = {"base_url": self.url, "api_key": "none", "max_retries": MOST_TRIES - 1}
        async with import_openai().AsyncOpenAI(http_client=way, **settings) as client:
            yield client

    async def ask(
        self, client: AsyncOpenAI, messages: Messages, seed: int, schema: dict[str, Any], form: Callable[..., Any]
    ) -> ChatCompletion:
        """An answer with at least one choice, asked for again where the server fails in passing; in free text where
        `form` says None."""
        request: Any = {
            "messages": messages,
            "model": self.args.model,
            "response_format": form(schema),
            "seed": seed,
            "max_tokens": self.max_tokens,
            "temperature": self.args.temperature,
            "top_p": self.args.top_p,
        }
        if self.args.thinking and schema is self.schema:  # the first request, which proves the schema, needs none
            request |= {"max_tokens": self.max_tokens + self.args.thinking, "extra_body": THINK}
        try:
            asked = {name: value for name, value in request.items() if value is not None}
            answer: ChatCompletion = await client.chat.completions.create(**asked)
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
        """Find the form in which the server holds to a schema, and the model's name as the server says it."""
        with start_blocking_portal() as portal:
            portal.call(self.find_form)

    async def find_form(self) -> None:
        """`prove_schema`."""
        seen = {}
        async with self.connect(UNKNOWN_FORM) as client:
            for form in (as_json_schema, as_json_object):
                kind = form(CANARY_SCHEMA)["type"]
                try:
                    answer = await self.ask(client, CANARY, 0, CANARY_SCHEMA, form)
                except ValueError as error:
                    if status_of(error.__cause__) not in UNKNOWN_FORM:
                        raise
                    seen[kind] = quote_failure(error.__cause__, self.key)
                    continue
                reason = read_answer(answer, CANARY_SCHEMA)[1]
                if reason is None:
                    self.form, self.served_model = form, str(answer.model)
                    return
                seen[kind] = f"its answer was {reason}"
        raise ValueError(
            f"--endpoint {self.url} does not hold to the JSON schema of response_format, which a first request asked "
            f"for in two forms ({'; '.join(f'{kind}: {what}' for kind, what in seen.items())}); use a server with "
            "structured outputs (vLLM, TGI, llama.cpp), or check its settings and --model"
        )


def thought_tokens(answer: ChatCompletion) -> int:
    """Tokens of thoughts, where the server counts them apart."""
    details = getattr(getattr(answer, "usage", None), "completion_tokens_details", None)
    return int(getattr(details, "reasoning_tokens", None) or 0)


def read_answer(answer: ChatCompletion, schema: dict[str, Any]) -> Outcome:
    """`check_answer` of the first choice; thoughts that a server leaves before it are cut off."""
    choice = answer.choices[0]
    content = getattr(getattr(choice, "message", None), "content", None)
    if isinstance(content, str) and content.lstrip().startswith("<think>"):
        content = content.partition("</think>")[2].strip()
    return check_answer(content, getattr(choice, "finish_reason", None), schema)


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
        tries = request.extensions["tries"] = int(request.headers.get("x-stainless-retry-count", "0")) + 1
        kept = ("host", "content-type", "content-length")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        headers |= {"accept": "application/json", "accept-encoding": "identity", "user-agent": "clinsynth"}
        request.headers = httpx2.Headers(headers | ({"authorization": f"Bearer {self.key}"} if self.key else {}))
        try:
            with anyio.fail_after(self.timeout_s):
                response = await self.read(request)
        except TimeoutError as error:
            self.warn(tries, TOO_LATE)
            if tries >= MOST_TIMEOUTS:
                raise NoAnswerError(TOO_LATE, request) from error
            raise httpx2.ReadTimeout(TOO_LATE, request=request) from error
        except httpx2.RequestError as error:
            self.warn(tries, cause_of(error))
            raise
        if response.status_code in self.final:
            response.headers["x-should-retry"] = "false"
        elif response.status_code in PASSING or response.status_code >= 500:
            self.warn(tries, f"status {response.status_code}")
        return response

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
        if response.headers.get("content-encoding", "identity") != "identity":
            raise NoAnswerError("a compressed answer, which was not asked for", request)
        if response.is_success and "json" not in response.headers.get("content-type", ""):
            raise httpx2.DecodingError(f"{NO_COMPLETION} but another kind of page", request=request)
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body), request=request)

    def warn(self, tries: int, failure: str) -> None:
        logger.warning("%s: %s; that was try %d of at most %d", self.url, failure, tries, MOST_TRIES)


class NoAnswerError(Exception):
    """The server gives no answer that can be used, and is not asked again."""

    def __init__(self, message: str, request: httpx2.Request | None = None):
        super().__init__(message)
        self.request = request


def import_openai() -> Any:
    """The package openai."""
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
    if status_of(error) is not None:
        return f"status {status_of(error)}"
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
    if TOO_LATE in str(error):
        return "raise --timeout_s, lower --concurrency, or start the server anew and then the same command"
    if status is not None:
        return "the server's log says why; once it is well, start the same command again"
    return "check that the address is right and the server runs, then start the same command again"
