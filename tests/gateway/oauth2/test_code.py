"""The authorization_code grant at the token endpoint.  spec/oauth2.md §5.5."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import (
    BASIC_CHALLENGE,
    INVALID_CLIENT,
    INVALID_CODE,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import OTHER_URI, PKCE, STRICT, USER, Api, App
from tests.gateway.oauth2.kit import Site, at_once

PARALLEL = 50


@pytest.mark.parametrize("code", [None, "", "no-such-code", "A" * 32])
def test_unknown_code_is_refused(api: Api, app: App, code: str | None) -> None:
    params = {"grant_type": "authorization_code"} | app.params
    refused(api.token(params | ({} if code is None else {"code": code})), *INVALID_CODE)


def test_code_that_is_no_string_is_refused(api: Api, app: App) -> None:
    code = api.code(app)
    for value in ([code], {"a": code}, 7, True):
        body = {"grant_type": "authorization_code", "code": value} | app.params
        refused(api.token(json_body=body), *INVALID_CODE)
    issued(api.redeem(app, code))


def test_code_gives_access_and_refresh_token(api: Api, app: App) -> None:
    body = issued(api.redeem(app, api.code(app), state="s"))
    assert body.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "state"}
    assert api.get(body["access_token"]).seen["X-Authenticated-UserId"] == USER


def test_code_gives_no_refresh_token_where_tokens_never_expire(site: Site, app: App) -> None:
    api = site.api(token_expiration=0)
    assert issued(api.redeem(app, api.code(app))).keys() == {"access_token", "token_type"}


def test_code_is_good_once(api: Api, app: App) -> None:
    code = api.code(app)
    token = issued(api.redeem(app, code))["access_token"]
    refused(api.redeem(app, code, state="s"), *INVALID_CODE, state="s")
    # Kong's profile: what was issued stays good.
    assert api.get(token).status == 200


@pytest.mark.parametrize("profile", ["kong", "strict"])
def test_s19_code_redeemed_side_by_side_is_good_once(site: Site, app: App, profile: str) -> None:
    api = site.api(**STRICT if profile == "strict" else {})
    form = {"grant_type": "authorization_code", "code": api.code(app)} | app.params
    answers = list(at_once(site, api, [form] * PARALLEL))
    assert sorted(answer.status for answer in answers) == [200] + [400] * (PARALLEL - 1)
    issued(min(answers, key=lambda answer: answer.status))


def test_s23_code_of_another_client_is_refused(site: Site, api: Api, app: App) -> None:
    code = api.code(app)
    refused(api.redeem(site.shared_app(), code), *INVALID_CODE)
    # That took nothing from the client it belongs to.
    issued(api.redeem(app, code))


def test_s23_code_of_another_service_is_refused(site: Site, api: Api, app: App) -> None:
    code = api.code(app)
    refused(site.api(token_expiration=4444).redeem(app, code), *INVALID_CODE)
    issued(api.redeem(app, code))


def test_code_is_good_at_another_plugin_of_the_same_service(site: Site, app: App) -> None:
    api = site.api()
    other = site.routed(api, token_expiration=60)
    issued(other.redeem(app, api.code(app)))


def test_s23_code_of_another_plugin_is_refused_with_global_credentials(
    site: Site, app: App
) -> None:
    api = site.api(global_credentials=True)
    same_service = site.routed(api, global_credentials=True)
    elsewhere = site.serviceless(global_credentials=True)
    code = api.code(app)
    for other in (same_service, elsewhere):
        refused(other.redeem(app, code), *INVALID_CODE)
    issued(api.redeem(app, code))


def test_code_of_a_global_plugin_is_refused_at_one_bound_to_services(
    site: Site, api: Api, app: App
) -> None:
    code = site.api(global_credentials=True).code(app)
    refused(api.redeem(app, code), *INVALID_CODE)


def test_s23_code_is_refused_after_300_seconds(site: Site, api: Api, app: App) -> None:
    fresh, old = api.code(app), api.code(app, scope="profile")
    moved = site.change_row(
        "UPDATE oauth2_authorization_codes SET created_at = created_at - 301,"
        " expires_at = expires_at - 301 WHERE credential_id = ? AND scope = 'profile'",
        app.row["id"],
    )
    assert moved == 1
    refused(api.redeem(app, old), *INVALID_CODE)
    issued(api.redeem(app, fresh))


def test_code_lives_300_seconds(site: Site, api: Api, app: App) -> None:
    code = api.code(app)
    moved = site.change_row(
        "UPDATE oauth2_authorization_codes SET created_at = created_at - 290,"
        " expires_at = expires_at - 290 WHERE credential_id = ?",
        app.row["id"],
    )
    assert moved == 1
    issued(api.redeem(app, code))


def test_code_is_redeemed_by_its_client_only_with_its_secret(api: Api, app: App) -> None:
    code = api.code(app)
    refused(api.redeem(app, code, client_secret="x"), *INVALID_CLIENT)
    form = {"grant_type": "authorization_code", "code": code}
    refused(
        api.token(form, headers=[app.basic("x")]),
        *INVALID_CLIENT,
        status=401,
        challenge=BASIC_CHALLENGE,
    )
    issued(api.token(form, headers=[app.basic()]))


def test_scope_parameter_is_not_looked_at(api: Api, app: App) -> None:
    token = issued(api.redeem(app, api.code(app), scope="wot"))["access_token"]
    assert api.get(token).seen["X-Authenticated-Scope"] == "email"


def test_code_is_not_bound_to_its_redirect_uri(api: Api, app: App) -> None:
    """In Kong's profile."""
    issued(api.redeem(app, api.code(app), redirect_uri=OTHER_URI))
    issued(api.redeem(app, api.code(app, redirect_uri=OTHER_URI)))


def test_public_client_redeems_its_code_with_a_verifier_alone(api: Api, public: App) -> None:
    code = api.code(public, code_challenge=PKCE.challenge)
    issued(api.redeem(public, code, code_verifier=PKCE.verifier))


def test_code_dies_with_its_service(site: Site, app: App) -> None:
    """And is not good at another one, of course: there is no route left to redeem it at."""
    api = site.new_api()
    api.code(app)
    assert count_codes(site, app) == 1
    site.admin("DELETE", f"/plugins/{api.plugin['id']}", 204)
    site.admin("DELETE", f"/routes/{api.route['id']}", 204)
    assert api.service is not None
    site.admin("DELETE", f"/services/{api.service['id']}", 204)
    assert count_codes(site, app) == 0


def test_code_dies_with_its_plugin(site: Site, app: App) -> None:
    api = site.new_api(global_credentials=True)
    api.code(app)
    assert count_codes(site, app) == 1
    site.admin("DELETE", f"/plugins/{api.plugin['id']}", 204)
    assert count_codes(site, app) == 0


def test_code_dies_with_its_client(site: Site, api: Api, app: App) -> None:
    api.code(app)
    site.admin("DELETE", f"/oauth2/{app.id}", 204)
    assert count_codes(site, app) == 0


def count_codes(site: Site, app: App) -> int:
    """How many codes of this client there are: an update that changes nothing counts them."""
    return site.change_row(
        "UPDATE oauth2_authorization_codes SET id = id WHERE credential_id = ?", app.row["id"]
    )
