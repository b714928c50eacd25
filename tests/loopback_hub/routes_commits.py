"""Commits and pull requests."""

import base64
import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from .bodies import COMMIT_LINES, Comment, CommitFile, CommitHeader, CommitLfsFile, NewDiscussion
from .calls import Hub, KnownUser, OwnRepo, Repo, Revision, known_query
from .describe import isoformat
from .errors import HubError, MalformedCallError, entry_not_found, forbidden
from .repository import Commit, Entry, Repository
from .routes_uploads import REGULAR_LIMIT
from .store import Store, User

router = APIRouter()
REPO = "/api/{kind}s/{namespace}/{name}"
FORBIDDEN_PARTS = {"", ".", "..", ".git"}


@router.post(REPO + "/commit/{revision}", dependencies=[known_query("create_pr")])
async def commit(request: Request, hub: Hub, repo: Repo, user: KnownUser, revision: Revision) -> dict[str, Any]:
    """All changes of one commit, or none of them; with `create_pr` onto a new pull request."""
    if request.headers.get("content-type") != "application/x-ndjson":
        raise MalformedCallError(f"a commit is application/x-ndjson, not {request.headers.get('content-type')}")
    header, lines = read_lines(await request.body())
    to_pull_request = "create_pr" in request.query_params
    check_may_commit(hub, repo, user, to_pull_request)
    with hub.lock:
        before = repo.resolve(revision)
        changes = changes_of(repo, before, lines)
        if header.parentCommit is not None and header.parentCommit != before.id:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        if to_pull_request:
            revision = repo.open_pull_request(header.summary, header.description, user.name, before.id)
        elif repo.reference(revision) is None:
            raise HubError(400, f"{revision} is a commit, not a branch that could be committed to")
        done = repo.commit(revision, changes, header.summary, header.description, user.name)
    answer: dict[str, Any] = {"success": True, "commitOid": done.id}
    answer["commitUrl"] = f"{hub.url}/{repo.path}/commit/{done.id}"
    if to_pull_request:
        answer["pullRequestUrl"] = f"{hub.url}/{repo.path}/discussions/{revision.removeprefix('refs/pr/')}"
    return answer


def check_may_commit(hub: Store, repo: Repository, user: User, to_pull_request: bool) -> None:
    """Owners may commit; others who see a repository may open a pull request."""
    if user.role != "write" or not (to_pull_request or hub.is_owner(repo, user)):
        raise forbidden(f"commit to {repo.id}")


