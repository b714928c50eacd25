"""Content credentials: a manifest in a PNG file, signed, that says the picture was made by a trained model.

The manifest (C2PA specification 2.2) is a caBX chunk behind IHDR; every other chunk stays as it is. It holds the
action `c2pa.created` with IPTC's digital source type trainedAlgorithmicMedia, what the picture's own provenance chunk
says, and a hash of all other bytes of the file. Nothing is fetched over the network, except a time stamp that is asked
for.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from clinsynth import __version__
from clinsynth.synthesis.provenance import (
    KEYWORD,
    SIGNATURE,
    SOURCE_TYPE,
    Provenance,
    is_marked,
    make_chunk,
    read_chunks,
    read_picture,
)

if TYPE_CHECKING:
    from clinsynth.hub.signing import SigningIdentity

KIND = b"caBX"
PNG = "image/png"
SAID = "org.clinsynth.provenance"
ACTIONS, HASH = "c2pa.actions.v2", "c2pa.hash.data"
OFFLINE = {
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False, "verify_after_sign": True},
    "builder": {"thumbnail": {"enabled": False}},
}


class PictureSigner:
    """Signs pictures as one identity.

    Args:
        timestamp: address of a time stamp authority (RFC 3161) that is asked once a picture; None asks nobody.

    Raises:
        ImportError: the packages of the extra c2pa are not installed.
    """

    def __init__(self, identity: SigningIdentity, timestamp: str | None = None) -> None:
        c2pa = import_c2pa()
        info = c2pa.C2paSignerInfo(identity.algorithm, identity.chain, identity.key, timestamp)
        self.timestamp = timestamp
        self.context = c2pa.Context(c2pa.Settings.from_dict(OFFLINE), c2pa.Signer.from_info(info))

    def sign(self, picture: bytes, says: dict[str, Any]) -> bytes:
        """The PNG file with a manifest that tells `says`, read back before it is given out."""
        c2pa = import_c2pa()
        signed = io.BytesIO()
        try:
            with c2pa.Builder(json.dumps(describe(says)), self.context) as builder:
                builder.sign(PNG, io.BytesIO(picture), signed)
        except c2pa.C2paError as error:
            stamp = f", or --timestamp {self.timestamp} does not answer as one" if self.timestamp else ""
            raise ValueError(
                f"a picture cannot be signed ({error}): the certificate must allow digital signatures and have the "
                f"extended key usage emailProtection, documentSigning or c2pa-kp-claimSigning{stamp}; pictures signed "
                "before are kept"
            ) from error
        return signed.getvalue()


def sign_picture(picture: bytes, signer: PictureSigner) -> bytes:
    """A picture file that generation marked, signed as just what its provenance says; the pixels' bytes stay.

    Raises:
        ValueError: it is not marked as synthetic by clinsynth, holds other words too, is signed already, is damaged,
            or the signer may not sign.
    """
    if is_signed(picture):
        raise ValueError("a picture is signed already; sign the one it was made from")
    says = read_picture(picture)
    if says is None or says != expected(says):
        raise ValueError(
            "a picture does not say that clinsynth made it, so it is not signed as synthetic; generate its set again, "
            "with a clinsynth that marks its pictures"
        )
    if not is_marked(picture, make_chunk(b"tEXt", KEYWORD + json.dumps(says).encode())):
        raise ValueError(
            "a picture holds other metadata than its provenance, which nobody has looked at and is not signed; sign "
            "the file as `clinsynth generate images` wrote it"
        )
    return signer.sign(picture, says)


def expected(says: Any) -> dict[str, Any] | None:
    """What a provenance chunk of this generator, revision and seed says; None of what is no such chunk's."""
    if not isinstance(says, dict) or not {"generator", "revision", "seed"} <= set(says):
        return None
    return Provenance(says["generator"], says["revision"]).of_row(says["seed"])


def describe(says: dict[str, Any]) -> dict[str, Any]:
    """The manifest's own words, as c2pa-python takes them; the signer vouches for all of them."""
    assertions = [{"label": label, "data": data, "created": True} for label, data in claims(says).items()]
    return {"claim_generator_info": [agent()], "format": PNG, "assertions": assertions}


def claims(says: dict[str, Any], version: str = __version__) -> dict[str, Any]:
    """The assertions of a picture, by label: how it came to be, and its provenance."""
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent(version)}
    told = {name: says[name] for name in ("synthetic", "generator", "revision", "seed")}
    return {ACTIONS: {"actions": [created], "allActionsIncluded": True}, SAID: told}


def agent(version: str = __version__) -> dict[str, str]:
    return {"name": "clinsynth", "version": version}


def is_signed(picture: bytes) -> bool:
    """Whether a picture is a PNG file with a manifest, of whatever content.

    Raises:
        ValueError: it is a PNG file that is cut short.
    """
    may_be = KIND in picture and picture.startswith(SIGNATURE)
    return may_be and any(kind == KIND for kind, _ in read_chunks(picture))


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
