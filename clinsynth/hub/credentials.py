"""Where a PNG file, or each row of a Parquet file, says it comes from, and whether its content credentials hold.

A manifest is whole as long as no byte of its file has changed; who signed it counts as far as the reader trusts the
certificates above the signer's. Nothing is fetched over the network.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth import __version__
from clinsynth.synthesis.provenance import SIGNATURE, SOURCE_TYPE, Provenance, read_chunks, read_mark
from clinsynth.synthesis.shard_files import explained_where_damaged

if TYPE_CHECKING:
    import pyarrow.parquet as pq

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
MOST_NAMED = 5  # rows whose signature does not hold
HOW_TO_READ = "it takes c2pa-python; pip install clinsynth[c2pa]"


def expected(says: Any) -> dict[str, Any] | None:
    """What a provenance chunk of this generator, revision and seed says; None of what is no such chunk's."""
    if not isinstance(says, dict) or not {"generator", "revision", "seed"} <= set(says):
        return None
    return Provenance(says["generator"], says["revision"]).of_row(says["seed"])


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
    parts = [one.get("validationDeltas") or {} for one in found.get("ingredientDeltas") or []]
    parts = [found.get("activeManifest") or {}, *parts]
    failures = [failure for part in parts for failure in part.get("failure", [])]
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
    """How manifests are read: offline, with these trusted certificates (PEM)."""
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
    """The library c2pa-python."""
    try:
        import c2pa
    except ImportError as error:
        raise ImportError(f"content credentials need c2pa-python ({error}); pip install clinsynth[c2pa]") from error
    return c2pa


def inspect_file(path: Path, anchors: str = "") -> dict[str, Any] | None:
    """What a file says of its provenance, and its content credentials; None where it says nothing.

    Args:
        anchors: PEM file of certificates that the signer's must come from; empty: whoever signed.

    Raises:
        ValueError: there is no such file, it is neither PNG nor Parquet, or one of the two cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; give an image (.png) or a shard (.parquet) of a synthetic set")
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
        reading(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--anchors {path} cannot be read ({error}); give a PEM file of certificates") from error
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
    for number, row in enumerate(read_rows(file, columns)):
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


def read_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a few in memory at a time; none where none of the columns is there."""
    for batch in file.iter_batches(batch_size=16, columns=columns) if columns else ():
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
