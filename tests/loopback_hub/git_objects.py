"""Git's object names (SHA-1 of header and content), so that the ids of commits, folders and files are real ones."""

import hashlib
from collections.abc import Mapping


def object_id(kind: str, content: bytes) -> str:
    """The name of a git object: 40 hexadecimal digits."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git stores in place of a large file (git-lfs specification v1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_ids(blobs: Mapping[str, str]) -> dict[str, str]:
    """The id of every folder of a revision, `""` being the root.

    Args:
        blobs: path → id of each file.
    """
    folders: dict[str, dict[str, str]] = {"": {}}
    for path, oid in blobs.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[f"100644 {name}"] = oid
        while folder and folder.rpartition("/")[0] not in folders:
            folder = folder.rpartition("/")[0]
            folders[folder] = {}
    ids: dict[str, str] = {}
    for folder in sorted(folders, key=lambda path: path.count("/") + bool(path), reverse=True):
        ids[folder] = tree_id(folders[folder])
        parent, _, name = folder.rpartition("/")
        if folder:
            folders[parent][f"40000 {name}"] = ids[folder]
    return ids


def tree_id(entries: Mapping[str, str]) -> str:
    """The id of one folder; `entries` maps "mode name" to the id of a file or folder."""

    def place(entry: str) -> bytes:
        mode, name = entry.split(" ", 1)
        return (name + "/" if mode == "40000" else name).encode()  # git sorts folders as if they ended in a slash

    rows = [entry.encode() + b"\0" + bytes.fromhex(entries[entry]) for entry in sorted(entries, key=place)]
    return object_id("tree", b"".join(rows))


def commit_id(tree: str, parent: str | None, author: str, date: int, message: str) -> str:
    """The id of a commit; `date` in seconds since 1970."""
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else [])]
    lines += [f"{role} {author} <{author}@users.noreply> {date} +0000" for role in ("author", "committer")]
    return object_id("commit", ("\n".join(lines) + f"\n\n{message}\n").encode())
