"""A shard of a synthetic set as a file: its columns, its hash, and whether it can be published as it is.

A shard can be published as it is where it has known columns alone, each of whose rows says where it is from. Finished
sets are looked at once, which holds for as long as their shards keep their hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.synthesis.provenance import Provenance, Unsign, all_marked, as_it_is

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SHARD = re.compile(r"train-\d{5}-of-(\d{5})\.parquet")
GIVEN_UP = "given up"
"""What generation counts rows under that no draw was good enough for, among the reasons of rejections."""
READERS = 4
BLOCK = 1 << 20
IMAGES_A_GROUP = 100  # rows the Hub's viewer reads at once


@dataclass(frozen=True)
class HashedFile:
    """A file whose content is known by its SHA-256, and had `size` bytes and this time of change (ns) then."""

    path: Path
    sha256: bytes
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> HashedFile:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        found = path.stat()
        return cls(path, digest.digest(), found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raise a `ValueError` where it has changed since."""
        found = self.path.stat()
        if (found.st_size, found.st_mtime_ns) != (self.size, self.changed):
            raise ValueError(f"{self.path} has changed since the push began; nothing was published: start it again")


def hash_shards(folder: str | Path) -> str:
    """SHA-256 over the bytes of all shards in a folder, in the order of their names: what evidence is about."""
    return hash_all(hash_each(Path(folder)).values())


def shard_paths(folder: Path) -> list[Path]:
    """The shards in a folder, in the order of their names."""
    return sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))


def hash_each(folder: Path) -> dict[Path, HashedFile]:
    """The shards in a folder, in the order of their names; several are read at once."""
    paths = shard_paths(folder)
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


def open_shard(path: Path) -> pq.ParquetFile:
    """One shard, of which nothing is read ahead.

    Raises:
        ValueError: it cannot be read.
    """
    import pyarrow.parquet as pq

    with explained_where_damaged(path):
        return pq.ParquetFile(path, pre_buffer=False)


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All rows of one shard, read in this thread: where a set is sent, the others are sending.

    Args:
        columns: the columns to read; None reads all.

    Raises:
        ValueError: they cannot be read.
    """
    file = open_shard(path)
    with explained_where_damaged(path):
        return file.read(columns=columns, use_threads=False)


@contextmanager
def explained_where_damaged(path: Path) -> Iterator[None]:
    """What reading a sample's file raises within the block becomes a `ValueError` that names the file and a hint."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy it anew, or generate its set again") from error


def parquet_options(columns: list[str]) -> dict[str, Any]:
    """How a published shard with these columns is written."""
    group = IMAGES_A_GROUP if "image" in columns else None
    few = [name for name in ("label", "generator", "revision") if name in columns]
    return {"row_group_size": group, "write_page_index": True, "use_dictionary": few}


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


def class_names(schema: pa.Schema) -> list[str] | None:
    """The class names that `datasets` wrote beside the column label; None where it wrote none."""
    try:
        names: list[str] = json.loads(schema.metadata[KEY])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names


def label_names(schema: pa.Schema) -> list[str] | None:
    """The class names of a set of images that say where they are from; None of any other columns or metadata."""
    names = class_names(schema)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    bare = schema.with_metadata({key: value for key, value in schema.metadata.items() if key != REJECTED})
    return names if bare.equals(marked_schema(names), check_metadata=True) else None


def marked_schema(names: list[str]) -> pa.Schema:
    """The schema that `datasets` gives a set of images of these classes that say where they are from."""
    import pyarrow as pa

    label = {"names": names, "_type": "ClassLabel"}
    plain = {name: {"dtype": kind, "_type": "Value"} for name, kind in PLAIN.items()}
    told = {"info": {"features": {"image": {"_type": "Image"}, "label": label, **plain}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = [(name, pa.type_for_alias(kind)) for name, kind in PLAIN.items()]
    return pa.schema([("image", image), ("label", pa.int64()), *kinds], metadata={KEY: json.dumps(told).encode()})


WRITER = re.compile(r"parquet-cpp-arrow version [\d.]+(?:-SNAPSHOT)?")


def look_at(shards: dict[Path, HashedFile], provenance: Provenance, reasons: frozenset[str]) -> dict[str, Any] | None:
    """What generation.json says of shards that can be published as they are; None where one cannot.

    As long as the shards have these hashes they need not be looked at again.
    """
    num_rows = num_bytes = 0
    for path in shards:
        table = read_shard(path)
        if not is_fit(path, table, provenance, reasons):
            return None
        num_rows += table.num_rows
        num_bytes += table.nbytes
    return looked_at(shards, provenance, num_rows, num_bytes)


def looked_at(shards: dict[Path, HashedFile], provenance: Provenance, num_rows: int, num_bytes: int) -> dict[str, Any]:
    """Which shards and words were looked at, and the totals: rows, and bytes once decompressed."""
    words = {**provenance.columns(), "shards_sha256": hash_all(shards.values())}
    return {**words, "num_rows": num_rows, "num_bytes": num_bytes}


def is_fit(
    path: Path, table: pa.Table, provenance: Provenance, reasons: frozenset[str], unsign: Unsign = as_it_is
) -> bool:
    """Whether writing a shard of images anew would change nothing that can be read of it.

    Known columns alone; no metadata but theirs and the counts of rejections; no name of an image's file; each row,
    and the text chunk of its image's PNG file, say where it is from, and there is no other chunk.

    Args:
        table: all rows of the shard `path`.
        provenance: what each row is to say.
        reasons: of rejections that may be counted.
        unsign: takes the signature off an image's file that has one.

    Raises:
        ValueError: an image is damaged.
    """
    if label_names(table.schema) is None or not tells_nothing_else(open_shard(path), reasons):
        return False
    if not all(holds_only(table[name], value) for name, value in provenance.columns().items()):
        return False
    image = table["image"].combine_chunks()
    if image.field("path").null_count < len(image) or image.null_count or image.field("bytes").null_count:
        return False
    return all_marked(*bytes_of(image.field("bytes")), provenance.chunks(table["seed"].to_pylist()), unsign)


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
