"""A repository of the loopback Hub, on disk.

repo.json          settings, branches, tags, pull requests
commits/ID.json    one commit: parent, words, author, date, and every file of that revision
blobs/SHA1         contents of regular files
lfs/SHA256         contents of large files, once uploaded in full
"""

import dataclasses
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import HubError, entry_not_found, revision_not_found
from .git_objects import commit_id, lfs_pointer, object_id, tree_ids

COMMIT_ID = re.compile(r"[0-9a-f]{40}")
LFS_SUFFIXES = "7z arrow bin ckpt gz h5 joblib model msgpack npy npz onnx ot parquet pb pickle pkl pt pth safetensors "
LFS_SUFFIXES += "tar tflite tgz wasm xz zip zst"
MEDIA_SUFFIXES = "pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp mp4 webm"


@dataclass(frozen=True)
class Entry:
    """A file of a revision: git id, size in bytes, and for a large file its SHA-256."""

    oid: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    """A commit and all files of its revision, path → entry."""

    id: str
    parent: str | None
    title: str
    description: str
    author: str
    date: int
    files: dict[str, Entry] = field(repr=False)

    @cached_property
    def folders(self) -> dict[str, str]:
        """The git id of every folder, `""` being the root."""
        return tree_ids({path: entry.oid for path, entry in self.files.items()})


class Repository:
    """A model, dataset or space; `id` is "namespace/name", `kind` "model", "dataset" or "space"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commits: dict[str, Commit] = {}
        self.settings: dict[str, Any] = json.loads((folder / "repo.json").read_text())

    @classmethod
    def create(cls, folder: Path, kind: str, repo_id: str, private: bool, author: str) -> "Repository":
        """A new repository with the first commit that the Hub makes: `.gitattributes`."""
        for name in ("blobs", "lfs", "commits"):
            (folder / name).mkdir(parents=True)
        settings = {"kind": kind, "id": repo_id, "private": private, "gated": False, "granted": []}
        settings |= {"created": int(time.time()), "branches": {}, "tags": {}, "pull_requests": {}, "space": {}}
        (folder / "repo.json").write_text(json.dumps(settings))
        repo = cls(folder)
        suffixes = LFS_SUFFIXES.split() + (MEDIA_SUFFIXES.split() if kind == "dataset" else [])
        lines = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in suffixes)
        repo.commit("main", {".gitattributes": repo.store_blob(lines.encode())}, "initial commit", "", author)
        return repo

    @property
    def kind(self) -> str:
        """`"model"`, `"dataset"` or `"space"`."""
        return str(self.settings["kind"])

    @property
    def id(self) -> str:
        """`"namespace/name"`."""
        return str(self.settings["id"])

    @property
    def path(self) -> str:
        """Where the repository stands below the Hub's address."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def save(self) -> None:
        """Write the settings; afterwards `repo.json` is complete or, if the process dies, unchanged."""
        aside = self.folder / "repo.json.tmp"
        aside.write_text(json.dumps(self.settings, indent=1))
        os.replace(aside, self.folder / "repo.json")

    def store_blob(self, content: bytes) -> Entry:
        """Keep a regular file's content."""
        oid = object_id("blob", content)
        (self.folder / "blobs" / oid).write_bytes(content)
        return Entry(oid, len(content))

    def lfs_path(self, sha256: str) -> Path:
        """Where a large file's content is, or will be."""
        return self.folder / "lfs" / sha256

    def lfs_entry(self, sha256: str, size: int) -> Entry:
        """The entry of a large file."""
        return Entry(object_id("blob", lfs_pointer(sha256, size)), size, sha256)

    def content_path(self, entry: Entry) -> Path:
        """The file on disk that holds an entry's content."""
        return self.lfs_path(entry.sha256) if entry.sha256 else self.folder / "blobs" / entry.oid

    def reference(self, revision: str) -> str | None:
        """The commit id that a branch, tag or pull request stands at; None where there is none such."""
        if revision.startswith("refs/pr/"):
            return self.settings["pull_requests"].get(revision.removeprefix("refs/pr/"), {}).get("commit")
        name = revision.removeprefix("refs/heads/")
        return self.settings["branches"].get(name) or self.settings["tags"].get(revision)

    def resolve(self, revision: str = "main") -> Commit:
        """The commit of a branch, a tag, `refs/pr/N` or a commit id.

        Raises:
            HubError: there is no such revision.
        """
        oid = self.reference(revision) or (revision if COMMIT_ID.fullmatch(revision) else None)
        if oid is None or (oid not in self._commits and not (self.folder / "commits" / f"{oid}.json").exists()):
            raise revision_not_found(revision)
        if oid not in self._commits:
            saved = json.loads((self.folder / "commits" / f"{oid}.json").read_text())
            saved["files"] = {path: Entry(**entry) for path, entry in saved["files"].items()}
            self._commits[oid] = Commit(**saved)
        return self._commits[oid]

    def commit(
        self, branch: str, changes: Mapping[str, Entry | None], title: str, description: str, author: str
    ) -> Commit:
        """Add a commit to `branch` (or `refs/pr/N`), which moves there; None in `changes` deletes a file."""
        parent = self.reference(branch)
        files = dict(self.resolve(parent).files) if parent else {}
        for path, entry in changes.items():
            files.pop(path, None)
            if entry is not None:
                files[path] = entry
        files, date = dict(sorted(files.items())), int(time.time())
        tree = tree_ids({path: entry.oid for path, entry in files.items()})[""]
        message = f"{title}\n\n{description}" if description else title
        commit = Commit(
            commit_id(tree, parent, author, date, message), parent, title, description, author, date, files
        )
        (self.folder / "commits" / f"{commit.id}.json").write_text(json.dumps(dataclasses.asdict(commit)))
        self._commits[commit.id] = commit
        self.move(branch, commit.id)
        return commit

    def move(self, branch: str, oid: str) -> None:
        """Let a branch or `refs/pr/N` stand at a commit."""
        if branch.startswith("refs/pr/"):
            self.settings["pull_requests"][branch.removeprefix("refs/pr/")]["commit"] = oid
        else:
            self.settings["branches"][branch] = oid
        self.save()

    def open_pull_request(self, title: str, description: str, author: str, base: str) -> str:
        """Open a pull request at `base`, a commit id; returns its `refs/pr/N`."""
        number = str(len(self.settings["pull_requests"]) + 1)
        words = {"title": title, "description": description, "author": author, "status": "open"}
        self.settings["pull_requests"][number] = {**words, "created": int(time.time()), "commit": base, "base": base}
        self.save()
        return f"refs/pr/{number}"

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first."""
        history = [self.resolve(revision)]
        while history[-1].parent:
            history.append(self.resolve(history[-1].parent))
        return history

    def files(self, revision: str = "main") -> dict[str, Entry]:
        """Path → entry of every file of a revision."""
        return self.resolve(revision).files

    def entry(self, path: str, revision: str = "main") -> Entry:
        """The entry of one file.

        Raises:
            HubError: there is no such file.
        """
        files = self.files(revision)
        if path not in files:
            raise entry_not_found(path)
        return files[path]

    def read(self, path: str, revision: str = "main") -> bytes:
        """The content of one file."""
        return self.content_path(self.entry(path, revision)).read_bytes()

    def lfs_content(self, sha256: str) -> int:
        """The size of an uploaded large file in bytes.

        Raises:
            HubError: it was not uploaded to this repository.
        """
        path = self.lfs_path(sha256)
        if not path.exists():
            raise HubError(404, f"object {sha256} was not uploaded")
        return path.stat().st_size
