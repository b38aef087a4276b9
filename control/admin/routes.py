"""Routes: which traffic is meant.  spec/routing-and-proxy.md §1."""

import re
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from control.admin.errors import ENTITY, Fields
from control.admin.names import (
    check_name,
    check_route_host,
    check_route_path,
    families,
    family,
    is_address,
    is_hostname,
)
from control.admin.resource import Resource, Values
from control.admin.route_limits import note_route
from control.admin.schema import (
    EntityCheck,
    Field,
    Schema,
    foreign,
    identity,
    tags_field,
    timestamp,
)
from control.admin.services import PROTOCOLS
from control.store import rows
from control.store.rows import Row
from control.store.session import WriteSession
from control.store.tables import Route, Service

_METHOD = re.compile(r"[A-Z]+")
_HEADER = re.compile(r"[A-Za-z0-9_-]+")

# In this order the first protocol that a route has decides which matcher it must set.
_MATCHERS = {
    "https": ("methods", "hosts", "headers", "paths", "snis"),
    "http": ("methods", "hosts", "headers", "paths"),
    "grpcs": ("hosts", "headers", "paths", "snis"),
    "grpc": ("hosts", "headers", "paths"),
    "wss": ("hosts", "headers", "paths", "snis"),
    "ws": ("hosts", "headers", "paths"),
    "tls": ("sources", "destinations", "snis"),
    "tcp": ("sources", "destinations"),
    "udp": ("sources", "destinations"),
    "tls_passthrough": ("snis",),
}
_STREAM_ONLY = ("sources", "destinations")
_WITHOUT_METHODS = (("grpc", "grpcs"), ("ws", "wss"))
_WITH_SNIS = ("https", "tls", "grpcs", "tls_passthrough", "wss")


def _check_method(method: str) -> str | None:
    return None if _METHOD.fullmatch(method) else f"invalid value: {method}"


def _check_sni(name: str) -> str | None:
    plain = name.removeprefix("*.").removesuffix(".*")
    return None if is_hostname(plain) else f"invalid hostname: {name}"


def _check_header_name(name: str) -> str | None:
    if name.lower() == "host":
        return "cannot contain 'host' header, which must be specified in the 'hosts' attribute"
    if _HEADER.fullmatch(name):
        return None
    return f"bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"


def _check_header_values(values: list[str]) -> str | None:
    if any(value.startswith("~*") for value in values):
        return "regular expressions are not supported yet"
    return None


def _check_ip(text: str) -> str | None:
    address, _, bits = text.partition("/")
    good = is_address(address) and (not bits or (bits.isdecimal() and int(bits) <= 128))
    return None if good else f"invalid ip or cidr range: '{text}'"


def _not_yet(_value: Any) -> str:
    return "not supported yet"


def _check_family(values: Mapping[str, Any]) -> Fields:
    found = families(_protocols(values))
    if len(found) < 2:
        return {}
    listed = ", ".join(str(group).replace(",)", ")") for group in found)
    return {"protocols": f"these sets are mutually exclusive: {listed}"}


def _check_matchers(values: Mapping[str, Any]) -> Fields:
    protocols = _protocols(values)
    decisive = next((protocol for protocol in _MATCHERS if protocol in protocols), None)
    if decisive is None:
        return {}
    names = _MATCHERS[decisive]
    if any(values.get(name) for name in names):
        return {}
    listed = ", ".join(f"'{name}'" for name in names)
    return {ENTITY: [f"must set one of {listed} when 'protocols' is '{decisive}'"]}


def _check_forbidden(values: Mapping[str, Any]) -> Fields:
    """Matchers that mean nothing for these protocols."""
    protocols = _protocols(values)
    if not protocols:
        return {}
    errors: Fields = {}
    for group in _WITHOUT_METHODS:
        if values.get("methods") is not None and set(group).intersection(protocols):
            errors["methods"] = (
                f"cannot set 'methods' when 'protocols' is '{group[0]}' or '{group[1]}'"
            )
    if values.get("snis") is not None and not set(_WITH_SNIS).intersection(protocols):
        listed = ", ".join(f"'{name}'" for name in _WITH_SNIS)
        errors["snis"] = f"'snis' can only be set when 'protocols' is one of {listed}"
    for name in _STREAM_ONLY:
        if values.get(name) is not None and not {"tcp", "tls", "udp"}.intersection(protocols):
            errors[name] = f"cannot set '{name}' when 'protocols' is '{protocols[0]}'"
    return errors


def _protocols(values: Mapping[str, Any]) -> list[str]:
    """The valid ones; what is wrong with the others is said elsewhere."""
    protocols = values.get("protocols")
    return [p for p in protocols if p in PROTOCOLS] if isinstance(protocols, list) else []


def _endpoint_set() -> Field:
    fields = {
        "ip": Field(type="string", check=_check_ip),
        "port": Field(type="integer", between=(0, 65535)),
    }
    return Field(type="set", elements=Field(type="record", fields=fields))


def _strings(check: Any) -> Field:
    return Field(type="array", elements=Field(type="string", check=check))


SCHEMA = Schema(
    "routes",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "name": Field(type="string", unique=True, check=check_name),
        "protocols": Field(
            type="set",
            required=True,
            default=["http", "https"],
            len_min=1,
            elements=Field(type="string", one_of=PROTOCOLS),
        ),
        "https_redirect_status_code": Field(
            type="integer", required=True, default=426, one_of=(426, 301, 302, 307, 308)
        ),
        "strip_path": Field(type="boolean", required=True, default=True),
        "preserve_host": Field(type="boolean", required=True, default=False),
        "request_buffering": Field(type="boolean", required=True, default=True),
        "response_buffering": Field(type="boolean", required=True, default=True),
        "tags": tags_field(),
        "service": foreign("services", on_delete="restrict"),
        # A route with SNIs would match more than it says as long as they are not looked at.
        "snis": Field(type="set", elements=Field(type="string", check=_check_sni), check=_not_yet),
        "sources": _endpoint_set(),
        "destinations": _endpoint_set(),
        "methods": Field(type="set", elements=Field(type="string", check=_check_method)),
        "hosts": _strings(check_route_host),
        "paths": _strings(check_route_path),
        "headers": Field(
            type="map",
            keys=Field(type="string", check=_check_header_name),
            values=Field(type="array", elements=Field(type="string"), check=_check_header_values),
        ),
        "regex_priority": Field(type="integer", default=0, nullable=False),
        "path_handling": Field(type="string", default="v0", one_of=("v0", "v1"), nullable=False),
    },
    checks=(
        EntityCheck("mutually_exclusive_subsets", {"field_sources": ["protocols"]}, _check_family),
        EntityCheck(
            "conditional_at_least_one_of",
            {
                "if_field": "protocols",
                "then_at_least_one_of": {k: list(v) for k, v in _MATCHERS.items()},
            },
            _check_matchers,
        ),
        EntityCheck("conditional", {"if_field": "protocols"}, _check_forbidden),
    ),
)


class Routes(Resource):
    name = path = "routes"
    title = "Route"
    model = Route
    schema = SCHEMA
    endpoint_key = "name"
    checked_last = True

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        """A route and its service speak protocols of one family."""
        if values["service"] is None:
            return {}
        service = rows.fetch(session, Service, {"id": values["service"]["id"]})
        assert service is not None
        if service["protocol"] in family(values["protocols"][0]):
            return {}
        return {"protocols": f"must go with the service's protocol ({service['protocol']})"}

    def written(self, session: WriteSession, row: Row, previous: Row | None) -> None:
        note_route(session, row)
