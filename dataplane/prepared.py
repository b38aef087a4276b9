"""Texts that the engine copies into heads as they are: header lines, challenges, hosts, paths.

A byte that could end a line or a message cannot get through (S57): it is percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataplane import wire
from dataplane._http import normalise_path
from dataplane._policies import parse_address

TEXT_BYTES_MAX = 4096  # of one value, as prepared
HOST_BYTES_MAX = 253
HEADER_NAME_BYTES_MAX = 256

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

_UNSAFE = re.compile(rb"[\x00-\x1f\x7f]")
_UNSAFE_IN_PATH = re.compile(rb"[^\x21\x24-\x3b\x3d\x40-\x5b\x5d\x5f\x61-\x7a\x7e]")
_HOST = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _encoded(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def header_value(text: str) -> bytes:
    """UTF-8 with control bytes as %XX. Raises ValueError past TEXT_BYTES_MAX."""
    raw = text.encode()
    if not text.isprintable():
        raw = _UNSAFE.sub(_encoded, raw)
    if len(raw) > TEXT_BYTES_MAX:
        raise ValueError(f"{text[:40]!r}… is longer than {TEXT_BYTES_MAX} bytes")
    return raw


def consumer_lines(consumer: wire.Consumer) -> bytes:
    """The header lines that say who the consumer is.  spec/oauth2.md §6.3."""
    lines = b"X-Consumer-ID: " + uuid_text(consumer.id).encode() + b"\r\n"
    if consumer.custom_id is not None:
        lines += b"X-Consumer-Custom-ID: " + header_value(consumer.custom_id) + b"\r\n"
    if consumer.username is not None:
        lines += b"X-Consumer-Username: " + header_value(consumer.username) + b"\r\n"
    return lines


def credential_line(credential: wire.Credential) -> bytes:
    return b"X-Credential-Identifier: " + header_value(credential.client_id) + b"\r\n"


ANONYMOUS_LINE = b"X-Anonymous-Consumer: true\r\n"


def challenges(realm: str | None, resource_metadata: str | None) -> tuple[bytes, bytes]:
    """WWW-Authenticate without a token, and for one that is no good.  spec/oauth2.md §6.2.

    `resource_metadata` is the URL that RFC 9728 §5.1 adds.
    """
    named = [] if realm is None else [b"realm=" + _quoted(realm)]
    error = [
        b'error="invalid_token"',
        b'error_description="The access token is invalid or has expired"',
    ]
    where = (
        [] if resource_metadata is None else [b"resource_metadata=" + _quoted(resource_metadata)]
    )
    without_token = [b", ".join(named + where)] if named or where else []
    return b" ".join([b"Bearer", *without_token]), b"Bearer " + b", ".join(named + error + where)


def _quoted(text: str) -> bytes:
    """A quoted-string of RFC 9110 §5.6.4."""
    return b'"%s"' % header_value(text).replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def metadata_places(issuers: Iterable[wire.Issuer]) -> dict[tuple[bytes, bytes], bytes]:
    """(host, path) to plugin id of all metadata; of two at one place the first.

    RFC 8414 §3, the OpenID path before and behind the issuer's own (RFC 8414 §5), RFC 9728 §3.
    """
    found: dict[tuple[bytes, bytes], bytes] = {}
    for issuer in issuers:
        path = issuer.path
        places = [
            f"/.well-known/oauth-authorization-server{path}",
            f"/.well-known/openid-configuration{path}",
            f"{path}/.well-known/openid-configuration",
        ]
        if issuer.resource:
            places = [f"/.well-known/oauth-protected-resource{path}"]
        for place in places:
            where = (issuer.host.lower().encode(), normalise_path(place.encode()))
            found.setdefault(where, issuer.plugin)
    return found


def field_name(name: str) -> bytes:
    """A header's name in lower case. Raises ValueError for what is none."""
    return _name(name, "a header name").lower()


def carrier_texts(oauth2: wire.OAuth2) -> tuple[bytes, bytes]:
    """Subprotocol prefix and cookie name, empty where there is none."""
    prefix, cookie = oauth2.subprotocol_prefix, oauth2.cookie_name
    return (
        b"" if prefix is None else _name(prefix, "the beginning of a subprotocol"),
        b"" if cookie is None else _name(cookie, "a cookie's name"),
    )


def _name(text: str, what: str) -> bytes:
    """A token of RFC 9110 §5.6.2."""
    if not _FIELD_NAME.fullmatch(text) or len(text) > HEADER_NAME_BYTES_MAX:
        raise ValueError(f"{text[:100]!r} is not {what}")
    return text.encode()


def host_header(host: str, port: int, protocol: str) -> bytes:
    """Host for the upstream; the port only where it is not the protocol's own."""
    if not _HOST.fullmatch(host) or len(host) > HOST_BYTES_MAX:
        if parse_address(host) is None:
            raise ValueError(f"{host[:100]!r} is not a host")
        bare = host.strip("[]")
        host = f"[{bare}]" if ":" in bare else bare
    if port == DEFAULT_PORTS[protocol]:
        return host.encode()
    return f"{host}:{port}".encode()


def service_path(path: str | None) -> bytes:
    """The path that requests are put behind, escaped; empty when there is none."""
    if path is None:
        return b""
    raw = _UNSAFE_IN_PATH.sub(_encoded, path.encode())
    if not raw.startswith(b"/"):
        raise ValueError(f"the path {path[:100]!r} does not start with '/'")
    if len(raw) > TEXT_BYTES_MAX:
        raise ValueError(f"the path is longer than {TEXT_BYTES_MAX} bytes")
    return raw


def uuid_text(id_: bytes) -> str:
    digits = id_.hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts)
