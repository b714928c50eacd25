"""Signed pictures: what a manifest says, that it no longer holds after a change, and who may not sign."""

import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python: pip install clinsynth[c2pa]")

from certificates import Authority, as_pem, key_pem, write_files  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: E402

from clinsynth import __version__  # noqa: E402
from clinsynth.hub.credentials import (  # noqa: E402
    PNG,
    SAID,
    agent,
    claims,
    is_signed,
    read_manifest,
    reading,
    unsigned,
)
from clinsynth.hub.signing import ImageSigner, SigningIdentity, manifest_words, read_identity, sign_image  # noqa: E402
from clinsynth.images import from_png, to_picture, to_png  # noqa: E402
from clinsynth.synthesis.provenance import (  # noqa: E402
    SIGNATURE,
    SOURCE_TYPE,
    Provenance,
    make_chunk,
    mark_image,
    read_chunks,
    read_mark,
)

SAYS = Provenance("me/retina", "abc").of_row(7896617691693857887)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
MARKED = mark_image(to_png(to_picture(PIXELS)), SAYS)
PATIENT = "Erika Mustermann"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("signing")
    write_files(made, Authority())
    return made


@pytest.fixture(scope="module")
def identity(folder: Path) -> SigningIdentity:
    return read_identity(folder / "chain.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def signer(identity: SigningIdentity) -> ImageSigner:
    return ImageSigner(identity)


@pytest.fixture(scope="module")
def signed(signer: ImageSigner) -> bytes:
    return sign_image(MARKED, signer)


def chunks(png: bytes) -> dict[bytes, bytes]:
    return dict(read_chunks(png))


def state(picture: bytes, anchors: str | None = None) -> str:
    found = read_manifest(picture, anchors)
    assert found is not None
    told: str = found["state"]
    return told


def test_a_signed_picture_says_what_made_it(signed: bytes, folder: Path) -> None:
    assert read_manifest(MARKED) is None
    found = read_manifest(signed, (folder / "authority.pem").read_text())
    assert found is not None
    who = found["signed_by"]
    assert found["state"] == "trusted" and found["why"] == []
    assert found["source_types"] == [SOURCE_TYPE] and SOURCE_TYPE.endswith("/trainedAlgorithmicMedia")
    assert found["software"] == [{"name": "clinsynth", "version": __version__}] and found["signed_at"] is None
    assert (who["name"], who["organization"]) == ("Radiology", "Test Hospital")
    assert found["says"] == {name: SAYS[name] for name in ("synthetic", "generator", "revision", "seed")}


def test_nothing_but_the_manifest_is_added(signed: bytes) -> None:
    after = chunks(signed)
    assert len(after.pop(b"caBX")) == len(signed) - len(MARKED) < 5000
    assert after == chunks(MARKED) and read_mark(signed) == SAYS
    assert (from_png(signed) == PIXELS).all() and unsigned(signed) == MARKED == unsigned(MARKED)


def test_the_signer_vouches_for_each_assertion_and_no_picture_is_repeated(signed: bytes) -> None:
    with c2pa.Reader(PNG, io.BytesIO(signed), context=reading()) as reader:
        text = reader.detailed_json()
    assert "gathered_assertions" not in text and "thumbnail" not in text
    assert '"action": "c2pa.created"' in text and '"allActionsIncluded": true' in text


def test_whom_nobody_vouches_for_is_not_trusted(signed: bytes) -> None:
    stranger = as_pem(Authority("Another Authority").certificate).decode()
    for anchors in (None, stranger):
        found = read_manifest(signed, anchors)
        assert found is not None and found["state"] == "valid"
        (why,) = found["why"]
        assert "no certificate that you named" in why and "signingCredential.untrusted" in why


def other_pixels(signed: bytes) -> bytes:
    """One pixel changed by one, everything else as it was."""
    pixels = PIXELS.copy()
    pixels[0, 0, 0] ^= 1
    changed = chunks(signed) | {b"IDAT": chunks(to_png(to_picture(pixels)))[b"IDAT"]}
    return SIGNATURE + b"".join(changed.values())


def other_seed(signed: bytes) -> bytes:
    return signed.replace(b'"seed": 7', b'"seed": 8')


def words_added(signed: bytes) -> bytes:
    end = signed.index(b"IEND") - 4
    return signed[:end] + make_chunk(b"tEXt", f"Patient\0{PATIENT}".encode()) + signed[end:]


def other_manifest(signed: bytes) -> bytes:
    place = signed.index(b"me/retina")
    return signed[:place] + b"my" + signed[place + 2 :]


def other_signature(signed: bytes) -> bytes:
    """The signature is what a manifest ends with."""
    place = signed.index(chunks(signed)[b"caBX"]) + len(chunks(signed)[b"caBX"]) - 14
    return signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]


def moved(signed: bytes) -> bytes:
    """The manifest on another picture that clinsynth made."""
    target = mark_image(to_png(to_picture(255 - PIXELS)), SAYS)
    return target[:33] + chunks(signed)[b"caBX"] + target[33:]


def cut_short(signed: bytes) -> bytes:
    return signed[:-200]


CHANGES = [other_pixels, other_seed, words_added, other_manifest, other_signature, moved, cut_short]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: Any, signed: bytes, folder: Path) -> None:
    changed = change(signed)
    assert changed != signed
    found = read_manifest(changed, (folder / "authority.pem").read_text())
    assert found is not None and found["state"] == "INVALID" and found["why"]
    assert change is cut_short or "signed" in found["why"][0] or "signature" in found["why"][0]
    with pytest.raises(ValueError, match=r"does not hold: .*(changed after|not of this)|cannot be read"):
        unsigned(changed)


