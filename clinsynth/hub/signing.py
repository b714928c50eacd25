"""Who signs: a certificate with those above it, and its private key, looked at before anything is signed.

The key stays in memory: it is in no message, log or file that is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from cryptography.x509 import Certificate
    from tqdm import tqdm

    from clinsynth.hub.credentials import PictureSigner

logger = logging.getLogger("clinsynth")

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""Algorithms of C2PA (specification 2.2, 13.2.1) by the curve of the key; an RSA key signs ps256."""
ALLOWED_KEYS = "EC on P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
SMALLEST_RSA = 2048


@dataclass(frozen=True)
class SigningIdentity:
    """A certificate and its key.

    Attributes:
        chain: the certificate, then those above it, PEM.
        key: the private key, PEM of PKCS #8.
        algorithm: as C2PA calls it, es256.
        name: the certificate's subject, "CN=Radiology,O=Hospital".
        valid_until: UTC.
        sha256: of the certificate.
    """

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str
    name: str
    valid_until: datetime
    sha256: str


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


NOT_CREATED = "which it keeps much of: a model did not create it; sign a set that was generated without --from_images"


def sign_file(path: Path, signer: PictureSigner, progress: tqdm[Any]) -> bytes:
    """The content of one shard or PNG file with signed pictures.

    Raises:
        ValueError: a picture may not be signed; names the file and the row.
    """
    from clinsynth.hub.shards import write_table
    from clinsynth.synthesis.shard_files import read_shard

    if path.suffix == ".parquet":
        return write_table(sign_rows(read_shard(path), path, signer, progress))
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
    from clinsynth.hub.credentials import sign_picture

    try:
        return sign_picture(picture, signer)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
