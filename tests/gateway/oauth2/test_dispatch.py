"""Which requests are for the endpoints, and by which method.  spec/oauth2.md §3."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import (
    BASIC_CHALLENGE,
    INVALID_CLIENT,
    INVALID_GRANT_TYPE,
    INVALID_PROVISION_KEY,
    JSON_TYPE,
    MISSING,
    issued,
    refused,
    unauthorized,
)
from tests.gateway.oauth2.apis import Api, App
from tests.gateway.oauth2.kit import Site

ENDPOINTS = {"token": "token endpoint", "authorize": "authorization endpoint"}
# %s: the endpoint's name.
FOR_US = [
    "/oauth2/%s",
    "/oauth2/%s/",
    "/oauth2/%s?",
    "/oauth2/%s?x=/y",
    "/x/y/oauth2/%s",
    "/x/oauth2/%s/",
    "//oauth2//%s",
    "/oauth2/./%s",
    "/oauth2/x/../%s",
    "/a/b/../oauth2/%s",
    "/%%6fauth2/%s",
    "/oauth2/%s/.",
    "/oauth2/token/../%s",
    "/xoauth2/../oauth2/%s",
]
NOT_FOR_US = [
    "/oauth2/%s//x",
    "/oauth2/%sx",
    "/oauth2/%s/x",
    "/oauth2%%2f%s",
    "/oauth2%%2F%s",
    "/oauth2/%s%%2F",
    "/OAuth2/%s",
    "/oauth2/%s.",
    "/oauth2/%s;x",
    "/oauth2/x?/oauth2/%s",
    "/oauth2/x/%s",
    "/oauth/%s",
]


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("path", FOR_US)
def test_path_that_ends_in_an_endpoints_is_for_it(
    site: Site, api: Api, app: App, name: str, path: str
) -> None:
    target = api.path + path % name
    if name == "authorize":
        refused(site.ask("POST", target), *INVALID_PROVISION_KEY)
    else:
        issued(site.ask("POST", target, form={"grant_type": "client_credentials"} | app.params))


def test_escaped_letters_are_the_letters(site: Site, api: Api, app: App) -> None:
    refused(site.ask("POST", api.path + "/oauth2/%74oke%6E", form=app.params), *INVALID_GRANT_TYPE)
    refused(site.ask("POST", api.path + "/oauth2/%61uthorize/"), *INVALID_PROVISION_KEY)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("path", NOT_FOR_US)
def test_any_other_path_is_authenticated(site: Site, api: Api, name: str, path: str) -> None:
    unauthorized(site.ask("POST", api.path + path % name), MISSING)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_upstream_path_that_ends_so_is_never_reached(
    site: Site, api: Api, app: App, name: str
) -> None:
    headers = [("Authorization", f"Bearer {api.access(app)}")]
    answer = site.ask("POST", f"{api.path}/oauth2/{name}", headers=headers)
    if name == "authorize":
        refused(answer, *INVALID_PROVISION_KEY)
    else:
        refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("realm", [None, "test-realm"])
def test_other_methods_are_not_allowed(
    site: Site, name: str, method: str, realm: str | None
) -> None:
    api = site.api(**({"realm": realm} if realm else {}))
    text = f"The HTTP method {method} is invalid for the {ENDPOINTS[name]}"
    answer = site.ask(method, f"{api.path}/oauth2/{name}")
    body = {"error": "invalid_method", "error_description": text}
    assert (answer.status, answer.json) == (405, body)
    about = f'error="invalid_method", error_description="{text}"'
    realmed = f'realm="{realm}", ' if realm else ""
    assert answer["WWW-Authenticate"] == f"Bearer {realmed}{about}"
    assert answer["Content-Type"] == JSON_TYPE
    assert answer["Cache-Control"] is None and answer["Pragma"] is None


@pytest.mark.parametrize("name", ENDPOINTS)
def test_head_is_not_allowed(site: Site, api: Api, name: str) -> None:
    answer = site.ask("HEAD", f"{api.path}/oauth2/{name}")
    assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize("name", ENDPOINTS)
def test_method_is_looked_at_before_https_and_the_token(
    site: Site, api: Api, app: App, name: str
) -> None:
    headers = [("Authorization", f"Bearer {api.access(app)}")]
    target = f"{api.path}/oauth2/{name}"
    assert site.ask("GET", target, headers=headers, tls=False).status == 405


# --- routes without a service ---------------------------------------------------------------------


def test_route_without_service_issues_global_tokens(site: Site, app: App) -> None:
    bare = site.serviceless(global_credentials=True)
    body = issued(bare.client_credentials(app))
    row = site.admin("GET", f"/oauth2_tokens/{body['access_token']}", 200)
    assert row["service"] is None


@pytest.mark.parametrize("grant", ["client_credentials", "password"])
def test_route_without_service_cannot_issue_bound_tokens(site: Site, app: App, grant: str) -> None:
    bare = site.serviceless()
    answer = getattr(bare, grant)(app)
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})


def test_route_without_service_tells_what_is_wrong_with_the_request_first(
    site: Site, app: App
) -> None:
    bare = site.serviceless()
    refused(bare.token(app.params), *INVALID_GRANT_TYPE)
    refused(bare.authorize(), *INVALID_PROVISION_KEY)


def test_route_without_service_has_nothing_behind_a_good_token(site: Site, app: App) -> None:
    bare = site.serviceless(global_credentials=True)
    unauthorized(bare.get(), MISSING)
    answer = bare.get(bare.access(app))
    assert answer.status == 503
    assert answer.json["message"] == "no Service found with those values"


def test_unknown_route_is_404(site: Site) -> None:
    answer = site.ask("POST", "/no-route-at-all/oauth2/token")
    assert answer.status == 404
    assert answer.json["message"] == "no Route matched with those values"
