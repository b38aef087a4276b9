"""Certificates and keys as the Admin API takes them: PEM texts, checked as a data plane will.

Each check takes a text and returns what is wrong with it, or None.
"""

import datetime
import os
import ssl
from contextlib import ExitStack

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_END = "-----END CERTIFICATE-----"


def certificates(text: str) -> list[x509.Certificate]:
    """A certificate and the chain behind it.  Raises ValueError for what is no PEM."""
    found = x509.load_pem_x509_certificates(text.encode())
    for certificate in found:
        certificate.public_key()  # of a kind that is known
    return found


def check_certificate(text: str) -> str | None:
    try:
        certificates(text)
        # As a data plane reads it: OpenSSL takes no indented lines, for one.
        ascii_ = text.encode("ascii", "replace").decode()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ascii_)
    except (ValueError, UnsupportedAlgorithm, ssl.SSLError):
        return "invalid certificate: expected PEM"
    return None


def check_key(text: str) -> str | None:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        return "invalid key: it asks for a password"
    except (ValueError, UnsupportedAlgorithm):
        return "invalid key: expected PEM"
    return "invalid key: DSA is not supported" if isinstance(key, dsa.DSAPrivateKey) else None


def check_pair(cert: str, key: str, what: str) -> str | None:
    """Whether listeners and services can use the two, as OpenSSL in a data plane judges."""
    private = load_pem_private_key(key.encode(), password=None)
    if certificates(cert)[0].public_key() != private.public_key():
        return f"{what} does not match key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=1")
    with ExitStack() as stack:
        paths = [_in_memory(stack, text) for text in (cert, key)]
        try:
            context.load_cert_chain(*paths)
        except ssl.SSLError as error:
            return f"{what} cannot be used: {(error.reason or 'refused').lower().replace('_', ' ')}"
    return None


def _in_memory(stack: ExitStack, text: str) -> str:
    """A path to read the text from, with nothing written to a disk."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return f"/proc/self/fd/{fd}"


def same_kind(one: str, other: str) -> bool:
    """Whether two keys are of one kind, so that a client's offer cannot choose between them."""
    kinds = [type(load_pem_private_key(key.encode(), password=None)) for key in (one, other)]
    return kinds[0] is kinds[1]


def check_authority(text: str) -> str | None:
    """Whether the certificate is one CA that has not expired."""
    if text.count(_END) > 1:
        return "please submit only one certificate at a time"
    certificate = certificates(text)[0]
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return 'certificate expired, "Not After" time is in the past'
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        is_authority = constraints.value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_authority = False
    if not is_authority:
        return (
            'certificate does not appear to be a CA because it is missing the "CA" basic constraint'
        )
    return None


def digest(text: str) -> str:
    """SHA-256 of a certificate, hexadecimal."""
    return certificates(text)[0].fingerprint(hashes.SHA256()).hex()
