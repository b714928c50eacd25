"""Where a remote language model is: which hosts get real texts, and which key of the environment goes with them."""

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

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
