"""The certificate of the TLS listeners: the operator's, or a self-signed pair made in DATA_DIR."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERT_FILE = "tls.crt"  # in DATA_DIR
KEY_FILE = "tls.key"
DAYS_VALID = 397
DAYS_LEFT_MIN = 30  # a self-signed pair is made anew when fewer are left at start


class CertificateError(Exception):
    """A certificate or key cannot be used. `str()` is one line that names the file."""


def own_pair(folder: Path) -> tuple[Path, Path]:
    """The self-signed pair in `folder`, made when missing, broken or about to expire.

    P-256, for localhost and this host's name; both files are 0600.
    Raises CertificateError when the folder takes no file.
    """
    cert_path, key_path = folder / CERT_FILE, folder / KEY_FILE
    try:
        certificate = check_pair(cert_path, key_path)
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        if left > datetime.timedelta(days=DAYS_LEFT_MIN):
            return cert_path, key_path
    except CertificateError:
        pass
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed(key)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        _write(key_path, key_pem)
        _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise CertificateError(f"cannot write {error.filename}: {error.strerror}") from None
    return cert_path, key_path


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    hosts = dict.fromkeys(("localhost", socket.gethostname()))
    names: list[x509.GeneralName] = [
        x509.DNSName(h) for h in hosts if h.isascii() and 0 < len(h) < 254
    ]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS_VALID))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step; nobody sees half of it, and nobody but us reads it."""
    beside = path.with_suffix(path.suffix + ".new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    beside.replace(path)


def check_pair(cert_path: Path, key_path: Path) -> x509.Certificate:
    """The first certificate of `cert_path`, once it and the key are found to go together.

    Raises:
        CertificateError: a file cannot be read, is no PEM, is encrypted, or the two differ.
    """
    chain = _read(cert_path)
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
        public = certificate.public_key()
    except (ValueError, TypeError):
        raise CertificateError(f"{cert_path} holds no PEM certificate") from None
    pem = _read(key_path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError(f"{key_path} is encrypted; give a key without password") from None
    except Exception:  # cryptography also raises UnsupportedAlgorithm and its own errors
        raise CertificateError(f"{key_path} holds no PEM private key") from None
    if key.public_key() != public:
        raise CertificateError(f"{key_path} is not the key of {cert_path}")
    return certificate


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
