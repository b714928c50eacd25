"""Accounts, repositories, their settings, branches, tags and commits."""

from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from .bodies import Card, NamedRepository, NewBranch, NewRepository, NewTag, Settings
from .calls import Hub, KnownUser, MaybeUser, OwnRepo, Repo, Revision, known_query
from .cards import check_card
from .describe import describe_commit, describe_repository, isoformat, object_number, pick
from .errors import HubError, MalformedCallError, forbidden, gated
from .repository import Repository
from .store import KINDS, Store, User

router = APIRouter()
REPO = "/api/{kind}s/{namespace}/{name}"
INFO_QUERY = known_query("blobs", "expand", "securityStatus")


@router.get("/api/whoami-v2")
def whoami(user: KnownUser) -> dict[str, Any]:
    """The owner of the token."""
    organizations = [{"type": "org", "name": name, "fullname": name} for name in user.organizations]
    facts = {"type": "user", "id": object_number(user.name), "name": user.name, "fullname": user.name}
    token = {"displayName": "loopback", "role": user.role, "createdAt": isoformat(0)}
    return {**facts, "orgs": organizations, "auth": {"type": "access_token", "accessToken": token}}


@router.api_route("/api/telemetry/{topic:path}", methods=["HEAD"])
def telemetry() -> Response:
    """What libraries report when they are used; not kept."""
    return Response()


@router.get("/api/agent-harnesses")
def agent_harnesses() -> dict[str, Any]:
    """The list by which clients tell what started them; it is empty here."""
    return {"standardEnvVars": [], "harnesses": {}}


@router.post("/api/validate-yaml")
def validate_yaml(card: Card) -> JSONResponse:
    """Whether a card's metadata keeps the Hub's rules."""
    errors, warnings = check_card(card.content, card.repoType)
    answer = {
        name: [{"message": one} for one in found] for name, found in (("errors", errors), ("warnings", warnings))
    }
    return JSONResponse(answer, status_code=400 if errors else 200)


def check_namespace(user: User, kind: str, namespace: str) -> None:
    """Refuse what would write to a namespace that is not the user's."""
    if not user.owns(namespace) or user.role != "write":
        raise forbidden(f'create a {kind} under the namespace "{namespace}"')


@router.post("/api/repos/create")
def create(body: NewRepository, hub: Hub, user: KnownUser) -> dict[str, str]:
    """A new repository, public unless the body says otherwise."""
    namespace = body.organization or user.name
    if (body.sdk is None) == (body.type == "space") or (body.visibility == "protected" and body.type != "space"):
        raise MalformedCallError("sdk and protected are for spaces, which need an sdk")
    check_namespace(user, body.type, namespace)
    private = body.private if body.visibility is None else body.visibility != "public"
    repo = hub.create(body.type, f"{namespace}/{body.name}", bool(private), user.name)
    if body.type == "space":
        start_space(repo, body, user)
    return {"url": f"{hub.url}/{repo.path}", "name": repo.id, "id": object_number(repo.path)}


def start_space(repo: Repository, body: NewRepository, user: User) -> None:
    """The README.md that the Hub gives a new space, and its hardware, variables and secrets."""
    repo.settings["space"] = {
        "sdk": body.sdk,
        "hardware": body.hardware or "cpu-basic",
        "variables": {one["key"]: {"value": one["value"]} for one in body.variables},
        "secrets": [one["key"] for one in body.secrets],
    }
    card = f"---\ntitle: {body.name}\nemoji: 🚀\ncolorFrom: red\ncolorTo: blue\nsdk: {body.sdk}\n---\n"
    repo.commit("main", {"README.md": repo.store_blob(card.encode())}, "initial commit", "", user.name)


@router.delete("/api/repos/delete")
def delete(body: NamedRepository, hub: Hub, user: KnownUser) -> dict[str, bool]:
    """Remove a repository of the user's."""
    namespace = body.organization or user.name
    repo = hub.find(body.type, f"{namespace}/{body.name}", user)
    check_namespace(user, body.type, namespace)
    hub.delete(repo)
    return {"success": True}


@router.put(REPO + "/settings")
def change_settings(body: Settings, hub: Hub, repo: OwnRepo) -> dict[str, Any]:
    """Private or public, gated or not."""
    with hub.lock:
        if body.visibility is not None or body.private is not None:
            repo.settings["private"] = body.private if body.visibility is None else body.visibility != "public"
        if body.gated is not None:
            repo.settings["gated"] = body.gated
        repo.save()
    return {"private": repo.settings["private"], "gated": repo.settings["gated"]}


