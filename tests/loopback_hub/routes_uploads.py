"""What precedes a commit: how each file is to be sent, and the large ones."""

import base64
import errno
import hashlib
import math
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from .bodies import Completion, FileToUpload, LargeFile, LargeFiles, Preupload
from .calls import Hub, KnownUser, Repo, Revision, known_query
from .errors import HubError, MalformedCallError, forbidden
from .repository import Commit, Repository
from .store import Store, Upload, User

router = APIRouter()
REPO = "/api/{kind}s/{namespace}/{name}"
UPLOAD = "/upload/{kind}s/{namespace}/{name}/{upload_id}"
REGULAR_LIMIT = 10 * 2**20  # bytes; above it a file is a large one whatever its name


@router.post(REPO + "/preupload/{revision}", dependencies=[known_query("create_pr")])
def preupload(body: Preupload, hub: Hub, repo: Repo, user: KnownUser, revision: Revision) -> dict[str, Any]:
    """For each file whether it goes into the commit or to the storage, and what stands at its path now."""
    commit = repo.resolve(revision)
    ignore = body.gitIgnore
    if ignore is None and ".gitignore" in commit.files:
        ignore = repo.content_path(commit.files[".gitignore"]).read_text()
    attributes = repo.content_path(commit.files[".gitattributes"]) if ".gitattributes" in commit.files else None
    patterns = lfs_patterns(attributes.read_text() if attributes else "")
    answers = [answer_for(file, commit, patterns, ignore_patterns(ignore or "")) for file in body.files]
    return {"files": answers, "commitOid": commit.id}


def answer_for(file: FileToUpload, commit: Commit, lfs: list[str], ignored: list[str]) -> dict[str, Any]:
    """What the Hub says to one file of a preupload."""
    try:
        sample = base64.b64decode(file.sample, validate=True)
    except ValueError as error:
        raise MalformedCallError(f"sample of {file.path} is not base64: {error}") from error
    if len(sample) != min(512, file.size):
        raise MalformedCallError(f"sample of {file.path} has {len(sample)} bytes, but the file {file.size}")
    large = matches(file.path, lfs) or file.size > REGULAR_LIMIT or b"\0" in sample
    answer: dict[str, Any] = {"path": file.path, "uploadMode": "lfs" if large else "regular"}
    answer["shouldIgnore"] = matches(file.path, ignored)
    before = commit.files.get(file.path)
    return answer | ({"oid": before.sha256 or before.oid} if before else {})


def lfs_patterns(attributes: str) -> list[str]:
    """The patterns of `.gitattributes` that make a file a large one."""
    return [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line.split()[1:]]


def ignore_patterns(ignore: str) -> list[str]:
    """The patterns of `.gitignore`."""
    lines = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    if any(line.startswith("!") for line in lines):
        raise MalformedCallError("the loopback Hub does not know the patterns with ! of .gitignore", status=501)
    return [line.strip("/") for line in lines]


def matches(path: str, patterns: list[str]) -> bool:
    """Whether a git pattern takes the path, a folder above it, or one of their names."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch(one, pattern) for pattern in patterns for one in (*parts, *above))


@router.get(REPO + "/xet-write-token/{revision}", dependencies=[known_query("create_pr")])
def xet_token(repo: Repo) -> None:
    """The Hub's newer storage, which is not here: clients have to be told `HF_HUB_DISABLE_XET=1`."""
    raise HubError(404, "Xet storage is not available here; set HF_HUB_DISABLE_XET=1")


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
@router.post("/{kind}s/{namespace}/{name}.git/info/lfs/objects/batch")
def batch(body: LargeFiles, hub: Hub, repo: Repo, user: KnownUser) -> dict[str, Any]:
    """Where to send large files; those already here need no sending."""
    check_may_upload(hub, repo, user, body)
    objects = [answer_to(hub, repo, file, "multipart" in body.transfers) for file in body.objects]
    several = any("chunk_size" in one.get("actions", {}).get("upload", {}).get("header", {}) for one in objects)
    return {"transfer": "multipart" if several else "basic", "objects": objects}


def check_may_upload(hub: Store, repo: Repository, user: User, body: LargeFiles) -> None:
    """Writers may; others only towards a pull request, which names no branch."""
    if user.role != "write" or (body.ref is not None and not hub.is_owner(repo, user)):
        raise forbidden(f"write to {repo.id}")


def answer_to(hub: Store, repo: Repository, file: LargeFile, parts_known: bool) -> dict[str, Any]:
    """What the batch call says to one file."""
    answer: dict[str, Any] = {"oid": file.oid, "size": file.size, "authenticated": True}
    if repo.lfs_path(file.oid).exists():
        return answer
    in_parts = parts_known and file.size > hub.multipart_above
    name = hub.start_upload(Upload(repo, file.oid, file.size, hub.part_size if in_parts else None))
    place = f"{hub.storage_url}/upload/{repo.kind}s/{repo.id}/{name}"
    verify = {"href": f"{hub.url}/{repo.path}.git/info/lfs/objects/verify", "header": {}}
    if not in_parts:
        upload: dict[str, Any] = {"href": place, "header": {}}
    else:
        count = math.ceil(file.size / hub.part_size)
        urls = {f"{i:05}": f"{place}/{i}" for i in range(1, count + 1)}
        header = {"chunk_size": str(hub.part_size), **urls}
        upload = {"href": f"{hub.url}/api/complete_multipart/{name}", "header": header}
    return {**answer, "actions": {"upload": upload, "verify": verify}}


