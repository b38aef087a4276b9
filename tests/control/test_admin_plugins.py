"""Plugins and the config of `oauth2`.  oauth2.md §2, routing-and-proxy.md §10."""

import re
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from control.admin.plugin_types import PLUGIN_TYPES
from control.store import queries
from tests.control.adminkit import Admin

GOOD = {"enable_client_credentials": True}
NO_GRANT = (
    "at least one of these fields must be true: enable_authorization_code, "
    "enable_implicit_grant, enable_client_credentials, enable_password_grant"
)


def test_plugin_has_kongs_defaults(admin: Admin) -> None:
    made = admin.post("/plugins", {"name": "oauth2", "config": GOOD})
    key = made["config"].pop("provision_key")
    assert re.fullmatch("[A-Za-z0-9]{32}", key)
    assert made["config"] == {
        "scopes": None,
        "mandatory_scope": False,
        "token_expiration": 7200,
        "enable_authorization_code": False,
        "enable_implicit_grant": False,
        "enable_client_credentials": True,
        "enable_password_grant": False,
        "hide_credentials": False,
        "accept_http_if_already_terminated": False,
        "anonymous": None,
        "global_credentials": False,
        "auth_header_name": "authorization",
        "refresh_token_ttl": 1209600,
        "reuse_refresh_token": False,
        "pkce": "lax",
        "realm": None,
        "persistent_refresh_token": False,
        "oauth_profile": "kong",
        "token_format": "opaque",
        "signing_alg": "ES256",
        "issuer": None,
        "audience": None,
        "session_expiry": "close",
        "session_follow": "token",
        "session_max_age": 0,
        "token_carriers": ["header", "query"],
        "subprotocol_prefix": None,
        "cookie_name": None,
        "endpoints": "kong",
        "refresh_grace": 0,
    }
    assert made["protocols"] == ["grpc", "grpcs", "http", "https", "ws", "wss"]
    assert (made["enabled"], made["instance_name"], made["tags"]) == (True, None, None)
    assert (made["service"], made["route"], made["consumer"]) == (None, None, None)


def test_schema_tells_the_defaults_that_are_filled_in(admin: Admin) -> None:
    made = admin.plugin()
    fields = {n: f for e in admin.get("/schemas/plugins/oauth2")["fields"] for n, f in e.items()}
    config = {name: told for entry in fields["config"]["fields"] for name, told in entry.items()}
    assert config.keys() == made["config"].keys()
    for name, told in config.items():
        if name not in ("provision_key", "enable_client_credentials"):
            assert made["config"][name] == told.get("default")
    assert fields["protocols"]["default"] == made["protocols"]
    assert fields["consumer"]["eq"] is None
    assert config["provision_key"]["auto"] is config["provision_key"]["encrypted"] is True


def test_unknown_plugin_is_refused(admin: Admin) -> None:
    for method, path in (("POST", "/plugins"), ("PUT", "/plugins/some-name")):
        fields = admin.fields(path, {"name": "x", "config": {"y": 1}}, method)
        assert fields == {
            "name": "plugin 'x' not enabled; add it to the 'plugins' configuration property"
        }


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"config": {"y": 1}}, {"name": "required field missing"}),
        ({"name": None}, {"name": "required field missing"}),
        ({"name": 1}, {"name": "expected a string"}),
    ],
)
def test_plugin_without_a_name_is_refused(body: Any, fields: Any, admin: Admin) -> None:
    assert admin.fields("/plugins", body) == fields


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({}, NO_GRANT),
        (None, NO_GRANT),
        ({"enable_client_credentials": False}, NO_GRANT),
        (GOOD | {"mandatory_scope": True}, {"scopes": "required field missing"}),
        (GOOD | {"token_expiration": -1}, {"token_expiration": "value must not be negative"}),
        (
            GOOD | {"token_expiration": 1e10 + 1},
            {"token_expiration": "value must not be above 10000000000"},
        ),
        (
            GOOD | {"refresh_token_ttl": -1},
            {"refresh_token_ttl": "value should be between 0 and 100000000"},
        ),
        (
            GOOD | {"refresh_token_ttl": 100000001},
            {"refresh_token_ttl": "value should be between 0 and 100000000"},
        ),
        (GOOD | {"pkce": "x"}, {"pkce": "expected one of: none, lax, strict"}),
        (GOOD | {"auth_header_name": "a b"}, {"auth_header_name": "bad header name 'a b'"}),
        (GOOD | {"realm": "a\r\nb"}, {"realm": "must not contain control characters"}),
        (
            GOOD | {"token_format": "jwt"},
            {"issuer": "required with token_format 'jwt'"},
        ),
        (
            GOOD | {"token_format": "jwt", "issuer": "https://a.test", "token_expiration": 0},
            {"token_expiration": "must be above 0 with token_format 'jwt'"},
        ),
        (
            GOOD | {"oauth_profile": "strict", "enable_implicit_grant": True},
            {"enable_implicit_grant": "not allowed with oauth_profile 'strict'"},
        ),
        (
            GOOD | {"oauth_profile": "strict", "enable_password_grant": True},
            {"enable_password_grant": "not allowed with oauth_profile 'strict'"},
        ),
        (
            GOOD | {"token_carriers": ["cookie"]},
            {"cookie_name": "required with the token carrier 'cookie'"},
        ),
        (
            GOOD | {"subprotocol_prefix": "token."},
            {"subprotocol_prefix": "needs the token carrier 'subprotocol'"},
        ),
        (
            GOOD | {"issuer": "http://a.test"},
            {
                "issuer": "must be a URL of https without query and fragment, "
                "as https://auth.example.com"
            },
        ),
        (GOOD | {"token_expiration": None}, {"token_expiration": "required field missing"}),
        ({"enable_client_credentials": "x"}, {"enable_client_credentials": "expected a boolean"}),
    ],
)
def test_broken_config_is_refused(config: Any, error: Any, admin: Admin) -> None:
    body = {"name": "oauth2"} if config is None else {"name": "oauth2", "config": config}
    assert admin.fields("/plugins", body) == {"config": error}


