"""Certificates on the link: the server's TLS, and the names a data plane's certificate may have."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection


class LinkTLSError(Exception):
    """A file of the link's TLS cannot be used; the text names it and what is wrong."""


def link_tls(cert: Path, key: Path, ca: Path, crl: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 that admits certificates from `ca` alone, and none that `crl` lists.

    A `crl` in use has to come from `ca` and be current: past its nextUpdate nobody is admitted.

    Raises:
        LinkTLSError: a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would not show its certificate again, revoked since or not.
    context.num_tickets = 0
    _load("LINK_CERT, LINK_KEY", f"{cert}, {key}", lambda: context.load_cert_chain(cert, key, ""))
    _load("LINK_CA", str(ca), lambda: context.load_verify_locations(ca))
    if crl is not None:
        before = context.cert_store_stats()["crl"]
        _load("LINK_CRL", str(crl), lambda: context.load_verify_locations(crl))
        if context.cert_store_stats()["crl"] == before:
            raise LinkTLSError(f"LINK_CRL {crl}: holds no certificate revocation list in PEM")
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _load(names: str, files: str, load: Any) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise LinkTLSError(f"{names} {files}: cannot be used: {error.reason or error}") from None
    except OSError as error:
        raise LinkTLSError(f"{names} {files}: cannot be read: {error.strerror}") from None


def certificate_names(connection: ServerConnection) -> list[str]:
    """The DNS names, URIs and common names of the peer's certificate; [] when it has none."""
    cert: dict[str, Any] = connection.transport.get_extra_info("peercert") or {}
    names = [value for kind, value in cert.get("subjectAltName", ()) if kind in ("DNS", "URI")]
    names += [
        value for rdn in cert.get("subject", ()) for kind, value in rdn if kind == "commonName"
    ]
    return list(dict.fromkeys(names))
