"""Who signs, and whole sets with signed images: certificate, key and each image looked at before it is signed.

The key stays in memory: it is in no message, log or file that is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import TOLD, ImageSigner, SigningIdentity, sign_image
from clinsynth.hub.shards import write_table
from clinsynth.run_folder import atomic_write, check_unchanged, create_run_folder, read_json
from clinsynth.synthesis.provenance import read_mark
from clinsynth.synthesis.sets import read_finished
from clinsynth.synthesis.shard_files import find_shards, open_shard, read_shard

if TYPE_CHECKING:
    import pyarrow as pa
    from cryptography.x509 import Certificate
    from tqdm import tqdm

logger = logging.getLogger("clinsynth")

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""Algorithms of C2PA (specification 2.2, 13.2.1) by the curve of the key; an RSA key signs ps256."""
ALLOWED_KEYS = "EC on P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
SMALLEST_RSA = 2048
RECORD = "content_credentials.json"
COPIED = ("README.md", "config.yaml", "environment.json", "contact_sheets/*.png")
"""What of a set is carried over besides shards and generation.json; evidence is not, as it is about other shards."""
NOT_CREATED = "which it keeps much of: a model did not create it; sign a set that was generated without --from_images"


def read_identity(certificate: Path, key: Path) -> SigningIdentity:
    """The certificate chain and the key in two PEM files.

    Raises:
        ImportError: the packages of the extra c2pa are not installed.
        ValueError: a file cannot be read, or the two do not fit or may not sign now.
    """
    try:
        from cryptography.hazmat.primitives import serialization as pem
    except ImportError as error:
        raise ImportError(f"signing needs c2pa-python ({error}); pip install clinsynth[c2pa]") from error

    chain = read_chain(certificate)
    check_dates(chain[0], certificate)
    check_chain(chain, certificate)
    private = read_key(key)
    plain = (pem.Encoding.DER, pem.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*plain) != chain[0].public_key().public_bytes(*plain):
        raise ValueError(
            f"--key {key} is not the key of the first certificate in --certificate {certificate} "
            f"({chain[0].subject.rfc4514_string()}); give the two that belong together, that certificate first"
        )
    return SigningIdentity(
        chain=b"".join(one.public_bytes(pem.Encoding.PEM) for one in chain),
        key=private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()),
        algorithm=algorithm_of(private, key),
        name=chain[0].subject.rfc4514_string(),
        valid_until=chain[0].not_valid_after_utc,
        sha256=hashlib.sha256(chain[0].public_bytes(pem.Encoding.DER)).hexdigest(),
    )


def read_chain(path: Path) -> list[Certificate]:
    """The certificates in a PEM file, in its order."""
    from cryptography import x509

    content = read_file(path, "--certificate", "the PEM file of your certificate and those above it")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ValueError(
            f"--certificate {path} holds no certificate in PEM form ({error}); give a file of BEGIN CERTIFICATE "
            "blocks, yours first"
        ) from error


def read_key(path: Path) -> Any:
    """The private key in a PEM file; that others can read the file is said."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_file(path, "--key", "the PEM file of the certificate's private key")
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & OTHERS:
        logger.warning(f"--key {path} is open to others than its owner (mode {mode:o}); chmod 600 it")
    try:
        return load_pem_private_key(content, None)
    except TypeError as error:  # the library's type for a missing password
        raise ValueError(
            f"--key {path} is encrypted; give an unencrypted one that only you can read (openssl pkey -in … -out …)"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:  # what the library says may quote the file
        raise ValueError(
            f"--key {path} holds no private key in PEM form; give a file with a BEGIN PRIVATE KEY block"
        ) from error


def read_file(path: Path, flag: str, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {path} cannot be read ({error.strerror}); give {what}") from error


def check_dates(certificate: Certificate, path: Path) -> None:
    """Refuse a certificate whose time is over or has not begun."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if last < datetime.now(UTC):
        raise ValueError(f"--certificate {path} expired at {last:%Y-%m-%d %H:%M} UTC; give the renewed one")
    if first > datetime.now(UTC):
        raise ValueError(f"--certificate {path} is valid from {first:%Y-%m-%d %H:%M} UTC on; sign after that")


def check_chain(chain: list[Certificate], path: Path) -> None:
    """Refuse a certificate that signed itself, and a chain in which one is not issued by the next."""
    from cryptography.exceptions import InvalidSignature

    if chain[0].issuer == chain[0].subject:
        raise ValueError(
            f"--certificate {path} begins with a self-signed certificate, which C2PA does not allow; put the one that "
            "a certificate authority issued to you first"
        )
    for lower, upper in pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ValueError(
                f"--certificate {path}: {lower.subject.rfc4514_string()} was not issued by "
                f"{upper.subject.rfc4514_string()}, which comes next; put yours first and each one's issuer after it"
            ) from error


