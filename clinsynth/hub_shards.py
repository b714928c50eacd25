"""The shards of a synthetic data set as they are published: known columns alone, each row says where it is from."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub_provenance import Provenance, mark_picture

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

SHARD = re.compile(r"train-\d{5}-of-(\d{5})\.parquet")
COLUMNS = ("image", "id", "text", "label", "seed", "attempts")
"""Columns of a synthetic set that may be published, besides the fields of a text task's schema."""
PROVENANCE_COLUMNS = ("synthetic", "generator", "revision")
PICTURES_A_GROUP = 100  # rows the Hub's viewer reads at once
BLOCK = 1 << 20


def hash_shards(folder: str | Path) -> str:
    """SHA-256 over the bytes of all shards in a folder, in the order of their names: what evidence is about."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet")):
        own = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                own.update(block)
        digest.update(own.digest())
    return digest.hexdigest()


def find_shards(folder: Path) -> list[Path]:
    """The shards of a finished set, all of them and nothing else.

    Raises:
        ValueError: one is missing, or another Parquet file lies among them.
    """
    paths = sorted((folder / "data").glob("*.parquet"))
    for path in paths:
        found = SHARD.fullmatch(path.name)
        if not found or int(found.group(1)) != len(paths):
            raise ValueError(
                f"{folder}/data must hold train-00000-of-N.parquet to train-N-of-N.parquet as `clinsynth generate` "
                f"wrote them, and nothing else; got {path.name} among {len(paths)} files: move away what does not "
                "belong there, or start its command again"
            )
    return paths


@dataclass
class PublishedShards:
    """The shards of one set, one in memory at a time; the totals are right once `files` has run out.

    Attributes:
        folder: of the set.
        provenance: what each row says.
        left_out: columns that are not published.
        features: of the published rows.
        num_rows, num_bytes, download_size: of all shards; bytes once decompressed, and as files.
    """

    folder: Path
    provenance: Provenance
    left_out: list[str] = field(default_factory=list)
    features: Features | None = None
    num_rows: int = 0
    num_bytes: int = 0
    download_size: int = 0

    def files(self, produced: int) -> Iterator[tuple[str, bytes]]:
        """Path within the set, and content, of each shard.

        Raises:
            ValueError: the rows are not as many as `produced`, a shard cannot be read, or a picture is damaged.
        """
        for path in find_shards(self.folder):
            table = self.rewrite(read_table(path))
            content = write_table(table)
            self.num_rows += table.num_rows
            self.num_bytes += table.nbytes
            self.download_size += len(content)
            yield f"data/{path.name}", content
        if self.num_rows != produced:
            raise ValueError(
                f"{self.folder} holds {self.num_rows} rows, but its generation.json says {produced}; start its "
                "`clinsynth generate` command again"
            )

    def rewrite(self, table: pa.Table) -> pa.Table:
        """The rows with known columns and their provenance; nothing of the file's own metadata is kept."""
        import pyarrow as pa
        from datasets import Features, Value

        own = Features.from_arrow_schema(table.schema)
        known = [name for name in (*COLUMNS, *schema_fields(self.folder)) if name in own]
        self.left_out = [name for name in own if name not in (*known, *PROVENANCE_COLUMNS)]
        added = {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
        self.features = Features({**{name: own[name] for name in dict.fromkeys(known)}, **added})
        columns = {name: table[name] for name in self.features if name in own}
        if "image" in columns:
            columns["image"] = self.mark_pictures(table)
        says = (True, self.provenance.generator, self.provenance.revision)
        for name, value in zip(PROVENANCE_COLUMNS, says, strict=True):
            columns[name] = pa.repeat(pa.scalar(value), table.num_rows)
        return pa.table({name: columns[name] for name in self.features}, schema=self.features.arrow_schema)

    def mark_pictures(self, table: pa.Table) -> pa.Array:
        """The column of pictures, each marked with its row's provenance; no file name is kept."""
        import pyarrow as pa

        pictures = table["image"].combine_chunks().field("bytes").to_pylist()
        seeds = table["seed"].to_pylist() if "seed" in table.column_names else [None] * len(pictures)
        says = [self.provenance.of_row(seed) for seed in seeds]
        marked = [mark_picture(picture, words) for picture, words in zip(pictures, says, strict=True)]
        return pa.StructArray.from_arrays(
            [pa.array(marked, pa.binary()), pa.nulls(len(marked), pa.string())], ["bytes", "path"]
        )


def schema_fields(folder: Path) -> list[str]:
    """The fields of a text set's schema, each of which is a column; none of a set of pictures."""
    path = folder / "task.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["schema"]["properties"]) if path.exists() else []


def read_table(path: Path) -> pa.Table:
    """All rows of one shard.

    Raises:
        ValueError: it cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); remove it and generate it again") from error


def write_table(table: pa.Table) -> bytes:
    """A Parquet file that can be streamed and shown page by page; the same rows give the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    group = PICTURES_A_GROUP if "image" in table.column_names else None
    few = [name for name in ("label", "generator", "revision") if name in table.column_names]
    pq.write_table(table, buffer, row_group_size=group, write_page_index=True, use_dictionary=few)
    return buffer.getvalue()


def describe_set(generation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """generation.json as it is published: no path, address, or digest of real texts."""
    from clinsynth.hub_cards.private_words import describe_command, hub_id, last_part, without_paths

    hidden = {"endpoint", "examples_sha256", "verify_labels_sha256"}
    generator = {name: value for name, value in generation["generator"].items() if name not in hidden}
    model = generator.get("model")
    generator["model"] = model and (hub_id(model, folder) or last_part(model))
    environment = generation.get("environment") or {}
    kept = {name: environment[name] for name in ("python", "packages", "git_commit", "machine") if name in environment}
    kept["command"] = describe_command(environment.get("command"), folder)
    counts = {name: generation.get(name) for name in ("requested", "produced", "rejected", "given_up")}
    described: dict[str, Any] = without_paths({"generator": generator, **counts, "environment": kept})
    return described
