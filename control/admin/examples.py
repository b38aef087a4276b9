"""The examples of openapi.json: one for each model, by its name, and one for each error.

What an operator sends is written down here, along the how-to of the README; what the gateway
answers is made from it by the schemas, so that it shows every field and every default.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from control.admin.plugin_types import PLUGIN_TYPES
from control.admin.registry import BY_NAME
from control.admin.resource import Resource, Values
from control.admin.schema import Field
from control.admin.validate import validate

Json = dict[str, Any]

_SECONDS = 1767225600  # 2026-01-01
_CERT = "-----BEGIN CERTIFICATE-----\nMIIB…\n-----END CERTIFICATE-----\n"
_KEY = "-----BEGIN PRIVATE KEY-----\nMIGH…\n-----END PRIVATE KEY-----\n"
_SERVICE, _CONSUMER, _CLIENT = "example-websocket-service", "alex", "xJ3vDq8sNfa0QmTz"


_IDS = (
    "services",
    "routes",
    "consumers",
    "plugins",
    "oauth2_credentials",
    "oauth2_tokens",
    "upstreams",
    "targets",
    "certificates",
    "snis",
    "ca_certificates",
)


def example_id(entity: str) -> str:
    """The id that the entity of this name has in all examples."""
    number = _IDS.index(entity) + 1 if entity in _IDS else 0
    return str(uuid.UUID(int=number, version=4))


@dataclass(frozen=True)
class Sent:
    """The bodies that make an entity (POST, PUT) and that change one (PATCH)."""

    create: Values
    update: Values = field(default_factory=dict)


def page(item: Any) -> Json:
    """A page with one row, the last one."""
    return {"data": [item], "next": None}


ENTITIES: Mapping[str, Sent] = {
    "services": Sent({"name": _SERVICE, "url": "ws://echo.example/"}, {"read_timeout": 120000}),
    "routes": Sent(
        {
            "name": "example-websocket-route",
            "protocols": ["ws"],
            "paths": ["/anything"],
            "service": {"name": _SERVICE},
        },
        {"hosts": ["chat.example"]},
    ),
    "consumers": Sent({"username": _CONSUMER}, {"custom_id": "4711", "tags": ["staff"]}),
    "oauth2_credentials": Sent(
        {
            "name": "TestApp",
            "redirect_uris": ["http://localhost:8000/anything"],
            "consumer": {"username": _CONSUMER},
        },
        {"name": "TestApp", "tags": ["staff"]},
    ),
    "oauth2_tokens": Sent(
        {"credential": {"client_id": _CLIENT}, "expires_in": 7200, "scope": "email profile"},
        {"scope": "email"},
    ),
    "upstreams": Sent({"name": "echo.upstream"}, {"host_header": "echo.example"}),
    "targets": Sent(
        {"target": "10.0.0.7:8009", "weight": 50, "upstream": {"name": "echo.upstream"}},
        {"weight": 0},
    ),
    "certificates": Sent(
        {"cert": _CERT, "key": _KEY, "snis": ["chat.example"]}, {"tags": ["staff"]}
    ),
    "snis": Sent(
        {"name": "*.chat.example", "certificate": {"id": example_id("certificates")}},
        {"name": "chat.example"},
    ),
    "ca_certificates": Sent({"cert": _CERT}, {"tags": ["staff"]}),
}
PLUGINS: Mapping[str, Sent] = {
    "oauth2": Sent(
        {
            "name": "oauth2",
            "service": {"name": _SERVICE},
            "config": {"scopes": ["email", "profile"], "enable_client_credentials": True},
        },
        {"config": {"token_expiration": 600}},
    ),
    "websocket-size-limit": Sent(
        {
            "name": "websocket-size-limit",
            "service": {"name": _SERVICE},
            "config": {"client_max_payload": 65536},
        },
        {"config": {"client_max_payload": 131072}},
    ),
    "websocket-session": Sent(
        {
            "name": "websocket-session",
            "service": {"name": _SERVICE},
            "config": {"allowed_origins": ["https://chat.example"]},
        },
        {"config": {"on_auth_failure": "auto"}},
    ),
}
ERRORS: Mapping[int, Json] = {
    400: {
        "code": 2,
        "name": "schema violation",
        "message": "schema violation (prot: unknown field)",
        "fields": {"prot": "unknown field"},
    },
    401: {"message": "Unauthorized"},
    403: {"message": "the Admin API does not answer to this Host; see ADMIN_HOSTS"},
    404: {"message": "Not found"},
    405: {"message": "Method not allowed"},
    409: {
        "code": 5,
        "name": "unique constraint violation",
        "message": f"UNIQUE violation detected on '{{name=\"{_SERVICE}\"}}'",
        "fields": {"name": _SERVICE},
    },
    413: {"message": "Payload too large"},
    415: {"message": "Unsupported media type"},
    429: {"message": "Too many requests"},
    500: {"message": "An unexpected error occurred"},
    503: {"message": "the database cannot be used at the moment, try again"},
}
_SCHEMA: Json = {
    "fields": [{"name": {"type": "string", "unique": True}}],
    "entity_checks": [],
}
_SIGNING_KEY: Json = {
    "kid": "h6Wf0v3yQm2N",
    "alg": "ES256",
    "status": "signing",
    "created_at": _SECONDS,
    "active_at": _SECONDS + 3600,
    "retired_at": None,
    "gone_at": None,
    "public_jwk": {"kty": "EC", "crv": "P-256", "kid": "h6Wf0v3yQm2N", "x": "f83O…", "y": "x_FE…"},
}
_NODE: Json = {
    "tagline": "Welcome to kong",
    "version": "3.9.1",
    "edition": "community",
    "hostname": "gateway-1",
    "node_id": str(uuid.UUID(int=40, version=4)),
    "lua_version": "",
    "timers": {"running": 0, "pending": 0},
    "plugins": {
        "available_on_server": {"oauth2": {"version": "3.9.1", "priority": 1400}},
        "enabled_in_cluster": ["oauth2"],
    },
    "configuration": {"database": "postgres", "router_flavor": "traditional_compatible"},
    "pids": {"master": 4711, "workers": [4712]},
}
_STATUS: Json = {
    "database": {"reachable": True},
    "memory": {
        "workers_lua_vms": [{"pid": 4712, "http_allocated_gc": "96.41 MiB"}],
        "lua_shared_dicts": {},
    },
    "server": {
        "connections_accepted": 12,
        "connections_active": 1,
        "connections_handled": 12,
        "connections_reading": 0,
        "connections_waiting": 0,
        "connections_writing": 1,
        "total_requests": 12,
    },
}
_DATA_PLANE: Json = {
    "id": str(uuid.UUID(int=41, version=4)),
    "hostname": "gateway-1",
    "ip": "127.0.0.1",
    "version": "0.1.0",
    "certificate": None,
    "connected": True,
    "last_seen": _SECONDS,
    "sync_status": "normal",
    "config_version": 7,
    "refused_version": None,
    "refused_reason": None,
    "sessions": 2,
    "handshakes": 5,
    "uptime": 60,
}
_TARGET_HEALTH: Json = {
    "id": example_id("targets"),
    "created_at": _SECONDS + 0.25,
    "updated_at": _SECONDS + 0.25,
    "upstream": {"id": example_id("upstreams")},
    "target": "10.0.0.7:8009",
    "weight": 50,
    "tags": None,
    "health": "HEALTHCHECKS_OFF",
    "data": {
        "host": "10.0.0.7",
        "port": 8009,
        "nodeWeight": 50,
        "weight": {"total": 50, "available": 50, "unavailable": 0},
    },
}
_AUDIT: Json = {
    "id": 12,
    "at": _SECONDS + 0.5,
    "request_id": "0b8c1f2e9d3a4c5b8f7e6d5c4b3a2910",
    "who": "ci",
    "role": "operator",
    "address": "127.0.0.1",
    "change": "updated",
    "type": "services",
    "entity_id": example_id("services"),
    "name": _SERVICE,
    "before": {"read_timeout": 60000},
    "after": {"read_timeout": 120000},
}
_IMPORTED: Json = {
    "written": False,
    "message": None,
    "taken": [],
    "left_out": [],
    "notes": [],
    "conflicts": [],
}
_FILE = f"""\
_format_version: "3.0"
services:
- name: {_SERVICE}
  url: ws://echo.example/
