"""Whether a shard of synthetic pictures can be published as it is: nothing in it that generation does not write."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from clinsynth.hub.hub_columns import REJECTED, label_names
from clinsynth.synthesis.provenance import Provenance, all_marked

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

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
