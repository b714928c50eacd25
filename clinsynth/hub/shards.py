"""The shards of a synthetic data set as they are published: known columns alone, each row says where it is from.

A shard that generation wrote so is published as it is, once it has been looked at: when the set was finished, which
holds for as long as the shards keep their hash, or else now. Any other shard is written anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import is_signed
from clinsynth.hub.upload import HashedFile, size_of
from clinsynth.synthesis.provenance import COLUMNS as PROVENANCE_COLUMNS
from clinsynth.synthesis.provenance import Provenance, all_marked, find_provenance, insert

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SHARD = re.compile(r"train-\d{5}-of-(\d{5})\.parquet")
COLUMNS = ("image", "id", "text", "label", "seed", "attempts")
"""Columns of a synthetic set that may be published, besides the fields of a text task's schema."""
READERS = 4
PICTURES_A_GROUP = 100  # rows the Hub's viewer reads at once
GIVEN_UP = "given up"
"""What generation counts rows under that no draw was good enough for, among the reasons of rejections."""


def hash_shards(folder: str | Path) -> str:
    """SHA-256 over the bytes of all shards in a folder, in the order of their names: what evidence is about."""
    return hash_all(hash_each(Path(folder)).values())


def hash_each(folder: Path) -> dict[Path, HashedFile]:
    """The shards in a folder, in the order of their names; several are read at once."""
    paths = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        return dict(zip(paths, pool.map(HashedFile.of, paths), strict=True))


def hash_all(shards: Iterable[HashedFile]) -> str:
    """`hash_shards` of shards that have been hashed."""
    return hashlib.sha256(b"".join(shard.sha256 for shard in shards)).hexdigest()


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
        hashed: the shards that the evidence is about; one that has changed since is not sent.
        reasons: of rejections, which the set tells anyway.
        known: what `look_at` found of these or other shards.
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
    def of_pictures(self) -> bool:
        return any(column["name"] == "image" for column in self.columns)

    def files(self, produced: int) -> Iterator[tuple[str, bytes | HashedFile]]:
        """Path within the set, and content, of each shard.

        Raises:
            ValueError: the rows are not as many as `produced`, a shard cannot be read, or a picture is damaged.
        """
        fit = self.known is not None and self.known == self.describe(self.known["num_rows"], self.known["num_bytes"])
        for path in find_shards(self.folder):
            content = self.hashed[path] if fit else self.publish(path)
            self.download_size += size_of(content)
            yield f"data/{path.name}", content
        if fit and self.known is not None:
            self.columns = read_columns(open_shard(path).schema_arrow)
            self.num_rows, self.num_bytes = self.known["num_rows"], self.known["num_bytes"]
        if self.num_rows != produced:
            raise ValueError(
                f"{self.folder} holds {self.num_rows} rows, but its generation.json says {produced}; start its "
                "`clinsynth generate` command again"
            )

    def look_at(self) -> dict[str, Any] | None:
        """Which shards and words were looked at, and the totals; None where a shard is not fit to be published.

        As long as the shards have these hashes they need not be looked at again.
        """
        for path in self.hashed:
            file = open_shard(path)
            table = read_rows(file, path)
            if not is_fit(file, table, self.provenance, self.reasons):
                return None
            self.num_rows += table.num_rows
            self.num_bytes += table.nbytes
        return self.describe(self.num_rows, self.num_bytes)

    def describe(self, num_rows: int, num_bytes: int) -> dict[str, Any]:
        """What `look_at` says of these shards with this provenance."""
        words = {**self.provenance.columns(), "shards_sha256": hash_all(self.hashed.values())}
        return {**words, "num_rows": num_rows, "num_bytes": num_bytes}

    def publish(self, path: Path) -> bytes | HashedFile:
        """The content of one shard: the file itself where it is fit to be published."""
        file = open_shard(path)
        table = read_rows(file, path)
        content: bytes | HashedFile
        if is_fit(file, table, self.provenance, self.reasons):
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
            columns["image"] = self.mark_pictures(table)
        for name, value in self.provenance.columns().items():
            columns[name] = pa.repeat(pa.scalar(value), table.num_rows)
        return pa.table({name: columns[name] for name in features}, schema=features.arrow_schema)

    def mark_pictures(self, table: pa.Table) -> pa.Array:
        """The column of pictures, each marked with its row's provenance; no file name is kept."""
        import pyarrow as pa

        pictures = table["image"].combine_chunks().field("bytes").to_pylist()
        seeds = table["seed"].to_pylist() if "seed" in table.column_names else [None] * len(pictures)
        if any(map(is_signed, pictures)):
            raise ValueError(
                f"{self.folder} holds signed pictures in a shard that is not as `clinsynth sign images` wrote it, and "
                "writing it anew would take their signatures away; sign the set again"
            )
        marked = list(map(insert, pictures, self.provenance.chunks(seeds)))
        return pa.StructArray.from_arrays(
            [pa.array(marked, pa.binary()), pa.nulls(len(marked), pa.string())], ["bytes", "path"]
        )


