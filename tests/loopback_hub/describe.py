"""What the Hub tells about a repository."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from .cards import read_metadata
from .errors import MalformedCallError
from .git_objects import lfs_pointer
from .repository import Commit, Entry, Repository
from .store import Store

EXPANDABLE = set(
    "author cardData config createdAt datasets description disabled downloads gated lastModified library_name likes "
    "models model-index pipeline_tag private runtime sdk sha siblings subdomain tags usedStorage".split()
)
ANOTHER_NAME = {"library_name", "pipeline_tag", "model-index"}


def isoformat(date: float) -> str:
    """Seconds since 1970 as the Hub writes dates."""
    return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def object_number(name: str) -> str:
    """A stable id of 24 hexadecimal digits, as the Hub's data base gives them."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def lfs_facts(entry: Entry) -> dict[str, Any]:
    """What a listing tells about a large file besides its SHA-256."""
    assert entry.sha256
    return {"size": entry.size, "pointerSize": len(lfs_pointer(entry.sha256, entry.size))}


def describe_sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    """A file in the answer of a repository's information."""
    if not blobs:
        return {"rfilename": path}
    facts: dict[str, Any] = {"rfilename": path, "size": entry.size, "blobId": entry.oid}
    if entry.sha256:
        facts["lfs"] = {"sha256": entry.sha256, **lfs_facts(entry)}
    return facts


def describe_entry(path: str, entry: Entry, last: Commit | None) -> dict[str, Any]:
    """A file in a listing; `last` is the commit to tell with it."""
    facts: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        facts["lfs"] = {"oid": entry.sha256, **lfs_facts(entry)}
    return facts | describe_last_commit(last)


def describe_folder(path: str, oid: str, last: Commit | None) -> dict[str, Any]:
    """A folder in a listing."""
    return {"type": "directory", "oid": oid, "size": 0, "path": path} | describe_last_commit(last)


def describe_last_commit(last: Commit | None) -> dict[str, Any]:
    """What `expand` adds to a listing."""
    if last is None:
        return {}
    return {"lastCommit": {"id": last.id, "title": last.title, "date": isoformat(last.date)}}


def describe_commit(commit: Commit) -> dict[str, Any]:
    """A commit in the list of commits."""
    facts = {"id": commit.id, "title": commit.title, "message": commit.description, "date": isoformat(commit.date)}
    return facts | {"authors": [{"user": commit.author}]}


def describe_repository(store: Store, repo: Repository, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """Everything that the Hub tells about a repository at a revision."""
    settings, card = repo.settings, read_card(repo, commit)
    facts: dict[str, Any] = {"_id": object_number(repo.path), "id": repo.id, "author": repo.id.split("/")[0]}
    facts |= {"sha": commit.id, "lastModified": isoformat(repo.resolve("main").date), "disabled": False}
    facts |= {"private": settings["private"], "gated": settings["gated"], "downloads": 0, "likes": 0}
    facts |= {"createdAt": isoformat(settings["created"]), "tags": tags(card)}
    facts["siblings"] = [describe_sibling(path, entry, blobs) for path, entry in commit.files.items()]
    facts["usedStorage"] = sum(entry.size for entry in commit.files.values())
    if card:
        facts["cardData"] = card
    if repo.kind == "model":
        facts |= {"modelId": repo.id} | {key: card[key] for key in ANOTHER_NAME & card.keys()}
    if repo.kind == "space":
        facts |= describe_space(store, repo, card)
    return facts


def describe_space(store: Store, repo: Repository, card: dict[str, Any]) -> dict[str, Any]:
    """What the Hub tells about spaces alone."""
    subdomain = repo.id.replace("/", "-").replace(".", "-").replace("_", "-").lower()
    facts = {"sdk": card.get("sdk", repo.settings["space"].get("sdk")), "subdomain": subdomain}
    facts |= {"host": store.app_hosts.get(repo.id, f"https://{subdomain}.hf.space")}
    return (
        facts | {"runtime": describe_runtime(store, repo)} | {k: card[k] for k in ("models", "datasets") if k in card}
    )


def describe_runtime(store: Store, repo: Repository) -> dict[str, Any]:
    """The state of a space's app: running where a test gave its address, else waiting to be built."""
    has_app = any(path.endswith(".py") for path in repo.files())
    stage = "RUNNING" if repo.id in store.app_hosts else "BUILDING" if has_app else "NO_APP_FILE"
    asked = repo.settings["space"].get("hardware", "cpu-basic")
    current = asked if stage == "RUNNING" else None
    sleep = repo.settings["space"].get("sleep", 172800)
    return {"stage": stage, "hardware": {"current": current, "requested": asked}, "gcTimeout": sleep, "storage": None}


def read_card(repo: Repository, commit: Commit) -> dict[str, Any]:
    """The metadata of `README.md`, {} where there is none."""
    entry = commit.files.get("README.md")
    metadata = read_metadata(repo.content_path(entry).read_text()) if entry else None
    return metadata if isinstance(metadata, dict) else {}


def tags(card: dict[str, Any]) -> list[str]:
    """The tags that the Hub draws from a card."""
    found = [str(tag) for tag in card.get("tags") or []]
    for name in ("license", "datasets", "language", "size_categories", "task_categories", "base_model"):
        value = card.get(name) or []
        prefix = name.removesuffix("s") if name == "datasets" else name
        found += [f"{prefix}:{one}" for one in (value if isinstance(value, list) else [value])]
    return found


def pick(facts: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """The fields asked for by `expand`, and the id."""
    unknown = set(expand) - EXPANDABLE
    if unknown:
        raise MalformedCallError(f"expand: {sorted(unknown)} are not among {sorted(EXPANDABLE)}")
    return {key: value for key, value in facts.items() if key in {"_id", "id", *expand}} if expand else facts