def test_only_what_generation_marked_is_signed(signed: bytes, signer: ImageSigner) -> None:
    plain = to_png(to_picture(PIXELS))
    note = PngInfo()
    note.add_text("Patient", PATIENT)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(plain)).save(buffer, "JPEG")
    wrong = {
        "does not say that clinsynth": [
            plain,
            buffer.getvalue(),
            mark_image(plain, SAYS | {"synthetic": False}),
            mark_image(plain, SAYS | {"patient": PATIENT}),
            mark_image(plain, {"synthetic": True}),
        ],
        "other metadata": [words_added(MARKED), MARKED + PATIENT.encode()],
        "signed already": [signed, other_pixels(signed)],
        "cut short": [MARKED[:-30]],
    }
    for message, pictures in wrong.items():
        for picture in pictures:
            with pytest.raises(ValueError, match=message):
                sign_image(picture, signer)


def test_a_manifest_with_other_words_is_not_taken_for_ours(signer: ImageSigner) -> None:
    told = manifest_words(SAYS)
    others = [
        told | {"title": PATIENT},
        told | {"claim_generator_info": [agent() | {"note": PATIENT}]},
        told | {"claim_generator_info": [agent(PATIENT)]},
        told
        | {"assertions": [*told["assertions"], {"label": "org.note", "data": {"note": PATIENT}, "created": True}]},
        told | {"assertions": told["assertions"][:1]},
    ]
    for other in others:
        signed = io.BytesIO()
        with c2pa.Builder(other, signer.context) as builder:
            builder.sign(PNG, io.BytesIO(MARKED), signed)
        assert state(signed.getvalue()) == "valid"
        with pytest.raises(ValueError, match="nobody has looked at"):
            unsigned(signed.getvalue())


def test_a_set_signed_by_another_version_is_ours(signer: ImageSigner) -> None:
    told = [{"label": label, "data": data, "created": True} for label, data in claims(SAYS, "0.0.7").items()]
    signed = io.BytesIO()
    with c2pa.Builder(
        {**manifest_words(SAYS), "claim_generator_info": [agent("0.0.7")], "assertions": told}, signer.context
    ) as b:
        b.sign(PNG, io.BytesIO(MARKED), signed)
    assert told[1]["label"] == SAID and unsigned(signed.getvalue()) == MARKED


class StampAuthority(BaseHTTPRequestHandler):
    """A time stamp authority made of openssl, which notes who asks; elsewhere it has nothing."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def do_POST(self) -> None:
        self.asked.append(self.path)
        query = self.folder / "query"
        query.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        words = (
            "openssl ts -reply -queryfile query -config tsa.cnf -signer tsa.pem -inkey tsa.key -chain authority.pem"
        )
        answer = subprocess.run(words.split(), cwd=self.folder, capture_output=True, check=True).stdout
        self.send_response(200)
        self.send_header("Content-Type", "application/timestamp-reply")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it has been asked for."""
    asked: list[str] = []
    handler = type("Clock", (StampAuthority,), {"folder": tmp_path, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl, which plays the authority")
def test_a_time_stamp_is_asked_for_only_where_it_is_wanted(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    authority, key = Authority(), rsa.generate_private_key(65537, 2048)
    write_files(tmp_path, authority)
    stamps = authority.issue("Clock", key, usage=ExtendedKeyUsageOID.TIME_STAMPING, critical=True)
    (tmp_path / "tsa.pem").write_bytes(as_pem(stamps))
    (tmp_path / "tsa.key").write_bytes(key_pem(key))
    (tmp_path / "serial").write_text("01\n")
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = t\n[t]\nserial = ./serial\ndefault_policy = 1.2.3.4\ndigests = sha256\n"
        "signer_digest = sha256\ness_cert_id_alg = sha256\n"
    )
    identity, (address, asked) = read_identity(tmp_path / "chain.pem", tmp_path / "key.pem"), server
    sign_image(MARKED, ImageSigner(identity))
    assert asked == []
    found = read_manifest(sign_image(MARKED, ImageSigner(identity, f"{address}/clock")))
    assert found is not None and found["state"] == "valid" and found["signed_at"].startswith("20")
    assert asked == ["/clock"]


def test_a_clock_that_does_not_answer_is_named(identity: SigningIdentity) -> None:
    with pytest.raises(ValueError, match=r"--timestamp http://127\.0\.0\.1:9/ does not answer"):
        sign_image(MARKED, ImageSigner(identity, "http://127.0.0.1:9/"))


def test_a_manifest_elsewhere_is_not_fetched(identity: SigningIdentity, server: tuple[str, list[str]]) -> None:
    address, asked = server
    linked = io.BytesIO()
    with c2pa.Builder(manifest_words(SAYS), ImageSigner(identity).context) as builder:
        builder.set_no_embed()
        builder.set_remote_url(f"{address}/manifest.c2pa")
        builder.sign(PNG, io.BytesIO(MARKED), linked)
    assert not is_signed(linked.getvalue()) and read_manifest(linked.getvalue()) is None
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader(PNG, io.BytesIO(linked.getvalue()), context=reading())
    assert asked == []
    with pytest.raises(c2pa.C2paError), c2pa.Context() as usual:
        c2pa.Reader(PNG, io.BytesIO(linked.getvalue()), context=usual)
    assert asked == ["/manifest.c2pa"], "the library no longer fetches by itself: this test shows nothing"
