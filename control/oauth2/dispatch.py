"""Which OAuth endpoint a path means.  spec/oauth2.md §3, §14.

Only the end of the path counts, so that `/token-route/oauth2/token` and `/oauth2/token` are one
endpoint; what comes before is the route's. Metadata stands at paths of its own (RFC 8414 §3).
"""

from __future__ import annotations

import re
from typing import Literal

_RESERVED = frozenset(b":/?#[]@!$&'()*+,;=%")  # RFC 3986 §2.2, and the percent sign itself
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SLASHES = re.compile(rb"/{2,}")

Endpoint = Literal[
    "token",
    "authorize",
    "revoke",
    "introspect",
    "jwks",
    "ticket",
    "sessions",
    "server_metadata",
    "resource_metadata",
]

# What is answered, and the method it takes: at the end of a path, and below /.well-known. HEAD is
# answered as GET, without the body.
METHODS: dict[Endpoint, str] = {
    "token": "POST",
    "authorize": "POST",
    "revoke": "POST",
    "introspect": "POST",
    "jwks": "GET",
    "ticket": "POST",
    "sessions": "POST",
    "server_metadata": "GET",
    "resource_metadata": "GET",
}
KONG: frozenset[Endpoint] = frozenset(("token", "authorize"))  # the others: `endpoints: all`
METADATA: frozenset[Endpoint] = frozenset(("server_metadata", "resource_metadata"))  # by host
# Where the app has them: what stands around these in a request's path is the route's or issuer's.
PATHS: dict[Endpoint, str] = {name: f"/oauth2/{name}" for name in METHODS} | {
    "server_metadata": "/.well-known/oauth-authorization-server",
    "resource_metadata": "/.well-known/oauth-protected-resource",
}

_AT_THE_END: dict[bytes, Endpoint] = {
    PATHS[name].encode(): name for name in METHODS if name not in METADATA
}
_OPENID = b"/.well-known/openid-configuration"
_AT_THE_START: dict[bytes, Endpoint] = {
    **{PATHS[name].encode(): name for name in METADATA},
    _OPENID: "server_metadata",
}


def endpoint_of(raw_path: bytes) -> Endpoint | None:
    """The endpoint that this path means, one trailing slash tolerated."""
    path = normalise(raw_path).removesuffix(b"/")
    described = described_by(path)
    if described is not None:
        return described[0]
    at = path.rfind(b"/oauth2/")
    return _AT_THE_END.get(path[at:]) if at >= 0 else None


def described_by(path: bytes) -> tuple[Endpoint, str] | None:
    """What metadata a normalised path asks for, and the path of the issuer or resource it is of.

    The OpenID path stands before the issuer's (RFC 8414 §5) or behind it (OpenID Discovery §4).
    """
    path = path.removesuffix(b"/")
    for start, endpoint in _AT_THE_START.items():
        if path == start or path.startswith(start + b"/"):
            return endpoint, path[len(start) :].decode("latin-1")
    if path.endswith(_OPENID):
        return "server_metadata", path[: -len(_OPENID)].decode("latin-1")
    return None


def normalise(raw_path: bytes) -> bytes:
    """Unreserved characters unescaped, slashes merged, dot segments removed.  RFC 3986 §6.2.2.

    As data planes do it, byte for byte: a ticket is for a path.
    """
    path = _SLASHES.sub(b"/", _ESCAPE.sub(_unescape, raw_path))
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments and segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _unescape(found: re.Match[bytes]) -> bytes:
    byte = int(found[1], 16)
    return found[0].upper() if byte in _RESERVED else bytes([byte])
