"""The Admin API of clients and tokens.  spec/oauth2.md §1, §11."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import pytest

from tests.gateway.oauth2.apis import Api, App, unique
from tests.gateway.oauth2.kit import Site

DEFAULTS = {
    "hash_secret": False,
    "redirect_uris": None,
    "tags": None,
    "client_type": "confidential",
}
RANDOM = re.compile(r"[A-Za-z0-9]{32}")


@pytest.fixture
def owner(site: Site) -> dict[str, Any]:
    return site.consumer()


@pytest.fixture
def row(site: Site, owner: dict[str, Any]) -> dict[str, Any]:
    """A client of `owner`."""
    made: dict[str, Any] = site.post(f"/consumers/{owner['id']}/oauth2", name="app")
    return made


# --- clients -------------------------------------------------------------------------------------


def test_client_is_made_with_what_was_left_out(site: Site, owner: dict[str, Any]) -> None:
    before = int(time.time())
    row = site.post(f"/consumers/{owner['username']}/oauth2", name="app")
    assert row.keys() == DEFAULTS.keys() | {
        "id", "created_at", "consumer", "name", "client_id", "client_secret",
    }  # fmt: skip
    assert DEFAULTS.items() <= row.items()
    assert row["consumer"] == {"id": owner["id"]}
    assert uuid.UUID(row["id"]).version == 4
    assert before <= row["created_at"] <= time.time() and type(row["created_at"]) is int
    assert RANDOM.fullmatch(row["client_id"]) and RANDOM.fullmatch(row["client_secret"])


def test_null_is_filled_in_like_what_was_left_out(site: Site, owner: dict[str, Any]) -> None:
    row = site.post(
        f"/consumers/{owner['id']}/oauth2", name="app", client_id=None, client_secret=None
    )
    assert RANDOM.fullmatch(row["client_id"]) and RANDOM.fullmatch(row["client_secret"])


def test_client_is_made_with_what_was_sent(site: Site, owner: dict[str, Any]) -> None:
    sent = {
        "name": "app",
        "client_id": unique("id"),
        "client_secret": "secret",
        "redirect_uris": ["http://a.test/x?y=z", "https://b.test:8443", "custom://c/d"],
        "tags": ["one", "two"],
        "client_type": "public",
    }
    row = site.post(f"/consumers/{owner['id']}/oauth2", **sent)
    assert sent.items() <= row.items()
    assert site.admin("GET", f"/oauth2/{row['client_id']}", 200) == row


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"name": "required field missing"}),
        ({"name": None}, {"name": "required field missing"}),
        ({"name": 7}, {"name": "expected a string"}),
        (
            {"name": "a", "client_type": "x"},
            {"client_type": "expected one of: confidential, public"},
        ),
        ({"name": "a", "hash_secret": "yes"}, {"hash_secret": "expected a boolean"}),
        ({"name": "a", "redirect_uris": 7}, {"redirect_uris": "expected an array"}),
        ({"name": "a", "nonsense": 1}, {"nonsense": "unknown field"}),
        (
            {"name": "a", "redirect_uris": ["not-valid"]},
            {"redirect_uris": ["cannot parse 'not-valid'"]},
        ),
        (
            {"name": "a", "redirect_uris": ["http://a.test/", "not-valid"]},
            {"redirect_uris": [None, "cannot parse 'not-valid'"]},
        ),
        (
            {"name": "a", "redirect_uris": ["/path"]},
            {"redirect_uris": ["cannot parse '/path'"]},
        ),
        (
            {"name": "a", "redirect_uris": ["http:///path"]},
            {"redirect_uris": ["cannot parse 'http:///path'"]},
        ),
        (
            {"name": "a", "redirect_uris": ["http://a.test/#x"]},
            {"redirect_uris": ["fragment not allowed in 'http://a.test/#x'"]},
        ),
        (
            {
                "name": "a",
                "redirect_uris": ["http://a.test/", "http://b.test/", "http://c.test/x#y"],
            },
            {"redirect_uris": [None, None, "fragment not allowed in 'http://c.test/x#y'"]},
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_broken_client_is_refused(
    site: Site, owner: dict[str, Any], fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    refusal = site.admin("POST", f"/consumers/{owner['id']}/oauth2", 400, fields)
    assert (refusal["code"], refusal["name"]) == (2, "schema violation")
    assert refusal["fields"] == expected


def test_client_needs_a_consumer(site: Site, owner: dict[str, Any]) -> None:
    refusal = site.admin("POST", "/oauth2", 400, {"name": "app"})
    assert refusal["message"] == "schema violation (consumer: required field missing)"
    row = site.post("/oauth2", name="app", consumer={"id": owner["id"]})
    assert row["consumer"] == {"id": owner["id"]}
    stranger = {"name": "app", "consumer": {"id": str(uuid.uuid4())}}
    assert site.admin("POST", "/oauth2", 400, stranger)["code"] == 4
    site.admin("POST", f"/consumers/{uuid.uuid4()}/oauth2", 404, {"name": "app"})


def test_client_id_is_unique_and_the_name_is_not(
    site: Site, owner: dict[str, Any], row: dict[str, Any]
) -> None:
    same = {"name": row["name"], "client_id": row["client_id"]}
    refusal = site.admin("POST", f"/consumers/{owner['id']}/oauth2", 409, same)
    assert refusal["code"] == 5
    assert refusal["fields"] == {"client_id": row["client_id"]}
    site.post(
        f"/consumers/{owner['id']}/oauth2", name=row["name"], client_secret=row["client_secret"]
    )


@pytest.mark.parametrize("by", ["id", "client_id"])
@pytest.mark.parametrize("nested", [True, False])
def test_client_is_read_changed_and_deleted(
    site: Site, owner: dict[str, Any], row: dict[str, Any], by: str, nested: bool
) -> None:
    path = f"/consumers/{owner['username']}/oauth2" if nested else "/oauth2"
    path = f"{path}/{row[by]}"
    assert site.admin("GET", path, 200) == row
    renamed = site.admin("PATCH", path, 200, {"name": "renamed"})
    assert renamed == row | {"name": "renamed"}
    assert site.admin_call("POST", path, {"name": "x"}).status_code == 405
    site.admin("DELETE", path, 204)
    site.admin("GET", path, 404)
    site.admin("PATCH", path, 404, {"name": "x"})
    site.admin("DELETE", path, 404 if nested else 204)


def test_client_of_another_consumer_is_not_there(site: Site, row: dict[str, Any]) -> None:
    path = f"/consumers/{site.consumer()['id']}/oauth2/{row['id']}"
    site.admin("GET", path, 404)
    site.admin("PATCH", path, 404, {"name": "x"})
    site.admin("DELETE", path, 404)
    site.admin("GET", f"/oauth2/{row['id']}", 200)


def test_put_makes_a_client_by_its_client_id(site: Site, owner: dict[str, Any]) -> None:
    client_id = unique("put")
    path = f"/consumers/{owner['id']}/oauth2/{client_id}"
    made = site.admin("PUT", path, 200, {"name": "app"})
    assert made["client_id"] == client_id
    again = site.admin("PUT", path, 200, {"name": "other", "tags": ["t"]})
    assert (again["id"], again["name"], again["tags"]) == (made["id"], "other", ["t"])
    flat = site.admin("PUT", f"/oauth2/{client_id}", 200, {
        "name": "flat", "consumer": {"id": owner["id"]},
    })  # fmt: skip
    assert flat["id"] == made["id"]


def test_put_makes_a_client_by_its_id(site: Site, owner: dict[str, Any]) -> None:
    own = str(uuid.uuid4())
    made = site.admin("PUT", f"/consumers/{owner['id']}/oauth2/{own}", 200, {"name": "app"})
    assert made["id"] == own and RANDOM.fullmatch(made["client_id"])


def test_clients_are_listed_for_their_consumer_and_all_together(
    site: Site, owner: dict[str, Any], row: dict[str, Any]
) -> None:
    mine = site.admin("GET", f"/consumers/{owner['id']}/oauth2", 200)
    assert mine == {"data": [row], "next": None}
    everything = site.admin("GET", "/oauth2?size=1000", 200)["data"]
    assert row in everything and len(everything) > 1


def test_list_is_filtered_by_client_id(site: Site, row: dict[str, Any]) -> None:
    found = site.admin("GET", f"/oauth2?client_id={row['client_id']}", 200)
    assert found["data"] == [row]
    assert site.admin("GET", f"/oauth2?client_id={unique('no')}", 200)["data"] == []


def test_list_is_filtered_by_tags(site: Site, owner: dict[str, Any]) -> None:
    tag = unique("tag")
    row = site.post(f"/consumers/{owner['id']}/oauth2", name="app", tags=[tag])
    assert site.admin("GET", f"/oauth2?tags={tag}", 200)["data"] == [row]


def test_consumer_of_a_client(site: Site, owner: dict[str, Any], row: dict[str, Any]) -> None:
    path = f"/oauth2/{row['client_id']}/consumer"
    assert site.admin("GET", path, 200)["id"] == owner["id"]
    patched = site.admin("PATCH", path, 200, {"custom_id": unique("c")})
    assert patched["id"] == owner["id"]
    site.admin("DELETE", path, 405)
    site.admin("POST", path, 405, {})


def test_client_by_form(site: Site, owner: dict[str, Any]) -> None:
    one = [("name", "app"), ("redirect_uris", "http://a.test/")]
    two = [
        ("name", "app"),
        ("redirect_uris[]", "http://a.test/"),
        ("redirect_uris[]", "http://b.test/"),
    ]
    path = f"/consumers/{owner['id']}/oauth2"
    for pairs, uris in ((one, ["http://a.test/"]), (two, ["http://a.test/", "http://b.test/"])):
        data: dict[str, list[str]] = {}
        for name, value in pairs:
            data.setdefault(name, []).append(value)
        answer = site.admin_call("POST", path, data=data)
        assert answer.status_code == 201, answer.text
        assert answer.json()["redirect_uris"] == uris
    flat = {"name": "app", "consumer.id": owner["id"]}
    assert site.admin_call("POST", "/oauth2", data=flat).status_code == 201


def test_deleted_consumer_takes_its_clients_along(
    site: Site, owner: dict[str, Any], row: dict[str, Any]
) -> None:
    site.admin("DELETE", f"/consumers/{owner['id']}", 204)
    site.admin("GET", f"/oauth2/{row['id']}", 404)


# --- tokens --------------------------------------------------------------------------------------

TOKEN_REQUIRED = {"credential": "required field missing", "expires_in": "required field missing"}


def make_token(site: Site, row: dict[str, Any], **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = site.post(
        "/oauth2_tokens", **{"credential": {"id": row["id"]}, "expires_in": 60} | fields
    )
    return made


def test_token_is_made_with_what_was_left_out(site: Site, row: dict[str, Any]) -> None:
    made = make_token(site, row)
    assert made["credential"] == {"id": row["id"]}
    assert made["service"] is None
    assert (made["token_type"], made["expires_in"]) == ("bearer", 60)
    assert (made["scope"], made["authenticated_userid"]) == (None, None)
    assert RANDOM.fullmatch(made["access_token"])
    assert made["refresh_token"] is None
    assert type(made["created_at"]) is int


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, TOKEN_REQUIRED),
        ({"expires_in": "x"}, TOKEN_REQUIRED | {"expires_in": "expected an integer"}),
        ({"expires_in": 1.5}, TOKEN_REQUIRED | {"expires_in": "expected an integer"}),
        (
            {"expires_in": 1, "token_type": "mac"},
            {"credential": "required field missing", "token_type": "expected one of: bearer"},
        ),
    ],
    ids=repr,
)
def test_broken_token_is_refused(
    site: Site, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    refusal = site.admin("POST", "/oauth2_tokens", 400, fields)
    assert (refusal["code"], refusal["fields"]) == (2, expected)


def test_tokens_are_shown_in_the_answer_that_sets_them_only(
    site: Site, row: dict[str, Any]
) -> None:
    access, refresh = unique("access"), unique("refresh")
    made = make_token(site, row, access_token=access, refresh_token=refresh)
    assert (made["access_token"], made["refresh_token"]) == (access, refresh)
    hidden = made | {"access_token": None, "refresh_token": None}
    for path in (f"/oauth2_tokens/{made['id']}", f"/oauth2_tokens/{access}"):
        assert site.admin("GET", path, 200) == hidden
    listed = site.admin_call("GET", f"/oauth2/{row['id']}/oauth2_tokens")
    assert listed.json()["data"] == [hidden]
    assert access not in listed.text and refresh not in listed.text


@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
def test_tokens_are_unique(site: Site, row: dict[str, Any], field: str) -> None:
    value = unique("taken")
    make_token(site, row, **{field: value})
    body = {"credential": {"id": row["id"]}, "expires_in": 60, field: value}
    assert site.admin("POST", "/oauth2_tokens", 409, body)["code"] == 5


@pytest.mark.parametrize("by", ["id", "access_token"])
def test_token_is_read_changed_and_deleted(site: Site, row: dict[str, Any], by: str) -> None:
    made = make_token(site, row)
    path = f"/oauth2_tokens/{made[by]}"
    assert site.admin("GET", path, 200)["id"] == made["id"]
    assert site.admin("PATCH", path, 200, {"scope": "email"})["scope"] == "email"
    refusal = site.admin("PATCH", path, 400, {"expires_in": "x"})
    assert refusal["fields"] == {"expires_in": "expected an integer"}
    assert site.admin_call("POST", path, {}).status_code == 405
    site.admin("DELETE", path, 204)
    site.admin("GET", path, 404)
    site.admin("PATCH", path, 404, {"scope": "x"})
    site.admin("DELETE", path, 204)


def test_put_makes_a_token_by_its_value_and_by_its_id(site: Site, row: dict[str, Any]) -> None:
    value, own = unique("token"), str(uuid.uuid4())
    body = {"credential": {"id": row["id"]}, "expires_in": 60}
    made = site.admin("PUT", f"/oauth2_tokens/{value}", 200, body)
    assert made["access_token"] == value
    assert site.admin("GET", f"/oauth2_tokens/{value}", 200)["id"] == made["id"]
    assert site.admin("PUT", f"/oauth2_tokens/{own}", 200, body)["id"] == own


def test_tokens_by_client_and_by_service(site: Site, api: Api, row: dict[str, Any]) -> None:
    assert api.service is not None
    service = {"id": api.service["id"]}
    bound, loose = make_token(site, row, service=service), make_token(site, row)
    mine = site.admin("GET", f"/oauth2/{row['client_id']}/oauth2_tokens", 200)["data"]
    assert {token["id"] for token in mine} == {bound["id"], loose["id"]}
    of_service = site.admin("GET", f"/services/{service['id']}/oauth2_tokens?size=1000", 200)
    ids = {token["id"] for token in of_service["data"]}
    assert bound["id"] in ids and loose["id"] not in ids
    everything = site.admin("GET", "/oauth2_tokens?size=1000", 200)["data"]
    assert {bound["id"], loose["id"]} <= {token["id"] for token in everything}


def test_client_and_service_of_a_token(site: Site, api: Api, row: dict[str, Any]) -> None:
    assert api.service is not None
    made = make_token(site, row, service={"id": api.service["id"]})
    path = f"/oauth2_tokens/{made['access_token']}"
    assert site.admin("GET", f"{path}/credential", 200)["client_id"] == row["client_id"]
    assert site.admin("GET", f"{path}/service", 200)["id"] == api.service["id"]
    site.admin("GET", f"/oauth2_tokens/{make_token(site, row)['id']}/service", 404)


def test_ttl_is_shown_as_what_is_left(site: Site, row: dict[str, Any]) -> None:
    made = make_token(site, row, ttl=1000)
    assert 995 <= site.admin("GET", f"/oauth2_tokens/{made['id']}", 200)["ttl"] <= 1000
    assert make_token(site, row).get("ttl") is None
    for wrong in (-1, 100000001):
        body = {"credential": {"id": row["id"]}, "expires_in": 60, "ttl": wrong}
        site.admin("POST", "/oauth2_tokens", 400, body)


def test_token_made_by_the_token_endpoint_is_there_too(site: Site, api: Api, app: App) -> None:
    token = api.access(app, scope="email")
    row = site.admin("GET", f"/oauth2_tokens/{token}", 200)
    assert row["credential"] == {"id": app.row["id"]}
    assert (row["scope"], row["expires_in"], row["token_type"]) == ("email", 7200, "bearer")
    assert row["access_token"] is None and row["refresh_token"] is None


# --- codes, schemas ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/oauth2_authorization_codes", "/oauth2_authorization_codes/x"])
def test_codes_have_no_endpoints(site: Site, path: str) -> None:
    site.admin("GET", path, 404)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("oauth2_credentials", ["id", "created_at", "consumer", "name", "client_id",
                                "client_secret", "hash_secret", "redirect_uris", "tags",
                                "client_type"]),
        ("oauth2_tokens", ["id", "created_at", "service", "credential", "token_type",
                           "expires_in", "access_token", "refresh_token",
                           "authenticated_userid", "scope"]),
        ("oauth2_authorization_codes", ["id", "created_at", "service", "credential", "code",
                                        "authenticated_userid", "scope", "challenge",
                                        "challenge_method", "plugin"]),
    ],
)  # fmt: skip
def test_schemas_are_told(site: Site, name: str, fields: list[str]) -> None:
    told = site.admin("GET", f"/schemas/{name}", 200)["fields"]
    assert set(fields) <= {field for entry in told for field in entry}


def test_client_is_validated_without_being_made(site: Site, owner: dict[str, Any]) -> None:
    path = "/schemas/oauth2_credentials/validate"
    good = {"name": "app", "consumer": {"id": str(uuid.uuid4())}}
    assert site.admin("POST", path, 200, good) == {"message": "schema validation successful"}
    wrong = site.admin("POST", path, 400, good | {"redirect_uris": ["not-valid"]})
    assert wrong["fields"] == {"redirect_uris": ["cannot parse 'not-valid'"]}


# --- the plugin's config -------------------------------------------------------------------------

CONFIG_DEFAULTS = {
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
NO_GRANT = (
    "at least one of these fields must be true: enable_authorization_code, enable_implicit_grant, "
    "enable_client_credentials, enable_password_grant"
)


def bare_route(site: Site, **fields: Any) -> dict[str, Any]:
    name = unique("bare")
    made: dict[str, Any] = site.post("/routes", **{"name": name, "paths": [f"/{name}"]} | fields)
    return made


def make_plugin(site: Site, status: int, config: Any, **fields: Any) -> Any:
    body = {"name": "oauth2", "config": config} | fields
    if "route" not in body:
        body["route"] = {"id": bare_route(site)["id"]}
    return site.admin("POST", "/plugins", status, body)


def test_config_has_the_defaults_of_the_contract(site: Site) -> None:
    made = make_plugin(site, 201, {"enable_client_credentials": True})
    config = made["config"]
    assert RANDOM.fullmatch(config.pop("provision_key"))
    assert config == CONFIG_DEFAULTS
    assert sorted(made["protocols"]) == ["grpc", "grpcs", "http", "https", "ws", "wss"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, NO_GRANT),
        ({"enable_client_credentials": False}, NO_GRANT),
        (
            {"enable_client_credentials": True, "mandatory_scope": True},
            {"scopes": "required field missing"},
        ),
        (
            {"enable_client_credentials": True, "refresh_token_ttl": -1},
            {"refresh_token_ttl": "value should be between 0 and 100000000"},
        ),
        (
            {"enable_client_credentials": True, "refresh_token_ttl": 100000001},
            {"refresh_token_ttl": "value should be between 0 and 100000000"},
        ),
        (
            {"enable_client_credentials": True, "pkce": "x"},
            {"pkce": "expected one of: none, lax, strict"},
        ),
        (
            {"enable_client_credentials": True, "oauth_profile": "x"},
            {"oauth_profile": "expected one of: kong, strict"},
        ),
        (
            {"enable_client_credentials": True, "scopes": "email", "token_expiration": "x"},
            {"scopes": "expected an array", "token_expiration": "expected a number"},
        ),
        ({"enable_client_credentials": True, "nonsense": 1}, {"nonsense": "unknown field"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_broken_config_is_refused(site: Site, config: dict[str, Any], expected: Any) -> None:
    refusal = make_plugin(site, 400, config)
    assert refusal["fields"] == {"config": expected}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"token_format": "jwt"}, "issuer"),
        ({"token_format": "xml"}, "token_format"),
        ({"signing_alg": "HS256"}, "signing_alg"),
        ({"signing_alg": "none"}, "signing_alg"),
        ({"issuer": "http://a.test"}, "issuer"),
        ({"session_expiry": "x"}, "session_expiry"),
        ({"session_follow": "x"}, "session_follow"),
        ({"session_max_age": -1}, "session_max_age"),
        ({"token_carriers": ["header", "body"]}, "token_carriers"),
        ({"token_carriers": ["header", "cookie"]}, "cookie_name"),
        ({"endpoints": "some"}, "endpoints"),
        ({"refresh_grace": 61}, "refresh_grace"),
        ({"token_expiration": -1}, "token_expiration"),
    ],
    ids=repr,
)
def test_broken_field_of_ours_is_refused(site: Site, config: dict[str, Any], field: str) -> None:
    refusal = make_plugin(site, 400, {"enable_client_credentials": True} | config)
    assert list(refusal["fields"]["config"]) == [field]


@pytest.mark.parametrize("grant", ["enable_implicit_grant", "enable_password_grant"])
def test_s33_strict_profile_has_neither_implicit_nor_password_grant(site: Site, grant: str) -> None:
    config = {"enable_client_credentials": True, "oauth_profile": "strict", grant: True}
    refusal = make_plugin(site, 400, config)
    assert list(refusal["fields"]["config"]) == [grant]
    del config[grant]
    made = make_plugin(site, 201, config)
    patch = {"config": {grant: True}}
    site.admin("PATCH", f"/plugins/{made['id']}", 400, patch)


@pytest.mark.parametrize("pkce", [None, "none", "strict"])
@pytest.mark.parametrize("seconds", [0, 0.5, 100000000])
def test_config_takes_what_the_contract_allows(site: Site, pkce: Any, seconds: Any) -> None:
    config = {
        "enable_password_grant": True,
        "pkce": pkce,
        "refresh_token_ttl": seconds,
        "persistent_refresh_token": True,
    }
    assert config.items() <= make_plugin(site, 201, config)["config"].items()


def test_plugin_is_not_for_single_consumers(site: Site, owner: dict[str, Any]) -> None:
    config = {"enable_client_credentials": True}
    refusal = make_plugin(site, 400, config, consumer={"id": owner["id"]})
    assert refusal["fields"] == {"consumer": "value must be null"}


def test_plugin_is_for_websocket_routes_too(site: Site) -> None:
    service = site.post("/services", name=unique("ws"), url=site.ws.url)
    path = unique("/ws")
    site.post(f"/services/{service['id']}/routes", paths=[path], protocols=["ws"])
    config = {"enable_client_credentials": True}
    body = {"name": "oauth2", "config": config, "service": {"id": service["id"]}}
    refusal = site.admin("POST", "/plugins", 400, body | {"protocols": ["http", "https"]})
    assert refusal["fields"] == {
        "protocols": "must match the protocols of at least one route pointing to this Plugin's "
        "service"
    }
    site.admin("POST", "/plugins", 201, body)


def test_schema_of_the_plugin_tells_the_defaults(site: Site) -> None:
    told = site.admin("GET", "/schemas/plugins/oauth2", 200)["fields"]
    fields = {name: field for entry in told for name, field in entry.items()}
    config = {n: f for entry in fields["config"]["fields"] for n, f in entry.items()}
    expected = CONFIG_DEFAULTS | {"enable_client_credentials": False}
    assert config.keys() == expected.keys() | {"provision_key"}
    assert {name: config[name].get("default") for name in expected} == expected
