"""Who may sign: kinds of keys, chains of certificates, and what is said of those that do not fit."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("c2pa", reason="needs c2pa-python: pip install clinsynth[c2pa]")

from certificates import Authority, as_pem, key_pem, new_key, write_files, write_key
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from clinsynth.hub.credentials import read_manifest
from clinsynth.hub.signing import ImageSigner, read_identity, sign_image
from clinsynth.images import to_picture, to_png
from clinsynth.synthesis.provenance import Provenance, mark_image

MARKED = mark_image(to_png(to_picture(np.zeros((1, 32, 32), np.uint8))), Provenance("me/retina", "abc").of_row(7))


def state(picture: bytes, anchors: str | None = None) -> str:
    found = read_manifest(picture, anchors)
    assert found is not None
    told: str = found["state"]
    return told


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), "es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "es512"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
    ],
)
def test_each_kind_of_key_signs(key: Any, algorithm: str, tmp_path: Path) -> None:
    write_files(tmp_path, Authority(), key())
    one = read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    signed = sign_image(MARKED, ImageSigner(one))
    assert one.algorithm == algorithm and state(signed, (tmp_path / "authority.pem").read_text()) == "trusted"


def test_a_key_in_openssl_s_older_form_signs(tmp_path: Path) -> None:
    key = new_key()
    write_files(tmp_path, Authority(), key)
    write_key(tmp_path / "key.pem", key_pem(key, PrivateFormat.TraditionalOpenSSL))
    one = read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert state(sign_image(MARKED, ImageSigner(one))) == "valid"


def test_an_authority_between_is_carried_along(tmp_path: Path) -> None:
    root, between, key = Authority("Root"), Authority("Between"), new_key()
    upper = root.issue("Between", between.key, authority=True)
    (tmp_path / "chain.pem").write_bytes(as_pem(between.issue("Radiology", key), upper))
    write_key(tmp_path / "key.pem", key_pem(key))
    signed = sign_image(MARKED, ImageSigner(read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")))
    assert state(signed, as_pem(root.certificate).decode()) == "trusted"
    (tmp_path / "chain.pem").write_bytes(as_pem(upper, between.issue("Radiology", key)))
    with pytest.raises(ValueError, match="which comes next; put yours first"):
        read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")


def test_certificates_and_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    authority, key = Authority(), new_key()
    write_files(tmp_path, authority, key)
    own = Authority("Radiology", key)
    chains = {
        "expired at": as_pem(authority.issue("Radiology", key, days=(-9, -1))),
        "is valid from": as_pem(authority.issue("Radiology", key, days=(1, 9))),
        "self-signed certificate": as_pem(own.issue("Radiology", key)),
        "was not issued by": as_pem(authority.issue("Radiology", key), Authority().certificate),
        "is not the key of": as_pem(authority.issue("Radiology", new_key()), authority.certificate),
        "holds no certificate": key_pem(key),
    }
    for message, chain in chains.items():
        (tmp_path / "wrong.pem").write_bytes(chain)
        with pytest.raises(ValueError, match=message) as caught:
            read_identity(tmp_path / "wrong.pem", tmp_path / "key.pem")
        assert str(tmp_path / "wrong.pem") in str(caught.value)
    keys = {
        "is encrypted": key_pem(key, password=b"secret"),
        "holds no private key": as_pem(authority.certificate),
        "is not the key of": key_pem(new_key()),
    }
    for message, content in keys.items():
        write_key(tmp_path / "wrong.key", content)
        with pytest.raises(ValueError, match=message) as caught:
            read_identity(tmp_path / "chain.pem", tmp_path / "wrong.key")
        assert content.decode()[40:80] not in str(caught.value)
    for names in (("none", "key.pem"), ("chain.pem", "none")):
        with pytest.raises(ValueError, match="none cannot be read"):
            read_identity(tmp_path / names[0], tmp_path / names[1])


@pytest.mark.parametrize(
    "key", [lambda: ec.generate_private_key(ec.SECP256K1()), lambda: rsa.generate_private_key(65537, 1024)]
)
def test_a_key_that_c2pa_does_not_know_is_refused(key: Any, tmp_path: Path) -> None:
    write_files(tmp_path, Authority(), key())
    with pytest.raises(ValueError, match="P-256, P-384 or P-521"):
        read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")


def test_a_certificate_for_something_else_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, Authority(), usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    signer = ImageSigner(read_identity(tmp_path / "chain.pem", tmp_path / "key.pem"))
    with pytest.raises(ValueError, match="emailProtection"):
        sign_image(MARKED, signer)


def test_a_key_that_others_can_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, Authority())
    with caplog.at_level(logging.WARNING, "clinsynth"):
        read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
        assert not caplog.messages
        (tmp_path / "key.pem").chmod(0o640)
        read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    (message,) = caplog.messages
    assert "mode 640" in message and "chmod 600" in message


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    write_files(tmp_path, Authority())
    identity = read_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    secret = identity.key.splitlines()[1]
    assert secret in (tmp_path / "key.pem").read_bytes() and secret.decode() not in repr(identity)
    assert secret not in sign_image(MARKED, ImageSigner(identity))
