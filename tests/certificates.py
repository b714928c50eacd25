"""Certificates for tests: an authority, and what it issues to somebody who signs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
CA_USES = {"key_cert_sign", "crl_sign"}
USES = (
    "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
    "encipher_only decipher_only"
).split()


def new_key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def name_of(who: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test Hospital")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, who)])


def as_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(pem.Encoding.PEM) for one in certificates)


def key_pem(key: Any, form: pem.PrivateFormat = pem.PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
    hidden = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    written: bytes = key.private_bytes(pem.Encoding.PEM, form, hidden)
    return written


@dataclass
class Authority:
    """A certificate authority: its key, and its own certificate."""

    name: str = "Test Authority"
    key: Any = field(default_factory=new_key)

    @property
    def certificate(self) -> x509.Certificate:
        return self.issue(self.name, self.key, authority=True)

    def issue(
        self,
        who: str,
        key: Any,
        authority: bool = False,
        days: tuple[int, int] = (-1, 30),
        usage: x509.ObjectIdentifier = EMAIL,
        critical: bool = False,
    ) -> x509.Certificate:
        """A certificate for `who`, valid between these days from now."""
        now = datetime.now(UTC)
        uses = CA_USES if authority else {"digital_signature"}
        builder = (
            x509.CertificateBuilder(name_of(self.name), name_of(who), key.public_key(), x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.KeyUsage(**{use: use in uses for use in USES}), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
        return builder.sign(self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def write_files(folder: Path, authority: Authority, key: Any = None, **issued: Any) -> None:
    """chain.pem, key.pem (for its owner alone) and authority.pem of somebody who may sign."""
    key = key or new_key()
    certificate = authority.issue("Radiology", key, **issued)
    (folder / "chain.pem").write_bytes(as_pem(certificate, authority.certificate))
    (folder / "authority.pem").write_bytes(as_pem(authority.certificate))
    write_key(folder / "key.pem", key_pem(key))


def write_key(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
