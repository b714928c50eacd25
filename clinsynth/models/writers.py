"""Writers of texts: a language model behind one face, wherever it runs, and what all of them share.

A server that runs one has an address, a key that goes there, and texts that may leave this machine.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import SplitResult, urlsplit

from clinsynth.arguments import check_at_least

if TYPE_CHECKING:
    from clinsynth.pipelines.structured_medical_text.text_rows import Outcome, RowResult

logger = logging.getLogger("clinsynth")

Messages = list[dict[str, Any]]
"""A chat: `role` and `content` of each message."""
Request = tuple[Messages, int]
"""A chat and a seed."""

Write = Callable[[list[Request]], Iterator["RowResult"]]
"""From requests to their results, in that order."""


class Writer(Protocol):
    """A language model that is held to a schema.

    Attributes:
        facts: what identifies it, as generation.json says it.
    """

    @property
    def facts(self) -> dict[str, Any]: ...

    def write(self, requests: list[Request]) -> Iterator[RowResult]:
        """A result a request, in their order, each as soon as it is there.

        Raises:
            ValueError: the model failed for good; says how, and what to do.
        """


@dataclass
class WriterArguments:
    """Which language model, where it runs, and how it is sampled."""

    model: str = ""
    """folder or Hub id of a causal language model, or a .gguf file; with or without a chat template. With --endpoint:
    the name by which the server knows its model"""
    backend: Literal["transformers", "llama.cpp", "vllm"] = "transformers"
    """what runs the model here; llama.cpp takes a .gguf file as it is, for a CPU that does not compute in bfloat16 or
    for few texts; vllm is for a GPU; each needs its extra: pip install clinsynth[llamacpp], clinsynth[vllm]"""
    endpoint: str | None = None
    """a server of the OpenAI chat protocol that runs the model instead, as http://127.0.0.1:8000/v1 (vLLM, TGI,
    llama.cpp, an Inference Endpoint); its key is taken from the environment: HF_TOKEN for huggingface.co alone, else
    OPENAI_API_KEY"""
    concurrency: int = 8
    """requests that wait at --endpoint at once, in each process"""
    timeout_s: float = 120.0
    """seconds after which a request to --endpoint has failed"""
    batch_size: int = 8
    """texts written at once by the model here; which texts come out does not depend on it"""
    temperature: float = 1.0
    """above 1 flattens and below 1 sharpens the model's choice of words; 0 takes the likeliest"""
    top_p: float = 0.95
    """choose among the most likely words that make up this share of probability"""
    max_new_tokens: int | None = None
    """tokens of a text at most, within which it is brought to an end; default: what the schema can need"""
    max_attempts: int = 3
    """attempts at a valid text before its row is given up and counted"""
    thinking: int = 0
    """tokens that a reasoning model may think for before each text, in free words up to its own mark; 0: none, and the
    model is told so. Thoughts are not kept, their tokens are counted"""
    decoding: Literal["llguidance", "lm-format-enforcer", "xgrammar"] = "llguidance"
    """what holds a model here to the schema; lm-format-enforcer is about ten times slower; xgrammar, which needs the
    extra fast, leaves out quotes and line breaks"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """arithmetic of the network here; a server has its own"""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("--model is missing; give a folder, a Hub id or a .gguf file of a language model")
        check_at_least(self, 1, ["batch_size", "max_attempts", "max_new_tokens", "concurrency"])
        check_at_least(self, 0, ["thinking"])
        if self.thinking and self.backend != "transformers":
            raise ValueError(
                f"--thinking {self.thinking} is for --backend transformers, or for vLLM's server as --endpoint, which "
                "parts thoughts from answers; leave --thinking or --backend out"
            )
        if self.backend == "llama.cpp" and self.dtype != "float32":
            raise ValueError(
                f"--dtype {self.dtype} is for weights as numbers, but a .gguf file has its own; leave it out"
            )
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"--timeout_s must be above 0 and finite, got {self.timeout_s}; give 120")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature must be at least 0, got {self.temperature}; 1 leaves the model as it is")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top_p must be above 0 and at most 1, got {self.top_p}; 1 leaves nothing out")
        if self.endpoint is not None:
            self.check_endpoint(self.endpoint)

    @property
    def sampling(self) -> dict[str, Any]:
        """What generation.json says of how texts are drawn."""
        names = ("temperature", "top_p", "max_attempts", "max_new_tokens")
        thinking = {"thinking": self.thinking} if self.thinking else {}
        return {name: getattr(self, name) for name in names} | thinking

    def check_endpoint(self, endpoint: str) -> None:
        """Raise a `ValueError` for an address that is none, or flags of a model here."""
        split_address(endpoint)
        # lm-format-enforcer was the default before, and stands in the configs of that time
        decoding = ("llguidance", "lm-format-enforcer")
        for name, usual in (("backend", ("transformers",)), ("decoding", decoding), ("dtype", ("float32",))):
            if getattr(self, name) not in usual:
                raise ValueError(
                    f"--{name} {getattr(self, name)} is for a model here, and --endpoint's server runs its own; "
                    f"leave --{name} or --endpoint out"
                )


HUB_HOSTS = ("huggingface.co", "router.huggingface.co")
"""The Hub's own addresses; no other is given HF_TOKEN: anybody may run a Space or an Inference Endpoint."""


