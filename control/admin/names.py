"""Checks of single values: names, hosts, paths, protocol families.

Each takes a string and returns what is wrong with it, or None.
"""

import ipaddress
import re
from urllib.parse import quote, unquote_to_bytes

# Printable ASCII without `,` and `/`, which join tags in a filter, and all beyond ASCII.
TAG_CHARS = r"[\x20-\x2b\x2d\x2e\x30-\x7e\u0080-\U0010ffff]+"
_TAG = re.compile(TAG_CHARS)
_NAME = re.compile(r"[A-Za-z0-9._~\u0080-\U0010ffff-]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_HOSTNAME_CHARS_MAX = 253
# What resolvers read as an address when it is the last label: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORT = re.compile(r"[0-9]{1,5}")
_PORT_MAX = 65535
_PATH_BYTES_MAX = 4096  # of a service's path, as a data plane escapes it
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RESERVED = frozenset(b"!*'();:@&=+$,/?%#[]")  # stay escaped; RFC 3986 §2.2 and `%`

_FAMILIES = (
    ("http", "https"),
    ("grpc", "grpcs"),
    ("tcp", "tls", "udp"),
    ("tls_passthrough",),
    ("ws", "wss"),
)


def family(protocol: str) -> tuple[str, ...]:
    """The protocols that may stand beside this one."""
    return next(group for group in _FAMILIES if protocol in group)


def families(protocols: list[str]) -> list[tuple[str, ...]]:
    """The families that these protocols belong to; more than one is too many."""
    return [group for group in _FAMILIES if any(protocol in group for protocol in protocols)]


def check_name(name: str) -> str | None:
    if _NAME.fullmatch(name):
        return None
    return (
        f"invalid value '{name}': the only accepted ascii characters are "
        "alphanumerics or ., -, _, and ~"
    )


def check_tag(tag: str) -> str | None:
    if _TAG.fullmatch(tag):
        return None
    return (
        f"invalid tag '{tag}': expected printable ascii (except `,` and `/`) "
        "or valid utf-8 sequences"
    )


def is_hostname(host: str) -> bool:
    return len(host) <= _HOSTNAME_CHARS_MAX and _HOSTNAME.fullmatch(host) is not None


def is_address(host: str) -> bool:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return "%" not in host


def ends_in_number(host: str) -> bool:
    """Whether this would be taken for an IPv4 address, in whatever spelling (S79)."""
    return _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]) is not None


def check_host(host: str) -> str | None:
    """The host of a service: a name or an address, without a port."""
    if "@" in host:
        return "must not have a user or password"  # and is not shown, for it may have
    if is_address(host):
        return None
    if ends_in_number(host) and is_hostname(host):
        return f"invalid address: {host}; expected four decimal numbers, or a name"
    if is_hostname(host):
        return None
    before, colon, port = host.rpartition(":")
    if colon and port.isdecimal() and (is_hostname(before) or is_address(before)):
        return "must not have a port"
    return f"invalid hostname: {host}"


def check_route_host(host: str) -> str | None:
    """A host of a route: `name[:port]`, with at most one `*` as its first or last label."""
    name, colon, port = host.partition(":")
    if colon and not (_PORT.fullmatch(port) and 0 < int(port) <= _PORT_MAX):
        return f"invalid hostname: {host}"
    if "*" not in name:
        return None if is_hostname(name) else f"invalid hostname: {host}"
    if name.count("*") > 1:
        return "invalid wildcard: must have at most one wildcard"
    if not (name.startswith("*.") or name.endswith(".*")):
        return "invalid wildcard: must be placed at leftmost or rightmost label"
    rest = name[2:] if name.startswith("*.") else name[:-2]
    fits = is_hostname(rest) and len(name) <= _HOSTNAME_CHARS_MAX
    return None if fits else f"invalid hostname: {host}"


def check_sni(name: str) -> str | None:
    """A server name, with at most one `*` as its first or last label; `*` alone is any name."""
    if name == "*":
        return None
    if is_address(name):
        return "must not be an IP"
    return "must not have a port" if ":" in name else check_route_host(name)


def check_service_path(path: str) -> str | None:
    if not path.startswith("/"):
        return "should start with: /"
    if "//" in path:
        return "must not have empty segments"
    if len(quote(path, safe="!$%&'()*+,/:;=@[]")) > _PATH_BYTES_MAX:
        return f"length must be at most {_PATH_BYTES_MAX}"
    return _check_escapes(path)


def check_route_path(path: str) -> str | None:
    """A prefix that a normalised request path can begin with."""
    if path.startswith("~"):
        return "regular expressions are not supported yet"
    if not path.startswith("/"):
        return "should start with: / (fixed path) or ~/ (regex path)"
    if "//" in path:
        return "must not have empty segments"
    wrong = _check_escapes(path)
    if wrong is not None:
        return wrong
    normal = normalize_path(path)
    return None if normal == path else f"non-normalized path, consider use '{normal}' instead"


def _check_escapes(path: str) -> str | None:
    broken = _BROKEN_ESCAPE.search(path)
    return f"invalid url-encoded value: '{path[broken.start() :][:3]}'" if broken else None


def normalize_path(path: str) -> str:
    """Escapes of unreserved bytes decoded, the others in upper case, dot segments resolved.

    The data plane does the same to each request's path before it looks for a prefix. Bytes that
    are not UTF-8 when decoded stay escaped.
    """
    decoded = re.sub(r"(?:%[0-9A-Fa-f]{2})+", _decode_run, path)
    segments: list[str] = []
    parts = decoded.split("/")[1:]
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part != ".":
            segments.append(part)
    if parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def _decode_run(run: re.Match[str]) -> str:
    try:
        unquote_to_bytes(run[0]).decode("utf-8")
    except UnicodeDecodeError:
        return run[0].upper()
    out = bytearray()
    for escape in _ESCAPE.finditer(run[0]):
        byte = int(escape[1], 16)
        keep = byte in _RESERVED or byte < 0x20 or byte == 0x7F
        out += escape[0].upper().encode() if keep else bytes([byte])
    return out.decode("utf-8")
