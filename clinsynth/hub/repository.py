"""The repository that something is pushed to: made private, gated and with its branch before any file is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from clinsynth.private_words import HUB_ID


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        kind: "model", "dataset" or "space".
        sdk: of a space: "gradio" or "static".
        gated: "auto" or "manual"; None leaves it as it is.
    """

    repo_id: str
    kind: str
    public: bool = False
    revision: str | None = None
    create_pr: bool = False
    gated: str | None = None
    sdk: str | None = None

    @property
    def names(self) -> dict[str, Any]:
        """Repository and kind, as huggingface_hub names them."""
        return {"repo_id": self.repo_id, "repo_type": self.kind}

    @property
    def base(self) -> str | None:
        """The branch that is committed to; of a pull request the one that it starts from."""
        return None if self.create_pr else self.revision

    @property
    def visibility(self) -> str:
        return "public" if self.public else "private"

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{folder}{self.repo_id}"


def prepare_repository(target: Target, api: Any) -> None:
    """Make the repository ready to be committed to; what was there before is not changed.

    Raises:
        ValueError: no or a wrong token, no right to write, or the repository's visibility is not what was asked for.
    """
    with explained(f"logging in to {api.endpoint}"):
        patiently(api.whoami)
    with explained(f"creating {target.repo_id}"):
        settings = {"private": not target.public, "exist_ok": True, "space_sdk": target.sdk}
        patiently(lambda: api.create_repo(**target.names, **settings))
    with explained(f"looking at {target.repo_id}"):
        check_visibility(target, patiently(lambda: api.repo_info(**target.names)))
        use_xet_where_there_is_some(target, api)
    with explained(f"setting up {target.repo_id}"):
        if target.gated:
            patiently(lambda: api.update_repo_settings(**target.names, gated=target.gated))
        if target.revision not in (None, "main") and not target.create_pr:
            patiently(lambda: api.create_branch(**target.names, branch=target.revision, exist_ok=True))


def check_visibility(target: Target, info: Any) -> None:
    """Raise a ValueError where a repository that was there is public and must not be, or the other way round."""
    if info.private and target.public:
        raise ValueError(
            f"{target.repo_id} is private, and its older files would be public too; make it public in its settings on "
            "the Hub first, or leave --public out"
        )
    if not info.private and not target.public:
        raise ValueError(
            f"{target.repo_id} is public; give --public if everybody may see what is pushed, or make it private in "
            "its settings on the Hub first"
        )


def use_xet_where_there_is_some(target: Target, api: Any) -> None:
    """Turn Xet off for this process where the server has no Xet storage, and say so."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
    from huggingface_hub.utils._runtime import is_xet_available

    if not is_xet_available() or target.create_pr:  # who opens a pull request need not have the right to write
        return
    url = f"{api.endpoint}/api/{target.kind}s/{target.repo_id}/xet-write-token/main"
    answer = get_session().get(url, headers=build_hf_headers())
    if answer.status_code == 404:
        constants.HF_HUB_DISABLE_XET = True
        print(f"{api.endpoint} has no Xet storage; files go there by Git LFS")
    elif answer.status_code == 403:
        raise ValueError(f"the token may not write to {target.repo_id}; {TOKEN} to it")
    else:
        hf_raise_for_status(answer)


def collect(target: Target, title: str, api: Any) -> str:
    """Put the repository into the collection of that title, and return the collection's address."""
    owner = target.repo_id.partition("/")[0]
    state = f"the {target.kind} itself is published: start the same command again to add it to the collection"
    with explained(f"adding {target.repo_id} to the collection {title!r}", state):
        found = patiently(
            lambda: api.create_collection(title, namespace=owner, private=not target.public, exists_ok=True)
        )
        patiently(lambda: api.add_collection_item(found.slug, target.repo_id, target.kind, exists_ok=True))
    return str(found.url)


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


@dataclass
class PushArguments:
    """What every push to the Hub has in common."""

    folder: str = ""
    """what is pushed; the word after the command, or --folder"""
    repo_id: str = ""
    """where to, owner/name; is created where it is not there"""
    public: bool = False
    """let everybody see it; without this flag the repository is private"""
    revision: str | None = None
    """branch to push to, created where it is not there; default: main"""
    create_pr: bool = False
    """open a pull request instead of changing the branch"""
    collection: str | None = None
    """title of a collection of yours, created where it is not there, that the repository is put into"""
    verify: bool = False
    """afterwards load what was pushed, from the Hub and in a fresh process"""
    dry_run: bool = False
    """print exactly the files that would leave this machine, and stop"""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("what to push is missing; name its folder after the command")
        if not HUB_ID.fullmatch(self.repo_id):
            raise ValueError(f"--repo_id must be owner/name, as me/retina, got {self.repo_id!r}")
