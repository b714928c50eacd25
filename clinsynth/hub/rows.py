"""A manifest of the rows of a set of texts: a digest of each, signed or not; and which rows of a shard it names.

Texts carry no mark of their own. The manifest says of each row that a generator made it; its signature (JWS, RFC 7515,
flattened JSON, the payload detached) says who says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.hub.credentials import INVALID, TRUSTED, VALID
from clinsynth.hub.data_sets import BIDI
from clinsynth.run_folder import read_json
from clinsynth.synthesis.provenance import Provenance
from clinsynth.synthesis.shard_files import class_names, open_shard, read_shard

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from clinsynth.hub.signing import SigningIdentity

DIGEST = "SHA-256 of the JSON list [label, text] in UTF-8, the text without bidirectional control characters"
NAMES = {"es256": "ES256", "es384": "ES384", "es512": "ES512", "ps256": "PS256", "ed25519": "EdDSA"}
"""Algorithms of a JWS (RFC 7518, 8037) by C2PA's names."""
SHA = {"ES256": "SHA256", "ES384": "SHA384", "ES512": "SHA512", "PS256": "SHA256"}
SIDES = {"ES256": 32, "ES384": 48, "ES512": 66}
"""Bytes of each of the two numbers of a signature on a curve."""


def manifest_of(shards: list[Path], provenance: Provenance) -> dict[str, Any]:
    """The manifest of the texts in some shards."""
    digests = [one for path in shards for one in row_digests(path)]
    columns = list(open_shard(shards[0]).schema_arrow.names)
    said = {name: value for name, value in provenance.of_row(None).items() if name != "seed"}
    return {"made_by": said, "columns": columns, "rows": len(digests), "digest": DIGEST, "sha256": digests}


def row_digests(path: Path) -> Iterator[str]:
    """The digest of each row of a shard of texts.

    Raises:
        ValueError: it holds no texts with labels.
    """
    if not {"text", "label"} <= set(open_shard(path).schema_arrow.names):
        raise ValueError(
            f"{path} holds no texts with labels; a manifest of rows is of texts, images are signed one by one"
        )
    table = read_shard(path, ["label", "text"])
    names = class_names(table.schema)
    for label, text in zip(table["label"].to_pylist(), table["text"].to_pylist(), strict=True):
        said = [names[label] if names is not None and label is not None else label, BIDI.sub("", text or "")]
        yield hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def sign_manifest(content: bytes, identity: SigningIdentity) -> dict[str, Any]:
    """The signature of a manifest's bytes, as a JWS."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.x509 import load_pem_x509_certificates

    chain = load_pem_x509_certificates(identity.chain)
    name = NAMES[identity.algorithm]
    certificates = [base64.b64encode(one.public_bytes(pem.Encoding.DER)).decode() for one in chain]
    protected = encode(json.dumps({"alg": name, "x5c": certificates}).encode())
    key = pem.load_pem_private_key(identity.key, None)
    return {
        "protected": protected,
        "header": {
            "signed_by": identity.name,
            "certificate_sha256": identity.sha256,
            "valid_until": identity.valid_until.isoformat(),
        },
        "signature": encode(sign_bytes(key, name, signed_part(protected, content))),
    }


def sign_bytes(key: Any, name: str, content: bytes) -> bytes:
    """A JWS' signature by a private key."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    if name == "EdDSA":
        return bytes(key.sign(content))
    algorithm = getattr(hashes, SHA[name])()
    if name == "PS256":
        return bytes(key.sign(content, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm))
    side = SIDES[name]
    return b"".join(
        part.to_bytes(side, "big") for part in decode_dss_signature(key.sign(content, ec.ECDSA(algorithm)))
    )


def verify_bytes(key: Any, name: str, signature: bytes, content: bytes) -> None:
    """Raise an InvalidSignature, a ValueError or a TypeError where a JWS' signature is not by this key."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if name == "EdDSA":
        key.verify(signature, content)
        return
    algorithm = getattr(hashes, SHA[name])()
    if name == "PS256":
        key.verify(signature, content, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
        return
    half = SIDES[name]
    numbers = (int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    key.verify(encode_dss_signature(*numbers), content, ec.ECDSA(algorithm))


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed_part(protected: str, content: bytes) -> bytes:
    """What a JWS signs."""
    return f"{protected}.{encode(content)}".encode()


def read_signature(manifest: Path, anchors: str | None = None) -> dict[str, Any] | None:
    """Whether the signature that lies beside a manifest (.jws) holds, and whose it is; None where none lies there.

    Args:
        anchors: certificates (PEM) that the signer's must come from.

    Returns:
        state: INVALID, VALID or TRUSTED, as of content credentials; why, where it is not TRUSTED; signed_by.
    """
    signature = read_json(manifest.with_suffix(".jws"))
    if not signature:
        return None
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates
    except ImportError as error:
        raise ImportError(f"a signature takes c2pa-python ({error}); pip install clinsynth[c2pa]") from error
    try:
        header = json.loads(decode(signature["protected"]))
        chain = [load_der_x509_certificate(base64.b64decode(one)) for one in header["x5c"]]
        content = signed_part(signature["protected"], manifest.read_bytes())
        verify_bytes(chain[0].public_key(), header["alg"], decode(signature["signature"]), content)
    except (InvalidSignature, ValueError, TypeError, KeyError, IndexError, AttributeError):
        why = "the manifest or its signature was changed after it was signed, or the two do not belong together"
        return {"state": INVALID, "why": why}
    signer = {"signed_by": chain[0].subject.rfc4514_string()}
    trusted = load_pem_x509_certificates(anchors.encode()) if anchors else []
    why = why_not_trusted(chain, trusted)
    return {"state": VALID, "why": why, **signer} if why else {"state": TRUSTED, **signer}


def why_not_trusted(chain: list[Certificate], anchors: list[Certificate]) -> str:
    """What keeps a signer from being trusted; empty where nothing does."""
    now = datetime.now(UTC)
    if not all(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in chain):
        return "a certificate is not valid now"
    if not all(has_issued(upper, lower) for lower, upper in pairwise(chain)):
        return "the certificates did not issue each other"
    if any(chain[-1] == anchor or has_issued(anchor, chain[-1]) for anchor in anchors):
        return ""
    return "no certificate that you named as trusted vouches for the signer"


def has_issued(upper: Certificate, lower: Certificate) -> bool:
    """Whether the holder of one certificate, an authority, issued the other."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        lower.verify_directly_issued_by(upper)
        return upper.extensions.get_extension_for_class(BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, ExtensionNotFound):
        return False


def inspect_manifest(shard: Path, manifest: Path, anchors: str | None) -> dict[str, Any]:
    """How many rows of a shard the manifest names, and whether its signature holds.

    Raises:
        ValueError: it is no manifest of rows, its signature does not hold, or with `anchors` is not trusted.
    """
    values = read_json(manifest)
    if not isinstance(values.get("sha256"), list):
        raise ValueError(f"{manifest} is no manifest of rows; give rows-….json of `clinsynth pack`")
    named, digests = set(values["sha256"]), list(row_digests(shard))
    signature = read_signature(manifest, anchors)
    state = None if signature is None else signature["state"]
    if state == INVALID or (anchors and state != TRUSTED):
        why = "there is none" if signature is None else signature["why"]
        raise ValueError(f"the signature of {manifest} does not hold: {why}; get both files anew from who signed them")
    return {
        "rows": len(digests),
        "named": sum(one in named for one in digests),
        "made_by": values.get("made_by"),
        "signature": signature,
    }
