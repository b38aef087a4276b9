"""Upstreams: names for sets of targets.  spec/admin-api.md §2, spec/routing-and-proxy.md §6.

Data planes balance by weighted round-robin. What they cannot do yet has Kong's fields and
defaults, and any other value is refused.
"""

import re
from typing import Any

from control.admin.names import check_host, is_address, is_hostname
from control.admin.resource import Resource
from control.admin.schema import Check, Field, Schema, foreign, identity, tags_field, timestamp
from control.store.tables import Upstream

_ALGORITHMS = ("consistent-hashing", "least-connections", "round-robin", "latency")
_HASHES = ("none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture")
_CHECK_TYPES = ("tcp", "http", "https", "grpc", "grpcs")
_SECONDS_MAX = 65535
_COUNT_MAX = 255
_INT32_MAX = 2**31 - 1
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_PORT = re.compile(r":[0-9]{1,5}$")

_HEALTHY = [200, 302]
_UNHEALTHY = [429, 404, 500, 501, 502, 503, 504, 505]
_PASSIVE_HEALTHY = [*range(200, 209), 226, *range(300, 309)]
_PASSIVE_UNHEALTHY = [429, 500, 503]


def _check_name(name: str) -> str | None:
    if is_address(name):
        return "Invalid name; no ip addresses allowed"
    if _PORT.search(name):
        return "Invalid name; no port allowed"
    return None if is_hostname(name) else "Invalid name; must be a valid hostname"


def _check_host_header(host: str) -> str | None:
    name, port = host, 1
    if not is_address(host) and _PORT.search(host):
        name, _, digits = host.rpartition(":")
        port = int(digits)
        if ":" in name and not name.startswith("["):
            return f"invalid value: {host}; an IPv6 address with a port needs brackets: [::1]:80"
    if not 0 < port <= 65535:
        return f"invalid value: {host}; the port must be between 1 and 65535"
    return None if check_host(name) is None else f"invalid value: {host}"


def _check_token(name: str) -> str | None:
    return None if _TOKEN.fullmatch(name) else f"invalid value: {name}"


def _check_path(path: str) -> str | None:
    return None if path.startswith("/") else "should start with: /"


def _check_server_name(name: str) -> str | None:
    return None if is_hostname(name) and not is_address(name) else f"invalid hostname: {name}"


def _only(value: Any) -> Check:
    """Of all values that the field has, data planes know what this one means."""
    return lambda given: None if given == value else "not supported yet"


def _with(default: Any, **options: Any) -> Field:
    return Field(default=default, nullable=False, **options)


def _text(check: Check | None = _check_token) -> Field:
    return Field(type="string", check=check)


def _count() -> Field:
    """How many of something change a target's health; 0: never."""
    return _with(0, type="integer", between=(0, _COUNT_MAX), check=_only(0))


def _interval() -> Field:
    return _with(0, type="number", between=(0, _SECONDS_MAX), check=_only(0))


def _statuses(default: list[int]) -> Field:
    return _with(default, type="array", elements=Field(type="integer", between=(100, 999)))


def _record(**fields: Field) -> Field:
    return Field(type="record", required=True, nullable=False, fields=fields)


def _healthchecks() -> Field:
    headers = Field(
        type="map",
        keys=Field(type="string", check=_check_token),
        values=Field(type="array", elements=Field(type="string")),
    )
    active = _record(
        type=_with("http", type="string", one_of=_CHECK_TYPES),
        timeout=_with(1, type="number", between=(0, _SECONDS_MAX)),
        concurrency=_with(10, type="integer", between=(1, _INT32_MAX)),
        http_path=_with("/", type="string", check=_check_path),
        https_sni=Field(type="string", check=_check_server_name),
        https_verify_certificate=_with(True, type="boolean"),
        headers=headers,
        healthy=_record(
            interval=_interval(), http_statuses=_statuses(_HEALTHY), successes=_count()
        ),
        unhealthy=_record(
            interval=_interval(),
            http_statuses=_statuses(_UNHEALTHY),
            tcp_failures=_count(),
            timeouts=_count(),
            http_failures=_count(),
        ),
    )
    passive = _record(
        type=_with("http", type="string", one_of=_CHECK_TYPES),
        healthy=_record(http_statuses=_statuses(_PASSIVE_HEALTHY), successes=_count()),
        unhealthy=_record(
            http_statuses=_statuses(_PASSIVE_UNHEALTHY),
            tcp_failures=_count(),
            timeouts=_count(),
            http_failures=_count(),
        ),
    )
    threshold = _with(0, type="number", between=(0, 100), check=_only(0))
    return _record(threshold=threshold, active=active, passive=passive)


SCHEMA = Schema(
    "upstreams",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "name": Field(type="string", required=True, unique=True, check=_check_name),
        "algorithm": _with(
            "round-robin", type="string", one_of=_ALGORITHMS, check=_only("round-robin")
        ),
        "hash_on": _with("none", type="string", one_of=_HASHES, check=_only("none")),
        "hash_fallback": _with("none", type="string", one_of=_HASHES, check=_only("none")),
        "hash_on_header": _text(),
        "hash_fallback_header": _text(),
        "hash_on_cookie": _text(),
        "hash_on_cookie_path": _with("/", type="string", check=_check_path),
        "hash_on_query_arg": _text(None),
        "hash_fallback_query_arg": _text(None),
        "hash_on_uri_capture": _text(None),
        "hash_fallback_uri_capture": _text(None),
        "slots": _with(10000, type="integer", between=(10, 65536)),
        "healthchecks": _healthchecks(),
        "tags": tags_field(),
        "host_header": _text(_check_host_header),
        "client_certificate": foreign("certificates", on_delete="restrict"),
        "use_srv_name": _with(False, type="boolean", check=_only(False)),
    },
)


class Upstreams(Resource):
    name = path = "upstreams"
    title = "Upstream"
    model = Upstream
    schema = SCHEMA
    endpoint_key = "name"
