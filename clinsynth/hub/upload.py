"""Files to the Hub: large ones ahead, one after the other, then one commit of all; then the listing is read back.

Until the commit nothing can be seen, and after it everything: a push that stops halfway leaves no half-published set.
Large files that the server has already are not sent again.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.repository import PushArguments, Target, explained, http_errors, patiently, prepare
from clinsynth.synthesis.shard_files import HashedFile

if TYPE_CHECKING:
    from clinsynth.hub.repository import Target

WHOLE = "it is published whole or not at all: start the same command again, which looks first and goes on"
UNKNOWN = "whether the pull request was opened is not known: look at the repository before you start again"
BATCH = 32 << 20  # bytes sent at once, in parallel, while as many are made
FIRST_BATCH = 4 << 20  # of what is made, so that sending starts soon; each batch is twice the one before


Content = bytes | Path | HashedFile
Files = Iterable[tuple[str, Content]]
"""Path in the repository, and content or the file that holds it."""


@dataclass(frozen=True)
class Sent:
    """What the Hub must list for a file; `blob` is git's id of a small one, `sha256` of a large one."""

    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Published:
    """A finished push.

    Attributes:
        commit: id of the commit that holds it.
        pull_request: address of the pull request, if one was opened.
        files, size: how many, and bytes.
    """

    commit: str
    pull_request: str | None
    files: int
    size: int


def publish(target: Target, files: Files, message: str, replaced: str, api: Any) -> Published:
    """Push files in one commit and read them back.

    Args:
        files: is drawn once; contents are let go as soon as they are sent.
        message: of the commit.
        replaced: a pattern (regular expression) of paths that are deleted where the repository holds them and they
            are not among `files`: what an earlier push left.

    Raises:
        ValueError: something failed; the message says at which step, and the mend.
    """
    operations = send_all(target, files, api)
    sent = {addition.path_in_repo: describe(addition) for addition in operations}
    commit, pull_request = make_commit(target, operations, sent, message, replaced, api)
    with explained(f"reading back {target.repo_id}", "start the same command again to look once more"):
        wrong = find_wrong(list_files(target, commit, api), sent)
    if wrong:
        raise ValueError(f"{target.repo_id} does not hold what was sent: {', '.join(wrong)}; push it again")
    return Published(commit, pull_request, len(sent), sum(file.size for file in sent.values()))


def send_all(target: Target, files: Files, api: Any) -> list[Any]:
    """Upload the files, a batch in a thread of its own while the next is made; returns what is to be committed.

    The repository is made ready while the first batch is.
    """
    operations = []
    with ThreadPoolExecutor(max_workers=1) as sender:
        sending: Future[None] = sender.submit(prepare, target, api)
        for batch in in_batches(files):
            sending.result()
            additions = [to_addition(path, content) for path, content in batch]
            sending = sender.submit(upload, target, additions, api)
            operations += additions
        sending.result()
    return operations


def in_batches(files: Files) -> Iterator[list[tuple[str, Content]]]:
    """The files in groups of at most 32 MB, or one larger file, under a bar of what is done.

    What is made on the way, and held in memory, comes in groups of at most 4, 8, 16 and then 32 MB.
    """
    from tqdm.auto import tqdm

    batch: list[tuple[str, Content]] = []
    weight, made, limit = 0, 0, FIRST_BATCH
    with tqdm(desc="upload", unit="B", unit_scale=True) as progress:
        for path, content in files:
            size = size_of(content)
            in_memory = size if isinstance(content, bytes) else 0
            if batch and (weight + size > BATCH or made + in_memory > limit):
                yield batch
                progress.update(weight)
                batch, weight, made, limit = [], 0, 0, min(2 * limit, BATCH)
            batch.append((path, content))
            weight, made = weight + size, made + in_memory
        if batch:
            yield batch
            progress.update(weight)


def size_of(content: Content) -> int:
    if isinstance(content, HashedFile):
        return content.size
    return content.stat().st_size if isinstance(content, Path) else len(content)


def to_addition(path: str, content: Content) -> Any:
    from huggingface_hub import CommitOperationAdd

    if not isinstance(content, HashedFile):
        return CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
    content.check()
    addition = CommitOperationAdd(path, str(content.path))
    addition.upload_info.sha256 = content.sha256  # of another content the server would not take it
    return addition


