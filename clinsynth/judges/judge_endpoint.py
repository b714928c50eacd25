"""A judge behind the OpenAI chat protocol: the model of a server that sees pictures and holds to a JSON schema.

Patience, the canary request and the check of answers are those of `clinsynth generate text --endpoint`. Each picture
is asked about once, at temperature 0; an answer that breaks the schema is counted. A server that fails for good ends
the run, whose finished shards are kept.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from clinsynth.images import to_png
from clinsynth.judges.judge_questions import Answered, AskedJudge, answer_schema, question_text
from clinsynth.models.endpoints import Endpoint
from clinsynth.models.text_answers import token_budget
from clinsynth.models.text_endpoint_address import is_loopback, key_variable, read_key, split_address
from clinsynth.models.text_endpoint_failures import describe, status_of

logger = logging.getLogger("clinsynth")

REFUSED_REQUEST = (400, 413, 415, 422)
"""How servers refuse a picture for a model that sees none, or a prompt that is too long."""


class EndpointJudge(AskedJudge):
    """Answers of a server's model.

    Args:
        endpoint: proven to hold to schemas; its own schema is not used.
        checklist, facts: as of `AskedJudge`.
    """

    def __init__(self, endpoint: Endpoint, checklist: dict[str, Any], facts: dict[str, Any]):
        super().__init__(checklist, facts)
        self.endpoint = endpoint
        self.endpoints: dict[str, Endpoint] = {}

    def ask(self, condition: str, pictures: list[Any]) -> Iterator[Answered]:
        """What the model answers on each of the pictures; several are under way at once.

        Raises:
            ValueError: the server failed for good; says how, and what to do.
        """
        text = question_text(self.checklist, condition)
        requests: Any = [(message(picture, text), 0) for picture in pictures]
        with explained(self.endpoint.url):
            for result in self.endpoint_of(condition)(requests):
                yield result.data, result.rejections[0] if result.rejections else None

    def endpoint_of(self, condition: str) -> Endpoint:
        """The server, with the schema of a condition."""
        if condition not in self.endpoints:
            schema = answer_schema(self.checklist, condition)
            self.endpoints[condition] = replace(self.endpoint, schema=schema, max_tokens=token_budget(schema, None))
        return self.endpoints[condition]


def message(picture: Image.Image, text: str) -> list[dict[str, Any]]:
    """A chat with one picture, as a PNG file without metadata, and one question."""
    data = base64.b64encode(to_png(picture)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def open_judge(url: str, model: str, checklist: dict[str, Any], concurrency: int, timeout_s: float) -> EndpointJudge:
    """The judge at `url`, proven to hold to schemas.

    Raises:
        ValueError: the server cannot be had, or does not hold to a schema.
    """
    with explained(url):
        key = read_key(url)
        say_what_leaves(url, key)
        endpoint = Endpoint(
            url=url,
            model=model,
            schema={},
            max_tokens=64,  # of the canary's answer
            key=key,
            temperature=0.0,
            top_p=1.0,
            max_attempts=1,
            concurrency=concurrency,
            timeout_s=timeout_s,
        )
        served = endpoint.prove_schema()
    facts = {"model": model, "weights_sha256": None, "served_model": served}
    return EndpointJudge(endpoint, checklist, facts)


def say_what_leaves(url: str, key: str | None) -> None:
    """Log which key goes where, and whether others can read along."""
    host, variable = split_address(url).hostname, key_variable(url)
    said = f"the key in {variable} goes to {host}" if key else f"{variable} is not set: no key"
    logger.info("--judge_endpoint: %s", said)
    if url.startswith("http:") and not is_loopback(url):
        logger.warning("--judge_endpoint: what goes to %s is not encrypted; others on the way can read it", host)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Errors of `Endpoint` within the block, in the words of a judge's flags."""
    try:
        yield
    except ValueError as error:
        if status_of(error.__cause__) in REFUSED_REQUEST:
            raise ValueError(
                f"--judge_endpoint {url} refused a request ({describe(error.__cause__)}); finished shards are kept: "
                "mostly its model takes no pictures, or picture and checklist exceed its context, which the server's "
                "log says: serve a model that sees, with a longer context"
            ) from error
        words = str(error).replace("--endpoint", "--judge_endpoint").replace("--model", "--judge_model")
        raise ValueError(words) from error
