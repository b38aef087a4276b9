"""Upstreams: every field with its default, and what data planes cannot do yet."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.control.adminkit import Admin
from tests.pki import make

PAIR = make("client.example")
NOT_YET = "not supported yet"

HEALTHCHECKS: dict[str, Any] = {
    "threshold": 0,
    "active": {
        "type": "http",
        "timeout": 1,
        "concurrency": 10,
        "http_path": "/",
        "https_sni": None,
        "https_verify_certificate": True,
        "headers": None,
        "healthy": {"interval": 0, "successes": 0, "http_statuses": [200, 302]},
        "unhealthy": {
            "interval": 0,
            "http_statuses": [429, 404, 500, 501, 502, 503, 504, 505],
            "tcp_failures": 0,
            "timeouts": 0,
            "http_failures": 0,
        },
    },
    "passive": {
        "type": "http",
        "healthy": {
            "successes": 0,
            "http_statuses": [
                *(200, 201, 202, 203, 204, 205, 206, 207, 208, 226),
                *(300, 301, 302, 303, 304, 305, 306, 307, 308),
            ],
        },
        "unhealthy": {
            "http_statuses": [429, 500, 503],
            "tcp_failures": 0,
            "timeouts": 0,
            "http_failures": 0,
        },
    },
}
DEFAULTS: dict[str, Any] = {
    "algorithm": "round-robin",
    "hash_on": "none",
    "hash_fallback": "none",
    "hash_on_header": None,
    "hash_fallback_header": None,
    "hash_on_cookie": None,
    "hash_on_cookie_path": "/",
    "hash_on_query_arg": None,
    "hash_fallback_query_arg": None,
    "hash_on_uri_capture": None,
    "hash_fallback_uri_capture": None,
    "slots": 10000,
    "healthchecks": HEALTHCHECKS,
    "tags": None,
    "host_header": None,
    "client_certificate": None,
    "use_srv_name": False,
}


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    made: dict[str, Any] = value
    return made


COUNTERS = [
    path
    for path in leaves(HEALTHCHECKS)
    if path[-1] in ("interval", "successes", "tcp_failures", "timeouts", "http_failures")
]


def test_upstream_has_every_field_with_its_default(admin: Admin) -> None:
    made = admin.post("/upstreams", {"name": "ws.upstream"})
    assert made.pop("id")
    assert made.pop("created_at") == made.pop("updated_at")
    assert made == {"name": "ws.upstream"} | DEFAULTS


def test_defaults_may_be_sent_as_deck_does(admin: Admin) -> None:
    sent = {"name": "ws.upstream"} | DEFAULTS
    made = admin.put(f"/upstreams/{uuid.uuid4()}", sent)
    assert made.items() >= sent.items()
    version = admin.version()
    assert admin.put("/upstreams/ws.upstream", sent).items() >= sent.items()
    assert admin.version() == version  # nothing changed


def defaults(fields: list[dict[str, Any]]) -> dict[str, Any]:
    """What decK reads of a schema: spec/admin-api.md §6.3, 4."""
    found = {}
    for entry in fields:
        ((name, field),) = entry.items()
        found[name] = defaults(field["fields"]) if field["type"] == "record" else None
        found[name] = field.get("default", found[name])
    return found


def test_schema_has_the_defaults_that_are_stored(admin: Admin) -> None:
    said = defaults(admin.get("/schemas/upstreams")["fields"])
    made = admin.post("/upstreams", {"name": "ws.upstream"})
    for name in ("id", "name", "created_at", "updated_at"):
        del made[name], said[name]
    assert said == made == DEFAULTS


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("127.0.0.1", "Invalid name; no ip addresses allowed"),
        ("::1", "Invalid name; no ip addresses allowed"),
        ("up.example:80", "Invalid name; no port allowed"),
        ("a b", "Invalid name; must be a valid hostname"),
        ("user@up", "Invalid name; must be a valid hostname"),
        (5, "expected a string"),
        (None, "required field missing"),
    ],
)
def test_name_is_a_hostname(name: Any, wrong: str, admin: Admin) -> None:
    assert admin.fields("/upstreams", {"name": name}) == {"name": wrong}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithm", "least-connections"),
        ("algorithm", "consistent-hashing"),
        ("algorithm", "latency"),
        ("hash_on", "header"),
        ("hash_fallback", "ip"),
        ("use_srv_name", True),
    ],
)
def test_what_data_planes_cannot_do_is_refused(field: str, value: Any, admin: Admin) -> None:
    assert admin.fields("/upstreams", {"name": "u", field: value}) == {field: NOT_YET}
    admin.post("/upstreams", {"name": "u"})
    assert admin.fields("/upstreams/u", {field: value}, "PATCH") == {field: NOT_YET}


@pytest.mark.parametrize("path", [*COUNTERS, ("threshold",)], ids=".".join)
def test_health_checks_are_refused(path: tuple[str, ...], admin: Admin) -> None:
    sent = nest(("healthchecks", *path), 1)
    said = admin.fields("/upstreams", {"name": "u"} | sent)
    assert said == nest(("healthchecks", *path), NOT_YET)


@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("algorithm", "random", "expected one of: consistent-hashing, least-connections, "),
        ("slots", 9, "value should be between 10 and 65536"),
        ("slots", 65537, "value should be between 10 and 65536"),
        ("host_header", "a\r\nb", "must not contain control characters"),
        ("host_header", "user@up", "invalid value: user@up"),
        (
            "host_header",
            "::1:99999",
            "invalid value: ::1:99999; an IPv6 address with a port needs brackets: [::1]:80",
        ),
        ("host_header", "a:0", "invalid value: a:0; the port must be between 1 and 65535"),
        ("host_header", "a:65536", "invalid value: a:65536; the port must be between 1 and 65535"),
        ("hash_on_cookie_path", "x", "should start with: /"),
        ("hash_on_header", "a b", "invalid value: a b"),
        ("healthchecks", [], "expected a record"),
        ("weight", 1, "unknown field"),
    ],
)
def test_wrong_value_is_refused(field: str, value: Any, wrong: str, admin: Admin) -> None:
    said = admin.fields("/upstreams", {"name": "u", field: value})
    assert said.keys() == {field}
    assert said[field].startswith(wrong)


@pytest.mark.parametrize("host", ["up.example", "up.example:8443", "127.0.0.1:80", "[::1]:80"])
def test_host_header_is_a_host_with_or_without_a_port(host: str, admin: Admin) -> None:
    assert admin.post("/upstreams", {"name": "u", "host_header": host})["host_header"] == host


def test_patch_merges_health_checks(admin: Admin) -> None:
    admin.post("/upstreams", {"name": "u"})
    changed = admin.patch("/upstreams/u", {"healthchecks": {"active": {"http_path": "/up"}}})
    wanted = HEALTHCHECKS | {"active": HEALTHCHECKS["active"] | {"http_path": "/up"}}
    assert changed["healthchecks"] == wanted


def test_second_upstream_of_a_name_is_refused(admin: Admin) -> None:
    admin.post("/upstreams", {"name": "u"})
    said = admin.refused("POST", "/upstreams", 409, json={"name": "u"})
    assert said["message"] == "UNIQUE violation detected on '{name=\"u\"}'"


def test_certificate_of_an_upstream_stays(admin: Admin) -> None:
    certificate = admin.post("/certificates", {"cert": PAIR.cert, "key": PAIR.key})
    sent = {"name": "u", "client_certificate": {"id": certificate["id"]}}
    made = admin.post("/upstreams", sent)
    assert made["client_certificate"] == {"id": certificate["id"]}
    path = f"/certificates/{certificate['id']}"
    assert admin.get(f"{path}/upstreams")["data"] == [made]
    assert admin.get("/upstreams/u/client_certificate") == certificate
    said = admin.delete(path, 400).json()
    assert (said["code"], said["fields"]) == (4, {"@referenced_by": "upstreams"})
    admin.delete("/upstreams/u")
    admin.delete(path)


def test_tags_find_upstreams(admin: Admin) -> None:
    made = admin.post("/upstreams", {"name": "u", "tags": ["blue"]})
    admin.post("/upstreams", {"name": "v"})
    assert admin.get("/upstreams?tags=blue")["data"] == [made]
    (row,) = admin.get("/tags/blue")["data"]
    assert row == {"tag": "blue", "entity_name": "upstreams", "entity_id": made["id"]}


def test_validation_needs_no_write(admin: Admin) -> None:
    path = "/schemas/upstreams/validate"
    answer = admin.call("POST", path, json={"name": "u"} | DEFAULTS)
    assert answer.json() == {"message": "schema validation successful"}
    assert admin.fields(path, {"name": "u", "use_srv_name": True}) == {"use_srv_name": NOT_YET}
    assert admin.get("/upstreams")["data"] == []