def upload(target: Target, additions: list[Any], api: Any) -> None:
    """Send the large ones among the files, and keep only the hash of these in memory.

    Raises:
        ValueError: that failed, and the server is not just busy.
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if sum(addition.upload_info.size for addition in additions) <= BATCH:
        disable_progress_bars()  # else a bar a file beside that of all
    try:
        with explained(f"uploading to {target.repo_id}"):
            patiently(
                lambda: api.preupload_lfs_files(
                    target.repo_id,
                    additions,
                    repo_type=target.kind,
                    revision=None if target.create_pr else target.revision,
                    create_pr=target.create_pr,
                )
            )
    finally:
        enable_progress_bars()


def describe(addition: Any) -> Sent:
    """What is to be listed for a file once it is committed."""
    size = addition.upload_info.size
    if addition._upload_mode == "lfs":
        return Sent(size, addition.upload_info.sha256.hex(), None)
    with addition.as_file() as file:
        content = file.read()
    return Sent(size, None, hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest())


def make_commit(
    target: Target, additions: list[Any], sent: dict[str, Sent], message: str, replaced: str, api: Any
) -> tuple[str, str | None]:
    """Commit all in one; returns the commit's id and the pull request's address.

    Where the answer gets lost, the branch is looked at: the commit may stand.
    """
    from huggingface_hub import CommitOperationDelete

    revision = None if target.create_pr else target.revision
    with explained(f"looking at {target.repo_id}"):
        stale = find_stale(list_files(target, revision, api), set(sent), replaced)
    deletions = [CommitOperationDelete(path) for path in stale]

    def send() -> Any:
        return api.create_commit(
            operations=[*additions, *deletions],
            commit_message=message,
            create_pr=target.create_pr,
            revision=revision,
            **target.names,
        )

    state = UNKNOWN if target.create_pr else WHOLE
    try:
        with explained(f"committing to {target.repo_id}", state):
            done = patiently(send)
    except ValueError:
        found = None if target.create_pr else find_commit(target, sent, set(stale), api)
        if found is None:
            raise
        return found, None
    return done.oid, done.pr_url


def find_commit(target: Target, sent: dict[str, Sent], stale: set[str], api: Any) -> str | None:
    """The head of the branch, if it holds all that was sent and nothing that was to go; else None."""
    try:
        head = str(api.repo_info(**target.names, revision=target.revision).sha)
        listed = list_files(target, head, api)
    except http_errors():
        return None
    return None if find_wrong(listed, sent) or stale & set(listed) else head


def find_stale(listed: Iterable[str], sent: set[str], replaced: str) -> list[str]:
    return sorted(path for path in listed if path not in sent and re.fullmatch(replaced, path))


def list_files(target: Target, revision: str | None, api: Any) -> dict[str, Any]:
    """Path and entry of every file of a revision."""
    from huggingface_hub.hf_api import RepoFile

    def ask() -> dict[str, Any]:
        entries = api.list_repo_tree(**target.names, revision=revision, recursive=True)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    return patiently(ask)


def find_wrong(listed: dict[str, Any], sent: dict[str, Sent]) -> list[str]:
    """Paths that are not listed, or with another size or hash than what was sent."""
    return [path for path, file in sent.items() if path not in listed or to_sent(listed[path]) != file]


def to_sent(entry: Any) -> Sent:
    return Sent(entry.size, entry.lfs.sha256 if entry.lfs else None, None if entry.lfs else entry.blob_id)


def collect_less_garbage() -> None:
    """Look for garbage less often, and not when the program ends.

    There is little of it, and looking took a tenth of the time of pushing 50,000 pictures.
    """
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


def finish(args: PushArguments, target: Target, files: Files, replaced: str, configs: Iterable[str] = ()) -> None:
    """Push `files` to `target`, or with --dry_run print them.

    Args:
        replaced: pattern of the paths of an earlier push that go if they are not among `files`.
        configs: names of a data set's configurations, where there are several.
    """
    if args.dry_run:
        print_files(target, files)
        return
    from huggingface_hub import HfApi

    from clinsynth.hub.repository import collect

    api = HfApi()
    done = publish(target, files, f"clinsynth push {target.kind}", replaced, api)
    print(f"published: {done.files} files, {done.size:,} bytes, as listed by the Hub at commit {done.commit[:12]}")
    print(f"{done.pull_request or target.url} ({'public' if target.public else 'private'})")
    if args.collection:
        print(f"collection: {collect(target, args.collection, api)}")
    if args.verify:
        verify(target, done.commit, list(configs))


def print_files(target: Target, files: Files) -> None:
    """Print what would leave this machine; nothing is sent."""

    print(f"would leave for {target.url} ({'public' if target.public else 'private'}):")
    count = total = 0
    for path, content in files:
        print(f"  {size_of(content):>14,}  {path}")
        count, total = count + 1, total + size_of(content)
    print(f"{count} files, {total:,} bytes; nothing was sent")


def verify(target: Target, commit: str, configs: list[str]) -> None:
    """Load what was pushed, in a fresh process with an empty cache.

    Raises:
        ValueError: it does not load.
    """
    import os

    with tempfile.TemporaryDirectory() as folder:
        caches = {name: f"{folder}/{name}" for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")}
        script = Path(__file__).with_name("verify.py")
        command = [sys.executable, str(script), target.kind, target.sdk or "", target.repo_id, commit, *configs]
        result = subprocess.run(command, env=os.environ | caches, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        said = lines[-1] if lines else "no message"
        raise ValueError(f"{target.repo_id} is published, but does not load in a fresh process: {said}")
    print(f"loaded back: {result.stdout.strip().splitlines()[-1]}")
