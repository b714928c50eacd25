"""A synthetic data set on disk: Parquet shards that are complete or absent, and what says how they were made.

data/train-00000-of-00003.parquet   rows of image, label, seed; made from real pictures: source_id, …; and of what each
                                    row says of where it is from, as does a text chunk of its picture's PNG file
contact_sheets/<label>.png          the first images of a class
generation.json                     generator, settings, counts requested, produced and rejected
README.md                           tells `load_dataset` where the shards are
"""

import json
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from tqdm.auto import tqdm

from clinsynth.hub.shards import GIVEN_UP, REJECTED, PublishedShards, parquet_options
from clinsynth.hub.upload import HashedFile
from clinsynth.images import contact_sheet, from_png, to_picture, to_png
from clinsynth.run_folder import atomic_write, check_unchanged, describe_environment, read_json
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.provenance import Provenance, find_provenance, mark_picture

SHEET_COLUMNS, SHEET_ROWS = 8, 8
MOST_DRAWS = 10
NOT_FINITE = "not finite"

Sample = Callable[[list[int], list[int]], tuple[np.ndarray, np.ndarray]]
"""From labels and seeds to images, uint8 (n, channels, size, size), and a bool mask of the usable ones."""
Reject = Callable[[np.ndarray, list[int], list[int]], list[str | None]]
"""From images, labels and seeds to the reason why each is rejected, None where it is not."""

FROM_REAL = """Each picture was made from a real picture of a train split, of which it keeps much; source_id names that
one. Treat the set as you treat the real one. `generation.json` says how it was made.
"""
NO_PATIENT = "Synthetic images: no row is a patient. `generation.json` says how they were made.\n"
README = f"""---
tags:
- synthetic
---

{NO_PATIENT}
```python
from datasets import load_dataset

load_dataset("path/of/this/folder", split="train")
```
"""


