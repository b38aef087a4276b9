"""Entities from declarative files."""

from typing import Any

import pytest

from control.admin.apply import UnknownEntity, apply, lookup
from control.admin.errors import AdminError, SchemaViolation
from tests.control.adminkit import Admin

CONFIG = {"enable_client_credentials": True, "scopes": ["email"], "provision_key": "k"}
FILE: list[tuple[str, dict[str, Any]]] = [
    ("services", {"name": "example", "url": "ws://echo.example/"}),
    (
        "routes",
        {"name": "ws", "paths": ["/anything"], "protocols": ["ws"], "service": {"name": "example"}},
    ),
    (
        "routes",
        {
            "name": "token",
            "paths": ["/token-route"],
            "protocols": ["https"],
            "methods": ["POST"],
        },
    ),
    ("plugins", {"name": "oauth2", "service": "example", "config": CONFIG}),
    ("plugins", {"name": "oauth2", "route": "token", "config": CONFIG}),
    ("plugins", {"name": "oauth2", "config": CONFIG}),
    ("consumers", {"username": "alex"}),
    ("oauth2_credentials", {"name": "app", "client_id": "id", "consumer": "alex"}),
]


def apply_all(admin: Admin) -> list[str]:
    with admin.store.writing() as session:
        return [apply(session, entity, body)[1] for entity, body in FILE]


def test_file_is_created_in_one_transaction_and_again_changes_nothing(admin: Admin) -> None:
    assert apply_all(admin) == ["created"] * len(FILE)
    assert len(admin.changes) == 1
    rows = {path: admin.get(path) for path in ("/services", "/routes", "/plugins", "/oauth2")}
    assert apply_all(admin) == ["unchanged"] * len(FILE)
    assert len(admin.changes) == 1
    assert {path: admin.get(path) for path in rows} == rows
    plugin = admin.get("/services/example/plugins")["data"][0]
    assert plugin["config"]["provision_key"] == "k"


def test_change_is_told(admin: Admin) -> None:
    apply_all(admin)
    with admin.store.writing() as session:
        shown, what = apply(session, "services", {"name": "example", "url": "ws://new/"})
    assert (what, shown["host"]) == ("updated", "new")
    with admin.store.writing() as session:
        body = {"name": "oauth2", "service": "example", "config": CONFIG | {"realm": "r"}}
        shown, what = apply(session, "plugins", body)
    assert (what, shown["config"]["realm"]) == ("updated", "r")
    assert len(admin.get("/plugins")["data"]) == 3


def test_entity_is_named_by_its_id_too(admin: Admin) -> None:
    service = admin.service()
    with admin.store.writing() as session:
        body = {"id": service["id"], "host": "h", "name": "renamed"}
        assert apply(session, "services", body)[1] == "updated"
        route = {"name": "r", "paths": ["/"], "service": service["id"]}
        assert apply(session, "routes", route)[0]["service"] == {"id": service["id"]}
        assert apply(session, "routes", {"paths": ["/"]}, "by-key")[0]["name"] == "by-key"
        assert apply(session, "routes", {"paths": ["/"]})[1] == "created"


def test_errors_are_the_admin_apis(admin: Admin) -> None:
    with pytest.raises(SchemaViolation) as caught, admin.store.writing() as session:
        apply(session, "services", {"name": "a\ud800"})
    assert caught.value.body["fields"] == {
        "host": "required field missing",
        "name": "must be valid UTF-8",
    }
    for body in (
        {"name": "oauth2", "route": "none", "config": CONFIG},
        {"name": "oauth2", "route": 1, "config": CONFIG},
        {"name": "oauth2", "route": {"id": None}, "config": CONFIG},
    ):
        with pytest.raises(AdminError), admin.store.writing() as session:
            apply(session, "plugins", body)
    with pytest.raises(UnknownEntity), admin.store.writing() as session:
        apply(session, "vaults", {})
    assert admin.changes == []


def test_lookup_finds_by_id_and_key(admin: Admin) -> None:
    made = admin.service(name="s")
    with admin.store.writing() as session:
        assert lookup(session, "services", "s") == made
        assert lookup(session, "services", made["id"]) == made
        assert lookup(session, "services", "none") is None
