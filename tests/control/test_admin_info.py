"""What the gateway says of itself, schemas, validation.  admin-api.md §3."""

import re
import uuid
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.control.adminkit import Admin


def test_root_has_what_clients_look_for(admin: Admin) -> None:
    root = admin.get("/")
    assert re.fullmatch(r"3\.9\.\d+", root["version"])
    assert uuid.UUID(root["node_id"])
    assert root["tagline"] == "Welcome to kong"
    assert root["edition"] == "community"
    assert root["plugins"]["available_on_server"]["oauth2"]["priority"] == 1400
    assert root["plugins"]["enabled_in_cluster"] == []
    assert root["configuration"]["database"] == "postgres"
    assert root["configuration"]["router_flavor"] == "traditional_compatible"
    assert root["timers"] == {"running": 0, "pending": 0}
    assert root["pids"]["workers"]
    assert root["hostname"]
    assert "lua_version" in root
    assert admin.get("/")["node_id"] == root["node_id"]


def test_root_names_the_plugins_in_use_once(admin: Admin) -> None:
    admin.plugin()
    admin.plugin(service={"id": admin.service()["id"]})
    assert admin.get("/")["plugins"]["enabled_in_cluster"] == ["oauth2"]


def test_root_tells_no_secret(admin: Admin) -> None:
    assert "narthex.db" not in admin.call("GET", "/").text


def test_status_counts_requests_and_reaches_the_database(admin: Admin) -> None:
    first, second = admin.get("/status"), admin.get("/status")
    assert first["database"] == {"reachable": True}
    assert second["server"]["total_requests"] == first["server"]["total_requests"] + 1
    assert second["server"]["connections_active"] == 1
    assert {
        "connections_accepted",
        "connections_handled",
        "connections_reading",
        "connections_waiting",
        "connections_writing",
    } <= second["server"].keys()
    assert second["memory"]["lua_shared_dicts"] == {}
    assert second["memory"]["workers_lua_vms"][0]["http_allocated_gc"].endswith(" MiB")


def test_status_says_when_the_database_is_gone(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    monkeypatch.setattr("control.store.queries.cluster_state", gone)
    assert admin.get("/status")["database"] == {"reachable": False}


def test_endpoints_lists_every_path(admin: Admin) -> None:
    found = admin.get("/endpoints")["data"]
    assert found == sorted(found)
    for path in ("/", "/services", "/services/{key}", "/consumers/{parent}/oauth2", "/tags"):
        assert path in found


def test_enabled_plugins(admin: Admin) -> None:
    names = ["oauth2", "websocket-session", "websocket-size-limit"]
    assert admin.get("/plugins/enabled") == {"enabled_plugins": names}


# --- schemas ---------------------------------------------------------------------------------

SCHEMAS = [
    "services",
    "routes",
    "consumers",
    "plugins",
    "oauth2_credentials",
    "oauth2_tokens",
    "oauth2_authorization_codes",
]
KEYS = {
    "type",
    "default",
    "required",
    "elements",
    "keys",
    "values",
    "fields",
    "one_of",
    "between",
    "unique",
    "auto",
    "uuid",
    "reference",
    "referenceable",
    "encrypted",
    "len_min",
    "description",
    "timestamp",
    "on_delete",
    "eq",
}


def well_formed(fields: list[dict[str, Any]]) -> None:
    for entry in fields:
        ((_, told),) = entry.items()
        assert told.keys() <= KEYS
        assert "type" in told
        if told["type"] == "record" and "fields" in told:
            well_formed(told["fields"])


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_has_the_shape_that_clients_parse(name: str, admin: Admin) -> None:
    schema = admin.get(f"/schemas/{name}")
    assert schema.keys() == {"fields", "entity_checks"}
    well_formed(schema["fields"])


def test_schema_says_what_a_field_is(admin: Admin) -> None:
    fields = {n: f for e in admin.get("/schemas/routes")["fields"] for n, f in e.items()}
    assert fields["id"] == {"type": "string", "auto": True, "uuid": True}
    assert fields["service"] == {"type": "foreign", "reference": "services"}
    assert fields["protocols"]["len_min"] == 1
    assert fields["protocols"]["elements"]["one_of"][-1] == "wss"
    assert fields["headers"]["keys"] == {"type": "string"}
    assert fields["headers"]["values"]["type"] == "array"
    assert fields["name"]["unique"] is True
    checks = admin.get("/schemas/consumers")["entity_checks"]
    assert checks == [{"at_least_one_of": ["custom_id", "username"]}]


def test_unknown_schema_gets_404(admin: Admin) -> None:
    assert admin.refused("GET", "/schemas/x", 404) == {"message": "No entity named 'x'"}
    assert admin.refused("GET", "/schemas/plugins/x", 404) == {"message": "No plugin named 'x'"}
    assert admin.refused("GET", "/plugins/schema/x", 404) == {"message": "No plugin named 'x'"}
    assert admin.refused("POST", "/schemas/x/validate", 404) == {"message": "No entity named 'x'"}


def test_plugin_schema_and_its_config_alone(admin: Admin) -> None:
    whole = {n: f for e in admin.get("/schemas/plugins/oauth2")["fields"] for n, f in e.items()}
    assert admin.get("/plugins/schema/oauth2")["fields"] == whole["config"]["fields"]
    well_formed(whole["config"]["fields"])


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("services", {"host": "h"}),
        ("services", {"url": "ws://h/"}),
        ("routes", {"paths": ["/"], "service": {"id": str(uuid.uuid4())}}),
        ("consumers", {"username": "u"}),
        ("oauth2_credentials", {"name": "a", "consumer": {"id": str(uuid.uuid4())}}),
        ("oauth2_tokens", {"expires_in": 1, "credential": {"id": str(uuid.uuid4())}}),
        ("oauth2_authorization_codes", {"credential": {"id": str(uuid.uuid4())}}),
        ("plugins", {"name": "oauth2", "config": {"enable_password_grant": True}}),
    ],
)
def test_validation_passes_without_a_write(name: str, body: dict[str, Any], admin: Admin) -> None:
    answer = admin.call("POST", f"/schemas/{name}/validate", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {"message": "schema validation successful"},
    )
    assert admin.changes == []


@pytest.mark.parametrize(
    ("name", "body", "fields"),
    [
        ("services", {}, {"host": "required field missing"}),
        ("oauth2_credentials", {"name": "a"}, {"consumer": "required field missing"}),
        ("plugins", {"name": "x"}, {"name": None}),
        ("plugins", {"name": "oauth2"}, {"config": None}),
    ],
)
def test_validation_tells_what_is_wrong(
    name: str, body: dict[str, Any], fields: dict[str, Any], admin: Admin
) -> None:
    found = admin.fields(f"/schemas/{name}/validate", body)
    assert found.keys() == fields.keys()
    assert all(text is None or found[field] == text for field, text in fields.items())


def test_validation_takes_forms(admin: Admin) -> None:
    answer = admin.call("POST", "/schemas/services/validate", data={"host": "h", "port": "81"})
    assert answer.status_code == 200
