"""Reads Parquet files in a process of its own, whose memory and time are bounded: `python parquet_rows.py FILE …`.

A kilobyte of Parquet may stand for gigabytes, by dictionaries and by compression, and its table of sizes need not be
true. Rows go to standard output, a few at a time, as an Arrow stream of content and label; an error goes to standard
error as one line.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from typing import Any

import limits
import pyarrow as pa
import pyarrow.parquet as pq

from clinsynth.synthesis.shard_files import class_names

ROWS_AT_ONCE = 8
LONGEST_LABEL = 200


def open_files(paths: list[str]) -> list[pq.ParquetFile]:
    """The files, of whose tables only so much is read."""
    bounds = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 100_000, "schema_depth_limit": 20}
    return [pq.ParquetFile(path, pre_buffer=False, **bounds) for path in paths]


def rows_of(file: pq.ParquetFile, column: str) -> Iterator[tuple[Any, str]]:
    """Content and label of each row; a label that is a number by the name that `datasets` keeps for it."""
    names = class_names(file.schema_arrow)
    nested = pa.types.is_struct(file.schema_arrow.field(column).type)
    wanted = [f"{column}.bytes" if nested else column, "label"]
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False):
        for row in batch.to_pylist():
            content, label = row[column], row["label"]
            if label is None:
                raise ValueError("a row has no label")
            if names is not None and isinstance(label, int) and 0 <= label < len(names):
                label = names[label]
            yield content["bytes"] if isinstance(content, dict) else content, str(label)


def write_rows(paths: list[str]) -> None:
    """Write all rows to standard output.

    Raises:
        ValueError: a column is missing, a cell is empty or of another kind, or there is more than `limits` allow.
    """
    files = open_files(paths)
    names = files[0].schema_arrow.names
    column = next((name for name in ("image", "text") if name in names), None)
    if column is None or "label" not in names:
        raise ValueError(f"needs columns image or text, and label; it has {', '.join(names[:20])}")
    kind, wanted = (pa.binary(), bytes) if column == "image" else (pa.string(), str)
    schema = pa.schema([("content", kind), ("label", pa.string())], metadata={"column": column})
    count = size = 0
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        for content, label in (row for file in files for row in rows_of(file, column)):
            count += 1
            if not isinstance(content, wanted) or not content:
                raise ValueError(f"row {count} has no {column} inside the file")
            size += len(content)
            if count > limits.MOST_ROWS:
                raise ValueError(f"has more than {limits.MOST_ROWS} samples; draw a smaller part at random")
            if size > limits.MOST_BYTES or len(label) > LONGEST_LABEL:
                raise ValueError(f"holds more than {limits.MOST_BYTES >> 20} MB, or a label too long")
            stream.write_batch(pa.record_batch([pa.array([content], kind), pa.array([label])], schema=schema))


def main(paths: list[str]) -> int:
    """0, or 2 after a message; memory that is not to be had ends in 2 as well."""
    resource.setrlimit(resource.RLIMIT_DATA, (limits.MOST_MEMORY, limits.MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.PARQUET_SECONDS, limits.PARQUET_SECONDS))
    try:
        write_rows(paths)
    except MemoryError:
        print("takes too much memory when unpacked", file=sys.stderr)
    except (pa.ArrowException, OSError, ValueError) as error:
        print(" ".join(str(error).split())[:200], file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
