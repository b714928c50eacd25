"""A synthetic set on disk: Parquet shards that are complete or absent, and what says how they were made.

data/train-00000-of-00003.parquet   the rows; in the file's metadata what was rejected on the way to them
generation.json                     generator, settings, counts requested, produced and rejected
README.md                           tells `load_dataset` where the shards are

What a row is, and what else lies in the folder, `image_shards` and `text_shards` say.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from clinsynth.progress import TimedBar
from clinsynth.run_folder import atomic_write, check_unchanged, describe_environment, read_json
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.shard_files import GIVEN_UP, REJECTED

MOST_DRAWS = 10
README = """---
tags:
- synthetic
---

{about}
```python
from datasets import load_dataset

load_dataset("path/of/this/folder", split="train")
```
"""


class Place(NamedTuple):
    """What is to be drawn: number of the row, number of its label, and seed."""

    row: int
    label: int
    seed: int


class Drawn(NamedTuple):
    """What came of one draw: the row, or None and whether it may be drawn anew; and reasons of rejections to count."""

    row: dict[str, Any] | None
    rejected: list[str]
    again: bool = False


class Counts(NamedTuple):
    """Rows produced by label's number, draws rejected by reason, rows given up, and draws rejected by what was chosen
    for their prompts."""

    produced: Counter[int]
    rejected: Counter[str]
    given_up: int
    by_choice: Counter[str] = Counter()  # noqa: RUF012


Draw = Callable[[list[Place]], Iterable[Drawn]]
"""From places to what came of each, in their order."""


@dataclass(frozen=True)
class ShardPlan(ABC):
    """Which row is in which shard: fixed by the labels and the shard size alone, not by processes or restarts.

    Attributes:
        labels: the label's number of each row.
        id2label: all label numbers to names.
        most_draws: of a row, after which it is given up.
        thing: what a row is, in messages.
        hint: why rows are given up, and what to do.
    """

    output_dir: Path
    labels: list[int]
    id2label: dict[int, str]
    seed: int
    shard_size: int
    num_processes: int = 1
    most_draws: int = MOST_DRAWS

    thing: ClassVar[str]
    hint: ClassVar[str]

    @property
    @abstractmethod
    def features(self) -> Features:
        """The columns of a row."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What README.md says of the set."""

    @property
    def parquet_options(self) -> dict[str, Any]:
        """How a shard is written."""
        return {}

    @abstractmethod
    def write_beside(self) -> None:
        """Write what else lies in the folder of a finished set."""

    def results(self, counts: Counts | None) -> dict[str, Any]:
        """What generation.json says of the counts; there are none while a set is made."""
        if counts is None:
            return {"produced": None, "rejected": None}
        return {"produced": self.by_name(counts.produced), "rejected": dict(sorted(counts.rejected.items()))}

    def more(self, description: dict[str, Any], counts: Counts | None) -> dict[str, Any]:
        """What else generation.json says."""
        return {}

    @property
    def num_shards(self) -> int:
        return -(-len(self.labels) // self.shard_size)

    def path(self, shard: int) -> Path:
        return self.output_dir / "data" / f"train-{shard:05d}-of-{self.num_shards:05d}.parquet"

    def rows(self, shard: int) -> range:
        """The numbers of a shard's rows."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.labels)))

    def by_name(self, counts: Counter[int]) -> dict[str, int]:
        return {name: counts[label] for label, name in self.id2label.items()}

    def begin(self, generator: dict[str, Any]) -> None:
        """Write what identifies the set before its first shard.

        Raises:
            ValueError: other weights or settings began it.
        """
        path = self.output_dir / "generation.json"
        facts = json.loads(json.dumps(generator))  # as they are read back
        check_unchanged(self.output_dir, read_json(path).get("generator", {}), facts)
        (self.output_dir / "data").mkdir(exist_ok=True)
        for leftover in (self.output_dir / "data").glob(".*.tmp"):
            leftover.unlink()
        if not path.exists():
            self.write_description(generator, None)

    def finish(self, generator: dict[str, Any]) -> str:
        """Write what lies beside the shards, generation.json last, and say what came of it."""
        counts = self.count()
        self.write_beside()
        atomic_write(self.output_dir / "README.md", README.format(about=self.about))
        self.write_description(generator, counts)
        return self.closing_message(counts)

    def write_description(self, generator: dict[str, Any], counts: Counts | None) -> None:
        """Write generation.json; without counts, of a set that is begun."""
        description = {
            "complete": counts is not None,
            "generator": generator,
            "requested": self.by_name(Counter(self.labels)),
            **self.results(counts),
            "processes": self.num_processes,
            "environment": describe_environment(),
        }
        description |= self.more(description, counts)
        atomic_write(self.output_dir / "generation.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")

    def write(self, shard: int, rows: list[dict[str, Any]], rejected: Counter[str]) -> None:
        """Write the rows of one shard, aside first, and what was rejected into the file's metadata."""
        path, features = self.path(shard), self.features
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        columns = {name: [row[name] for row in rows] for name in features}
        table = Dataset.from_dict(columns, features=features).data.table
        if rejected:
            table = table.replace_schema_metadata({**table.schema.metadata, REJECTED: json.dumps(rejected).encode()})
        try:
            pq.write_table(table, aside, **self.parquet_options)
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise ValueError(
                f"--output_dir {self.output_dir}: {path.name} could not be written ({error.strerror or error}); "
                "the shards before it are kept: make room and start the same command again"
            ) from error

    def read(self, shard: int, columns: list[str] | None = None) -> tuple[pa.Table, Counter[str]]:
        """The rows of a finished shard, and what was rejected on the way to them."""
        table = pq.read_table(self.path(shard), columns=columns)
        return table, Counter(json.loads((table.schema.metadata or {}).get(REJECTED, b"{}")))

    def count(self) -> Counts:
        """What the finished shards hold and lack."""
        produced: Counter[int] = Counter()
        rejected: Counter[str] = Counter()
        for shard in range(self.num_shards):
            table, reasons = self.read(shard, ["label"])
            produced.update(table["label"].to_pylist())
            rejected.update(reasons)
        return Counts(produced, rejected, rejected.pop(GIVEN_UP, 0))

    def closing_message(self, counts: Counts) -> str:
        """Where the finished set is, how many rows it has, and why it has no more."""
        lines = [f"synthetic data set: {self.output_dir}"]
        rejected = [f"{reason} {count}" for reason, count in sorted(counts.rejected.items()) if count]
        if rejected:
            lines.append(f"rejected draws: {', '.join(rejected)}")
        missing = self.by_name(Counter(self.labels) - counts.produced)
        if any(missing.values()):
            few = ", ".join(f"{name} {count}" for name, count in missing.items() if count)
            made = f"{counts.produced.total()} of {len(self.labels)} {self.thing}s"
            lines.append(f"{made}; there are too few of: {few}")
        if counts.given_up:
            lines.append(f"{counts.given_up} rows were given up {self.hint.format(most_draws=self.most_draws)}")
        return "\n".join(lines)


def seed_of(seed: int, row: int, draw: int) -> int:
    """The seed of a row's draw: the first draw's is that of a run without rejections."""
    return derive_seed(seed, row, draw) if draw else derive_seed(seed, row)


def write_shards(
    plan: ShardPlan,
    draw_of: Callable[[int], AbstractContextManager[Draw]],
    batch_size: int,
    process_index: int = 0,
    at_once: int | None = None,
) -> None:
    """Write this process's missing shards; at no time more than one shard is held in memory.

    Args:
        draw_of: from a shard's number to what draws its rows, left without an error once the shard is written.
        batch_size: rows asked for at once.
        at_once: rows that are then drawn together; default: all of them.
    """
    mine = range(process_index, plan.num_shards, plan.num_processes)
    missing = [shard for shard in mine if not plan.path(shard).exists()]
    total = sum(len(plan.rows(shard)) for shard in mine)
    done = total - sum(len(plan.rows(shard)) for shard in missing)
    soon, hidden = at_once or batch_size, process_index > 0
    with TimedBar(total=total, initial=done, desc="generate", unit=plan.thing, disable=hidden, soon=soon) as progress:
        for shard in missing:
            with draw_of(shard) as draw:
                plan.write(shard, *draw_rows(plan, plan.rows(shard), draw, batch_size, progress=progress))


def draw_rows(
    plan: ShardPlan,
    rows: Iterable[int],
    draw: Draw,
    batch_size: int,
    first_draw: int = 0,
    progress: TimedBar | None = None,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows that were kept, in their order, and how many draws were rejected, by reason, and rows given up.

    A rejected row queues behind those not yet drawn, so that batches stay full; what is drawn depends on neither. It
    is drawn with the seed of its row and the number of the draw, and given up after the plan's most draws.
    """
    kept: dict[int, dict[str, Any]] = {}
    rejected: Counter[str] = Counter()
    queue = deque((row, first_draw) for row in rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        places = [Place(row, plan.labels[row], seed_of(plan.seed, row, number)) for row, number in batch]
        for (row, number), drawn in zip(batch, draw(places), strict=True):
            rejected.update(drawn.rejected)
            if drawn.again and number + 1 < first_draw + plan.most_draws:
                queue.append((row, number + 1))
                continue
            if drawn.row is not None:
                kept[row] = drawn.row
            elif drawn.again:
                rejected[GIVEN_UP] += 1
            if progress is not None:
                progress.update()
    return [kept[row] for row in sorted(kept)], rejected
