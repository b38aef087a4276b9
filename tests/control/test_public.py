"""The key set and the metadata of issuers and resources.  RFC 7517, 8414, 9728."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest

from control.app import create_issuer
from control.oauth2 import metadata
from control.oauth2.config import OAuth2Config
from control.snapshot import build, id_bytes
from control.store import queries, signing_keys
from control.store.issuers import Place, issuers
from control.store.queries import ConfigRows, PluginRow, RouteRow, ServiceRow
from control.store.tables import Plugin, Route, SigningKey
from dataplane import jws
from tests.control.issuing import CONTEXT, ON_SERVICE, PLAIN, Answer, Issuing

ISSUER = "https://auth.example/token-route"
JWKS = "/token-route/oauth2/jwks"
SERVER = "/.well-known/oauth-authorization-server"
RESOURCE = "/.well-known/oauth-protected-resource"
OPENID = "/.well-known/openid-configuration"


def get(issuer: Issuing, path: str, **options: Any) -> Answer:
    return issuer.post(method="GET", path=path, body=b"", **options)


def server(issuer: Issuing, **config: Any) -> Any:
    issuer.configure(issuer=ISSUER, **config)
    answer = get(issuer, f"{SERVER}/token-route")
    assert answer.status == 200
    return answer.json


# --- the key set ---


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_key_set_holds_every_key_that_verifies_or_will(issuer: Issuing, alg: str) -> None:
    assert get(issuer, JWKS).json == {"keys": []}
    with issuer.store.writing() as session:
        signing_keys.ensure(session, alg)
        signing_keys.rotate(session, alg, 3600, time.time() + 1)
        signing_keys.ensure(session, "ES256")
    found = get(issuer, JWKS).json["keys"]
    assert len(found) == (2 if alg == "ES256" else 3)
    for jwk in found:
        assert jwk["use"] == "sig" and jwk["kid"] == jws.thumbprint(jwk)
        jws.VerifyKey(jwk["kid"], jwk["alg"], jwk)


def test_key_that_is_gone_leaves_the_set_before_it_leaves_the_table(issuer: Issuing) -> None:
    with issuer.store.writing() as session:
        signing_keys.ensure(session, "ES256")
        (key,) = signing_keys.all_keys(session)
        key.retired_at = key.gone_at = time.time() - 1
        session.add(key)
    assert get(issuer, JWKS).json == {"keys": []}


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_s17_key_set_has_no_private_part(issuer: Issuing, alg: str) -> None:
    with issuer.store.writing() as session:
        signing_keys.ensure(session, alg)
    (jwk,) = get(issuer, JWKS).json["keys"]
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(jwk)
    with issuer.store.reading() as session:
        pem = session.get_one(SigningKey, jwk["kid"]).private_pem
    assert not any(line in get(issuer, JWKS).body.decode() for line in pem.split("\n") if line)


def test_key_set_may_be_kept_for_half_the_time_a_key_is_published(issuer: Issuing) -> None:
    app = create_issuer(issuer.store, key_publish_seconds=600)
    answer = get(issuer, JWKS, app=app)
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert get(issuer, JWKS).headers["cache-control"] == "public, max-age=1800"


def test_client_that_has_the_newest_set_is_told_so(issuer: Issuing) -> None:
    first = get(issuer, JWKS)
    tag = first.headers["etag"]
    for sent in (tag, f'"other", W/{tag}', "*"):
        again = get(issuer, JWKS, headers={"if-none-match": sent})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == tag and "cache-control" in again.headers
    with issuer.store.writing() as session:
        signing_keys.ensure(session, "ES256")
    changed = get(issuer, JWKS, headers={"if-none-match": tag})
    assert changed.status == 200 and changed.headers["etag"] != tag


def test_key_set_is_offered_where_endpoints_are_all_or_no_service_is(issuer: Issuing) -> None:
    refused = get(issuer, JWKS, context=ON_SERVICE)
    assert refused.status == 404
    assert refused.json["message"] == "no Route matched with those values"
    issuer.configure(endpoints="all")
    assert get(issuer, JWKS, context=ON_SERVICE).status == 200
    assert get(issuer, JWKS, context=PLAIN).status == 200  # nothing in it is secret


@pytest.mark.parametrize(
    ("path", "name"), [(JWKS, "key set"), (f"{SERVER}/token-route", "metadata")]
)
def test_documents_are_only_read(issuer: Issuing, path: str, name: str) -> None:
    issuer.configure(issuer=ISSUER)
    answer = issuer.post(path=path)
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD"
    assert issuer.post(path=path, method="HEAD").status == 200
    assert (
        answer.json["error_description"]
        == f"The HTTP method POST is invalid for the {name} endpoint"
    )
    assert answer.headers["cache-control"] == "no-store"


# --- RFC 8414 ---


def test_server_metadata_names_what_a_client_of_the_how_to_needs(issuer: Issuing) -> None:
    assert server(issuer) == {
        "issuer": ISSUER,
        "token_endpoint": f"{ISSUER}/oauth2/token",
        "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
            "none",
        ],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "scopes_supported": ["email", "profile"],
        "jwks_uri": f"{ISSUER}/oauth2/jwks",
        "revocation_endpoint": f"{ISSUER}/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
            "none",
        ],
        "revocation_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
        "introspection_endpoint": f"{ISSUER}/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
        ],
        "introspection_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256", "EdDSA"],
    }


def test_server_metadata_follows_the_flags_of_the_instance(issuer: Issuing) -> None:
    found = server(
        issuer,
        scopes=None,
        enable_client_credentials=False,
        enable_authorization_code=True,
        enable_implicit_grant=True,
        enable_password_grant=True,
    )
    assert found["authorization_endpoint"] == f"{ISSUER}/oauth2/authorize"
    assert found["response_types_supported"] == ["code", "token"]
    assert found["response_modes_supported"] == ["query", "fragment"]
    assert found["grant_types_supported"] == [
        "authorization_code",
        "implicit",
        "password",
        "refresh_token",
    ]
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert "scopes_supported" not in found
    found = server(issuer, token_expiration=0, auth_header_name="x-auth")
    assert "refresh_token" not in found["grant_types_supported"]
    assert "client_secret_basic" not in found["token_endpoint_auth_methods_supported"]
    own = {"enable_client_credentials": True, "oauth_profile": "strict"}
    off = dict.fromkeys(
        ("enable_authorization_code", "enable_implicit_grant", "enable_password_grant"), False
    )
    found = server(issuer, **own, **off)
    assert "none" not in found["token_endpoint_auth_methods_supported"]


def test_server_metadata_lists_no_endpoint_that_is_not_there(issuer: Issuing) -> None:
    """On a route with a service only token and authorize are, unless `endpoints` says otherwise."""
    with issuer.store.writing() as session:
        route = session.get_one(Route, CONTEXT.route_id)
        route.service_id = str(uuid.UUID(int=3))
        session.add(route)
    ours = {"jwks_uri", "revocation_endpoint", "introspection_endpoint"}
    assert not ours & set(server(issuer))
    assert ours <= set(server(issuer, endpoints="all"))
    with issuer.store.writing() as session:
        route = session.get_one(Route, CONTEXT.route_id)
        route.methods = ["POST"]
        session.add(route)
        session.note_config()
    assert ours - set(server(issuer, endpoints="all")) == {"jwks_uri"}


@pytest.mark.parametrize(
    "path",
    [
        f"{SERVER}/token-route",
        f"{SERVER}/token-route/",
        f"{OPENID}/token-route",
        f"/token-route{OPENID}",
        f"/x/..//token%2Droute{OPENID}",
    ],
)
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_server_metadata_is_found_at_every_path_it_may_have(
    issuer: Issuing, path: str, context: Any
) -> None:
    issuer.configure(issuer=ISSUER)
    asked = get(issuer, path, context=context, headers={"host": "AUTH.example:8443"})
    assert (asked.status, asked.json["issuer"]) == (200, ISSUER)
    assert asked.headers["cache-control"] == "public, max-age=300"


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("auth.example", SERVER),
        ("auth.example", f"{SERVER}/other"),
        ("auth.example", f"{SERVER}-x/token-route"),
        ("other.example", f"{SERVER}/token-route"),
        ("[", f"{SERVER}/token-route"),
    ],
)
def test_issuer_by_itself_describes_no_other(issuer: Issuing, host: str, path: str) -> None:
    issuer.configure(issuer=ISSUER)
    assert get(issuer, path, context=None, headers={"host": host}).status == 404


def test_instance_without_an_issuer_describes_nothing(issuer: Issuing) -> None:
    for path in (SERVER, RESOURCE, OPENID):
        assert get(issuer, path).status == 404
        gone = replace(CONTEXT, plugin_id=str(uuid.UUID(int=99)))
        assert get(issuer, path, context=gone).status == 404


# --- RFC 9728 ---


def test_resource_metadata_names_its_authorization_server(issuer: Issuing) -> None:
    issuer.configure(issuer=ISSUER, audience="https://api.example/ws/")
    for context in (CONTEXT, None):
        asked = get(issuer, f"{RESOURCE}/ws", context=context, headers={"host": "api.example"})
        assert asked.status == 200
        assert asked.json == {
            "resource": "https://api.example/ws/",
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header", "query"],
            "scopes_supported": ["email", "profile"],
        }
        assert asked.headers["cache-control"] == "public, max-age=300"


def test_resource_metadata_lists_bearer_methods_that_rfc_6750_knows() -> None:
    config = {"issuer": ISSUER, "token_carriers": ["header", "subprotocol"]}
    of = OAuth2Config.of(Plugin(id="p", name="oauth2", config=config))
    assert metadata.of_resource(of) == {
        "resource": ISSUER,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
    }
    of = OAuth2Config.of(Plugin(id="p", name="oauth2", config=config | {"auth_header_name": "x"}))
    assert metadata.of_resource(of)["bearer_methods_supported"] == []


# --- who answers for an issuer ---


def row(kind: Any, **fields: Any) -> Any:
    return kind(**(dict.fromkeys(kind._fields) | fields))


def plugin(id_: str, issuer: str | None = ISSUER, **fields: Any) -> PluginRow:
    config = {"issuer": issuer, **fields.pop("config", {})}
    values = {"name": "oauth2", "enabled": True, "protocols": ["https", "wss"], "config": config}
    return row(PluginRow, id=id_, **values | fields)


def route(id_: str, paths: list[str] | None, **fields: Any) -> RouteRow:
    return row(RouteRow, id=id_, paths=paths, **{"protocols": ["https"], **fields})


def rows(plugins: list[PluginRow], routes: list[RouteRow], off: tuple[str, ...] = ()) -> ConfigRows:
    services = [row(ServiceRow, id=id_, enabled=False) for id_ in off]
    return ConfigRows("e", 1, b"", services, routes, plugins, [], [])


PLACE = Place("auth.example", "/token-route", resource=False)


def test_instance_on_the_issuers_own_path_describes_it() -> None:
    plugins = [
        plugin("a", service_id="s"),
        plugin("b", route_id="elsewhere"),
        plugin("c", route_id="t"),
    ]
    routes = [
        route("r", ["/ws"], service_id="s"),
        route("elsewhere", ["/e"]),
        route("t", ["/token-route"]),
    ]
    assert issuers(rows(plugins, routes)) == {PLACE: "c"}
    # Not on another host; then the lowest id of those that run, then of all.
    routes[2] = route("t", ["/token-route/"], hosts=["auth.example:8443"])
    assert issuers(rows(plugins, routes)) == {PLACE: "c"}
    routes[2] = route("t", ["/token-route"], hosts=["other.example"])
    assert issuers(rows(plugins, routes)) == {PLACE: "a"}
    assert issuers(rows(plugins, routes[1:])) == {PLACE: "b"}
    assert issuers(rows(plugins, routes, off=("s",))) == {PLACE: "b"}
    assert issuers(rows(plugins, [])) == {PLACE: "a"}


def test_disabled_instance_and_one_without_issuer_describe_nothing() -> None:
    plugins = [plugin("a", enabled=False), plugin("b", None, route_id="r")]
    assert issuers(rows(plugins, [route("r", None)])) == {}


def test_snapshot_says_who_describes_issuers_and_resources(issuer: Issuing) -> None:
    resource = "https://API.example/ws"
    with issuer.store.writing() as session:
        held = session.get_one(Plugin, CONTEXT.plugin_id)
        held.policy = {
            "issuer": "https://Auth.example:8443/token-route",
            "audience": resource,
            "resource_metadata": "https://API.example/.well-known/oauth-protected-resource/ws",
        }
        session.add(held)
    with issuer.store.reading() as session:
        snapshot = build(queries.config_rows(session))
    me = id_bytes(CONTEXT.plugin_id)
    assert [(i.plugin, i.host, i.path, i.resource) for i in snapshot.issuers] == [
        (me, "api.example", "/ws", True),
        (me, "auth.example", "/token-route", False),
    ]
