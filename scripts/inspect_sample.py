"""Read where a sample says it comes from: a PNG picture, or a Parquet file of a published set.

clinsynth inspect eye.png
clinsynth inspect train-00000-of-00003.parquet
clinsynth inspect signed.png --anchors authority.pem
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.arguments import run


@dataclass
class InspectArguments:
    """Read where a sample says it comes from: a PNG picture, or a Parquet file of a published set.

    Nothing proves it, except where pictures are signed and you trust who signed them: whoever wants to can take it out
    or write it in. Example:

      clinsynth inspect eye.png
    """

    file: str = ""
    """PNG or Parquet file; the word after the command, or --file"""
    anchors: str = ""
    """PEM file of certificates whose holders you trust to sign: that all pictures come from them is then demanded"""

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError("what to inspect is missing; name a .png or .parquet file after the command")


def main(args: InspectArguments) -> None:
    """Print what the file says, as JSON.

    Raises:
        ValueError: it says nothing, cannot be read, or is neither PNG nor Parquet; or its signatures do not hold.
    """
    from clinsynth.hub.inspection import inspect_credentials, refuse_broken

    says = inspect_file(Path(args.file))
    credentials = inspect_credentials(Path(args.file), args.anchors)
    if credentials is not None:
        says = (says or {}) | {"content_credentials": credentials}
    if says is None:
        raise ValueError(f"{args.file} does not say where it comes from; that does not make it a real patient's")
    print(json.dumps(says, indent=2))
    refuse_broken(credentials, args.file, args.anchors)


def inspect_file(path: Path) -> dict[str, Any] | None:
    """What a file says of its provenance; None where it says nothing.

    Raises:
        ValueError: there is no such file, or it is neither PNG nor Parquet.
    """
    from clinsynth.synthesis.provenance import SIGNATURE, read_picture
    from clinsynth.synthesis.shard_files import explained_where_damaged

    if not path.is_file():
        raise ValueError(f"{path} is no file; give a picture (.png) or a shard (.parquet) of a synthetic set")
    with open(path, "rb") as file:
        start = file.read(len(SIGNATURE))
    with explained_where_damaged(path):
        if start == SIGNATURE:
            return read_picture(path.read_bytes())
        if start.startswith(b"PAR1"):
            return inspect_rows(path)
    raise ValueError(f"{path} is neither a PNG nor a Parquet file; give a file of one of these kinds")


def inspect_rows(path: Path) -> dict[str, Any] | None:
    """What the rows of a Parquet file say, and how many of its pictures say the same."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = [name for name in ("synthetic", "generator", "revision", "seed") if name in file.schema_arrow.names]
    if "synthetic" not in names:
        return None
    found: dict[str, Counter[Any]] = {name: Counter() for name in names}
    pictures = {"marked": 0, "agree with their row": 0}
    shown = [*names, "image"] if "image" in file.schema_arrow.names else names
    for batch in file.iter_batches(batch_size=256, columns=shown):
        for row in batch.to_pylist():
            for name in names:
                found[name][row[name]] += 1
            count_picture(row, names, pictures)
    seeds = found.pop("seed", None)
    says: dict[str, Any] = {"rows": file.metadata.num_rows}
    says |= {name: {str(value): count for value, count in counts.items()} for name, counts in found.items()}
    if seeds:
        says["seed"] = {"different": len(seeds), "smallest": min(seeds), "largest": max(seeds)}
    return says | ({"pictures": pictures} if "image" in shown else {})


def count_picture(row: dict[str, Any], names: list[str], pictures: dict[str, int]) -> None:
    from clinsynth.synthesis.provenance import read_picture

    says = read_picture(row["image"]["bytes"]) if "image" in row else None
    if says is not None:
        pictures["marked"] += 1
        pictures["agree with their row"] += all(says.get(name) == row[name] for name in names)


if __name__ == "__main__":
    run(InspectArguments, main)
