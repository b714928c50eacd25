"""Where a PNG file, or each row of a Parquet file, says it comes from, and whether its content credentials hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import INVALID, TOLD, TRUSTED, read_manifest, reading
from clinsynth.synthesis.provenance import SIGNATURE, read_mark
from clinsynth.synthesis.shard_files import explained_where_damaged

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MOST_NAMED = 5


def inspect_file(path: Path, anchors: str = "") -> dict[str, Any] | None:
    """What a file says of its provenance, and its content credentials; None where it says nothing.

    Args:
        anchors: PEM file of certificates that the signer's must come from; empty: whoever signed.

    Raises:
        ValueError: there is no such file, it is neither PNG nor Parquet, or one of the two cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a picture (.png) or a shard (.parquet) of a synthetic set")
    trusted = read_anchors(Path(anchors)) if anchors else None
    with open(path, "rb") as file:
        start = file.read(len(SIGNATURE))
    if start != SIGNATURE and not start.startswith(b"PAR1"):
        raise ValueError(f"{path} is neither a PNG nor a Parquet file; give a file of one of these kinds")
    with explained_where_damaged(path):
        if start == SIGNATURE:
            png = path.read_bytes()
            says, credentials = read_mark(png), read_manifest(png, trusted)
        else:
            says, credentials = inspect_rows(path, trusted)
    return says if credentials is None else (says or {}) | {"content_credentials": credentials}


def read_anchors(path: Path) -> str:
    """The trusted certificates in a PEM file."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--anchors {path} cannot be read ({error}); give a PEM file of certificates") from error
    try:
        reading(text)
    except ValueError as error:
        raise ValueError(f"--anchors {path}: {error}") from error
    return text


@dataclass
class Signatures:
    """How many rows are signed, by state and signer, and the first of those whose signature does not hold."""

    states: Counter[str] = field(default_factory=Counter)
    signers: Counter[str] = field(default_factory=Counter)
    broken: list[dict[str, Any]] = field(default_factory=list)

    def count(self, row: int, manifest: dict[str, Any] | None) -> None:
        """Count one row."""
        if manifest is None:
            self.states["not signed"] += 1
            return
        self.states[manifest["state"]] += 1
        if "signed_by" in manifest:
            who = (manifest["signed_by"]["name"], manifest["signed_by"]["organization"])
            self.signers[", ".join(filter(None, who))] += 1
        if manifest["state"] == INVALID and len(self.broken) < MOST_NAMED:
            self.broken.append({"row": row, "why": manifest["why"]})

    def told(self) -> dict[str, Any] | None:
        """All of them; None where no row is signed."""
        if set(self.states) <= {"not signed"}:
            return None
        found = {"states": dict(self.states), "signed_by": dict(self.signers)}
        return found | ({"broken": self.broken} if self.broken else {})


def inspect_rows(path: Path, anchors: str | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the rows of a Parquet file say and how many of its images say the same, and their content credentials."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    columns = [name for name in (*TOLD, "image") if name in file.schema_arrow.names]
    names = [name for name in columns if name != "image"]
    found: dict[str, Counter[Any]] = {name: Counter() for name in names}
    marks, signatures = {"marked": 0, "agree with their row": 0}, Signatures()
    for number, row in enumerate(rows_of(file, columns)):
        for name in names:
            found[name][row[name]] += 1
        if "image" in row:
            png = row["image"]["bytes"]
            signatures.count(number, read_manifest(png, anchors))
            if (says := read_mark(png)) is not None:
                marks["marked"] += 1
                marks["agree with their row"] += all(says.get(name) == row[name] for name in names)
    if "synthetic" not in names:
        return None, signatures.told()
    seeds = found.pop("seed", None)
    told: dict[str, Any] = {"rows": file.metadata.num_rows}
    told |= {name: {str(value): count for value, count in counts.items()} for name, counts in found.items()}
    if seeds:
        told["seed"] = {"different": len(seeds), "smallest": min(seeds), "largest": max(seeds)}
    return told | ({"pictures": marks} if "image" in columns else {}), signatures.told()


def rows_of(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a few in memory at a time; none where none of the columns is there."""
    for batch in file.iter_batches(batch_size=256, columns=columns) if columns else ():
        yield from batch.to_pylist()


def refuse_broken(credentials: dict[str, Any] | None, file: str, anchors: str) -> None:
    """Raise a ValueError where credentials do not hold, or with --anchors are missing or nobody vouches for them."""
    found = set() if credentials is None else set(credentials.get("states", [credentials.get("state")]))
    if credentials is not None and INVALID in found:
        why = credentials["broken"][0]["why"] if "broken" in credentials else credentials["why"]
        raise ValueError(
            f"{file}: content credentials are INVALID: {'; '.join(why)}; get the file anew from who signed it"
        )
    if anchors and found != {TRUSTED}:
        raise ValueError(f"{file}: not every image is signed by one whom --anchors {anchors} vouches for")