@dataclass(frozen=True)
class ShardPlan:
    """Which row is in which shard: fixed by the labels and the shard size alone, not by processes or restarts."""

    output_dir: Path
    labels: list[int]
    id2label: dict[int, str]
    seed: int
    shard_size: int
    num_processes: int = 1
    sources: Any = None
    most_draws: int = MOST_DRAWS

    @property
    def num_shards(self) -> int:
        return -(-len(self.labels) // self.shard_size)

    @property
    def features(self) -> Features:
        names = list(self.id2label.values())
        columns = {"image": ImageFeature(), "label": ClassLabel(names=names), "seed": Value("int64")}
        if self.sources is not None:
            columns |= {"source_id": Value("string"), "source_label": Value("string"), "strength": Value("float64")}
        if self.provenance is not None:
            columns |= {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
        return Features(columns)

    @cached_property
    def provenance(self) -> Provenance | None:
        """What the rows say of their generator, as generation.json has it since `begin`.

        None of a set that was begun before rows said it: all shards of a set have the same columns.
        """
        says = read_json(self.output_dir / "generation.json").get("provenance")
        return None if says is None else Provenance(**says)

    def row(self, image: np.ndarray, label: int, seed: int) -> dict[str, Any]:
        """The row of a picture, uint8 (channels, side, side)."""
        png, says = to_png(to_picture(image)), {}
        if self.provenance is not None:
            png, says = mark_picture(png, self.provenance.of_row(seed)), self.provenance.columns()
        source = {} if self.sources is None else self.sources.columns(label, seed)
        return {"image": {"bytes": png, "path": None}, "label": label, "seed": seed, **source, **says}

    def path(self, shard: int) -> Path:
        return self.output_dir / "data" / f"train-{shard:05d}-of-{self.num_shards:05d}.parquet"

    def rows(self, shard: int) -> range:
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.labels)))

    def check_same_generator(self, generator: dict[str, Any]) -> None:
        """Refuse to add to a data set that other weights or settings began."""
        before = read_json(self.output_dir / "generation.json").get("generator", {})
        check_unchanged(self.output_dir, before, generator)

    def begin(self, generator: dict[str, Any]) -> None:
        """Write what identifies the data set before its first shard."""
        (self.output_dir / "data").mkdir(exist_ok=True)
        for leftover in (self.output_dir / "data").glob(".*.tmp"):
            leftover.unlink()
        if not (self.output_dir / "generation.json").exists():
            self.describe(generator, complete=False)

    def finish(self, generator: dict[str, Any]) -> None:
        """Write contact sheets, README and the final `generation.json`."""
        self.write_contact_sheets()
        text = README if self.sources is None else README.replace(NO_PATIENT, FROM_REAL)
        atomic_write(self.output_dir / "README.md", text)
        self.describe(generator, complete=True)

    def describe(self, generator: dict[str, Any], complete: bool) -> None:
        """Write `generation.json` from the shards there are."""
        path = self.output_dir / "generation.json"
        produced = dict.fromkeys(self.id2label, 0)
        rejected: Counter[str] = Counter()
        for shard in range(self.num_shards if complete else 0):
            table = pq.read_table(self.path(shard), columns=["label"])
            rejected.update(json.loads((table.schema.metadata or {}).get(REJECTED, b"{}")))
            for label in table["label"].to_pylist():
                produced[label] += 1
        given_up = rejected.pop(GIVEN_UP, 0)
        rejected[NOT_FINITE] = len(self.labels) - sum(produced.values()) - given_up
        requested = {label: self.labels.count(label) for label in self.id2label}
        description = {
            "complete": complete,
            "generator": generator,
            "requested": {self.id2label[label]: count for label, count in requested.items()},
            "produced": {self.id2label[label]: count for label, count in produced.items()},
            "rejected": dict(sorted(rejected.items())) if complete else {NOT_FINITE: None},
            "processes": self.num_processes,
            "environment": describe_environment(),
        }
        if "reject_copies" in generator or "keep" in generator:
            description["given_up"] = {"rows": given_up if complete else None, "after_draws": self.most_draws}
        provenance = self.provenance if path.exists() else find_provenance(description, self.output_dir)
        if provenance is not None:
            description["provenance"] = asdict(provenance)
            if complete:
                description["looked_at"] = self.look_at(description)
        atomic_write(path, json.dumps(description, indent=2) + "\n")

    def look_at(self, description: dict[str, Any]) -> dict[str, Any] | None:
        """What says that the shards can be published as they are; None of pictures made from real ones."""
        paths = [self.path(shard) for shard in range(self.num_shards)]
        return PublishedShards.of(
            description, self.output_dir, {path: HashedFile.of(path) for path in paths}
        ).look_at()

    def closing_message(self) -> str:
        """Where the finished data set is, how many pictures it has, and why it has no more."""
        found = json.loads((self.output_dir / "generation.json").read_text())
        produced, rejected = sum(found["produced"].values()), {k: n for k, n in found["rejected"].items() if n}
        lines = [f"synthetic data set: {self.output_dir}"]
        if rejected:
            lines.append("rejected draws: " + ", ".join(f"{reason} {count}" for reason, count in rejected.items()))
        if produced < len(self.labels):
            short = {name: n - found["produced"][name] for name, n in found["requested"].items()}
            missing = ", ".join(f"{name} {count}" for name, count in short.items() if count)
            lines.append(f"{produced} of {len(self.labels)} images; there are too few of: {missing}")
        if found.get("given_up", {}).get("rows"):
            lines.append(
                f"{found['given_up']['rows']} rows were given up after {self.most_draws} draws: loosen what is kept, "
                "or train or guide the model further"
            )
        return "\n".join(lines)

    def write_contact_sheets(self) -> None:
        """One PNG a class with its first images."""
        first: dict[int, list[np.ndarray]] = {label: [] for label in set(self.labels)}
        for shard in range(self.num_shards):
            if all(len(pictures) >= SHEET_COLUMNS * SHEET_ROWS for pictures in first.values()):
                break
            for row in pq.read_table(self.path(shard), columns=["image", "label"]).to_pylist():
                pictures = first[row["label"]]
                if len(pictures) < SHEET_COLUMNS * SHEET_ROWS:
                    pictures.append(from_png(row["image"]["bytes"]))
        folder = self.output_dir / "contact_sheets"
        folder.mkdir(exist_ok=True)
        for label, pictures in first.items():
            if pictures:
                name = self.id2label[label].replace("/", "_")
                sheet = contact_sheet(np.stack(pictures), SHEET_COLUMNS)
                atomic_write(folder / f"{name}.png", to_png(sheet))


