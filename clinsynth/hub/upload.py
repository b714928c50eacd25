"""Files to the Hub: large ones ahead, then one commit of all; then the listing is read back.

Until the commit nothing can be seen, and after it everything: a push that stops halfway leaves no half-published set.
Large files that the server has already are not sent again. `HfApi.upload_folder` does not promise that: where there is
Xet storage it commits 250 files at a time, and what it was to delete with the first of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.hub.files import REPLACED
from clinsynth.hub.repository import (
    PushArguments,
    Target,
    collect,
    explained,
    http_errors,
    patiently,
    prepare_repository,
)
from clinsynth.synthesis.shard_files import HashedFile

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import CommitOperation, RepoFile

WHOLE = "it is published whole or not at all: start the same command again, which looks first and goes on"
UNKNOWN = "whether the pull request was opened is not known: look at the repository before you start again"
CARD = "README.md"
GATED = re.compile(r"extra_gated_|license")
"""Fields of a card by which somebody is let in."""
BATCH = 32 << 20  # bytes sent at once, in parallel, while as many are made

Content = bytes | Path | HashedFile
Files = Iterable[tuple[str, Content]]
"""Path in the repository, and content or the file that holds it."""


def push(args: PushArguments, kind: str, files: Files, gated: str | None = None, configs: Iterable[str] = ()) -> None:
    """Push `files` in one commit and read them back, or with --dry_run print them.

    Args:
        kind: "model", "dataset", "metric" or "space".
        files: is drawn once; contents are let go as soon as they are sent.
        configs: names of a data set's configurations, where there are several.

    Raises:
        ValueError: something failed; the message says at which step, and what to do.
    """
    sdk = {"metric": "static", "space": "gradio"}.get(kind)
    repository = "space" if sdk else kind
    target = Target(args.repo_id, repository, args.public, args.revision, args.create_pr, gated, sdk)
    if args.dry_run:
        print_files(target, files)
        return
    from huggingface_hub import HfApi

    api = HfApi()
    additions = send_all(target, files, api)
    additions = with_gated_card(target, additions, api)
    commit, pull_request = commit_all(target, additions, REPLACED[kind], api)
    with explained(f"reading back {target.repo_id}", "start the same command again to look once more"):
        wrong = find_wrong(list_files(target, commit, api), additions)
    if wrong:
        raise ValueError(f"{target.repo_id} does not hold what was sent: {', '.join(wrong)}; push it again")
    size = sum(addition.upload_info.size for addition in additions)
    print(f"published: {len(additions)} files, {size:,} bytes, as listed by the Hub at commit {commit[:12]}")
    print(f"{pull_request or target.url} ({target.visibility})")
    if args.collection:
        print(f"collection: {collect(target, args.collection, api)}")
    if args.verify:
        verify(target, commit, configs)


def print_files(target: Target, files: Files) -> None:
    """Print what would leave this machine; nothing is sent."""
    print(f"would leave for {target.url} ({target.visibility}):")
    count = total = 0
    for path, content in files:
        print(f"  {size_of(content):>14,}  {path}")
        count, total = count + 1, total + size_of(content)
    print(f"{count} files, {total:,} bytes; nothing was sent")


def send_all(target: Target, files: Files, api: HfApi) -> list[CommitOperationAdd]:
    """Upload the files, a batch in a thread of its own while the next is made; returns what is to be committed.

    The repository is made ready while the first batch is.
    """
    additions: list[CommitOperationAdd] = []
    with ThreadPoolExecutor(max_workers=1) as sender:
        sending = sender.submit(prepare_repository, target, api)
        for batch in in_batches(files):
            sending.result()
            sending = sender.submit(upload, target, batch, additions, api)
        sending.result()
    return additions


def in_batches(files: Files) -> Iterator[list[tuple[str, Content]]]:
    """The files in groups of at most 32 MB, or one larger file."""
    batch: list[tuple[str, Content]] = []
    weight = 0
    for path, content in files:
        if batch and weight + size_of(content) > BATCH:
            yield batch
            batch, weight = [], 0
        batch.append((path, content))
        weight += size_of(content)
    if batch:
        yield batch


def size_of(content: Content) -> int:
    """Bytes of a file that is to be sent."""
    if isinstance(content, HashedFile):
        return content.size
    return content.stat().st_size if isinstance(content, Path) else len(content)


def upload(target: Target, batch: list[tuple[str, Content]], additions: list[CommitOperationAdd], api: HfApi) -> None:
    """Send the large ones among the files, keep only their hashes in memory, and add all to `additions`."""
    from huggingface_hub import CommitOperationAdd

    made = []
    for path, content in batch:
        if isinstance(content, HashedFile):
            content.check()
        file = content.path if isinstance(content, HashedFile) else content
        made.append(CommitOperationAdd(path, file))  # which takes the hash while it is sent
    where = {**target.names, "revision": target.base, "create_pr": target.create_pr}
    with explained(f"uploading to {target.repo_id}"):
        patiently(lambda: api.preupload_lfs_files(**where, additions=made))
    for (_, content), addition in zip(batch, made, strict=True):
        if isinstance(content, HashedFile) and addition.upload_info.sha256 != content.sha256:
            raise ValueError(f"{content.path} has changed while it was sent; nothing was published: start it again")
    additions += made


def with_gated_card(target: Target, additions: list[CommitOperationAdd], api: HfApi) -> list[CommitOperationAdd]:
    """What is to be committed to a gated repository: its questions and licence stay, and of a model the whole card."""
    from huggingface_hub import CommitOperationAdd, RepoCard
    from huggingface_hub.errors import EntryNotFoundError

    card = next((one for one in additions if one.path_in_repo == CARD), None)
    with explained(f"looking at {target.repo_id}"):
        if card is None or not patiently(lambda: api.repo_info(**target.names)).gated:
            return additions
        try:
            path = patiently(lambda: api.hf_hub_download(target.repo_id, CARD, repo_type=target.kind))
        except EntryNotFoundError:
            return additions
    others = [one for one in additions if one is not card]
    if target.kind == "model":
        print(f"{CARD} of {target.repo_id} stays as it is, since the repository is gated")
        return others
    with card.as_file() as file:
        mine = RepoCard(file.read().decode())
    kept = {name: value for name, value in RepoCard.load(path).data.to_dict().items() if GATED.match(name)}
    for name, value in kept.items():
        mine.data[name] = value
    return [*others, CommitOperationAdd(CARD, str(mine).encode())]


def commit_all(
    target: Target, additions: list[CommitOperationAdd], replaced: str, api: HfApi
) -> tuple[str, str | None]:
    """Commit all in one, unless the branch has moved; returns the commit's id and the pull request's address.

    Where the answer gets lost, the branch is looked at: the commit may stand.
    """
    from huggingface_hub import CommitOperationDelete

    sent = {addition.path_in_repo for addition in additions}
    with explained(f"looking at {target.repo_id}"):
        head = patiently(lambda: api.repo_info(**target.names, revision=target.base)).sha
        listed = list_files(target, target.base, api)
    stale = {path for path in listed if path not in sent and re.fullmatch(replaced, path)}
    operations: list[CommitOperation] = [*additions, *map(CommitOperationDelete, sorted(stale))]
    try:
        with explained(f"committing to {target.repo_id}", UNKNOWN if target.create_pr else WHOLE):
            where = {**target.names, "revision": target.base, "create_pr": target.create_pr, "parent_commit": head}
            message = f"clinsynth push {target.kind}"
            done = patiently(lambda: api.create_commit(**where, operations=operations, commit_message=message))
    except ValueError:
        found = None if target.create_pr else find_commit(target, additions, stale, api)
        if found is None:
            raise
        return found, None
    return done.oid, done.pr_url


def find_commit(target: Target, additions: list[CommitOperationAdd], stale: set[str], api: HfApi) -> str | None:
    """The head of the branch, if it holds all that was sent and nothing that was to go; else None."""
    try:
        head = str(api.repo_info(**target.names, revision=target.base).sha)
        listed = list_files(target, head, api)
    except http_errors():
        return None
    return None if find_wrong(listed, additions) or stale & set(listed) else head


def list_files(target: Target, revision: str | None, api: HfApi) -> dict[str, RepoFile]:
    """Path and entry of every file of a revision."""
    from huggingface_hub.hf_api import RepoFile

    def ask() -> dict[str, RepoFile]:
        entries = api.list_repo_tree(**target.names, revision=revision, recursive=True)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    return patiently(ask)


def find_wrong(listed: dict[str, RepoFile], additions: list[CommitOperationAdd]) -> list[str]:
    """Paths that are not listed, or with another hash than what was sent."""
    paths = {addition.path_in_repo: addition for addition in additions}
    return [path for path, sent in paths.items() if path not in listed or not is_same(listed[path], sent)]


def is_same(entry: RepoFile, addition: CommitOperationAdd) -> bool:
    """Whether the Hub lists the very content that was sent: by SHA-256 of a large file, by git's id of a small one."""
    from huggingface_hub.utils.sha import git_hash

    if entry.lfs:
        return entry.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return bool(entry.blob_id == git_hash(file.read()))


def verify(target: Target, commit: str, configs: Iterable[str]) -> None:
    """Load what was pushed, in a fresh process with an empty cache."""
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
