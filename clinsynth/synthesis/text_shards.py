"""Synthetic texts on disk: Parquet shards that are complete or absent, and what says how they were made.

data/train-00000-of-00003.parquet   rows of id, text, the schema's fields, label, seed, example_ids, attempts
task.json                           the task: schema, templates, label meanings
generation.json                     generator, settings, counts requested, produced and rejected
README.md                           tells `load_dataset` where the shards are
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Value
from datasets import Sequence as SequenceFeature
from tqdm.auto import tqdm

from clinsynth.models.language_models import Request, Result, Write
from clinsynth.pipelines.structured_medical_text import RowResult
from clinsynth.run_folder import atomic_write, describe_environment
from clinsynth.synthesis.shard_files import GIVEN_UP
from clinsynth.synthesis.shards import MOST_DRAWS, ShardPlan, seed_of, write_shard
from clinsynth.synthesis.text_filters import NEAR_DUPLICATE, SeenTexts

Ask = Callable[[int, int], tuple[list[dict[str, str]], list[str]]]
"""From a label's number and a seed to the messages and the ids of the examples in them."""

README = """---
tags:
- synthetic
---

Synthetic texts: no row is about a patient. `generation.json` says how they were made.

```python
from datasets import load_dataset

load_dataset("path/of/this/folder", split="train")
```
"""


