"""Collections: lists of repositories under one title."""

import re
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request

from .bodies import NewCollection, NewItem
from .calls import Hub, KnownUser, MaybeUser, known_query
from .describe import isoformat
from .errors import HubError, forbidden
from .routes_repositories import check_namespace
from .store import Store, User

router = APIRouter()
COLLECTION = "/api/collections/{namespace}/{name}"


def find(hub: Store, request: Request, user: User | None) -> dict[str, Any]:
    """The collection of the path, if the caller may see it."""
    found = hub.collections.get("{namespace}/{name}".format(**request.path_params))
    if found is None or (found["private"] and not (user and user.owns(found["owner"]["name"]))):
        raise HubError(404, "Collection not found")
    return found


def find_own(hub: Store, request: Request, user: User) -> dict[str, Any]:
    """The collection of the path, if it is the caller's."""
    found = find(hub, request, user)
    if not user.owns(found["owner"]["name"]) or user.role != "write":
        raise forbidden("change this collection")
    return found


@router.post("/api/collections")
def create(body: NewCollection, hub: Hub, user: KnownUser) -> dict[str, Any]:
    """A new collection; one of the same title is a conflict that names it."""
    check_namespace(user, "collection", body.namespace)
    stem = re.sub(r"[^a-z0-9]+", "-", body.title.lower()).strip("-")
    for slug in hub.collections:
        if slug.rpartition("-")[0] == f"{body.namespace}/{stem}":
            raise HubError(409, "A collection of this title exists", None, slug=slug)
    slug = f"{body.namespace}/{stem}-{secrets.token_hex(12)}"
    facts: dict[str, Any] = {"slug": slug, "title": body.title, "description": body.description, "items": []}
    facts |= {"owner": {"name": body.namespace, "type": "user"}, "private": body.private, "upvotes": 0}
    hub.collections[slug] = facts | {"lastUpdated": isoformat(time.time()), "position": 0, "theme": "blue"}
    return hub.collections[slug]


@router.get("/api/collections", dependencies=[known_query("owner", "item", "limit", "sort")])
def list_collections(request: Request, hub: Hub, user: MaybeUser) -> list[dict[str, Any]]:
    """The collections that the caller may see; the client counts their positions itself."""
    owner, item = request.query_params.get("owner"), request.query_params.get("item")
    rows = []
    for one in hub.collections.values():
        ids = [f"{kept['type']}s/{kept['id']}" for kept in one["items"]]
        seen = not one["private"] or (user is not None and user.owns(one["owner"]["name"]))
        if seen and owner in (None, one["owner"]["name"]) and (item is None or item in ids):
            rows.append({name: value for name, value in one.items() if name != "position"})
    return rows


@router.get(COLLECTION)
def show(request: Request, hub: Hub, user: MaybeUser) -> dict[str, Any]:
    """One collection."""
    return find(hub, request, user)


@router.delete(COLLECTION)
def delete(request: Request, hub: Hub, user: KnownUser) -> dict[str, bool]:
    """Remove a collection; what it lists stays."""
    del hub.collections[find_own(hub, request, user)["slug"]]
    return {"success": True}


@router.post(COLLECTION + "/items")
def add_item(body: NewItem, request: Request, hub: Hub, user: KnownUser) -> dict[str, Any]:
    """Add a repository, which must exist and be there once."""
    collection = find_own(hub, request, user)
    if body.item.type in ("model", "dataset", "space"):
        hub.find(body.item.type, body.item.id, user)
    if any((item["type"], item["id"]) == (body.item.type, body.item.id) for item in collection["items"]):
        raise HubError(409, "Item already in collection")
    item: dict[str, Any] = {"_id": secrets.token_hex(12), "id": body.item.id, "type": body.item.type}
    item["position"] = len(collection["items"])
    if body.note is not None:
        item["note"] = {"text": body.note, "html": body.note}
    collection["items"].append(item)
    return collection


@router.delete(COLLECTION + "/items/{item_id}")
def delete_item(item_id: str, request: Request, hub: Hub, user: KnownUser) -> dict[str, bool]:
    """Take one item out of a collection."""
    collection = find_own(hub, request, user)
    kept = [item for item in collection["items"] if item["_id"] != item_id]
    if len(kept) == len(collection["items"]):
        raise HubError(404, "Item not found")
    collection["items"] = kept
    return {"success": True}
