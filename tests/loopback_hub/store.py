"""What the loopback Hub knows: users, repositories, collections, uploads under way, and what it found wrong."""

import hashlib
import hmac
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import HubError, repository_not_found
from .repository import Repository

KINDS = ("model", "dataset", "space")


@dataclass(frozen=True)
class User:
    """An account; `role` is its token's: "write" or "read"."""

    name: str
    token: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Whether repositories of this namespace are the user's."""
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class Upload:
    """Permission to upload one large file, or one in parts of `part_size` bytes."""

    repo: Repository
    sha256: str
    size: int
    part_size: int | None = None


class Store:
    """The state of one loopback Hub; repositories are kept in `folder` and found there again.

    Attributes:
        errors: what no correct client does, one line each; a test ends with none.
        page_size: entries a page of a listing.
        multipart_above: size in bytes from which a large file is uploaded in parts of `part_size` bytes.
        app_hosts: space id → address of its running app.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.url = self.storage_url = ""
        self.users: dict[str, User] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, Upload] = {}
        self.app_hosts: dict[str, str] = {}
        self.errors: list[str] = []
        self.page_size = 1000
        self.multipart_above, self.part_size = 16 * 2**20, 8 * 2**20
        self._secret = secrets.token_bytes(16)
        (folder / "uploads").mkdir(parents=True, exist_ok=True)
        for saved in folder.glob("*/*/*/repo.json"):
            repo = Repository(saved.parent)
            self.repositories[repo.kind, repo.id] = repo

    def create(self, kind: str, repo_id: str, private: bool, author: str) -> Repository:
        """A new repository.

        Raises:
            HubError: it exists.
        """
        with self.lock:
            if (kind, repo_id) in self.repositories:
                url = f"{self.url}/{self.repositories[kind, repo_id].path}"
                raise HubError(409, f"You already created this {kind} repo: {repo_id}", None, url=url)
            repo = Repository.create(self.folder / f"{kind}s" / repo_id, kind, repo_id, private, author)
            self.repositories[kind, repo_id] = repo
            return repo

    def delete(self, repo: Repository) -> None:
        """Remove a repository and all its contents."""
        with self.lock:
            del self.repositories[repo.kind, repo.id]
            shutil.rmtree(repo.folder)

    def find(self, kind: str, repo_id: str, user: User | None) -> Repository:
        """A repository that `user` (None: without a token) may see.

        Raises:
            HubError: there is none, or it is private.
        """
        repo = self.repositories.get((kind, repo_id))
        if repo is None or not self.may_see(repo, user):
            raise repository_not_found()
        return repo

    def may_see(self, repo: Repository, user: User | None) -> bool:
        """Whether a repository exists as far as `user` is told."""
        return not repo.settings["private"] or self.is_owner(repo, user)

    def is_owner(self, repo: Repository, user: User | None) -> bool:
        """Whether the repository is in a namespace of `user`."""
        return user is not None and user.owns(repo.id.split("/")[0])

    def may_download(self, repo: Repository, user: User | None) -> bool:
        """Whether `user` may read files of a repository that may be gated."""
        granted = user is not None and user.name in repo.settings["granted"]
        return not repo.settings["gated"] or self.is_owner(repo, user) or granted

    def start_upload(self, upload: Upload) -> str:
        """The name under which the storage will take this file."""
        name = secrets.token_hex(16)
        self.uploads[name] = upload
        return name

    def sign(self, text: str) -> str:
        """What makes an address of the storage valid."""
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
