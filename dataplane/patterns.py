"""What a route asks of a request, as the matcher wants it: virtual routes with their rank.

spec/routing-and-proxy.md §2 and §2.1. A route with paths of several lengths is one virtual route
for each length. Regular expressions and SNIs are not matched yet.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING

from dataplane import wire
from dataplane._tables import PLAIN, PREFIX, SUFFIX

if TYPE_CHECKING:
    from dataplane._policies import Virtual

HOST_BYTES_MAX = 253
PATH_BYTES_MAX = 8192  # as ROUTE_PATH_MAX in _tables.pxd
HEADER_BYTES_MAX = 8192  # of a header's name, and of a value

_PLAIN_HOST = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]")
_KEY = Struct(">BBBIQ16s")
_INVERTED = bytes(255 - byte for byte in range(256))


def virtual_routes(route: wire.Route) -> tuple[Virtual, ...]:
    """The virtual routes of a route, longest paths first.

    Raises ValueError for a host or path that is none, a value over its bound, and for what is not
    matched yet.
    """
    hosts = tuple(host_pattern(host) for host in route.hosts)
    methods = tuple(method.encode() for method in route.methods)
    headers = tuple(_header(name, values) for name, values in route.headers.items())
    by_length: dict[int, list[bytes]] = {}
    for path in route.paths:
        prefix = _prefix(path)
        by_length.setdefault(len(prefix), []).append(prefix)
    return tuple(
        (rank_key(route, length), length, tuple(prefixes), hosts, methods, headers)
        for length, prefixes in sorted(by_length.items() or [(0, [])], reverse=True)
    )


def rank_key(route: wire.Route, prefix_len: int) -> bytes:
    """Orders virtual routes: the one with the lowest key is tried first.

    Most kinds of matchers, all hosts plain, most headers, longest prefix; then, as ours, the oldest
    and the greatest id (Kong 3's tie-break is the id alone).
    """
    kinds = bool(route.methods) + bool(route.hosts) + bool(route.headers) + bool(route.paths)
    all_plain = bool(route.hosts) and not any("*" in host for host in route.hosts)
    if not -(2**63) <= route.created_at < 2**63:
        raise ValueError("created_at is out of range")
    return _KEY.pack(
        255 - kinds,
        not all_plain,
        255 - min(len(route.headers), 255),
        0xFFFFFFFF - prefix_len,
        route.created_at + 2**63,
        route.id.translate(_INVERTED),
    )


def host_pattern(host: str) -> tuple[bytes, int, int]:
    """(text to look for, port or 0 for any, PLAIN, SUFFIX or PREFIX) of one of a route's hosts."""
    name, port = _split_port(host)
    kind, text, shown = PLAIN, name, name
    if name.startswith("*."):
        kind, text, shown = SUFFIX, name[1:], name[2:]
    elif name.endswith(".*"):
        kind, text, shown = PREFIX, name[:-1], name[:-2]
    if not _PLAIN_HOST.fullmatch(shown) or len(name) > HOST_BYTES_MAX:
        raise ValueError(f"{host[:100]!r} is not a host to match")
    return text.lower().encode(), port, kind


def _split_port(host: str) -> tuple[str, int]:
    """A host without its port, and the port, 0 when it has none."""
    name, colon, digits = host.rpartition(":")
    if host.startswith("["):
        if host.endswith("]"):
            return host, 0
    elif host.count(":") > 1:
        return f"[{host}]", 0  # an IPv6 address as it is written elsewhere
    if not colon:
        return host, 0
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5:
        raise ValueError(f"{host[:100]!r} is not a host to match")
    if not 1 <= int(digits) <= 65535:
        raise ValueError(f"{host[:100]!r} has a port out of range")
    return name, int(digits)


def _prefix(path: str) -> bytes:
    if path.startswith("~"):
        raise ValueError("a path that is a regular expression is not supported yet")
    prefix = path.encode()
    if not prefix.startswith(b"/"):
        raise ValueError(f"the path {path[:100]!r} does not start with '/'")
    if len(prefix) > PATH_BYTES_MAX:
        raise ValueError(f"a path is longer than {PATH_BYTES_MAX} bytes")
    return prefix


def _header(name: str, values: list[str]) -> tuple[bytes, tuple[bytes, ...]]:
    if len(values) == 1 and values[0].startswith("~*"):
        raise ValueError("a header that is a regular expression is not supported yet")
    texts = [text.encode() for text in (name, *values)]
    if max(map(len, texts)) > HEADER_BYTES_MAX:
        raise ValueError(f"the header {name[:100]!r} is longer than {HEADER_BYTES_MAX} bytes")
    # ASCII letters only, as the matcher folds them.
    return texts[0].lower(), tuple(text.lower() for text in texts[1:])
