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

Endpoint = Literal["token", "authorize", "sessions"]

# What is answered at the end of a path, and the method it takes.
METHODS: dict[Endpoint, str] = {"token": "POST", "authorize": "POST", "sessions": "POST"}
KONG: frozenset[Endpoint] = frozenset(("token", "authorize"))  # the others: `endpoints: all`

_AT_THE_END: dict[bytes, Endpoint] = {f"/oauth2/{name}".encode(): name for name in METHODS}


def endpoint_of(raw_path: bytes) -> Endpoint | None:
    """The endpoint at the end of this path, one trailing slash tolerated."""
    path = normalise(raw_path).removesuffix(b"/")
    at = path.rfind(b"/oauth2/")
    return _AT_THE_END.get(path[at:]) if at >= 0 else None


def normalise(raw_path: bytes) -> bytes:
    """Unreserved characters unescaped, slashes merged, dot segments removed.  RFC 3986 §6.2.2."""
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
    return found[0] if byte in _RESERVED else bytes([byte])
