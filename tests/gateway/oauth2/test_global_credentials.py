"""global_credentials: which tokens are good where.  spec/oauth2.md §7, §6.2."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import (
    GLOBAL,
    INVALID,
    fragment_of,
    issued,
    redirect,
    unauthorized,
)
from tests.gateway.oauth2.apis import Api, App, code_request
from tests.gateway.oauth2.kit import Site

GRANTS = ("client_credentials", "password", "code", "implicit", "refresh")


def token_by(api: Api, app: App, grant: str) -> str:
    if grant == "implicit":
        answer = api.authorize(code_request(app, response_type="token"))
        return fragment_of(redirect(answer))["access_token"]
    if grant == "code":
        answer = api.redeem(app, api.code(app))
    elif grant == "refresh":
        answer = api.refresh(app, api.pair(app)["refresh_token"])
    else:
        answer = getattr(api, grant)(app)
    return str(issued(answer)["access_token"])


@pytest.mark.parametrize("grant", GRANTS)
def test_token_is_of_the_service_it_was_asked_at(
    site: Site, api: Api, app: App, grant: str
) -> None:
    token = token_by(api, app, grant)
    assert api.service is not None
    row = site.admin("GET", f"/oauth2_tokens/{token}", 200)
    assert row["service"] == {"id": api.service["id"]}
    assert api.get(token).status == 200
    unauthorized(site.api(token_expiration=4444).get(token), INVALID)


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize("where", ["service", "bare"])
def test_global_token_is_of_no_service_and_good_at_every_global_plugin(
    site: Site, app: App, grant: str, where: str
) -> None:
    first = site.api(global_credentials=True)
    issuer = first if where == "service" else site.serviceless(global_credentials=True)
    token = token_by(issuer, app, grant)
    assert site.admin("GET", f"/oauth2_tokens/{token}", 200)["service"] is None
    for other in (first, site.api(global_credentials=True, token_expiration=4444)):
        assert other.get(token).status == 200
    unauthorized(site.api().get(token), GLOBAL)


def test_bound_token_is_refused_at_a_global_plugin_of_another_service(
    site: Site, api: Api, app: App
) -> None:
    unauthorized(site.api(global_credentials=True).get(api.access(app)), INVALID)


def test_bound_token_is_good_at_a_global_plugin_of_its_service(site: Site, app: App) -> None:
    api = site.api()
    route = site.routed(api, global_credentials=True)
    assert route.get(api.access(app)).status == 200
    # Not the other way round.
    unauthorized(api.get(route.access(app)), GLOBAL)


def test_bound_token_is_good_at_another_plugin_of_its_service(site: Site, app: App) -> None:
    api = site.api()
    route = site.routed(api, realm="another")
    assert route.get(api.access(app)).status == 200
    assert api.get(route.access(app)).status == 200


def test_bound_token_is_refused_at_a_route_without_service(site: Site, api: Api, app: App) -> None:
    bare = site.serviceless(global_credentials=True)
    unauthorized(bare.get(api.access(app)), INVALID)


def test_refresh_at_a_global_plugin_gives_a_global_token(site: Site, app: App) -> None:
    api = site.api(global_credentials=True)
    pair = api.pair(app)
    new = issued(api.refresh(app, pair["refresh_token"]))
    assert site.admin("GET", f"/oauth2_tokens/{new['access_token']}", 200)["service"] is None