def read_lines(body: bytes) -> tuple[CommitHeader, list[tuple[str, Any]]]:
    """The header and the (key, value) of the other lines of a commit."""
    try:
        rows = [json.loads(line) for line in body.splitlines() if line]
        keys = [row["key"] for row in rows]
        if not keys or keys[0] != "header" or any(set(row) != {"key", "value"} for row in rows):
            raise MalformedCallError("a commit is lines of key and value, the first of them the header")
        if set(keys[1:]) - set(COMMIT_LINES):
            raise MalformedCallError(f"a commit has lines of {list(COMMIT_LINES)}, got {sorted(set(keys[1:]))}")
        header = CommitHeader.model_validate(rows[0]["value"])
        return header, [(row["key"], COMMIT_LINES[row["key"]].model_validate(row["value"])) for row in rows[1:]]
    except ValidationError as error:
        found = [f"{one['loc']}: {one['msg']}" for one in error.errors()]
        raise MalformedCallError(f"malformed line of a commit: {found}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedCallError(f"a line of a commit is not JSON with key and value: {error}") from error


def changes_of(repo: Repository, before: Commit, lines: list[tuple[str, Any]]) -> dict[str, Entry | None]:
    """Path → new entry, or None for a deletion."""
    changes: dict[str, Entry | None] = {}
    for key, value in lines:
        path = value.path.rstrip("/") if key == "deletedFolder" else value.path
        if FORBIDDEN_PARTS & set(path.split("/")):
            raise MalformedCallError(f"{value.path} cannot be the path of a file in a repository")
        if key == "file":
            changes[path] = regular_entry(repo, value)
        elif key == "lfsFile":
            changes[path] = large_entry(repo, value)
        else:
            gone = [path] if key == "deletedFile" else [one for one in before.files if one.startswith(f"{path}/")]
            if not gone or not set(gone) <= before.files.keys():
                raise HubError(404, f"A file with this name doesn't exist: {path}", entry_not_found(path).code)
            changes |= dict.fromkeys(gone)
    return changes


def regular_entry(repo: Repository, file: CommitFile) -> Entry:
    """Keep a file whose content is in the commit."""
    try:
        content = file.content.encode() if file.encoding == "utf-8" else base64.b64decode(file.content, validate=True)
    except ValueError as error:
        raise MalformedCallError(f"content of {file.path} is not base64: {error}") from error
    if len(content) > REGULAR_LIMIT or b"\0" in content[:512]:
        raise MalformedCallError(f"{file.path} is binary or above 10 MiB: it must be uploaded as a large file")
    return repo.store_blob(content)


def large_entry(repo: Repository, file: CommitLfsFile) -> Entry:
    """The entry of a file that was uploaded before."""
    try:
        size = repo.lfs_content(file.oid)
    except HubError as error:
        raise MalformedCallError(
            f"LFS pointer of {file.path} points to a file that does not exist: {file.oid}"
        ) from error
    if file.size not in (None, size):
        raise MalformedCallError(f"{file.path} has {size} bytes, not {file.size}")
    return repo.lfs_entry(file.oid, size)


@router.post(REPO + "/discussions")
def open_discussion(body: NewDiscussion, hub: Hub, repo: Repo, user: KnownUser) -> dict[str, Any]:
    """A pull request without a commit yet."""
    if not body.pullRequest:
        raise MalformedCallError("the loopback Hub has pull requests but no discussions", status=501)
    with hub.lock:
        ref = repo.open_pull_request(body.title, body.description, user.name, repo.resolve().id)
    return describe_pull_request(repo, ref.removeprefix("refs/pr/"))


@router.get(REPO + "/discussions", dependencies=[known_query("p", "type", "status", "author")])
def list_discussions(request: Request, repo: Repo) -> dict[str, Any]:
    """The pull requests of a repository, on one page."""
    query, rows = request.query_params, [describe_pull_request(repo, n) for n in repo.settings["pull_requests"]]
    if query.get("type") == "discussion":
        rows = []
    rows = [row for row in rows if query.get("status", row["status"]) == row["status"]]
    rows = [row for row in rows if query.get("author", row["author"]["name"]) == row["author"]["name"]]
    return {"discussions": rows, "count": len(rows), "start": 0}


@router.get(REPO + "/discussions/{number}", dependencies=[known_query("diff")])
def discussion(number: str, repo: Repo) -> dict[str, Any]:
    """One pull request."""
    if number not in repo.settings["pull_requests"]:
        raise HubError(404, f"Discussion {number} not found")
    return describe_pull_request(repo, number)


def describe_pull_request(repo: Repository, number: str) -> dict[str, Any]:
    """What the Hub tells about a pull request."""
    it = repo.settings["pull_requests"][number]
    facts = {"title": it["title"], "num": int(number), "status": it["status"], "isPullRequest": True}
    facts |= {"author": {"name": it["author"]}, "createdAt": isoformat(it["created"])}
    facts |= {"repo": {"name": repo.id, "type": repo.kind}, "events": [], "filesWithConflicts": [], "diff": ""}
    return facts | {"changes": {"base": "refs/heads/main", "mergeCommitId": it.get("merged")}}


@router.post(REPO + "/discussions/{number}/merge")
def merge(number: str, hub: Hub, repo: OwnRepo, user: KnownUser, body: Comment | None = None) -> dict[str, bool]:
    """Bring the changes of a pull request to main."""
    with hub.lock:
        pull_request = repo.settings["pull_requests"].get(number)
        if pull_request is None or pull_request["status"] != "open":
            raise HubError(404, f"There is no open pull request {number}")
        base, head = repo.files(pull_request["base"]), repo.files(f"refs/pr/{number}")
        changed = {path: head.get(path) for path in base.keys() | head.keys() if base.get(path) != head.get(path)}
        done = repo.commit("main", changed, f"{pull_request['title']} (#{number})", "", user.name)
        pull_request |= {"status": "merged", "merged": done.id}
        repo.save()
    return {"success": True}