def split_address(url: str, flag: str = "--endpoint") -> SplitResult:
    """The parts of the address of a server, which `flag` gave.

    Raises:
        ValueError: it is no http(s) address of a host, or holds what may be a secret and would be written down.
    """
    hint = "give one like http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"{flag} {url} is no address ({error}); {hint}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{flag} must be an address without user, password, ? and #: it is written into the run's folder; put "
            "a key into the environment variable OPENAI_API_KEY (HF_TOKEN for huggingface.co)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good or " " in url:
        raise ValueError(f"{flag} {url} is no http or https address; {hint}")
    return parts


def is_loopback(url: str) -> bool:
    """Whether what is sent to `url` stays on this machine."""
    host = split_address(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_variable(url: str) -> str:
    """The environment variable whose key goes to `url`: HF_TOKEN to the Hub itself over https, else OPENAI_API_KEY."""
    parts = split_address(url)
    return "HF_TOKEN" if parts.scheme == "https" and parts.hostname in HUB_HOSTS else "OPENAI_API_KEY"


def read_key(url: str, flag: str = "--endpoint") -> str | None:
    """The key for `url`, None where the environment has none; logs which key goes where, and who can read along.

    Args:
        flag: that named the address.
    """
    variable, host = key_variable(url), split_address(url).hostname
    key = os.environ.get(variable, "").strip() or None
    logger.info("%s: %s", flag, f"the key in {variable} goes to {host}" if key else f"{variable} is not set: no key")
    if url.startswith("http:") and not is_loopback(url):
        logger.warning("%s: what goes to %s is not encrypted; others on the way can read it", flag, host)
    return key


def check_real_texts(url: str, k_shot: int, send_real_texts: bool) -> None:
    """Raise a `ValueError` where examples, which are real texts, would leave this machine without the user's word."""
    if k_shot and not send_real_texts and not is_loopback(url):
        raise ValueError(
            f"--k_shot {k_shot} with --endpoint {url} sends real texts of --dataset to {split_address(url).hostname}, "
            "which is not this machine; if their owners and licence allow that, say --send_real_texts true; else "
            "leave --k_shot out, or serve the model here"
        )


SEEDS = 2**31
"""Engines get seeds modulo this, since some take 32 bits with a sign."""
FINISHED = ("stop", "eos_token", "stop_sequence")
"""What finish_reason says of a text that is whole; the last two are TGI's."""


def closed_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with all its properties required and no others allowed, as the local pipeline has it."""
    return {**schema, "required": list(schema["properties"]), "additionalProperties": False}


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`response_format` as OpenAI defines it."""
    return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema, "strict": True}}


def token_budget(schema: dict[str, Any], max_new_tokens: int | None) -> int:
    """Tokens of an answer: those asked for, else as many as the schema can need.

    Raises:
        ValueError: the schema has no bound or cannot be met; names the place.
    """
    from clinsynth.pipelines.structured_medical_text.schemas import bounded, most_tokens

    most = most_tokens(bounded(schema))
    return max_new_tokens or most


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of a row's attempt, counted from 0, in [0, 2**31)."""
    from clinsynth.pipelines.structured_medical_text.text_rows import derive_seed

    return (derive_seed(seed, attempt) if attempt else seed) % SEEDS


def check_answer(text: Any, finish: Any, schema: dict[str, Any]) -> Outcome:
    """The object of an answer; or the reason why it is refused, without any of its text."""
    from clinsynth.pipelines.structured_medical_text.schemas import check_text

    if finish == "length":
        return None, "not finished within the budget"
    if finish not in FINISHED:
        return None, "stopped by a filter" if finish == "content_filter" else "stopped before its end"
    return check_text(text, schema) if isinstance(text, str) else (None, "without content")
