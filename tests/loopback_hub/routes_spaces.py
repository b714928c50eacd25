"""What spaces have besides files: hardware, variables and secrets."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from .bodies import Hardware, Key, KeyValue
from .calls import Hub, OwnRepo, Repo, known_query
from .describe import describe_runtime
from .errors import HubError, MalformedCallError
from .repository import Repository

router = APIRouter()
SPACE = "/api/{kind}s/{namespace}/{name}"


def require_space(repo: Repository) -> Repository:
    """The repository, which must be a space."""
    if repo.kind != "space":
        raise MalformedCallError(f"unknown call: a {repo.kind} has no hardware, variables or secrets", status=501)
    return repo


def require_own_space(repo: OwnRepo) -> Repository:
    """The space that the path names, if the caller may write to it."""
    return require_space(repo)


OwnSpace = Annotated[Repository, Depends(require_own_space)]


@router.get(SPACE + "/runtime")
def runtime(hub: Hub, repo: Repo) -> dict[str, Any]:
    """The state of the app."""
    return describe_runtime(hub, require_space(repo))


@router.post(SPACE + "/hardware")
def hardware(body: Hardware, hub: Hub, repo: OwnSpace) -> dict[str, Any]:
    """Ask for other hardware."""
    repo.settings["space"]["hardware"] = body.flavor
    if body.sleepTimeSeconds is not None:
        repo.settings["space"]["sleep"] = body.sleepTimeSeconds
    repo.save()
    return describe_runtime(hub, repo)


@router.post(SPACE + "/restart", dependencies=[known_query("factory")])
def restart(hub: Hub, repo: OwnSpace) -> dict[str, Any]:
    """Start the app anew."""
    return describe_runtime(hub, repo)


@router.get(SPACE + "/variables")
def variables(repo: OwnSpace) -> dict[str, Any]:
    """The variables, which are not secret."""
    found: dict[str, Any] = repo.settings["space"]["variables"]
    return found


@router.post(SPACE + "/variables")
def set_variable(body: KeyValue, repo: OwnSpace) -> dict[str, Any]:
    """Set a variable."""
    repo.settings["space"]["variables"][body.key] = {"value": body.value, "description": body.description}
    repo.save()
    return variables(repo)


@router.delete(SPACE + "/variables")
def delete_variable(body: Key, repo: OwnSpace) -> dict[str, Any]:
    """Remove a variable."""
    if repo.settings["space"]["variables"].pop(body.key, None) is None:
        raise HubError(404, f"There is no variable {body.key}")
    repo.save()
    return variables(repo)


@router.post(SPACE + "/secrets")
def set_secret(body: KeyValue, repo: OwnSpace) -> dict[str, bool]:
    """Set a secret; only its name is kept."""
    if body.key not in repo.settings["space"]["secrets"]:
        repo.settings["space"]["secrets"].append(body.key)
    repo.save()
    return {"success": True}


@router.delete(SPACE + "/secrets")
def delete_secret(body: Key, repo: OwnSpace) -> dict[str, bool]:
    """Remove a secret."""
    if body.key not in repo.settings["space"]["secrets"]:
        raise HubError(404, f"There is no secret {body.key}")
    repo.settings["space"]["secrets"].remove(body.key)
    repo.save()
    return {"success": True}