@dataclass(frozen=True)
class TextShardPlan(ShardPlan):
    """Which row is in which shard; `columns` are the fields of the schema."""

    columns: tuple[str, ...] = ("text",)

    @property
    def features(self) -> Features:
        texts = {name: Value("string") for name in ("id", "text", *self.columns)}
        label = ClassLabel(names=list(self.id2label.values()))
        ids = SequenceFeature(Value("string"))
        return Features(
            {**texts, "label": label, "seed": Value("int64"), "example_ids": ids, "attempts": Value("int32")}
        )

    def finish(self, generator: dict[str, Any]) -> None:
        """Write README and the final `generation.json`; journals of whole shards go."""
        for journal in self.output_dir.glob("drawn-*.jsonl"):
            journal.unlink()
        atomic_write(self.output_dir / "README.md", README)
        self.describe(generator, complete=True)

    def describe(self, generator: dict[str, Any], complete: bool) -> None:
        """Write `generation.json` from the shards there are."""
        produced: Counter[int] = Counter()
        rejected: Counter[str] = Counter()
        for shard in range(self.num_shards if complete else 0):
            rows, reasons = read_shard(self, shard)
            produced.update(row["label"] for row in rows)
            rejected.update(reasons)
        given_up = rejected.pop(GIVEN_UP, 0)
        requested = Counter(self.labels)
        description = {
            "complete": complete,
            "generator": generator,
            "requested": {name: requested[label] for label, name in self.id2label.items()},
            "produced": {name: produced[label] for label, name in self.id2label.items()} if complete else None,
            "rejected": dict(sorted(rejected.items())) if complete else None,
            "given_up": given_up if complete else None,
            "processes": self.num_processes,
            "environment": describe_environment(),
        }
        atomic_write(self.output_dir / "generation.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def write_text_shards(plan: TextShardPlan, ask: Ask, write: Write, seen: SeenTexts, process_index: int = 0) -> None:
    """Write this process's missing shards; at no time more than one shard is held in memory.

    A shard does not depend on the others: near-duplicates across shards are `settle_shards`' matter. What is drawn for
    the shard at hand stands in a journal beside README.md until the shard is whole.
    """
    mine = range(process_index, plan.num_shards, plan.num_processes)
    done = sum(len(plan.rows(shard)) for shard in mine if plan.path(shard).exists())
    total = sum(len(plan.rows(shard)) for shard in mine)
    with tqdm(total=total, initial=done, desc="generate", unit="text", disable=process_index > 0) as progress:
        for shard in mine:
            if not plan.path(shard).exists():
                seen.clear()
                journal = plan.output_dir / f"drawn-{shard:05d}.jsonl"
                kept = with_journal(write, journal)
                rows, rejected = draw_rows(plan, {row: 0 for row in plan.rows(shard)}, ask, kept, seen, progress)
                write_shard(plan, shard, rows, rejected)
                journal.unlink(missing_ok=True)


def draw_rows(
    plan: TextShardPlan,
    attempts: dict[int, int],
    ask: Ask,
    write: Write,
    seen: SeenTexts,
    progress: "tqdm[Any] | None" = None,
    first_draw: int = 0,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows in their order, and how many texts were rejected, by reason, and rows given up.

    All rows are drawn once, then those rejected again, and so on: what is kept does not depend on the batch size.

    Args:
        attempts: the numbers of the rows to draw, each with the attempts already spent on it.
        first_draw: the number of the first draw; a row's seed is that of row and draw.
    """
    kept: dict[int, dict[str, Any]] = {}
    rejected: Counter[str] = Counter()
    spent, pending = Counter(attempts), list(attempts)
    for draw in range(first_draw, first_draw + MOST_DRAWS):
        seeds = [seed_of(plan.seed, row, draw) for row in pending]
        asked = [ask(plan.labels[row], seed) for row, seed in zip(pending, seeds, strict=True)]
        results = write([(messages, seed) for (messages, _), seed in zip(asked, seeds, strict=True)])
        again = []
        for row, seed, (_, ids), result in zip(pending, seeds, asked, results, strict=True):
            spent[row] += result.attempts
            rejected.update(result.rejections)
            if result.data is None:
                rejected[GIVEN_UP] += 1
            elif (reason := seen.reason(as_text(result.data), plan.id2label[plan.labels[row]])) is not None:
                rejected[reason] += 1
                again.append(row)
            else:
                seen.add(as_text(result.data))
                kept[row] = to_row(plan, row, result.data, seed, ids)
            if progress is not None and row not in again[-1:]:
                progress.update()
        pending = again
        if not pending:
            break
    rejected[GIVEN_UP] += len(pending)
    return [{**kept[row], "attempts": spent[row]} for row in sorted(kept)], rejected


def to_row(plan: TextShardPlan, row: int, data: dict[str, Any], seed: int, ids: list[str]) -> dict[str, Any]:
    texts = {name: as_cell(data.get(name)) for name in plan.columns}
    own = {"id": str(row), "label": plan.labels[row], "seed": seed, "example_ids": ids}
    return {"text": as_text(data), **texts, **own}


def as_cell(value: Any) -> str | None:
    """A field as text: as it is, or as JSON if it is no text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_text(data: dict[str, Any]) -> str:
    """The field text, or all fields under their names: `Presenting complaint: …`."""
    if "text" in data:
        return str(as_cell(data["text"]))
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {as_cell(value)}" for name, value in data.items())


def settle_shards(plan: TextShardPlan, ask: Ask, write: Write, seen: SeenTexts) -> None:
    """Draw anew the rows that are near-duplicates of a row in an earlier shard; for one process, when all are written.

    Each shard is replaced at once, and a settled one does not change again: this too goes on where it was killed.
    """
    seen.clear()
    for shard in range(plan.num_shards if seen.kept else 0):
        rows, rejected = read_shard(plan, shard)
        fresh, twice = [], {}
        for row in rows:
            if seen.reason(row["text"]) is None:
                seen.add(row["text"])
                fresh.append(row)
            else:
                twice[int(row["id"])] = row["attempts"]
        if twice:
            redrawn, more = draw_rows(plan, twice, ask, write, seen, first_draw=MOST_DRAWS)
            rejected.update(more)
            rejected[NEAR_DUPLICATE] += len(twice)
            write_shard(plan, shard, sorted(fresh + redrawn, key=lambda row: int(row["id"])), rejected)


def read_shard(plan: TextShardPlan, shard: int) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows of a finished shard, and what was rejected."""
    table = pq.read_table(plan.path(shard))
    return table.to_pylist(), Counter(json.loads((table.schema.metadata or {}).get(b"rejected", b"{}")))


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