@router.get("/api/{kind}s", dependencies=[known_query("author", "search", "limit", "full", "expand", "cardData")])
def list_repositories(kind: str, request: Request, hub: Hub, user: MaybeUser) -> list[dict[str, Any]]:
    """The repositories of one kind that the caller may see."""
    if kind not in KINDS:
        raise MalformedCallError(f"unknown call: there are no {kind}s", status=501)
    query = request.query_params
    found = [repo for (its_kind, _), repo in hub.repositories.items() if its_kind == kind and hub.may_see(repo, user)]
    found = [repo for repo in found if repo.id.split("/")[0] == query.get("author", repo.id.split("/")[0])]
    found = [repo for repo in found if query.get("search", "").lower() in repo.id.lower()]
    expand = query.getlist("expand")
    facts = [pick(describe_repository(hub, repo, repo.resolve()), expand) for repo in found]
    return facts[: int(query.get("limit", len(facts)))]


@router.get(REPO, dependencies=[INFO_QUERY])
@router.get(REPO + "/revision/{revision}", dependencies=[INFO_QUERY])
def information(request: Request, hub: Hub, repo: Repo, revision: Revision) -> dict[str, Any]:
    """What is known of a repository at a revision."""
    query = request.query_params
    facts = describe_repository(hub, repo, repo.resolve(revision), query.get("blobs") == "true")
    return pick(facts, query.getlist("expand"))


@router.get(REPO + "/auth-check")
def auth_check(hub: Hub, repo: Repo, user: MaybeUser) -> dict[str, str]:
    """Whether the caller may read the files."""
    if not hub.may_download(repo, user):
        raise gated(repo.path, user is None)
    return {"message": "ok"}


@router.get(REPO + "/auth-check/write")
def auth_check_write(repo: OwnRepo) -> dict[str, str]:
    """Whether the caller may write."""
    return {"message": "ok"}


@router.get(REPO + "/refs", dependencies=[known_query("include_prs")])
def references(request: Request, repo: Repo) -> dict[str, Any]:
    """Branches and tags, and pull requests if asked for."""

    def listed(kind: str, prefix: str) -> list[dict[str, str]]:
        found = repo.settings[kind].items()
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in found]

    answer: dict[str, Any] = {"branches": listed("branches", "refs/heads/"), "tags": listed("tags", "refs/tags/")}
    answer["converts"] = []
    if "include_prs" in request.query_params:
        opened = repo.settings["pull_requests"].items()
        names = [(f"refs/pr/{number}", one["commit"]) for number, one in opened]
        answer["pullRequests"] = [{"name": name, "ref": name, "targetCommit": oid} for name, oid in names]
    return answer


@router.post(REPO + "/branch/{revision}")
def create_branch(body: NewBranch, hub: Hub, repo: OwnRepo, revision: Revision) -> dict[str, bool]:
    """A new branch, at `startingPoint` or where main stands."""
    with hub.lock:
        if revision in repo.settings["branches"]:
            raise HubError(409, f"Reference already exists: {revision}")
        repo.move(revision, repo.resolve(body.startingPoint or "main").id)
    return {"success": True}


@router.delete(REPO + "/branch/{revision}")
def delete_branch(hub: Hub, repo: OwnRepo, revision: Revision) -> dict[str, bool]:
    """Remove a branch other than main."""
    if revision == "main":
        raise forbidden("delete the branch main")
    return remove_reference(hub, repo, "branches", revision)


@router.post(REPO + "/tag/{revision}")
def create_tag(body: NewTag, hub: Hub, repo: OwnRepo, revision: Revision) -> dict[str, bool]:
    """A new tag at a revision."""
    with hub.lock:
        if body.tag in repo.settings["tags"]:
            raise HubError(409, f"Tag reference exists already: {body.tag}")
        repo.settings["tags"][body.tag] = repo.resolve(revision).id
        repo.save()
    return {"success": True}


@router.delete(REPO + "/tag/{revision}")
def delete_tag(hub: Hub, repo: OwnRepo, revision: Revision) -> dict[str, bool]:
    """Remove a tag."""
    return remove_reference(hub, repo, "tags", revision)


def remove_reference(hub: Store, repo: Repository, kind: str, name: str) -> dict[str, bool]:
    """Remove a branch or tag."""
    with hub.lock:
        if repo.settings[kind].pop(name, None) is None:
            raise HubError(404, f"Reference not found: {name}", "RevisionNotFound")
        repo.save()
    return {"success": True}


@router.get(REPO + "/commits/{revision}", dependencies=[known_query("p", "limit", "expand[]")])
def list_commits(request: Request, hub: Hub, repo: Repo, revision: Revision) -> JSONResponse:
    """The commits of a revision, newest first, a page at a time."""
    page, history = int(request.query_params.get("p", 0)), repo.commits(revision)
    first, last = page * hub.page_size, (page + 1) * hub.page_size
    headers = {}
    if last < len(history):
        path = f"/api/{repo.kind}s/{repo.id}/commits/{quote(unquote(revision), safe='')}"
        headers["Link"] = f'<{hub.url}{path}?p={page + 1}>; rel="next"'
    shown = [describe_commit(commit) for commit in history[first:last]]
    return JSONResponse(shown, headers=headers | {"X-Total-Count": str(len(history))})
