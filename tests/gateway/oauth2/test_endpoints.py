"""The endpoints beside token and authorize: where they are, revocation, introspection, metadata.

spec/oauth2.md §2 (`endpoints`), §14; RFC 7009, RFC 7662, RFC 8414.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.gateway.oauth2.answers import MISSING, issued, not_cached, unauthorized
from tests.gateway.oauth2.apis import STRICT, Api, App, unique
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

MORE = ("revoke", "introspect", "ticket", "sessions")


@pytest.fixture(scope="module", params=["kong", "strict"])
def full(site: Site, request: pytest.FixtureRequest) -> Api:
    """An API that answers all endpoints, under each profile."""
    return site.api(endpoints="all", **(STRICT if request.param == "strict" else {}))


# --- where they are ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MORE)
def test_paths_are_the_services_by_default(site: Site, api: Api, app: App, name: str) -> None:
    unauthorized(api.endpoint(name), MISSING)
    headers = [("Authorization", f"Bearer {api.access(app)}")]
    seen = site.ask("POST", f"{api.path}/oauth2/{name}", headers=headers).seen
    assert seen.target == f"/oauth2/{name}"


@pytest.mark.parametrize("name", MORE)
def test_paths_are_ours_with_endpoints_all(site: Site, name: str) -> None:
    answer = site.api(endpoints="all").endpoint(name)
    assert 400 <= answer.status < 500
    assert answer.json != {"error": MISSING[0], "error_description": MISSING[1]} or name in (
        "ticket",
        "sessions",
    )


@pytest.mark.parametrize("name", ("revoke", "introspect"))
def test_paths_are_ours_on_a_route_without_service(site: Site, name: str) -> None:
    bare = site.serviceless(global_credentials=True)
    answer = bare.endpoint(name, {"token": "x"})
    assert answer.status in (400, 401)
    assert answer.json["error"] in ("invalid_client", "invalid_request")


def test_token_and_authorize_stay_where_they_are(full: Api, app: App) -> None:
    issued(full.client_credentials(app))
    assert full.authorize().json["error"] == "invalid_provision_key"


# --- revocation ----------------------------------------------------------------------------------


def test_s39_unknown_token_is_revoked_with_200(full: Api, app: App) -> None:
    answer = full.endpoint("revoke", app.params | {"token": unique("unknown")})
    assert answer.status == 200


@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "nonsense"])
def test_s39_revoked_access_token_is_refused(full: Api, app: App, hint: str | None) -> None:
    token, other = full.access(app), full.access(app)
    assert full.get(token).status == 200
    params = {"token": token} | ({"token_type_hint": hint} if hint else {})
    assert full.endpoint("revoke", app.params | params).status == 200
    full.until(401, token, 5)
    assert full.get(other).status == 200


@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token"])
def test_s39_revoked_refresh_token_takes_its_access_tokens_along(
    full: Api, app: App, hint: str | None
) -> None:
    pair = full.pair(app)
    assert full.get(pair["access_token"]).status == 200
    params = {"token": pair["refresh_token"]} | ({"token_type_hint": hint} if hint else {})
    assert full.endpoint("revoke", app.params | params).status == 200
    full.until(401, pair["access_token"], 5)
    assert full.refresh(app, pair["refresh_token"]).status == 400


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_s39_token_of_another_client_is_not_revoked(
    site: Site, full: Api, app: App, kind: str
) -> None:
    pair = full.pair(app)
    other = site.shared_app()
    answer = full.endpoint("revoke", other.params | {"token": pair[kind]})
    assert answer.status in (200, 400, 401)  # RFC 7009 leaves open how that is told
    assert full.get(pair["access_token"]).status == 200
    issued(full.refresh(app, pair["refresh_token"]))


@pytest.mark.parametrize(
    "client", [{}, {"client_id": "no"}, {"client_id": "no", "client_secret": "x"}], ids=repr
)
def test_s39_revocation_needs_authentication(full: Api, app: App, client: Any) -> None:
    token = full.access(app)
    answer = full.endpoint("revoke", client | {"token": token})
    assert answer.status in (400, 401)
    assert answer.json["error"] == "invalid_client"
    wrong = full.endpoint("revoke", {"token": token}, headers=[app.basic("wrong")])
    assert wrong.status == 401
    assert full.get(token).status == 200


def test_revocation_without_a_token_is_an_invalid_request(full: Api, app: App) -> None:
    answer = full.endpoint("revoke", app.params)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


# --- introspection -------------------------------------------------------------------------------

INACTIVE = {"active": False}


def introspect(api: Api, app: App, token: str) -> dict[str, Any]:
    answer = api.endpoint("introspect", {"token": token}, headers=[app.basic()])
    assert answer.status == 200, (answer.status, answer.body)
    not_cached(answer)
    told: dict[str, Any] = answer.json
    return told


def test_good_token_is_active(full: Api, app: App) -> None:
    told = introspect(full, app, full.access(app, scope="email profile"))
    assert told["active"] is True
    assert told["client_id"] == app.id
    assert told["scope"] == "email profile"
    assert told["exp"] - told["iat"] == 7200


def test_s38_unknown_expired_revoked_and_foreign_tokens_are_inactive_and_no_more(
    site: Site, full: Api, app: App
) -> None:
    assert introspect(full, app, unique("unknown")) == INACTIVE
    assert introspect(full, app, "A" * 32) == INACTIVE
    # Not theirs: access tokens that are no good here, refresh tokens of another client.
    elsewhere = site.api(endpoints="all", token_expiration=4444)
    assert introspect(full, app, elsewhere.access(app)) == INACTIVE
    assert introspect(full, app, full.pair(site.shared_app())["refresh_token"]) == INACTIVE
    revoked = full.access(app)
    full.endpoint("revoke", app.params | {"token": revoked})
    assert introspect(full, app, revoked) == INACTIVE
    short = site.api(endpoints="all", token_expiration=1)
    expired = short.access(app)
    short.until(401, expired)
    eventually(lambda: introspect(short, app, expired) == INACTIVE, 5)


def test_s38_introspection_needs_authentication(full: Api, app: App) -> None:
    token = full.access(app)
    for headers in ([], [app.basic("wrong")], [("Authorization", "Bearer " + "A" * 32)]):
        answer = full.endpoint("introspect", {"token": token}, headers=headers)
        assert answer.status in (400, 401)
        assert "active" not in answer.json


@pytest.mark.parametrize("name", ["token", "revoke", "introspect"])
@pytest.mark.parametrize("param", ["client_secret", "token", "code"])
def test_s28_secrets_in_the_query_are_refused_under_strict(
    site: Site, app: App, name: str, param: str
) -> None:
    api = site.api(endpoints="all", **STRICT)
    form = {"grant_type": "client_credentials", "token": api.access(app)} | app.params
    query = urlencode({param: form.pop(param, "x")})
    answer = api.endpoint(name, form, query=query)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["revoke", "introspect"])
def test_s30_their_answers_forbid_caching_and_sniffing(full: Api, app: App, name: str) -> None:
    form = app.params | {"token": "A" * 32}
    for answer in (full.endpoint(name, form), full.endpoint(name, {"token": "x"})):
        assert answer["Cache-Control"] == "no-store"
        assert answer["Pragma"] == "no-cache"
        assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["revoke", "introspect"])
def test_s29_they_want_https_like_the_others(full: Api, app: App, name: str) -> None:
    answer = full.endpoint(name, app.params | {"token": "x"}, tls=False)
    assert (answer.status, answer.json["error"]) == (400, "access_denied")


# --- metadata ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer(site: Site) -> str:
    """An issuer with a path, that a plugin names."""
    host = unique("issuer") + ".test"
    name = f"https://{host}/tenant"
    site.api(issuer=name, endpoints="all")
    return name


def metadata(site: Site, issuer: str, path: str, host: str | None = None) -> Any:
    named = host or issuer.removeprefix("https://").partition("/")[0]
    return site.ask("GET", path, headers=[("Host", named)])


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server/tenant",
        "/tenant/.well-known/openid-configuration",
    ],
)
def test_metadata_is_answered_where_the_issuers_host_is_asked(
    site: Site, issuer: str, path: str
) -> None:
    answer = metadata(site, issuer, path)
    assert answer.status == 200, answer.body
    told = answer.json
    assert told["issuer"] == issuer
    for name in ("token_endpoint", "authorization_endpoint", "jwks_uri"):
        assert told[name].startswith("https://"), (name, told)
    assert "client_credentials" in told["grant_types_supported"]
    assert told["code_challenge_methods_supported"] == ["S256"]


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/other",
        "/.well-known/oauth-authorization-server/tenant/x",
    ],
)
def test_metadata_of_another_path_is_not_there(site: Site, issuer: str, path: str) -> None:
    assert metadata(site, issuer, path).status == 404


def test_metadata_of_another_host_is_not_there(site: Site, issuer: str) -> None:
    path = "/.well-known/oauth-authorization-server/tenant"
    assert metadata(site, issuer, path, unique("other") + ".test").status == 404


@pytest.mark.parametrize("audience", [None, "https://api.test/v1"])
def test_challenge_names_the_resources_metadata(site: Site, audience: str | None) -> None:
    """RFC 9728 §5.1, and what is found there: §3."""
    host = unique("resource") + ".test"
    issuer = f"https://{host}/as"
    resource = audience and audience.replace("api.test", host)
    api = site.api(issuer=issuer, **({"audience": resource} if resource else {}))
    path = "/.well-known/oauth-protected-resource" + ("/v1" if resource else "/as")
    challenge = api.get()["WWW-Authenticate"]
    assert challenge == f'Bearer resource_metadata="https://{host}{path}"'
    answer = metadata(site, issuer, path)
    assert answer.status == 200, answer.body
    assert answer.json["resource"] == (resource or issuer)
    assert answer.json["authorization_servers"] == [issuer]


@pytest.mark.parametrize(
    ("origin", "good"), [("https://app.test", True), ("https://b.test", False)]
)
def test_token_endpoint_is_for_pages_of_listed_origins(
    site: Site, app: App, origin: str, good: bool
) -> None:
    sockets = site.sockets({"allowed_origins": ["https://app.test"]})
    form = {"grant_type": "client_credentials"} | app.params
    answer = sockets.issuer.token(form, headers=[("Origin", origin)])
    issued(answer)
    assert answer["Access-Control-Allow-Origin"] == (origin if good else None)
    assert sockets.issuer.token(form)["Access-Control-Allow-Origin"] is None


def test_s17_key_set_shows_no_private_key(site: Site, app: App) -> None:
    host = unique("keys") + ".test"
    api = site.api(issuer=f"https://{host}", token_format="jwt", endpoints="all")
    token = api.client_credentials(app)
    assert token.status == 200, token.body
    answer = site.ask("GET", f"{api.path}/oauth2/jwks")
    assert answer.status == 200, answer.body
    keys = answer.json["keys"]
    assert keys
    for key in keys:
        assert not {"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & key.keys()
        assert key["kid"] and key["kty"] in ("EC", "RSA", "OKP")
