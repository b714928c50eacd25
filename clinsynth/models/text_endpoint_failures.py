"""How a remote language model fails: what may be over at the next try, how long to wait, and what to tell the user.

No message holds text of a request: it may be real. What the server says of the canary request, which is not, is shown.
"""

import random

import httpx2

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
