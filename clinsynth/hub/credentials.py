"""The C2PA manifest of a PNG file: what it says, whether that holds, whether it is all that we write, and writing it.

A manifest is whole as long as no byte of its file has changed; who signed it counts as far as the reader trusts the
certificates above the signer's. Nothing is fetched over the network.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from clinsynth import __version__
from clinsynth.synthesis.provenance import (
    KEYWORD,
    SIGNATURE,
    SOURCE_TYPE,
    Provenance,
    is_marked,
    make_chunk,
    read_chunks,
    read_mark,
)

KIND = b"caBX"
PNG = "image/png"
SAID = "org.clinsynth.provenance"
ACTIONS, HASH = "c2pa.actions.v2", "c2pa.hash.data"
TOLD = ("synthetic", "generator", "revision", "seed")
OFFLINE = {
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False, "verify_after_sign": True},
    "builder": {"thumbnail": {"enabled": False}},
}
CLAIM = {"instanceID", "claim_generator_info", "signature", "created_assertions", "alg", "claim_version"}
LIBRARY = "org.contentauth.c2pa_rs"
"""Under it the library tells its version."""
VERSION = re.compile(r"\d[\w.+]{0,30}")
INVALID, VALID, TRUSTED, NOT_READ = "INVALID", "valid", "trusted", "not read"
"""What `read_manifest` finds: changed since, or never right; whole, signed by anybody; whole, signed by one whom the
trusted certificates vouch for; and there, but without the packages that read it."""
STATES = {"Trusted": TRUSTED, "Valid": VALID}
UNTRUSTED = "signingCredential.untrusted"
IN_WORDS = {
    "assertion.dataHash.mismatch": "the file was changed after it was signed",
    "assertion.hashedURI.mismatch": "what the manifest says was changed after it was signed",
    "claimSignature.mismatch": "the signature is not of this manifest, or not by this certificate's key",
    "signingCredential.expired": "the certificate is no longer valid, and no time stamp says that it was",
    UNTRUSTED: "no certificate that you named as trusted vouches for the signer",
}
HOW_TO_READ = "it takes c2pa-python; pip install clinsynth[c2pa]"


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


def expected(says: Any) -> dict[str, Any] | None:
    """What a provenance chunk of this generator, revision and seed says; None of what is no such chunk's."""
    if not isinstance(says, dict) or not {"generator", "revision", "seed"} <= set(says):
        return None
    return Provenance(says["generator"], says["revision"]).of_row(says["seed"])


def manifest_words(says: dict[str, Any]) -> dict[str, Any]:
    """The manifest's own words, as c2pa-python takes them; the signer vouches for all of them."""
    assertions = [{"label": label, "data": data, "created": True} for label, data in claims(says).items()]
    return {"claim_generator_info": [agent()], "format": PNG, "assertions": assertions}


def claims(says: dict[str, Any], version: str = __version__) -> dict[str, Any]:
    """The assertions of an image, by label: how it came to be, and its provenance."""
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent(version)}
    told = {name: says[name] for name in TOLD}
    return {ACTIONS: {"actions": [created], "allActionsIncluded": True}, SAID: told}


def agent(version: str = __version__) -> dict[str, str]:
    return {"name": "clinsynth", "version": version}


def read_manifest(image: bytes, anchors: str | None = None) -> dict[str, Any] | None:
    """What the manifest of a PNG file says, and whether that holds; None where it has none.

    Args:
        anchors: certificates (PEM) that the signer's must come from.

    Returns:
        state: INVALID, VALID, TRUSTED or NOT_READ. why: what keeps it from TRUSTED. Where it can be read also
        signed_by, signed_at (None without a time stamp), source_types, software and says (our own provenance).
    """
    if not is_signed(image):
        return None
    try:
        c2pa = import_c2pa()
    except ImportError:
        return {"state": NOT_READ, "why": [HOW_TO_READ]}
    try:
        store, state, why, signature = read_store(image, anchors)
    except c2pa.C2paError as error:
        return {"state": INVALID, "why": [str(error)]}
    manifest = store["manifests"].get(store.get("active_manifest"), {})
    return {"state": state, "why": why, **summarize(signature, manifest.get("assertion_store") or {})}


def read_store(image: bytes, anchors: str | None = None) -> tuple[dict[str, Any], str, list[str], dict[str, Any]]:
    """All manifests of a signed PNG file, its state, what keeps it from TRUSTED, and who signed.

    Raises:
        c2pa.C2paError: it cannot be read.
    """
    with import_c2pa().Reader(PNG, io.BytesIO(image), context=reading(anchors)) as reader:
        store, why = json.loads(reader.detailed_json()), tell_failures(reader.get_validation_results())
        signature = (reader.get_active_manifest() or {}).get("signature_info") or {}
        return store, STATES.get(reader.get_validation_state(), INVALID), why, signature


