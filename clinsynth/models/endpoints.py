"""A language model behind the OpenAI chat protocol (vLLM, TGI, llama.cpp, an Inference Endpoint) as a writer of rows.

Before the first row a canary request proves that the server holds to a JSON schema. Each answer is checked against the
schema again here, as the local pipeline does. Failures that pass (429, 5xx, a broken connection, a timeout) are tried
again after a wait; others end the run, whose finished shards are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from clinsynth.models.text_answers import attempt_seed, check_answer, closed, token_budget
from clinsynth.models.text_endpoint_address import is_loopback, key_variable, read_key, split_address
from clinsynth.models.text_endpoint_client import OpenAIClient
from clinsynth.models.text_endpoint_failures import (
    FAILURES,
    describe,
    mend,
    most_tries,
    status_of,
    wait_before,
    words_of,
)
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
