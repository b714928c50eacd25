"""Listings and downloads."""

import bisect
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from .calls import Hub, MaybeUser, Repo, Revision, known_query
from .describe import describe_entry, describe_folder
from .errors import HubError, MalformedCallError, entry_not_found, gated
from .repository import Commit

router = APIRouter()
REPO = "/api/{kind}s/{namespace}/{name}"
TREE_QUERY = known_query("recursive", "expand", "limit", "cursor")


@router.get(REPO + "/tree/{revision}", dependencies=[TREE_QUERY])
@router.get(REPO + "/tree/{revision}/{path:path}", dependencies=[TREE_QUERY])
def tree(request: Request, hub: Hub, repo: Repo, revision: Revision, path: str = "") -> JSONResponse:
    """The files and folders below a folder, a page at a time; `recursive` for all depths."""
    query, commit = request.query_params, repo.resolve(revision)
    folder = unquote(path).strip("/")
    if folder not in commit.folders:
        raise entry_not_found(folder)
    rows = listing(commit, folder, query.get("recursive") == "true")
    after = query.get("cursor", "")
    first = bisect.bisect_right([row["path"] for row in rows], after) if after else 0
    size = min(int(query.get("limit", hub.page_size)), hub.page_size)
    shown, headers = rows[first : first + size], {}
    if first + size < len(rows):
        parameters = {**dict(query), "cursor": shown[-1]["path"]}
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        headers["Link"] = f'<{hub.url}{request.url.path}?{words}>; rel="next"'
    if query.get("expand") == "true":
        shown = [{**row, **last_commit(commit)} for row in shown]
    return JSONResponse(shown, headers=headers)


def listing(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What is below a folder, by path."""
    prefix = f"{folder}/" if folder else ""

    def below(path: str) -> bool:
        return path.startswith(prefix) and path != folder and (recursive or "/" not in path[len(prefix) :])

    rows = [describe_folder(path, oid, None) for path, oid in commit.folders.items() if path and below(path)]
    rows += [describe_entry(path, entry, None) for path, entry in commit.files.items() if below(path)]
    return sorted(rows, key=lambda row: str(row["path"]))


def last_commit(commit: Commit) -> dict[str, Any]:
    """What `expand` adds; the revision itself stands for the commit that last changed a file."""
    facts = describe_folder("", "", commit)
    return {"lastCommit": facts["lastCommit"]}


@router.post(REPO + "/paths-info/{revision}")
async def paths_info(request: Request, repo: Repo, revision: Revision) -> list[dict[str, Any]]:
    """What is known of some paths; those that do not exist are left out. The body is a form."""
    form = parse_qs((await request.body()).decode(), keep_blank_values=True)
    if request.headers.get("content-type") != "application/x-www-form-urlencoded" or not form.keys() <= {
        "paths",
        "expand",
    }:
        raise MalformedCallError(f"paths-info takes a form with paths and expand, got {sorted(form)}")
    commit, paths = repo.resolve(revision), [path.strip("/") for path in form.get("paths", [])]
    if len(paths) > 1000:
        raise MalformedCallError(f"paths-info takes 1000 paths, got {len(paths)}", status=413)
    last = commit if form.get("expand") == ["true"] else None
    rows = [describe_entry(path, commit.files[path], last) for path in paths if path in commit.files]
    return rows + [describe_folder(path, commit.folders[path], last) for path in paths if path in commit.folders]


@router.api_route("/{namespace}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
@router.api_route("/{kind}s/{namespace}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def resolve(request: Request, hub: Hub, repo: Repo, user: MaybeUser, revision: Revision, path: str) -> Response:
    """A file: its content, or for a large one the address in the storage where it is."""
    if set(request.query_params) - {"download"}:
        raise MalformedCallError(f"unknown query parameters {sorted(request.query_params)}")
    if not hub.may_download(repo, user):
        raise gated(repo.path, user is None)
    commit, path = repo.resolve(revision), unquote(path)
    headers = {"X-Repo-Commit": commit.id}
    entry = commit.files.get(path)
    if entry is None:
        return missing(path, headers)
    if entry.sha256 is None:
        return FileResponse(repo.content_path(entry), headers=headers | {"ETag": f'"{entry.oid}"'})
    place = f"/storage/{repo.kind}s/{repo.id}/{entry.sha256}"
    headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"'}
    headers["Location"] = f"{hub.storage_url}{place}?signature={hub.sign(place)}"
    return Response(status_code=302, headers=headers)


def missing(path: str, headers: dict[str, str]) -> Response:
    """The answer for a file that the revision lacks, which names the commit all the same."""
    error = entry_not_found(path)
    headers |= {"X-Error-Code": str(error.code), "X-Error-Message": error.message}
    return JSONResponse({"error": error.message}, status_code=error.status, headers=headers)


@router.get("/storage/{kind}s/{namespace}/{name}/{sha256}", dependencies=[known_query("signature")])
def storage(request: Request, hub: Hub, kind: str, namespace: str, name: str, sha256: str) -> FileResponse:
    """A large file, for whoever has a signed address; a token is not for the storage to see."""
    if "authorization" in request.headers:
        raise MalformedCallError("a token was sent to the storage, which is another host than the Hub")
    if request.query_params.get("signature") != hub.sign(request.url.path):
        raise HubError(403, "SignatureDoesNotMatch")
    repo = hub.repositories[kind, f"{namespace}/{name}"]
    return FileResponse(repo.lfs_path(sha256), headers={"ETag": f'"{sha256}"'})