def write_shards(
    plan: ShardPlan, sample: Sample, batch_size: int, process_index: int = 0, reject: Reject | None = None
) -> None:
    """Write this process's missing shards; at no time more than one shard is held in memory.

    An image that `reject` gives a reason for is drawn anew, with a seed of its row and the number of the draw; after
    the plan's most draws its row is given up. Both are counted in the shard.
    """
    mine = range(process_index, plan.num_shards, plan.num_processes)
    done = sum(len(plan.rows(shard)) for shard in mine if plan.path(shard).exists())
    total = sum(len(plan.rows(shard)) for shard in mine)
    with tqdm(total=total, initial=done, desc="generate", unit="image", disable=process_index > 0) as progress:
        for shard in mine:
            if not plan.path(shard).exists():
                kept, rejected = draw_rows(plan, plan.rows(shard), sample, reject, batch_size, progress)
                write_shard(plan, shard, kept, rejected)


def draw_rows(
    plan: ShardPlan, rows: range, sample: Sample, reject: Reject | None, batch_size: int, progress: tqdm
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows that were drawn, in order, and how many draws were rejected, by reason, and rows given up.

    Rejected rows queue behind those not yet drawn, so that batches stay full; what is drawn depends on neither.
    """
    kept: dict[int, dict[str, Any]] = {}
    rejected: Counter[str] = Counter()
    queue = deque((row, 0) for row in rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        waiting = len(queue)
        seeds = [seed_of(plan.seed, row, draw) for row, draw in batch]
        labels = [plan.labels[row] for row, _ in batch]
        images, usable = sample(labels, seeds)
        reasons = reject(images, labels, seeds) if reject else [None] * len(batch)
        for (row, draw), image, seed, good, reason in zip(batch, images, seeds, usable, reasons, strict=True):
            if good and reason is None:
                kept[row] = plan.row(image, plan.labels[row], seed)
                continue
            rejected[reason if good and reason else NOT_FINITE] += 1
            if good and draw + 1 < plan.most_draws:
                queue.append((row, draw + 1))
            elif good:
                rejected[GIVEN_UP] += 1
        progress.update(len(batch) - (len(queue) - waiting))
    return [kept[row] for row in rows if row in kept], rejected


def seed_of(seed: int, row: int, draw: int) -> int:
    """The seed of a row's picture: the first draw's is that of a run without rejections."""
    return derive_seed(seed, row, draw) if draw else derive_seed(seed, row)


def write_shard(plan: ShardPlan, shard: int, rows: list[dict[str, Any]], rejected: Counter[str]) -> None:
    """Write the rows of one shard, aside first, and what was rejected into the file's metadata."""
    path = plan.path(shard)
    aside = path.with_name(f".{path.name}.tmp")
    columns = {name: [row[name] for row in rows] for name in plan.features}
    table = Dataset.from_dict(columns, features=plan.features).data.table
    if rejected:
        counts = json.dumps(rejected).encode()
        table = table.replace_schema_metadata({**table.schema.metadata, REJECTED: counts})
    options = {} if plan.provenance is None else parquet_options(table.column_names)
    try:
        pq.write_table(table, aside, **options)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ValueError(
            f"--output_dir {plan.output_dir}: {path.name} could not be written ({error.strerror or error}); "
            "the shards before it are kept: make room and start the same command again"
        ) from error