"""
_OTHERS: Json = {  # what no resource makes
    "Node": _NODE,
    "NodeStatus": _STATUS,
    "Endpoints": {"data": ["/", "/services", "/services/{key}"]},
    "PluginNames": {"enabled_plugins": sorted(PLUGINS)},
    "TagPage": page(
        {"tag": "chat", "entity_name": "services", "entity_id": example_id("services")}
    ),
    "EntitySchema": _SCHEMA,
    "Validated": {"message": "schema validation successful"},
    "JsonObject": {"name": _SERVICE, "host": "echo.example"},
    "SigningKeyPage": page(_SIGNING_KEY),
    "SigningKeyRotate": {"alg": "ES256"},
    "DataPlanePage": page(_DATA_PLANE),
    "UpstreamHealth": page(_TARGET_HEALTH),
    "AuditEntryPage": page(_AUDIT),
    "KongImport": {
        "collections": {"services": [{"id": example_id("services"), "host": "echo.example"}]},
        "dry_run": True,
    },
    "ImportReport": _IMPORTED,
    "ImportReport409": _IMPORTED | {"message": "conflicts with what is here"},
    "DeckFile": _FILE,
    "DeckDump": _FILE,
}
_MADE = {  # what the gateway makes up, where an example did not send it
    "client_id": _CLIENT,
    "client_secret": "9hWmK2xVb7RcYpLe",
    "access_token": "Vt4nXy0aKq7ZbR1mWc8eHs2LgJp5uDfT",
    "provision_key": "mB6zQe1rTn9yUk3w",
    "cert_digest": "5f" * 32,
}


def shown(resource: Resource, body: Values) -> Values:
    """What the answer to a POST of this body shows."""
    schema = resource.schema_for(body)
    # Certificates are cut short, which validation would say; the values are there all the same.
    values, _ = validate(schema, body)
    return _filled(schema.fields, values, resource.name)


def _filled(fields: Mapping[str, Field], values: Values, name: str) -> Values:
    """`values` with what the gateway makes: ids, times, secrets; references by their ids."""
    filled = {}
    for key, value in values.items():
        item = fields[key]
        if item.type == "foreign" and value is not None:
            value = {"id": example_id(item.reference or "")}
        elif item.type == "record" and item.fields is not None and value is not None:
            value = _filled(item.fields, value, name)
        elif value is None and item.timestamp:
            value = _SECONDS
        elif value is None and item.uuid and item.auto:
            value = example_id(name)
        elif value is None and (item.auto or key == "cert_digest"):
            value = _MADE.get(key)
        filled[key] = value
    return filled


def all_of(resources: Iterable[Resource]) -> Json:
    """An example for each model that a request or an answer of the Admin API has."""
    found = dict(_OTHERS)
    for resource in resources:
        for title, sent in _kinds(resource):
            found[title] = shown(resource, sent.create)
            found[f"{title}Create"], found[f"{title}Update"] = sent.create, sent.update
            found[f"{title}Page"] = page(found[title])
        for name, item in resource.foreign_fields.items():
            if item.required and item.reference in BY_NAME:  # the path below it says which
                model = f"{resource.title}Of{BY_NAME[item.reference].title}Create"
                sent = ENTITIES[resource.name]
                found[model] = {k: v for k, v in sent.create.items() if k != name}
    return found | {f"AdminError{status}": body for status, body in ERRORS.items()}


def _kinds(resource: Resource) -> Iterator[tuple[str, Sent]]:
    """The titles of a resource's models; of plugins the one that stands for all."""
    if resource.name == "plugins":
        yield resource.title, PLUGINS["oauth2"]
        for name, sent in PLUGINS.items():
            yield PLUGIN_TYPES[name].title, sent
    elif resource.name in ENTITIES:
        yield resource.title, ENTITIES[resource.name]