@pytest.mark.parametrize(
    "config",
    [
        GOOD | {"mandatory_scope": True, "scopes": ["a"]},
        GOOD | {"pkce": None},
        GOOD | {"token_expiration": 0, "refresh_token_ttl": 0.5},
        {"enable_implicit_grant": True},
        {"enable_authorization_code": True},
        {"enable_password_grant": True},
    ],
)
def test_good_config_is_kept_as_sent(config: dict[str, Any], admin: Admin) -> None:
    made = admin.plugin(config=config)
    assert config.items() <= made["config"].items()
    assert admin.get(f"/plugins/{made['id']}") == made


def test_provision_key_stays_until_a_new_one_is_asked_for(admin: Admin) -> None:
    made = admin.plugin(config=GOOD | {"provision_key": "mine"})
    path = f"/plugins/{made['id']}"
    assert admin.patch(path, {"config": {"realm": "r"}})["config"]["provision_key"] == "mine"
    put = admin.put(path, {"name": "oauth2", "config": GOOD | {"provision_key": None}})
    assert put["config"]["provision_key"] == "mine"
    renewed = admin.patch(path, {"config": {"provision_key": None}})["config"]["provision_key"]
    assert re.fullmatch("[A-Za-z0-9]{32}", renewed)
    assert admin.get(path)["config"]["provision_key"] == renewed


def test_config_by_form(admin: Admin) -> None:
    form = {
        "name": "oauth2",
        "config.scopes[]": ["email", "profile"],
        "config.enable_client_credentials": "true",
        "config.token_expiration": "5.5",
        "config.realm": "",
    }
    answer = admin.call("POST", "/plugins", data=form)
    assert answer.status_code == 201, answer.text
    config = answer.json()["config"]
    assert (config["scopes"], config["token_expiration"]) == (["email", "profile"], 5.5)
    changed = admin.call("PATCH", f"/plugins/{answer.json()['id']}", data={"config.scopes": "x"})
    assert changed.json()["config"]["scopes"] == ["x"]


# --- scopes ----------------------------------------------------------------------------------


def test_consumer_must_be_null(admin: Admin) -> None:
    consumer = admin.consumer(username="alex")
    body = {"name": "oauth2", "config": GOOD}
    assert admin.fields("/plugins", body | {"consumer": {"id": consumer["id"]}}) == {
        "consumer": "value must be null"
    }
    assert admin.fields("/consumers/alex/plugins", body) == {"consumer": "value must be null"}
    assert admin.get("/consumers/alex/plugins") == {"data": [], "next": None}


def test_one_plugin_of_a_name_in_each_scope(admin: Admin) -> None:
    service, route = {"id": admin.service()["id"]}, {"id": admin.route()["id"]}
    scopes: list[dict[str, Any]] = [
        {},
        {"service": service},
        {"route": route},
        {"service": service, "route": route},
    ]
    for scope in scopes:
        made = admin.plugin(**scope)
        refused = admin.refused(
            "POST", "/plugins", 409, json={"name": "oauth2", "config": GOOD} | scope
        )
        shown = {"consumer": None, "route": None, "service": None} | scope
        assert refused["fields"] == shown | {"name": "oauth2"}
        assert admin.patch(f"/plugins/{made['id']}", {"enabled": False})["enabled"] is False


