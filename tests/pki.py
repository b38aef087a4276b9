"""Certificates for tests: authorities, and what they sign.  All PEM, all made anew."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    private: Key
    chain: str = ""  # PEM of those between it and its authority

    @property
    def cert(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode() + self.chain

    @property
    def key(self) -> str:
        return self.private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ).decode()

    def files(self, folder: Path) -> tuple[Path, Path]:
        number = next(_numbers)
        cert, key = folder / f"{number}.crt", folder / f"{number}.key"
        cert.write_text(self.cert)
        key.write_text(self.key)
        return cert, key


def new_key(kind: str = "ec") -> Key:
    if kind in ("rsa", "weak"):
        bits = 2048 if kind == "rsa" else 1024
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ec.generate_private_key(ec.SECP256R1())


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    *names: str,
    signed_by: Pair | None = None,
    authority: bool = False,
    days: tuple[int, int] = (-1, 30),
    key: str = "ec",
) -> Pair:
    """A certificate for these names and addresses, by itself unless `signed_by`.

    `days`: from when to when it is good, from now.
    """
    private = new_key(key)
    subject = name_of(names[0] if names else f"authority {next(_numbers)}")
    issuer = subject if signed_by is None else signed_by.certificate.subject
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names and not authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
    certificate = builder.sign(signed_by.private if signed_by else private, hashes.SHA256())
    chain = signed_by.cert if signed_by and signed_by.certificate.issuer != issuer else ""
    return Pair(certificate, private, chain)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
