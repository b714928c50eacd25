"""What goes wrong on the way to the Hub, in words: which step, why, and that nothing was half published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

BUSY = (429, 503)
ATTEMPTS = 4
LONGEST_WAIT = 300.0
TOKEN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
AGAIN = "nothing was published: start the same command again to go on, what is uploaded is not sent twice"
MENDS = {
    401: f"the Hub does not take the token; {TOKEN}",
    403: f"the token may not do that; {TOKEN} to this repository",
    507: "the server has no room",
}


@contextmanager
def explained(step: str, state: str = AGAIN) -> Iterator[None]:
    """What huggingface_hub raises within the block becomes a ValueError: the step, the cause, and the state.

    Args:
        step: as "uploading to me/retina-ddpm".
        state: what is published if this fails, and the mend.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError

    failures: tuple[type[Exception], ...] = (*http_errors(), RuntimeError)
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{step}: no token of the Hub is at hand; {TOKEN}") from error
    except failures as error:
        raise ValueError(f"{step} failed: {reason(error)}. {state[0].upper()}{state[1:]}") from error


def http_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises of its answers, and the library below it, whichever that is, where none came."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError, HfHubHTTPError.__bases__[0], ConnectionError


def reason(error: Exception) -> str:
    """One line on an error, without headers or tokens."""
    status = status_of(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "; ".join(lines[:3]) or type(error).__name__
    if status is None:
        return f"the server does not answer ({type(error).__name__}: {said})"
    return f"{MENDS[status]} ({said})" if status in MENDS else f"the server answered {status} ({said})"


def status_of(error: BaseException | None) -> int | None:
    """The status of the answer behind an error, also where a library has wrapped it; None where nothing answered."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__ or error.__context__
    return None


def patiently(call: Callable[[], T]) -> T:
    """What `call` returns; it is made again, up to four times, while the server says that it is busy (429 or 503).

    It waits as long as the server's Retry-After says (seconds), else 1, 2 and 4 s.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm.auto import tqdm

    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except HfHubHTTPError as error:
            if status_of(error) not in BUSY:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = min(float(asked) if asked.isdigit() else 2.0**attempt, LONGEST_WAIT)
            tqdm.write(f"the Hub is busy ({status_of(error)}); trying again in {wait:.0f} s")
            time.sleep(wait)
    return call()
