"""Servers that run a model: their addresses, the key that goes to one, and what may leave this machine."""

from __future__ import annotations

import ipaddress
import logging
import os
from urllib.parse import SplitResult, urlsplit

logger = logging.getLogger("clinsynth")

HUB_HOSTS = ("huggingface.co", "huggingface.cloud", "hf.space")
"""Hosts of Hugging Face, Inference Endpoints among them; no other is given HF_TOKEN."""


def split_address(url: str) -> SplitResult:
    """The parts of the address of a server.

    Raises:
        ValueError: it is no http(s) address of a host, or holds what may be a secret and would be written down.
    """
    hint = "give one like http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"--endpoint {url} is no address ({error}); {hint}") from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "--endpoint must be an address without user, password, ? and #: it is written into the run's folder; put "
            "a key into the environment variable OPENAI_API_KEY (HF_TOKEN for hosts of Hugging Face)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good or " " in url:
        raise ValueError(f"--endpoint {url} is no http or https address; {hint}")
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
