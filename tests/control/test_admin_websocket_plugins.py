"""The plugins of open WebSockets: websocket-size-limit and websocket-session.

routing-and-proxy.md §12.4, §12.6.
"""

from typing import Any

import pytest

from control.store import queries
from tests.control.adminkit import Admin

LIMIT, SESSION = "websocket-size-limit", "websocket-session"
SESSION_DEFAULTS = {
    "ping_interval": 30,
    "ping_timeout": 20,
    "idle_timeout": 0,
    "write_timeout": 60,
    "max_buffered_bytes": 65536,
    "validate_utf8": False,
    "allowed_origins": None,
    "on_auth_failure": "http",
    "on_edit": "keep",
    "on_delete": "drain",
    "deflate": "pass",
}
NO_LIMIT = (
    "at least one of these fields must be non-empty: 'client_max_payload', 'upstream_max_payload'"
)


def limit(admin: Admin, config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return admin.post("/plugins", {"name": LIMIT, "config": config, **fields})


def session(admin: Admin, config: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return admin.post("/plugins", {"name": SESSION, "config": config or {}, **fields})


def policies(admin: Admin) -> dict[str, dict[str, Any]]:
    """What snapshots carry of the plugins that are there, by plugin id."""
    with admin.store.reading() as reading:
        return {row.id: row.config for row in queries.config_rows(reading).plugins}


# --- websocket-size-limit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"client_max_payload": 1}, (1, None)),
        ({"upstream_max_payload": 33554432}, (None, 33554432)),
        ({"client_max_payload": 2097152, "upstream_max_payload": 20.0}, (2097152, 20)),
    ],
)
def test_size_limit_takes_one_limit_or_both(
    config: dict[str, Any], shown: tuple[Any, Any], admin: Admin
) -> None:
    made = limit(admin, config)
    assert made["config"] == dict(
        zip(["client_max_payload", "upstream_max_payload"], shown, strict=True)
    )
    assert made["protocols"] == ["ws", "wss"]
    given = {name: value for name, value in made["config"].items() if value is not None}
    assert policies(admin) == {made["id"]: given}
    assert admin.get(f"/plugins/{made['id']}") == made


BETWEEN = "value should be between 1 and 33554432"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({}, {"@entity": [NO_LIMIT]}),
        ({"client_max_payload": None}, {"@entity": [NO_LIMIT]}),
        ({"client_max_payload": 0}, {"client_max_payload": BETWEEN}),
        ({"upstream_max_payload": 33554433}, {"upstream_max_payload": BETWEEN}),
        ({"client_max_payload": -1}, {"client_max_payload": BETWEEN}),
        ({"client_max_payload": 1.5}, {"client_max_payload": "expected an integer"}),
        ({"client_max_payload": "1"}, {"client_max_payload": "expected an integer"}),
        ({"client_max_payload": True}, {"client_max_payload": "expected an integer"}),
        ({"client_max_payload": 1, "max": 1}, {"max": "unknown field"}),
    ],
)
def test_size_limit_refuses_a_broken_config(config: Any, error: Any, admin: Admin) -> None:
    assert admin.fields("/plugins", {"name": LIMIT, "config": config}) == {"config": error}


def test_size_limit_says_what_is_missing_when_no_limit_is_given(admin: Admin) -> None:
    refused = admin.refused("POST", "/plugins", json={"name": LIMIT})
    assert refused["message"] == f"schema violation ({NO_LIMIT})"


def test_size_limit_keeps_one_limit_when_the_last_is_taken_away(admin: Admin) -> None:
    made = limit(admin, {"client_max_payload": 5, "upstream_max_payload": 6})
    path = f"/plugins/{made['id']}"
    changed = admin.patch(path, {"config": {"client_max_payload": None}})
    assert changed["config"] == {"client_max_payload": None, "upstream_max_payload": 6}
    wrong = admin.fields(path, {"config": {"upstream_max_payload": None}}, "PATCH")
    assert wrong == {"config": {"@entity": [NO_LIMIT]}}


