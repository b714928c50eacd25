"""Pictures made from real ones: none of their sources may be among the pictures that a set is judged with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays


def check_sources(folder: Path, real: dict[str, ImageArrays]) -> None:
    """Raise a `ValueError` where a row of the synthetic set was made from a held-out (test) picture.

    Ids are those of the pictures at the synthetic set's size and channels, which `real` has been brought to.
    """
    used = source_ids(folder)
    if not used:
        return
    held_out = {sample_id(to_picture(image)) for image in real["test"].images}
    count = sum(i in held_out for i in used)
    if count:
        raise ValueError(
            f"--synthetic {folder}: {count} of {len(used)} pictures were made from test pictures of --real, so that "
            "nothing measured with these would count; generate the set anew with the --from_images that --real names"
        )


def source_ids(folder: Path) -> list[str]:
    """The column source_id of a synthetic set; empty where it has none."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet")):
        if "source_id" in pq.read_schema(path).names:
            found += pq.read_table(path, columns=["source_id"])["source_id"].to_pylist()
    return found