def algorithm_of(key: Any, path: Path) -> str:
    """What a private key signs with, as C2PA calls it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= SMALLEST_RSA:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError(f"--key {path} is of a kind that C2PA does not sign with; it must be {ALLOWED_KEYS}")


def sign_set(folder: Path, output: Path, identity: SigningIdentity, timestamp: str | None) -> int:
    """Write what is missing of the signed set, a file at a time; returns how many images it has.

    Args:
        folder: a finished set, or PNG files.
        timestamp: see `ImageSigner`.

    Raises:
        ImportError: the packages of the extra c2pa are not installed.
        ValueError: an image is not one that clinsynth marked, or `output` holds something else.
    """
    from tqdm.auto import tqdm

    files = files_to_sign(folder)
    record = {
        "signed_by": identity.name,
        "certificate_sha256": identity.sha256,
        "valid_until": identity.valid_until.isoformat(),
        "timestamp": timestamp,
        "made_from_sha256": hash_files(files, folder),
    }
    check_same_work(output / RECORD, record)
    signer = ImageSigner(identity, timestamp)
    create_run_folder(output)
    write_facts(folder, output, record, complete=False)
    counts = {path: count_images(path) for path in files}
    with tqdm(total=sum(counts.values()), desc="sign", unit="image") as progress:
        for path in files:
            target = output / path.relative_to(folder)
            if target.exists():
                progress.update(counts[path])
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, sign_file(path, signer, progress))
    write_facts(folder, output, record, complete=True)
    return sum(counts.values())


def files_to_sign(folder: Path) -> list[Path]:
    """The shards of a finished set of images, or all PNG files below a folder without shards.

    Raises:
        ValueError: there are none, or the set is not finished.
    """
    if any((folder / "data").glob("*.parquet")) or (folder / "generation.json").exists():
        if read_finished(folder)["generator"].get("from_images"):
            raise ValueError(f"{folder} was made from real images, {NOT_CREATED}")
        return find_shards(folder)
    files = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    if not files:
        raise ValueError(
            f"{folder} holds neither a synthetic set nor PNG files; give what `clinsynth generate images` wrote"
        )
    return files


def hash_files(files: list[Path], folder: Path) -> str:
    """SHA-256 over names and bytes of files."""
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            whole.update(f"{path.relative_to(folder)}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def check_same_work(path: Path, record: dict[str, Any]) -> None:
    """Refuse a folder with anything but what signing these files so has begun there.

    Args:
        path: of the record that it left there.
    """
    output, before = path.parent, read_json(path)
    if not before and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output_dir {output} holds other files; give a new folder")
    check_unchanged(output, before, record, "give another --output_dir to sign anew")


def write_facts(folder: Path, output: Path, record: dict[str, Any], complete: bool) -> None:
    """Write what is known of the set besides its images, and last of all, in generation.json, that it is complete."""
    if not complete:
        for leftover in output.rglob(".*.tmp"):
            leftover.unlink()
    atomic_write(output / RECORD, json.dumps({**record, "complete": complete}, indent=2) + "\n")
    generation = read_json(folder / "generation.json")
    if not generation:
        return
    for path in (path for pattern in COPIED for path in folder.glob(pattern)):
        target = output / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        atomic_write(target, path.read_bytes())
    generation.pop("looked_at", None)  # by publishing, which is about the shards before
    atomic_write(output / "generation.json", json.dumps(generation | {"complete": complete}, indent=2) + "\n")


def count_images(path: Path) -> int:
    return int(open_shard(path).metadata.num_rows) if path.suffix == ".parquet" else 1


def sign_file(path: Path, signer: ImageSigner, progress: tqdm[Any]) -> bytes:
    """The content of one shard or PNG file with signed images.

    Raises:
        ValueError: an image may not be signed; names the file and the row.
    """
    if path.suffix == ".parquet":
        return write_table(sign_rows(read_shard(path), path, signer, progress))
    signed = sign_one(path.read_bytes(), str(path), signer)
    progress.update()
    return signed


def sign_rows(table: pa.Table, path: Path, signer: ImageSigner, progress: tqdm[Any]) -> pa.Table:
    """The rows of a shard with signed images; all other columns, and the table's own metadata, as they are."""
    import pyarrow as pa

    check_columns(table.column_names, path)
    place, images = table.schema.get_field_index("image"), table["image"].combine_chunks()
    signed = []
    for row, says in enumerate(table.select(list(TOLD)).to_pylist()):
        image = images[row]["bytes"].as_py()
        check_row(image, says, f"{path}, row {row}")
        signed.append(sign_one(image, f"{path}, row {row}", signer))
        progress.update()
    marked = pa.StructArray.from_arrays([pa.array(signed, pa.binary()), images.field("path")], ["bytes", "path"])
    return table.set_column(place, table.schema.field(place), marked)


def check_columns(names: list[str], path: Path) -> None:
    """Refuse a shard without images, one that does not say what made it, and one made from real images."""
    if "image" not in names:
        raise ValueError(f"{path} holds no images; texts cannot be signed")
    if not set(TOLD) <= set(names):
        raise ValueError(f"{path} does not say what made its rows; generate the set again with this clinsynth")
    if "source_id" in names:
        raise ValueError(f"{path} was made from real images, {NOT_CREATED}")


def check_row(image: bytes, says: dict[str, Any], where: str) -> None:
    """Refuse an image that says another origin than its row; one that says none is refused when it is signed."""
    told = read_mark(image)
    if told is not None and {name: told.get(name) for name in says} != says:
        raise ValueError(f"{where}: the image tells another origin than its row does; generate the set again")


def sign_one(image: bytes, where: str, signer: ImageSigner) -> bytes:
    """`sign_image` whose errors say where."""
    try:
        return sign_image(image, signer)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