def test_size_limit_is_for_websocket_routes(admin: Admin) -> None:
    http = {"id": admin.route(protocols=["http", "https"])["id"]}
    body = {"name": LIMIT, "config": {"client_max_payload": 1}}
    assert admin.fields("/plugins", body | {"route": http}) == {
        "protocols": "must match the associated route's protocols"
    }
    assert admin.fields("/plugins", body | {"protocols": ["http"]}) == {
        "protocols": ["expected one of: ws, wss"]
    }
    assert limit(
        admin, {"client_max_payload": 1}, route={"id": admin.route(protocols=["wss"])["id"]}
    )


# --- websocket-session -------------------------------------------------------------------------


def test_session_has_the_defaults_of_the_contract(admin: Admin) -> None:
    made = session(admin)
    assert made["config"] == SESSION_DEFAULTS
    assert made["protocols"] == ["http", "https", "ws", "wss"]
    assert policies(admin)[made["id"]] == {
        "ping_interval_ms": 30000,
        "ping_timeout_ms": 20000,
        "idle_timeout_ms": 0,
        "stall_timeout_ms": 60000,
        "buffered_max": 65536,
        "validate_utf8": False,
        "allowed_origins": [],
        "on_auth_failure": "http",
        "on_edit": "keep",
        "on_delete": "drain",
        "deflate": "pass",
    }


@pytest.mark.parametrize(
    ("config", "compiled"),
    [
        ({"ping_interval": 0}, {"ping_interval_ms": 0}),
        ({"ping_interval": 0.0001}, {"ping_interval_ms": 1}),
        ({"ping_timeout": 0.25}, {"ping_timeout_ms": 250}),
        ({"ping_timeout": 86400}, {"ping_timeout_ms": 86400000}),
        ({"idle_timeout": 2592000}, {"idle_timeout_ms": 2592000000}),
        ({"write_timeout": 0.1}, {"stall_timeout_ms": 100}),
        ({"max_buffered_bytes": 1024}, {"buffered_max": 1024}),
        ({"validate_utf8": True}, {"validate_utf8": True}),
        ({"deflate": "refuse"}, {"deflate": "refuse"}),
        ({"on_edit": "close", "on_delete": "keep"}, {"on_edit": "close", "on_delete": "keep"}),
    ],
)
def test_session_config_becomes_a_policy(
    config: dict[str, Any], compiled: dict[str, Any], admin: Admin
) -> None:
    made = session(admin, config)
    assert config.items() <= made["config"].items()
    assert compiled.items() <= policies(admin)[made["id"]].items()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"ping_interval": -1}, "value should be between 0 and 86400"),
        ({"ping_timeout": 86401}, "value should be between 0 and 86400"),
        ({"idle_timeout": 2592001}, "value should be between 0 and 2592000"),
        ({"write_timeout": 0}, "value should be between 0.1 and 86400"),
        ({"max_buffered_bytes": 1023}, "value should be between 1024 and 16777216"),
        ({"max_buffered_bytes": 16777217}, "value should be between 1024 and 16777216"),
        ({"max_buffered_bytes": 4096.5}, "expected an integer"),
        ({"ping_interval": "30"}, "expected a number"),
        ({"ping_interval": None}, "required field missing"),
        ({"validate_utf8": 1}, "expected a boolean"),
        ({"on_edit": "stop"}, "expected one of: keep, drain, close"),
        ({"deflate": "inflate"}, "expected one of: pass, refuse"),
        ({"on_delete": None}, "required field missing"),
        ({"on_auth_failure": "tcp"}, "expected one of: http, close, auto"),
    ],
)
def test_session_refuses_a_broken_config(config: Any, error: str, admin: Admin) -> None:
    (name,) = config
    fields = admin.fields("/plugins", {"name": SESSION, "config": config})
    assert fields == {"config": {name: error}}


@pytest.mark.parametrize(
    ("origin", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_session_takes_origins_and_hands_them_on_as_browsers_send_them(
    origin: str, sent: str, admin: Admin
) -> None:
    made = session(admin, {"allowed_origins": [origin]})
    assert made["config"]["allowed_origins"] == [origin]
    assert policies(admin)[made["id"]]["allowed_origins"] == [sent]


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "*", "https://*", "https://", "app.example.com", "https://App.example.com"),
        *(
            "https://app.example.com/",
            "https://app.example.com.",
            "https://a.*.com",
            "https://*a.b",
        ),
        *("https://user@app.example.com", "https://app.example.com:0", "https://a b.com"),
        *("https://*.example.com/", "wss://*.example.com", "https://" + "a" * 248),
    ],
)
def test_session_refuses_what_is_no_origin(origin: str, admin: Admin) -> None:
    config = {"allowed_origins": ["https://good.example", origin]}
    fields = admin.fields("/plugins", {"name": SESSION, "config": config})
    text = (
        "must be an origin in lower case, such as https://app.example.com or https://*.example.com"
    )
    assert fields == {"config": {"allowed_origins": [None, text]}}