def test_duplicate_names_its_scope(admin: Admin) -> None:
    service = admin.service()
    admin.plugin(service={"id": service["id"]})
    refused = admin.refused(
        "POST",
        "/plugins",
        409,
        json={"name": "oauth2", "config": GOOD, "service": {"id": service["id"]}},
    )
    assert refused["message"] == (
        'UNIQUE violation detected on \'{consumer=null,name="oauth2",route=null,'
        f'service={{id="{service["id"]}"}}}}\''
    )


def test_moving_a_plugin_onto_another_gets_409(admin: Admin) -> None:
    service = {"id": admin.service()["id"]}
    admin.plugin(service=service)
    other = admin.plugin()
    assert admin.refused("PATCH", f"/plugins/{other['id']}", 409, json={"service": service})


def test_database_refuses_a_second_plugin_of_a_scope_too(admin: Admin) -> None:
    admin.plugin()
    with (
        admin.store.engine.connect() as connection,
        pytest.raises(IntegrityError, match=r"(?i)unique"),
    ):
        connection.exec_driver_sql(
            "INSERT INTO plugins (id, name, config, policy, protocols, enabled, created_at, "
            "updated_at) VALUES ('x', 'oauth2', '{}', '{}', '[]', true, 1, 1)"
        )


# --- protocols -------------------------------------------------------------------------------


def test_protocols_must_be_among_the_plugins(admin: Admin) -> None:
    body = {"name": "oauth2", "config": GOOD}
    assert admin.plugin(protocols=["ws"])["protocols"] == ["ws"]
    fields = admin.fields("/plugins", body | {"protocols": ["ws", "tcp"]})
    text = "expected one of: grpc, grpcs, http, https, ws, wss"
    assert fields == {"protocols": [None, text]}
    assert admin.fields("/plugins", body | {"protocols": []}) == {
        "protocols": "length must be at least 1"
    }


def test_plugin_of_a_route_shares_a_protocol_with_it(admin: Admin) -> None:
    route = {"id": admin.route(protocols=["ws"])["id"]}
    body = {"name": "oauth2", "config": GOOD, "route": route}
    assert admin.fields("/plugins", body | {"protocols": ["http", "https", "wss"]}) == {
        "protocols": "must match the associated route's protocols"
    }
    assert admin.post("/plugins", body | {"protocols": ["http", "ws"]})["route"] == route


def test_plugin_of_a_service_shares_a_protocol_with_one_of_its_routes(admin: Admin) -> None:
    service = {"id": admin.service(protocol="ws")["id"]}
    body = {"name": "oauth2", "config": GOOD, "service": service, "protocols": ["http", "wss"]}
    made = admin.post("/plugins", body)  # no routes yet
    admin.delete(f"/plugins/{made['id']}")
    admin.route(protocols=["ws"], service=service)
    assert admin.fields("/plugins", body) == {
        "protocols": "must match the protocols of at least one route pointing to this "
        "Plugin's service"
    }
    admin.route(protocols=["ws", "wss"], service=service)
    assert admin.post("/plugins", body)["service"] == service


# --- what the data plane gets -----------------------------------------------------------------


def test_policy_follows_the_config_and_holds_no_secret(admin: Admin) -> None:
    made = admin.plugin(
        config=GOOD
        | {
            "provision_key": "the provision key",
            "auth_header_name": "X-Token",
            "global_credentials": True,
            "anonymous": "alex",
        }
    )

    def policy() -> dict[str, Any]:
        with admin.store.reading() as session:
            return queries.config_rows(session).plugins[0].config

    expected = {
        "global_credentials": True,
        "hide_credentials": False,
        "auth_header_name": "x-token",
        "realm": None,
        "anonymous": "alex",
        "jwt": False,
        "issuer": None,
        "audience": None,
        "resource_metadata": None,
        "session_expiry": "close",
        "session_follow": "token",
        "session_max_age_ms": 0,
        "carriers": ["header", "query"],
        "subprotocol_prefix": None,
        "cookie_name": None,
        "endpoints": "kong",
    }
    assert policy() == expected
    admin.patch(f"/plugins/{made['id']}", {"config": {"realm": "r"}})
    assert policy() == expected | {"realm": "r"}
    with admin.store.reading() as session:
        found = queries.plugin_by_id(session, made["id"])
        assert found is not None
        assert found.config["provision_key"] == "the provision key"
    with admin.store.engine.connect() as connection:
        stored = str(connection.exec_driver_sql("SELECT config FROM plugins").scalar_one())
    assert "the provision key" not in stored and "$sealed" in stored


def test_config_check_leaves_wrong_types_to_their_fields() -> None:
    kind = PLUGIN_TYPES["oauth2"]
    assert kind.priority == 1400
    assert kind.consumer_scope is False
