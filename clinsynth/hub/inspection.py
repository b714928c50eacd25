"""The content credentials of a PNG picture, or of all pictures in a Parquet file, for `clinsynth inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_NAMED = 5


def inspect_credentials(path: Path, anchors: str = "") -> dict[str, Any] | None:
    """What the manifests of a file say and whether they hold; None where it has none.

    Args:
        anchors: PEM file of certificates that the signer's must come from; empty: whoever signed.

    Raises:
        ValueError: a picture is cut short, or `anchors` cannot be read.
    """
    from clinsynth.hub.credentials import read_manifest
    from clinsynth.synthesis.provenance import SIGNATURE

    trusted = read_anchors(Path(anchors)) if anchors else None
    with open(path, "rb") as file:
        start = file.read(len(SIGNATURE))
    if start == SIGNATURE:
        return read_manifest(path.read_bytes(), trusted)
    return count_manifests(path, trusted)


def read_anchors(path: Path) -> str:
    """The trusted certificates in a PEM file."""
    from clinsynth.hub.credentials import reading

    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--anchors {path} cannot be read ({error}); give a PEM file of certificates") from error
    try:
        reading(text)
    except ValueError as error:
        raise ValueError(f"--anchors {path}: {error}") from error
    return text


def count_manifests(path: Path, anchors: str | None) -> dict[str, Any] | None:
    """How many rows are signed, by state and signer, and the first of those that do not hold."""
    from clinsynth.hub.credentials import INVALID, read_manifest

    states: Counter[str] = Counter()
    signers: Counter[str] = Counter()
    broken: list[dict[str, Any]] = []
    for row, picture in enumerate(each_picture(path)):
        manifest = read_manifest(picture, anchors)
        states["not signed" if manifest is None else manifest["state"]] += 1
        if manifest is None:
            continue
        if "signed_by" in manifest:
            signers[
                ", ".join(filter(None, (manifest["signed_by"]["name"], manifest["signed_by"]["organization"])))
            ] += 1
        if manifest["state"] == INVALID and len(broken) < MOST_NAMED:
            broken.append({"row": row, "why": manifest["why"]})
    if set(states) <= {"not signed"}:
        return None
    return {"states": dict(states), "signed_by": dict(signers)} | ({"broken": broken} if broken else {})


def each_picture(path: Path) -> Iterator[bytes]:
    """The picture of each row of a Parquet file; none where it has no pictures."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    if "image" not in file.schema_arrow.names:
        return
    for batch in file.iter_batches(batch_size=256, columns=["image"]):
        yield from (row["image"]["bytes"] for row in batch.to_pylist())


def refuse_broken(credentials: dict[str, Any] | None, file: str, anchors: str) -> None:
    """Raise a ValueError where credentials do not hold, or with --anchors are missing or nobody vouches for them."""
    from clinsynth.hub.credentials import INVALID, TRUSTED

    found = set() if credentials is None else set(credentials.get("states", [credentials.get("state")]))
    if credentials is not None and INVALID in found:
        why = credentials["broken"][0]["why"] if "broken" in credentials else credentials["why"]
        raise ValueError(
            f"{file}: content credentials are INVALID: {'; '.join(why)}; get the file anew from who signed it"
        )
    if anchors and found != {TRUSTED}:
        raise ValueError(f"{file}: not every picture is signed by one whom --anchors {anchors} vouches for")