def test_session_takes_at_least_one_origin_and_at_most_a_hundred(admin: Admin) -> None:
    origins = [f"https://a{number}.example" for number in range(101)]
    for wrong, text in (([], "length must be at least 1"), (origins, "length must be at most 100")):
        body = {"name": SESSION, "config": {"allowed_origins": wrong}}
        assert admin.fields("/plugins", body) == {"config": {"allowed_origins": text}}
    made = session(admin, {"allowed_origins": origins[:100]})
    assert made["config"]["allowed_origins"] == origins[:100]


def test_session_config_by_form_and_by_patch(admin: Admin) -> None:
    form = {"name": SESSION, "config.ping_interval": "5", "config.validate_utf8": "true"}
    answer = admin.call("POST", "/plugins", data=form)
    assert answer.status_code == 201, answer.text
    changed = {"ping_interval": 5, "validate_utf8": True}
    assert answer.json()["config"] == SESSION_DEFAULTS | changed
    path = f"/plugins/{answer.json()['id']}"
    patched = admin.patch(path, {"config": {"on_edit": "drain"}})
    assert patched["config"] == SESSION_DEFAULTS | changed | {"on_edit": "drain"}
    put = admin.put(path, {"name": SESSION, "config": {"ping_timeout": 1}})
    assert put["config"] == SESSION_DEFAULTS | {"ping_timeout": 1}


# --- both --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config"), [(LIMIT, {"client_max_payload": 1}), (SESSION, {"ping_interval": 1})]
)
def test_plugins_of_several_names_stand_in_one_scope_each_once(
    name: str, config: dict[str, Any], admin: Admin
) -> None:
    service = {"id": admin.service(protocol="ws")["id"]}
    admin.plugin(service=service)
    scopes: list[dict[str, Any]] = [{}, {"service": service}]
    for scope in scopes:
        body = {"name": name, "config": config} | scope
        made = admin.post("/plugins", body)
        assert made["name"] == name
        assert admin.refused("POST", "/plugins", 409, json=body)["code"] == 5
    found = {row["name"] for row in admin.get(f"/services/{service['id']}/plugins")["data"]}
    assert found == {"oauth2", name}


@pytest.mark.parametrize("name", [LIMIT, SESSION])
def test_plugin_is_not_for_single_consumers(name: str, admin: Admin) -> None:
    consumer = {"id": admin.consumer()["id"]}
    body = {"name": name, "config": {"client_max_payload": 1} if name == LIMIT else {}}
    fields = admin.fields("/plugins", body | {"consumer": consumer})
    assert fields == {"consumer": "value must be null"}


@pytest.mark.parametrize("name", [LIMIT, SESSION])
def test_schema_tells_the_defaults_that_are_filled_in(name: str, admin: Admin) -> None:
    made = limit(admin, {"client_max_payload": 1}) if name == LIMIT else session(admin)
    shown = admin.get(f"/schemas/plugins/{name}")
    fields = {n: f for entry in shown["fields"] for n, f in entry.items()}
    config = {n: f for entry in fields["config"]["fields"] for n, f in entry.items()}
    assert config.keys() == made["config"].keys()
    for field, told in config.items():
        if field != "client_max_payload":
            assert made["config"][field] == told.get("default")
    assert fields["protocols"]["default"] == made["protocols"]
    assert admin.get(f"/plugins/schema/{name}")["fields"] == fields["config"]["fields"]


def test_server_names_the_plugins_and_their_order(admin: Admin) -> None:
    told = admin.get("/")["plugins"]["available_on_server"]
    assert told[LIMIT]["priority"] == 1003
    assert sorted(told, key=lambda name: -told[name]["priority"]) == ["oauth2", LIMIT, SESSION]
