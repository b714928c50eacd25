"""A language model behind the OpenAI chat protocol (vLLM, TGI, llama.cpp, an Inference Endpoint) as a writer of rows.

Before the first row a canary request proves that the server holds to a JSON schema. Each answer is checked against the
schema again here, as the local pipeline does. Failures that pass (429, 5xx, a broken connection, a timeout) are tried
again after a wait; others end the run, whose finished shards are kept.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import httpx2
from huggingface_hub import InferenceClient

from clinsynth.models.language_models import attempt_seed, check_answer, closed, token_budget
from clinsynth.pipelines.structured_medical_text.text_rows import RowResult

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.scripts.generate_text import GenerateTextArguments

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

Messages = list[dict[str, str]]


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as OpenAI defines it."""
    return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema, "strict": True}}


def as_json_object(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as other servers take it: llama-cpp-python reads `schema`, TGI `value`."""
    return {"type": "json_object", "schema": schema, "value": schema}


@dataclass
class Endpoint:
    """A writer of rows: called with messages and seeds, it yields their results in that order.

    Attributes:
        schema: of a row; sent with each request, and each answer is checked against it.
        max_tokens: of an answer.
        form: how the server takes a schema; `prove_schema` finds it.
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

    def __post_init__(self) -> None:
        self.client = OpenAIClient(self.url, self.key, self.timeout_s)

    def __call__(self, requests: list[tuple[Messages, int]]) -> Iterator[RowResult]:
        """A result a request.

        Raises:
            ValueError: the server failed for good; says how, and what to do.
        """
        stopped = Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                yield from pool.map(partial(self.write_row, stopped=stopped), requests)
            finally:
                stopped.set()  # rows that wait for their next try give up, too

    def write_row(self, request: tuple[Messages, int], stopped: Event) -> RowResult:
        """One row, with a new seed for each attempt after the first."""
        messages, seed = request
        reasons: list[str] = []
        while len(reasons) < self.max_attempts:
            drawn = attempt_seed(seed, len(reasons))
            answer = self.ask_patiently(messages, drawn, self.form(self.schema), stopped)
            data, reason = read_answer(answer, self.schema)
            if reason is None:
                return RowResult(data, seed, len(reasons) + 1, reasons)
            reasons.append(reason)
        return RowResult(None, seed, len(reasons), reasons)

    def ask_patiently(
        self, messages: Messages, seed: int, form: dict[str, Any], stopped: Event, final: tuple[int, ...] = ()
    ) -> Any:
        """The server's answer, asked for again after a wait where it fails in passing, but for `final` statuses."""
        tries = 1
        while True:
            try:
                return self.ask(messages, seed, form)
            except FAILURES as error:
                if tries >= most_tries(error) or stopped.is_set() or status_of(error) in final:
                    times = f" after {tries} tries" if tries > 1 else ""
                    raise ValueError(
                        f"--endpoint {self.url} failed{times} ({describe(error)}); finished shards are kept: "
                        f"{mend(error, key_variable(self.url))}"
                    ) from error
                wait = wait_before(tries, error)
                logger.warning("%s: %s; trying again in %.1f s", self.url, describe(error), wait)
                stopped.wait(wait)
                tries += 1

    def ask(self, messages: Messages, seed: int, form: dict[str, Any]) -> Any:
        """One request: an answer with at least one choice."""
        request: dict[str, Any] = {
            "messages": messages,
            "model": self.model,
            "response_format": form,
            "seed": seed,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        answer = self.client.chat_completion(**request)
        if not isinstance(answer.choices, list) or not answer.choices:
            raise ValueError("no chat completion")
        return answer

    def prove_schema(self) -> str:
        """Find the form in which the server holds to a schema, and return the model's name as the server says it.

        Raises:
            ValueError: it holds to none; says what came instead.
        """
        seen = []
        for form in (as_json_schema, as_json_object):
            asked = form(CANARY_SCHEMA)
            try:
                answer = self.ask_patiently(CANARY, 0, asked, Event(), final=UNKNOWN_FORM)
            except ValueError as error:
                if status_of(error.__cause__) not in UNKNOWN_FORM:
                    raise
                seen.append(f"{asked['type']}: {words_of(error.__cause__, self.key)}")
                continue
            reason = read_answer(answer, CANARY_SCHEMA)[1]
            if reason is None:
                self.form = form
                return str(answer.model)
            seen.append(f"{asked['type']}: its answer was {reason}")
        raise ValueError(
            f"--endpoint {self.url} does not hold to the JSON schema of response_format, which a first request asked "
            f"for in two forms ({'; '.join(seen)}); use a server with structured outputs (vLLM, TGI, llama.cpp), or "
            "check its settings and --model"
        )


def read_answer(answer: Any, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """`check_answer` of the first choice."""
    choice = answer.choices[0]
    content = getattr(getattr(choice, "message", None), "content", None)
    return check_answer(content, getattr(choice, "finish_reason", None), schema)


def open_endpoint(url: str, args: GenerateTextArguments, task: Task) -> tuple[Endpoint, dict[str, Any]]:
    """The server at `url`, proven to hold to schemas, and what identifies its model.

    Raises:
        ValueError: the server cannot be had or does not hold to a schema, or the task's is not valid.
    """
    key, variable, host = read_key(url), key_variable(url), split_address(url).hostname
    logger.info("--endpoint: %s", f"the key in {variable} goes to {host}" if key else f"{variable} is not set: no key")
    if url.startswith("http:") and not is_loopback(url):
        logger.warning("--endpoint: what goes to %s is not encrypted; others on the way can read it", host)
    endpoint = Endpoint(
        url=url,
        model=args.model,
        schema=closed(task.schema),
        max_tokens=token_budget(task.schema, args.max_new_tokens),
        key=key,
        temperature=args.temperature,
        top_p=args.top_p,
        max_attempts=args.max_attempts,
        concurrency=args.concurrency,
        timeout_s=args.timeout_s,
    )
    served = endpoint.prove_schema()
    return endpoint, {"weights_sha256": None, "network": "served over the OpenAI protocol", "served_model": served}


class OpenAIClient(InferenceClient):
    """An `InferenceClient` for an address of one's own, with a session of its own.

    By itself the client turns a JSON schema into a form that TGI alone reads, so that other servers would write
    without it; adds the user's saved Hub token for every host; is silenced by HF_HUB_OFFLINE; and takes the texts
    wherever a redirect points. Here a schema is sent as OpenAI defines it, the key is the given one or none, and
    requests to this machine pass no proxy.

    Raises (from `chat_completion`):
        httpx2.HTTPStatusError: a status other than 2xx.
        httpx2.RequestError: no answer.
        ValueError: an answer that is no JSON object.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float):
        super().__init__(base_url=url, api_key=key)
        self.session = httpx2.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_loopback(url),
        )

    def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        body = request_parameters.json
        form = body.get("response_format")
        if form is not None and set(form) == {"type", "value"}:
            schema = {"name": "row", "schema": form["value"], "strict": True}
            body = {**body, "response_format": {"type": "json_schema", "json_schema": schema}}
        response = self.session.post(request_parameters.url, json=body)
        response.raise_for_status()
        return response.content


HUB_HOSTS = ("huggingface.co", "huggingface.cloud", "hf.space")
"""Hosts of Hugging Face, Inference Endpoints among them; no other is given HF_TOKEN."""


def split_address(url: str) -> SplitResult:
    """The parts of the address of a server.

    Raises:
        ValueError: it is no http(s) address of a host, or holds what may be a secret and would be written down.
    """
    mend = "give one like http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"--endpoint {url} is no address ({error}); {mend}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "--endpoint must be an address without user, password, ? and #: it is written into the run's folder; put "
            "a key into the environment variable OPENAI_API_KEY (HF_TOKEN for hosts of Hugging Face)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good or " " in url:
        raise ValueError(f"--endpoint {url} is no http or https address; {mend}")
    return parts


def is_loopback(url: str) -> bool:
    """Whether what is sent to `url` stays on this machine."""
    host = split_address(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_variable(url: str) -> str:
    """The environment variable whose key goes to `url`: HF_TOKEN to Hugging Face over https, else OPENAI_API_KEY."""
    parts = split_address(url)
    host = f".{parts.hostname}"
    ours = parts.scheme == "https" and any(host.endswith(f".{name}") for name in HUB_HOSTS)
    return "HF_TOKEN" if ours else "OPENAI_API_KEY"


def read_key(url: str) -> str | None:
    """The key for `url`, None where the environment has none."""
    return os.environ.get(key_variable(url), "").strip() or None


def check_real_texts(url: str, k_shot: int, send_real_texts: bool) -> None:
    """Raise a `ValueError` where examples, which are real texts, would leave this machine without the user's word."""
    if k_shot and not send_real_texts and not is_loopback(url):
        raise ValueError(
            f"--k_shot {k_shot} with --endpoint {url} sends real texts of --dataset to {split_address(url).hostname}, "
            "which is not this machine; if their owners and licence allow that, say --send_real_texts true; else "
            "leave --k_shot out, or serve the model here"
        )


FAILURES = (httpx2.HTTPStatusError, httpx2.RequestError, ValueError)
"""ValueError: what came is no chat completion, perhaps a proxy's page."""
MOST_TRIES, MOST_TIMEOUTS = 5, 2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
PASSING = (408, 409, 425, 429)
"""Statuses below 500 that say: later."""


def passes(error: Exception) -> bool:
    """Whether the failure may be over at the next try."""
    status = status_of(error)
    return status is None or status in PASSING or status >= 500


def status_of(error: BaseException | None) -> int | None:
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None


def most_tries(error: Exception) -> int:
    """How often to ask in all; a server that hangs costs a whole timeout each time."""
    if not passes(error):
        return 1
    return MOST_TIMEOUTS if isinstance(error, httpx2.TimeoutException) else MOST_TRIES


def wait_before(tries: int, error: Exception) -> float:
    """Seconds until the next try: half to all of a time that doubles, at random, or what the server asks for."""
    wait = FIRST_WAIT_S * 2 ** (tries - 1) * random.uniform(0.5, 1)
    asked = error.response.headers.get("retry-after", "") if isinstance(error, httpx2.HTTPStatusError) else ""
    return min(max(wait, float(asked) if asked.isdecimal() else 0), LONGEST_WAIT_S)


def describe(error: BaseException | None) -> str:
    """What went wrong."""
    if isinstance(error, httpx2.HTTPStatusError):
        return f"status {error.response.status_code}"
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx2.RequestError):
        return str(error) or type(error).__name__
    return "what came is no chat completion but another kind of page"


def words_of(error: BaseException | None, secret: str | None) -> str:
    """`describe`, and what the server itself says; for requests without real texts."""
    said = " ".join(error.response.text.split()) if isinstance(error, httpx2.HTTPStatusError) else ""
    said = said.replace(secret, "***") if secret else said
    return f"{describe(error)}: {said[:300]}" if said else describe(error)


def mend(error: Exception, variable: str) -> str:
    """What the user can do about an error that ends the run; `variable` is that of the key."""
    status = status_of(error)
    if status in (401, 403):
        return f"put a key that it takes into the environment variable {variable}"
    if status == 404 or (status is not None and status < 400):
        return "check the address, which mostly ends in /v1, and the name in --model"
    if not passes(error):
        return (
            "mostly prompt and --max_new_tokens exceed its context, which the server's log says: lower --k_shot or "
            "--max_new_tokens, or start it with a longer context"
        )
    if isinstance(error, httpx2.TimeoutException):
        return "raise --timeout_s, lower --concurrency, or start the server anew and then the same command"
    if status is not None:
        return "the server's log says why; once it is well, start the same command again"
    return "check that the address is right and the server runs, then start the same command again"