@router.post("/{namespace}/{name}.git/info/lfs/objects/verify")
@router.post("/{kind}s/{namespace}/{name}.git/info/lfs/objects/verify")
def verify(body: LargeFile, repo: Repo, user: KnownUser) -> dict[str, bool]:
    """Whether a large file arrived in full."""
    if repo.lfs_content(body.oid) != body.size:
        raise MalformedCallError(f"object {body.oid} has {repo.lfs_content(body.oid)} bytes, not {body.size}")
    return {"success": True}


def find_upload(request: Request, hub: Store, name: str) -> Upload:
    """The upload that an address of the storage stands for."""
    if "authorization" in request.headers and request.method == "PUT":
        raise MalformedCallError("a token was sent to the storage, which is another host than the Hub")
    if name not in hub.uploads:
        raise HubError(403, "AccessDenied: no such upload")
    return hub.uploads[name]


@router.put(UPLOAD)
async def put(upload_id: str, request: Request, hub: Hub) -> Response:
    """A large file in one piece."""
    upload = find_upload(request, hub, upload_id)
    aside = hub.folder / "uploads" / upload_id
    sha256 = await receive(request, aside, upload.size)
    keep(upload, aside, sha256)
    return Response(headers={"ETag": f'"{sha256[:32]}"'})


@router.put(UPLOAD + "/{number}")
async def put_part(upload_id: str, number: int, request: Request, hub: Hub) -> Response:
    """One part of a large file; `number` starts at 1."""
    upload = find_upload(request, hub, upload_id)
    size = upload.part_size or 0
    expected = min(size, upload.size - size * (number - 1))
    if expected <= 0:
        raise MalformedCallError(f"there is no part {number} of a file of {upload.size} bytes in parts of {size}")
    part = await receive(request, part_path(hub, upload_id, number), expected)
    return Response(headers={"ETag": f'"{part[:32]}"'})


def part_path(hub: Store, name: str, number: int) -> Path:
    """Where a part waits for the others."""
    return hub.folder / "uploads" / f"{name}.{number}"


async def receive(request: Request, aside: Path, size: int) -> str:
    """Write a request's body to `aside`; returns its SHA-256. What did not arrive in full is removed."""
    if request.headers.get("content-length") != str(size):
        raise MalformedCallError(
            f"the body has {request.headers.get('content-length')} bytes, not the {size} announced"
        )
    digest, received = hashlib.sha256(), 0
    try:
        with open(aside, "wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if request.scope.get("disk_full") and received > size // 2:
                    raise OSError(errno.ENOSPC, "No space left on device")
                digest.update(chunk)
                file.write(chunk)
    except BaseException as error:
        aside.unlink()
        if isinstance(error, OSError):
            raise HubError(507, f"Insufficient storage: {error.strerror}") from error
        raise
    return digest.hexdigest()


def keep(upload: Upload, aside: Path, sha256: str) -> None:
    """Move a complete large file to its repository, if it is what its name says."""
    if sha256 != upload.sha256:
        aside.unlink()
        raise MalformedCallError(f"BadDigest: the body's sha256 is {sha256}, not {upload.sha256}")
    aside.replace(upload.repo.lfs_path(sha256))


@router.post("/api/complete_multipart/{name}")
def complete(name: str, body: Completion, request: Request, hub: Hub) -> dict[str, bool]:
    """Join the parts of a large file."""
    upload = find_upload(request, hub, name)
    count = math.ceil(upload.size / (upload.part_size or 1))
    paths = [part_path(hub, name, number) for number in range(1, count + 1)]
    numbers = [part.partNumber for part in body.parts]
    if numbers != list(range(1, count + 1)) or not all(path.exists() for path in paths) or body.oid != upload.sha256:
        raise MalformedCallError(
            f"InvalidPart: {len(numbers)} parts of {body.oid}; {count} of {upload.sha256} are expected"
        )
    aside, digest = hub.folder / "uploads" / name, hashlib.sha256()
    with open(aside, "wb") as whole:
        for path, part in zip(paths, body.parts, strict=True):
            content = path.read_bytes()
            if part.etag.strip('"') != hashlib.sha256(content).hexdigest()[:32]:
                raise MalformedCallError(f"InvalidPart: the ETag of part {part.partNumber} is another")
            digest.update(content)
            whole.write(content)
    for path in paths:
        path.unlink()
    keep(upload, aside, digest.hexdigest())
    return {"success": True}
