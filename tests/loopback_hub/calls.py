"""What the routes share: who calls, which repository is meant, may they, and which parameters are known."""

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Request

from .errors import MalformedCallError, forbidden, unauthenticated, wrong_token
from .repository import Repository
from .store import KINDS, Store, User


def find_store(request: Request) -> Store:
    """The Hub's state."""
    store: Store = request.app.state.store
    return store


def find_user(request: Request) -> User | None:
    """Whose token the call carries; None for a call without one.

    Raises:
        HubError: the token belongs to nobody.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    user = find_store(request).users.get(header.removeprefix("Bearer "))
    if user is None:
        raise wrong_token()
    return user


def require_user(request: Request) -> User:
    """Whose token the call carries, which must carry one."""
    user = find_user(request)
    if user is None:
        raise unauthenticated()
    return user


def find_repository(request: Request) -> Repository:
    """The repository that the path names, if the caller may see it."""
    parts = request.path_params
    kind, repo_id = parts.get("kind", "model"), f"{parts['namespace']}/{parts['name']}"
    if kind not in KINDS:
        raise MalformedCallError(f"unknown call: there are no {kind}s", status=501)
    return find_store(request).find(kind, repo_id, find_user(request))


def require_own_repository(request: Request) -> Repository:
    """The repository that the path names, if the caller may write to it."""
    repo, user = find_repository(request), require_user(request)
    if not find_store(request).is_owner(repo, user) or user.role != "write":
        raise forbidden(f"write to {repo.id}")
    return repo


def find_revision(request: Request) -> str:
    """The revision in the path: a branch, tag, `refs/pr/N` or commit id."""
    return unquote(request.path_params.get("revision", "main"))


def known_query(*names: str) -> Any:
    """A dependency that refuses query parameters other than `names`."""

    def check(request: Request) -> None:
        unknown = set(request.query_params) - set(names)
        if unknown:
            raise MalformedCallError(f"unknown query parameters {sorted(unknown)}; known are {list(names)}")

    return Depends(check)


Hub = Annotated[Store, Depends(find_store)]
MaybeUser = Annotated[User | None, Depends(find_user)]
KnownUser = Annotated[User, Depends(require_user)]
Repo = Annotated[Repository, Depends(find_repository)]
OwnRepo = Annotated[Repository, Depends(require_own_repository)]
Revision = Annotated[str, Depends(find_revision)]
