"""What was drawn for the shard at hand, on disk at once: a run that is killed loses a batch, not a shard."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path

from clinsynth.models.language_models import Request, Result, Write
from clinsynth.pipelines.structured_medical_text import RowResult


def with_journal(write: Write, path: Path) -> Write:
    """`write`, which puts each result on a line of `path` and takes those that stand there instead of drawing anew.

    A result is known by the seed of its request, so that `path` must be of the same generator. It is the caller's to
    remove.
    """

    def write_on(requests: list[Request]) -> Iterator[Result]:
        known = read_journal(path)
        first = [known[seed] for seed in takewhile(known.__contains__, (seed for _, seed in requests))]
        yield from first
        rest = requests[len(first) :]
        if rest:
            with path.open("a", encoding="utf-8") as file:
                for (_, seed), result in zip(rest, write(rest), strict=True):
                    kept = RowResult(result.data, seed, result.attempts, result.rejections)
                    file.write(json.dumps(asdict(kept), ensure_ascii=False) + "\n")
                    file.flush()
                    yield result

    return write_on


def read_journal(path: Path) -> dict[int, RowResult]:
    """The results of `path` by seed; a last line that a kill cut short is taken off the file."""
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        path.write_bytes(b"".join(whole))
    results = [RowResult(**json.loads(line)) for line in whole]
    return {result.seed: result for result in results}
