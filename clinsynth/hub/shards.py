"""The shards of a synthetic data set as they are published: known columns alone, each row says where it is from.

A shard that generation wrote so is published as it is, once it has been looked at: when the set was finished, which
holds for as long as the shards keep their hash, or else now. Any other shard is written anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import is_signed, unsigned
from clinsynth.hub.upload import size_of
from clinsynth.synthesis.provenance import COLUMNS as PROVENANCE_COLUMNS
from clinsynth.synthesis.provenance import Provenance, find_provenance, insert
from clinsynth.synthesis.shard_files import (
    GIVEN_UP,
    Columns,
    HashedFile,
    find_shards,
    is_fit,
    looked_at,
    open_shard,
    parquet_options,
    read_columns,
    read_shard,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from clinsynth.hub_cards.sets import Shards

COLUMNS = ("image", "id", "text", "label", "seed", "attempts")
"""Columns of a synthetic set that may be published, besides the fields of a text task's schema."""


@dataclass
class PublishedShards:
    """The shards of one set, one in memory at a time; the totals are right once `files` has run out.

    Attributes:
        folder: of the set.
        provenance: what each row says.
        hashed: the shards that the evidence is about; one that has changed since is not sent.
        reasons: of rejections, which the set tells anyway.
        known: what generation found of these or other shards when it looked at them.
        left_out: columns that are not published.
        columns: of the published rows.
        num_rows, num_bytes, download_size: of all shards; bytes once decompressed, and as files.
    """

    folder: Path
    provenance: Provenance
    hashed: dict[Path, HashedFile]
    reasons: frozenset[str] = frozenset()
    known: dict[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)
    columns: Columns = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0
    download_size: int = 0

    @classmethod
    def of(cls, generation: dict[str, Any], folder: Path, hashed: dict[Path, HashedFile]) -> PublishedShards:
        """The shards of the set in `folder`, as its generation.json tells of them."""
        reasons = frozenset(generation.get("rejected") or {}) | {GIVEN_UP}
        return cls(folder, find_provenance(generation, folder), hashed, reasons, generation.get("looked_at"))

    @property
    def things(self) -> str:
        """What the rows are, in the words of a card."""
        return "pictures" if any(column["name"] == "image" for column in self.columns) else "texts"

    def totals(self) -> Shards:
        """What a card tells of all of them."""
        from clinsynth.hub_cards.sets import Shards

        return Shards(self.columns, self.num_rows, self.num_bytes, self.download_size)

    def files(self, produced: int) -> Iterator[tuple[str, bytes | HashedFile]]:
        """Path within the set, and content, of each shard.

        Raises:
            ValueError: the rows are not as many as `produced`, a shard cannot be read, or an image is damaged.
        """
        known = self.known or {}
        totals = known.get("num_rows", 0), known.get("num_bytes", 0)
        fit = known == looked_at(self.hashed, self.provenance, *totals)
        for path in find_shards(self.folder):
            content = self.hashed[path] if fit else self.publish(path)
            self.download_size += size_of(content)
            yield f"data/{path.name}", content
        if fit:
            self.columns = read_columns(open_shard(path).schema_arrow)
            self.num_rows, self.num_bytes = totals
        if self.num_rows != produced:
            raise ValueError(
                f"{self.folder} holds {self.num_rows} rows, but its generation.json says {produced}; start its "
                "`clinsynth generate` command again"
            )

    def publish(self, path: Path) -> bytes | HashedFile:
        """The content of one shard: the file itself where it is fit to be published."""
        table = read_shard(path)
        content: bytes | HashedFile
        if is_fit(path, table, self.provenance, self.reasons, unsigned):
            self.columns = read_columns(table.schema)
            content = self.hashed[path]
        else:
            table = self.rewrite(table)
            content = write_table(table)
        self.num_rows += table.num_rows
        self.num_bytes += table.nbytes
        return content

    def rewrite(self, table: pa.Table) -> pa.Table:
        """The rows with known columns and their provenance; nothing of the file's own metadata is kept."""
        import pyarrow as pa
        from datasets import Features, Value

        own = Features.from_arrow_schema(table.schema)
        known = [name for name in (*COLUMNS, *schema_fields(self.folder)) if name in own]
        self.left_out = [name for name in own if name not in (*known, *PROVENANCE_COLUMNS)]
        added = {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
        features = Features({**{name: own[name] for name in dict.fromkeys(known)}, **added})
        self.columns = features._to_yaml_list()
        columns = {name: table[name] for name in features if name in own}
        if "image" in columns:
            columns["image"] = self.mark_images(table)
        for name, value in self.provenance.columns().items():
            columns[name] = pa.repeat(pa.scalar(value), table.num_rows)
        return pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)

    def mark_images(self, table: pa.Table) -> pa.Array:
        """The column of images, each marked with its row's provenance; no file name is kept."""
        import pyarrow as pa

        images = table["image"].combine_chunks().field("bytes").to_pylist()
        seeds = table["seed"].to_pylist() if "seed" in table.column_names else [None] * len(images)
        if any(map(is_signed, images)):
            raise ValueError(
                f"{self.folder} holds signed images in a shard that is not as `clinsynth sign images` wrote it, and "
                "writing it anew would take their signatures away; sign the set again"
            )
        marked = list(map(insert, images, self.provenance.chunks(seeds)))
        return pa.StructArray.from_arrays(
            [pa.array(marked, pa.binary()), pa.nulls(len(marked), pa.string())], ["bytes", "path"]
        )


def schema_fields(folder: Path) -> list[str]:
    """The fields of a text set's schema, each of which is a column; none of a set of images."""
    path = folder / "task.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["schema"]["properties"]) if path.exists() else []


def write_table(table: pa.Table) -> bytes:
    """A Parquet file that can be streamed and shown page by page; the same rows give the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **parquet_options(table.column_names))
    return buffer.getvalue()