def schema_fields(folder: Path) -> list[str]:
    """The fields of a text set's schema, each of which is a column; none of a set of pictures."""
    path = folder / "task.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["schema"]["properties"]) if path.exists() else []


def open_shard(path: Path) -> pq.ParquetFile:
    """One shard; it is soon read whole, so that nothing is read ahead.

    Raises:
        ValueError: it cannot be read.
    """
    import pyarrow.parquet as pq

    with explained_where_damaged(path):
        return pq.ParquetFile(path, pre_buffer=False)


def read_rows(file: pq.ParquetFile, path: Path, columns: list[str] | None = None) -> pa.Table:
    """All rows of one shard, in this thread: the others are sending.

    Args:
        columns: the columns to read; None reads all.

    Raises:
        ValueError: they cannot be read.
    """
    with explained_where_damaged(path):
        return file.read(columns=columns, use_threads=False)


@contextmanager
def explained_where_damaged(path: Path) -> Iterator[None]:
    """What reading a sample's file raises within the block becomes a `ValueError` that names the file and the mend."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy it anew, or generate its set again") from error


def write_table(table: pa.Table) -> bytes:
    """A Parquet file that can be streamed and shown page by page; the same rows give the same bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **parquet_options(table.column_names))
    return buffer.getvalue()


def parquet_options(columns: list[str]) -> dict[str, Any]:
    """How a published shard with these columns is written."""
    group = PICTURES_A_GROUP if "image" in columns else None
    few = [name for name in ("label", "generator", "revision") if name in columns]
    return {"row_group_size": group, "write_page_index": True, "use_dictionary": few}


