"""Who signs, and whole sets with signed images: certificate, key and each image looked at before it is signed.

The key stays in memory: it is in no message, log or file that is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import OFFLINE, PNG, TOLD, agent, claims, expected, import_c2pa, is_signed
from clinsynth.hub.data_sets import write_table
from clinsynth.run_folder import atomic_write, check_unchanged, create_run_folder, read_json
from clinsynth.synthesis.provenance import KEYWORD, is_marked, make_chunk, read_mark
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


def check_chain(chain: list[Certificate], path: Path) -> None:
    """Refuse a certificate that is out of time or signed itself, and one that the next in the chain did not issue."""
    from cryptography.exceptions import InvalidSignature

    first, last = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if last < datetime.now(UTC):
        raise ValueError(f"--certificate {path} expired at {last:%Y-%m-%d %H:%M} UTC; give the renewed one")
    if first > datetime.now(UTC):
        raise ValueError(f"--certificate {path} is valid from {first:%Y-%m-%d %H:%M} UTC on; sign after that")
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


class ImageSigner:
    """Signs images as one identity.

    Args:
        timestamp: address of a time stamp authority (RFC 3161) that is asked once an image; None asks nobody.

    Raises:
        ImportError: the packages of the extra c2pa are not installed.
    """

    def __init__(self, identity: SigningIdentity, timestamp: str | None = None) -> None:
        c2pa = import_c2pa()
        info = c2pa.C2paSignerInfo(identity.algorithm, identity.chain, identity.key, timestamp)
        self.timestamp = timestamp
        self.context = c2pa.Context(c2pa.Settings.from_dict(OFFLINE), c2pa.Signer.from_info(info))

    def sign(self, image: bytes, says: dict[str, Any]) -> bytes:
        """The PNG file with a manifest that tells `says`, read back before it is given out."""
        c2pa = import_c2pa()
        signed = io.BytesIO()
        try:
            with c2pa.Builder(json.dumps(manifest_words(says)), self.context) as builder:
                builder.sign(PNG, io.BytesIO(image), signed)
        except c2pa.C2paError as error:
            stamp = f", or --timestamp {self.timestamp} does not answer as one" if self.timestamp else ""
            raise ValueError(
                f"an image cannot be signed ({error}): the certificate must allow digital signatures and have the "
                f"extended key usage emailProtection, documentSigning or c2pa-kp-claimSigning{stamp}; images signed "
                "before are kept"
            ) from error
        return signed.getvalue()


def sign_image(image: bytes, signer: ImageSigner) -> bytes:
    """An image file that generation marked, signed as just what its provenance says; the pixels' bytes stay.

    Raises:
        ValueError: it is not marked as synthetic by clinsynth, holds other words too, is signed already, is damaged,
            or the signer may not sign.
    """
    if is_signed(image):
        raise ValueError("an image is signed already; sign the one it was made from")
    says = read_mark(image)
    if says is None or says != expected(says):
        raise ValueError(
            "an image does not say that clinsynth made it, so it is not signed as synthetic; generate its set again, "
            "with a clinsynth that marks its images"
        )
    if not is_marked(image, make_chunk(b"tEXt", KEYWORD + json.dumps(says).encode())):
        raise ValueError(
            "an image holds other metadata than its provenance, which nobody has looked at and is not signed; sign "
            "the file as `clinsynth generate images` wrote it"
        )
    return signer.sign(image, says)


def manifest_words(says: dict[str, Any]) -> dict[str, Any]:
    """The manifest's own words, as c2pa-python takes them; the signer vouches for all of them."""
    assertions = [{"label": label, "data": data, "created": True} for label, data in claims(says).items()]
    return {"claim_generator_info": [agent()], "format": PNG, "assertions": assertions}


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

    files, made_from = files_to_sign(folder), hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            made_from.update(f"{path.relative_to(folder)}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    record = {
        "signed_by": identity.name,
        "certificate_sha256": identity.sha256,
        "valid_until": identity.valid_until.isoformat(),
        "timestamp": timestamp,
        "made_from_sha256": made_from.hexdigest(),
    }
    begun = read_json(output / RECORD)
    if not begun and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output_dir {output} holds other files; give a new folder")
    check_unchanged(output, begun, record, "give another --output_dir to sign anew")
    signer = ImageSigner(identity, timestamp)
    create_run_folder(output)
    write_facts(folder, output, record, complete=False)
    counts = {path: open_shard(path).metadata.num_rows if path.suffix == ".parquet" else 1 for path in files}
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
    """The shards of a finished set of images, or all PNG files below a folder without shards."""
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


def sign_file(path: Path, signer: ImageSigner, progress: tqdm[Any]) -> bytes:
    """The content of one shard or PNG file with signed images; errors name the file and the row."""
    if path.suffix == ".parquet":
        return write_table(sign_rows(read_shard(path), path, signer, progress))
    with named(str(path)):
        signed = sign_image(path.read_bytes(), signer)
    progress.update()
    return signed


def sign_rows(table: pa.Table, path: Path, signer: ImageSigner, progress: tqdm[Any]) -> pa.Table:
    """The rows of a shard with signed images; all other columns, and the table's own metadata, as they are."""
    import pyarrow as pa

    names = table.column_names
    if "image" not in names:
        raise ValueError(
            f"{path} holds no images; texts cannot be signed one by one: `clinsynth pack --certificate --key` signs a "
            "manifest of their rows"
        )
    if not set(TOLD) <= set(names):
        raise ValueError(f"{path} does not say what made its rows; generate the set again with this clinsynth")
    if "source_id" in names:
        raise ValueError(f"{path} was made from real images, {NOT_CREATED}")
    place, images = table.schema.get_field_index("image"), table["image"].combine_chunks()
    signed = []
    for row, says in enumerate(table.select(list(TOLD)).to_pylist()):
        image = images[row]["bytes"].as_py()
        with named(f"{path}, row {row}"):
            told = read_mark(image)  # an image that says nothing is refused when it is signed
            if told is not None and {name: told.get(name) for name in says} != says:
                raise ValueError("the image tells another origin than its row does; generate the set again")
            signed.append(sign_image(image, signer))
        progress.update()
    marked = pa.StructArray.from_arrays([pa.array(signed, pa.binary()), images.field("path")], ["bytes", "path"])
    return table.set_column(place, table.schema.field(place), marked)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Errors of the block say where."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
