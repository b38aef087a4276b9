"""Services: where traffic goes.  spec/routing-and-proxy.md §5."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import Session

from control.admin.errors import Fields
from control.admin.names import check_host, check_name, check_service_path, family
from control.admin.resource import Resource, Values
from control.admin.schema import (
    EntityCheck,
    Field,
    Schema,
    foreign,
    identity,
    tags_field,
    timestamp,
)
from control.store import rows
from control.store.rows import Row
from control.store.tables import Route, Service

PROTOCOLS = ("grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp", "ws", "wss")
_WITH_PATH = ("http", "https", "ws", "wss")
_WITH_TLS = ("https", "tls", "wss")
_TLS_FIELDS = ("client_certificate", "tls_verify", "tls_verify_depth", "ca_certificates")
_PORTS = {"https": 443, "wss": 443}
_PORT_DEFAULT = 80
_HOST = re.compile(r"^\[|\]?(:[0-9]*)?$")  # what is around it in an authority
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//(.*)")


def _timeout() -> Field:
    return Field(type="integer", default=60000, between=(1, 2147483646), nullable=False)


def _expand_url(url: str) -> dict[str, Any]:
    """`scheme://host[:port][/path]` as the fields it stands for; an unusable part is null.

    A user or password stays with the host, whose check refuses it.
    """
    if _CONTROL.search(url):  # `urlsplit` would take them out; the host's check names them
        return {"host": url}
    if _URL.fullmatch(url) is None:
        return {"protocol": "http", "host": None, "port": _PORT_DEFAULT, "path": url}
    try:
        parts = urlsplit(url)
        host, port = _HOST.sub("", parts.netloc), parts.port
    except ValueError:
        return {"host": None}
    protocol = parts.scheme or ("https" if port == _PORTS["https"] else "http")
    return {
        "protocol": protocol,
        "host": host or None,
        "port": _PORTS.get(protocol, _PORT_DEFAULT) if port is None else port,
        "path": parts.path or None,
    }


def _only_for_protocol(values: Mapping[str, Any]) -> Fields:
    """Fields that the protocol has no use for must be null."""
    protocol = values.get("protocol")
    errors: Fields = {}
    if protocol not in _WITH_PATH and values.get("path") is not None:
        errors["path"] = "value must be null"
    if protocol not in _WITH_TLS:
        for name in _TLS_FIELDS:
            if values.get(name) is not None:
                errors[name] = "value must be null"
    return errors


SCHEMA = Schema(
    "services",
    {
        "id": identity(),
        "created_at": timestamp(),
        "updated_at": timestamp(),
        "name": Field(type="string", unique=True, check=check_name),
        "retries": Field(type="integer", default=5, between=(0, 32767), nullable=False),
        "protocol": Field(type="string", required=True, default="http", one_of=PROTOCOLS),
        "host": Field(type="string", required=True, check=check_host),
        "port": Field(type="integer", required=True, default=80, between=(0, 65535)),
        "path": Field(type="string", check=check_service_path),
        "connect_timeout": _timeout(),
        "write_timeout": _timeout(),
        "read_timeout": _timeout(),
        "tags": tags_field(),
        "client_certificate": foreign("certificates", on_delete="restrict"),
        "tls_verify": Field(type="boolean"),
        "tls_verify_depth": Field(type="integer", between=(0, 64)),
        "ca_certificates": Field(type="array", elements=Field(type="string", uuid=True)),
        "enabled": Field(type="boolean", required=True, default=True),
        "url": Field(type="string", stored=False, description="sets protocol, host, port, path"),
    },
    checks=(
        EntityCheck(
            "conditional",
            {
                "if_field": "protocol",
                "if_match": {"not_one_of": list(_WITH_TLS)},
                "then_fields": list(_TLS_FIELDS),
                "then_match": {"eq": None},
            },
            _only_for_protocol,
        ),
    ),
    shorthands={"url": _expand_url},
)


class Services(Resource):
    name = path = "services"
    title = "Service"
    model = Service
    schema = SCHEMA
    endpoint_key = "name"
    checked_last = True

    def check(self, session: Session, values: Values, previous: Row | None) -> Fields:
        """A service keeps to the protocol family of the routes that it has."""
        protocol = values["protocol"]
        if previous is None or family(previous["protocol"]) == family(protocol):
            return {}
        where = {"service_id": previous["id"]}
        for protocols in rows.column_values(session, Route, "protocols", where):
            if family(protocols[0]) != family(protocol):
                listed = ", ".join(protocols)
                return {"protocol": f"must go with the protocols of its routes ({listed})"}
        return {}