def tell_failures(results: dict[str, Any] | None) -> list[str]:
    """What the library found wrong with the manifest and with those of its ingredients, each with C2PA's code.

    That the signer is not trusted comes last: it says nothing of the image.
    """
    found = results or {}
    deltas = [one.get("validationDeltas") or {} for one in found.get("ingredientDeltas") or []]
    failures = [
        failure for part in (found.get("activeManifest") or {}, *deltas) for failure in part.get("failure", [])
    ]
    failures.sort(key=lambda one: one["code"] == UNTRUSTED)
    return [f"{IN_WORDS.get(one['code'], one.get('explanation'))} ({one['code']})" for one in failures]


def summarize(signature: dict[str, Any], assertions: dict[str, Any]) -> dict[str, Any]:
    """Who signed, when, and what the assertions say."""
    lists = [data for label, data in assertions.items() if label.startswith("c2pa.actions")]
    actions = [action for data in lists for action in data.get("actions", [])]
    sources = [action["digitalSourceType"] for action in actions if "digitalSourceType" in action]
    agents = [action["softwareAgent"] for action in actions if "softwareAgent" in action]
    who = {"organization": signature.get("issuer"), "name": signature.get("common_name")}
    who["certificate"] = signature.get("cert_serial_number")
    told = {"signed_by": who, "signed_at": signature.get("time"), "source_types": sources, "software": agents}
    return told | {"says": assertions.get(SAID)}


def unsigned(image: bytes) -> bytes:
    """The image file that `sign_image` was given; one without a manifest as it is.

    Raises:
        ImportError: the packages that read a manifest are not installed.
        ValueError: the manifest does not hold, or is another than `sign_image` writes for this image.
    """
    if not is_signed(image):
        return image
    c2pa = import_c2pa()
    try:
        store, state, why, _ = read_store(image)
    except c2pa.C2paError as error:
        raise ValueError(f"an image's manifest cannot be read ({error}); sign its set again") from error
    if state == INVALID:
        raise ValueError(f"an image's signature does not hold: {'; '.join(why)}; sign its set again")
    if not is_ours(list(store["manifests"].values()), expected(read_mark(image))):
        raise ValueError(
            "an image's manifest is not as `clinsynth sign images` writes it, so that it may hold words nobody has "
            "looked at; sign its set again"
        )
    return b"".join([SIGNATURE, *(chunk for kind, chunk in read_chunks(image) if kind != KIND)])


def is_ours(manifests: list[dict[str, Any]], says: dict[str, Any] | None) -> bool:
    """Whether a file's manifests are one alone, with no word but those that `sign_image` writes of `says`."""
    if says is None or len(manifests) != 1 or not set(manifests[0]["claim"]) <= CLAIM:
        return False
    generator = {name: word for name, word in manifests[0]["claim"]["claim_generator_info"].items() if name != LIBRARY}
    told = {label: data for label, data in manifests[0]["assertion_store"].items() if label != HASH}
    version = str(generator.get("version"))
    return bool(VERSION.fullmatch(version)) and generator == agent(version) and told == claims(says, version)


@lru_cache(maxsize=4)
def reading(anchors: str | None = None) -> Any:
    """How manifests are read: offline, with these trusted certificates (PEM).

    Raises:
        ValueError: they are no certificates.
    """
    c2pa = import_c2pa()
    settings = OFFLINE if anchors is None else {**OFFLINE, "trust": {"trust_anchors": anchors}}
    try:
        return c2pa.Context(c2pa.Settings.from_dict(settings))
    except c2pa.C2paError as error:
        raise ValueError(f"the trusted certificates cannot be read ({error}); give a PEM file of them") from error


def is_signed(image: bytes) -> bool:
    """Whether an image is a PNG file with a manifest, of whatever content.

    Raises:
        ValueError: it is a PNG file that is cut short.
    """
    may_be = KIND in image and image.startswith(SIGNATURE)
    return may_be and any(kind == KIND for kind, _ in read_chunks(image))


def import_c2pa() -> Any:
    """The library c2pa-python.

    Raises:
        ImportError: it is not installed; says how to.
    """
    try:
        import c2pa
    except ImportError as error:
        raise ImportError(f"content credentials need c2pa-python ({error}); pip install clinsynth[c2pa]") from error
    return c2pa
