"""One file of a set on its way to being signed: a shard or a PNG file, each picture looked at first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from tqdm import tqdm

    from clinsynth.hub.content_credentials import PictureSigner

NOT_CREATED = "which it keeps much of: a model did not create it; sign a set that was generated without --from_images"


def sign_file(path: Path, signer: PictureSigner, progress: tqdm[Any]) -> bytes:
    """The content of one shard or PNG file with signed pictures.

    Raises:
        ValueError: a picture may not be signed; names the file and the row.
    """
    from clinsynth.hub.shards import open_shard, read_rows, write_table

    if path.suffix == ".parquet":
        return write_table(sign_rows(read_rows(open_shard(path), path), path, signer, progress))
    signed = sign_one(path.read_bytes(), str(path), signer)
    progress.update()
    return signed


def sign_rows(table: pa.Table, path: Path, signer: PictureSigner, progress: tqdm[Any]) -> pa.Table:
    """The rows of a shard with signed pictures; all other columns, and the table's own metadata, as they are."""
    import pyarrow as pa

    check_columns(table.column_names, path)
    place, image = table.schema.get_field_index("image"), table["image"].combine_chunks()
    signed = []
    for row, says in enumerate(table.select(["generator", "revision", "seed", "synthetic"]).to_pylist()):
        picture = image[row]["bytes"].as_py()
        check_row(picture, says, f"{path}, row {row}")
        signed.append(sign_one(picture, f"{path}, row {row}", signer))
        progress.update()
    pictures = pa.StructArray.from_arrays([pa.array(signed, pa.binary()), image.field("path")], ["bytes", "path"])
    return table.set_column(place, table.schema.field(place), pictures)


def check_columns(names: list[str], path: Path) -> None:
    """Refuse a shard without pictures, one that does not say what made it, and one made from real pictures."""
    if "image" not in names:
        raise ValueError(f"{path} holds no pictures; texts cannot be signed")
    if not {"generator", "revision", "seed", "synthetic"} <= set(names):
        raise ValueError(f"{path} does not say what made its rows; generate the set again with this clinsynth")
    if "source_id" in names:
        raise ValueError(f"{path} was made from real pictures, {NOT_CREATED}")


def check_row(picture: bytes, says: dict[str, Any], where: str) -> None:
    """Refuse a picture that says another origin than its row; one that says none is refused when it is signed."""
    from clinsynth.synthesis.provenance import read_picture

    told = read_picture(picture)
    if told is not None and {name: told.get(name) for name in says} != says:
        raise ValueError(f"{where}: the picture tells another origin than its row does; generate the set again")


def sign_one(picture: bytes, where: str, signer: PictureSigner) -> bytes:
    """`sign_picture` whose errors say where."""
    from clinsynth.hub.content_credentials import sign_picture

    try:
        return sign_picture(picture, signer)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