def describe_set(generation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """generation.json as it is published: no path, address, or digest of real texts."""
    from clinsynth.private_words import describe_command, without_paths

    hidden = {"endpoint", "examples_sha256", "verify_labels_sha256"}
    generator = {name: value for name, value in generation["generator"].items() if name not in hidden}
    generator["model"] = generator.get("model") and find_provenance(generation, folder).generator
    environment = generation.get("environment") or {}
    kept = {name: environment[name] for name in ("python", "packages", "git_commit", "machine") if name in environment}
    kept["command"] = describe_command(environment.get("command"), folder)
    counts = {name: generation.get(name) for name in ("requested", "produced", "rejected", "given_up")}
    described: dict[str, Any] = without_paths({"generator": generator, **counts, "environment": kept})
    return described


KEY = b"huggingface"
"""Under it a Parquet file's metadata says what `datasets` takes its columns for."""
REJECTED = b"rejected"
"""Under it generation counts what it rejected, by reason."""
PLAIN = {"seed": "int64", "synthetic": "bool", "generator": "string", "revision": "string"}
Columns = list[dict[str, Any]]
"""As `dataset_info` of a card lists them: {"name": "seed", "dtype": "int64"}."""


def read_columns(schema: pa.Schema) -> Columns:
    """The columns of a shard."""
    names = label_names(schema)
    if names is not None:
        label = {"class_label": {"names": {str(number): name for number, name in enumerate(names)}}}
        return [{"name": name, "dtype": kind} for name, kind in {"image": "image", "label": label, **PLAIN}.items()]
    from datasets import Features

    found: Columns = Features.from_arrow_schema(schema)._to_yaml_list()
    return found


def label_names(schema: pa.Schema) -> list[str] | None:
    """The class names of a set of pictures that say where they are from; None of any other columns or metadata."""
    metadata = dict(schema.metadata or {})
    metadata.pop(REJECTED, None)
    try:
        names = json.loads(metadata[KEY])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names if schema.with_metadata(metadata).equals(marked_schema(names), check_metadata=True) else None


def marked_schema(names: list[str]) -> pa.Schema:
    """The schema that `datasets` gives a set of pictures of these classes that say where they are from."""
    import pyarrow as pa

    label = {"names": names, "_type": "ClassLabel"}
    plain = {name: {"dtype": kind, "_type": "Value"} for name, kind in PLAIN.items()}
    told = {"info": {"features": {"image": {"_type": "Image"}, "label": label, **plain}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = [(name, pa.type_for_alias(kind)) for name, kind in PLAIN.items()]
    return pa.schema([("image", image), ("label", pa.int64()), *kinds], metadata={KEY: json.dumps(told).encode()})


WRITER = re.compile(r"parquet-cpp-arrow version [\d.]+(?:-SNAPSHOT)?")


def is_fit(file: pq.ParquetFile, table: pa.Table, provenance: Provenance, reasons: frozenset[str]) -> bool:
    """Whether writing a shard of pictures anew would change nothing that can be read of it.

    Known columns alone; no metadata but theirs and the counts of rejections; no name of a picture's file; each row,
    and the text chunk of its picture's PNG file, say where it is from, and there is no other chunk.

    Args:
        table: all rows of `file`.
        provenance: what each row is to say.
        reasons: of rejections that may be counted.

    Raises:
        ValueError: a picture is damaged.
    """
    if label_names(table.schema) is None or not tells_nothing_else(file, reasons):
        return False
    if not all(holds_only(table[name], value) for name, value in provenance.columns().items()):
        return False
    image = table["image"].combine_chunks()
    if image.field("path").null_count < len(image) or image.null_count or image.field("bytes").null_count:
        return False
    return all_marked(*bytes_of(image.field("bytes")), provenance.chunks(table["seed"].to_pylist()))


def tells_nothing_else(file: pq.ParquetFile, reasons: frozenset[str]) -> bool:
    """Whether a Parquet file's own metadata is what generation writes."""
    metadata = file.metadata.metadata
    if not set(metadata) <= {b"ARROW:schema", b"huggingface", REJECTED}:
        return False
    counted = counts_in(metadata.get(REJECTED, b"{}"))
    if counted is None or not set(counted) <= reasons:
        return False
    return WRITER.fullmatch(file.metadata.created_by) is not None


def counts_in(text: bytes) -> dict[str, int] | None:
    """What JSON says, where that is numbers by name and nothing else."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    alone = isinstance(found, dict) and all(type(count) is int for count in found.values())
    return found if alone and json.dumps(found).encode() == text else None


def holds_only(column: pa.ChunkedArray, value: object) -> bool:
    """Whether each row of a column holds `value`: the first one, and each what the one before it does."""
    rows = column.combine_chunks()
    return len(rows) == 0 or (rows[0].as_py() == value and rows.slice(1).equals(rows.slice(0, len(rows) - 1)))


def bytes_of(column: pa.BinaryArray) -> tuple[bytes, list[int]]:
    """The bytes of all rows of a column without gaps, and where each row ends after the first begins."""
    if len(column) == 0:
        return b"", [0]
    _, ends, data = column.buffers()
    found = memoryview(ends).cast("i")[column.offset : column.offset + len(column) + 1].tolist()
    return data.to_pybytes(), found
