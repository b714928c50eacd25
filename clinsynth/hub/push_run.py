"""What every push ends with: list the files or send them, read them back, collect, load them anew."""

from __future__ import annotations

import atexit
import gc
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.hub.hub_arguments import PushArguments

if TYPE_CHECKING:
    from clinsynth.hub.repository import Target
    from clinsynth.hub.upload import Files


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
        list_files(target, files)
        return
    from huggingface_hub import HfApi

    from clinsynth.hub.repository import collect
    from clinsynth.hub.upload import publish

    api = HfApi()
    done = publish(target, files, f"clinsynth push {target.kind}", replaced, api)
    print(f"published: {done.files} files, {done.size:,} bytes, as listed by the Hub at commit {done.commit[:12]}")
    print(f"{done.pull_request or target.url} ({'public' if target.public else 'private'})")
    if args.collection:
        print(f"collection: {collect(target, args.collection, api)}")
    if args.verify:
        verify(target, done.commit, list(configs))


def list_files(target: Target, files: Files) -> None:
    """Print what would leave this machine; nothing is sent."""
    from clinsynth.hub.upload import size_of

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
