"""The refresh_token grant.  spec/oauth2.md §5.5, §1.3."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    BASIC_CHALLENGE,
    INVALID_CLIENT,
    INVALID_REDIRECT,
    INVALID_REFRESH,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import PKCE, STRICT, USER, Api, App, bearer
from tests.gateway.oauth2.kit import Site, at_once

PARALLEL = 50
SCOPE_MISMATCH = ("invalid_scope", "Scope mismatch")


@pytest.mark.parametrize("value", [None, "", "no-such-token", "A" * 32])
def test_unknown_refresh_token_is_refused(api: Api, app: App, value: str | None) -> None:
    params = {"grant_type": "refresh_token"} | app.params
    more = {} if value is None else {"refresh_token": value}
    refused(api.token(params | more), *INVALID_REFRESH)


def test_refresh_token_that_is_no_string_is_refused(api: Api, app: App) -> None:
    pair = api.pair(app)
    for value in ([pair["refresh_token"]], {"a": "b"}, 7, True):
        body = {"grant_type": "refresh_token", "refresh_token": value} | app.params
        refused(api.token(json_body=body), *INVALID_REFRESH)
    issued(api.refresh(app, pair["refresh_token"]))


def test_access_token_is_no_refresh_token(api: Api, app: App) -> None:
    refused(api.refresh(app, api.pair(app)["access_token"]), *INVALID_REFRESH)


def test_refresh_gives_two_new_tokens_and_ends_the_old_ones(api: Api, app: App) -> None:
    old = api.pair(app)
    assert api.get(old["access_token"]).status == 200
    new = issued(api.refresh(app, old["refresh_token"], state="s"))
    assert new.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "state"}
    assert len({*old.values(), new["access_token"], new["refresh_token"]}) == len(old) + 2
    assert api.get(new["access_token"]).status == 200
    api.until(401, old["access_token"])
    refused(api.refresh(app, old["refresh_token"]), *INVALID_REFRESH)
    # Kong's profile: replaying the old one ends nothing.
    assert api.get(new["access_token"]).status == 200
    issued(api.refresh(app, new["refresh_token"]))


def test_s20_refresh_token_used_side_by_side_is_good_once(site: Site, api: Api, app: App) -> None:
    pair = api.pair(app)
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]} | app.params
    answers = list(at_once(site, api, [form] * PARALLEL))
    assert sorted(answer.status for answer in answers) == [200] + [400] * (PARALLEL - 1)
    issued(min(answers, key=lambda answer: answer.status))


def test_s20_refresh_token_used_side_by_side_under_strict_is_good_once(
    site: Site, app: App
) -> None:
    api = site.api(**STRICT)
    pair = api.pair(app)
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]} | app.params
    statuses = sorted(answer.status for answer in at_once(site, api, [form] * PARALLEL))
    assert statuses == [200] + [400] * (PARALLEL - 1)


def test_reused_refresh_token_stays_and_is_told_again(site: Site, app: App) -> None:
    api = site.api(reuse_refresh_token=True)
    old = api.pair(app)
    first = issued(api.refresh(app, old["refresh_token"]))
    second = issued(api.refresh(app, old["refresh_token"]))
    for new in (first, second):
        assert new.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
        assert new["refresh_token"] == old["refresh_token"]
        assert new["expires_in"] == 7200
    assert len({pair["access_token"] for pair in (old, first, second)}) == 3
    assert api.get(second["access_token"]).status == 200
    for dead in (old, first):
        api.until(401, dead["access_token"])


def test_reused_refresh_token_keeps_its_row(site: Site, app: App) -> None:
    api = site.api(reuse_refresh_token=True)
    old = api.pair(app)
    before = site.admin("GET", f"/oauth2_tokens/{old['access_token']}", 200)
    new = issued(api.refresh(app, old["refresh_token"]))
    after = site.admin("GET", f"/oauth2_tokens/{new['access_token']}", 200)
    assert after["id"] == before["id"]
    site.admin("GET", f"/oauth2_tokens/{old['access_token']}", 404)


def test_rotated_refresh_token_makes_a_new_row(site: Site, api: Api, app: App) -> None:
    old = api.pair(app)
    before = site.admin("GET", f"/oauth2_tokens/{old['access_token']}", 200)
    new = issued(api.refresh(app, old["refresh_token"]))
    after = site.admin("GET", f"/oauth2_tokens/{new['access_token']}", 200)
    assert after["id"] != before["id"]
    site.admin("GET", f"/oauth2_tokens/{before['id']}", 404)


@pytest.mark.parametrize("reuse", [False, True], ids=["rotated", "reused"])
def test_refresh_keeps_user_and_scope_whatever_is_asked(site: Site, app: App, reuse: bool) -> None:
    api = site.api(reuse_refresh_token=reuse)
    pair = api.pair(app, scope="profile email")
    for scope in ("email", "wot", ""):
        params = {"scope": scope, "authenticated_userid": "somebody else"}
        pair = issued(api.refresh(app, pair["refresh_token"], **params))
        seen = api.get(pair["access_token"]).seen
        assert seen["X-Authenticated-Scope"] == "profile email"
        assert seen["X-Authenticated-UserId"] == USER


@pytest.mark.parametrize("reuse", [False, True], ids=["rotated", "reused"])
def test_s36_refresh_never_widens_the_scope(site: Site, app: App, reuse: bool) -> None:
    api = site.api(reuse_refresh_token=reuse)
    pair = api.pair(app, scope="email")
    new = issued(api.refresh(app, pair["refresh_token"], scope="email profile"))
    assert api.get(new["access_token"]).seen["X-Authenticated-Scope"] == "email"


# --- whose it is ---------------------------------------------------------------------------------


def test_refresh_token_of_another_client_is_refused(site: Site, api: Api, app: App) -> None:
    pair = api.pair(app)
    other = site.shared_app()
    refused(api.refresh(other, pair["refresh_token"]), *INVALID_CLIENT)
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
    # 400 in the header as well: the client itself is right.
    refused(api.token(form, headers=[other.basic()]), *INVALID_CLIENT)
    issued(api.refresh(app, pair["refresh_token"]))


def test_refresh_token_of_another_service_is_refused(site: Site, api: Api, app: App) -> None:
    pair = api.pair(app)
    refused(site.api(token_expiration=4444).refresh(app, pair["refresh_token"]), *INVALID_REFRESH)
    issued(api.refresh(app, pair["refresh_token"]))


def test_global_refresh_token_is_refused_where_tokens_are_bound(
    site: Site, api: Api, app: App
) -> None:
    pair = site.api(global_credentials=True).pair(app)
    refused(api.refresh(app, pair["refresh_token"]), *INVALID_REFRESH)


def test_global_refresh_token_is_bound_to_no_service_and_no_plugin(site: Site, app: App) -> None:
    pair = site.api(global_credentials=True).pair(app)
    elsewhere = site.serviceless(global_credentials=True)
    new = issued(elsewhere.refresh(app, pair["refresh_token"]))
    assert site.api(global_credentials=True).get(new["access_token"]).status == 200


@pytest.mark.parametrize("form", ["params", "header"])
def test_confidential_client_needs_its_secret(api: Api, app: App, form: str) -> None:
    pair = api.pair(app)
    own = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
    if form == "params":
        refused(api.token(own | {"client_id": app.id}), *INVALID_CLIENT)
        refused(api.token(own | {"client_id": app.id, "client_secret": "x"}), *INVALID_CLIENT)
        issued(api.token(own | app.params))
    else:
        answer = api.token(own, headers=[app.basic("x")])
        refused(answer, *INVALID_CLIENT, status=401, challenge=BASIC_CHALLENGE)
        issued(api.token(own, headers=[app.basic()]))


def test_public_client_needs_no_secret(api: Api, public: App) -> None:
    code = api.code(public, code_challenge=PKCE.challenge)
    pair = issued(api.redeem(public, code, code_verifier=PKCE.verifier))
    own = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
    issued(api.token(own | {"client_id": public.id}))


def test_bearer_header_does_no_harm_beside_both_parameters(api: Api, app: App) -> None:
    pair = api.pair(app)
    own = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]} | app.params
    issued(api.token(own, headers=[bearer(pair["access_token"])]))


def test_redirect_uri_is_checked_here_too(site: Site, api: Api, app: App) -> None:
    pair = api.pair(app)
    answer = api.refresh(app, pair["refresh_token"], redirect_uri="http://a.test/")
    refused(answer, *INVALID_REDIRECT)
    issued(api.refresh(app, pair["refresh_token"]))


# --- scopes of the plugin that changed -----------------------------------------------------------


@pytest.mark.parametrize("scopes", [["profile"], [], None], ids=repr)
def test_scope_that_is_no_longer_there_is_refused(site: Site, app: App, scopes: Any) -> None:
    api = site.api(scopes=["email", "profile"])
    other = site.routed(api, scopes=scopes)
    pair = api.pair(app, scope="profile email")
    refused(other.refresh(app, pair["refresh_token"]), *SCOPE_MISMATCH)
    issued(api.refresh(app, pair["refresh_token"]))


@pytest.mark.parametrize("scopes", [["profile"], None], ids=repr)
def test_token_without_scope_is_refreshed_whatever_scopes_there_are(
    site: Site, app: App, scopes: Any
) -> None:
    api = site.api(scopes=["email", "profile"])
    other = site.routed(api, scopes=scopes)
    issued(other.refresh(app, api.pair(app)["refresh_token"]))


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [False, True], ids=["rotated", "reused"])
def test_expired_access_token_is_refreshed(site: Site, app: App, reuse: bool) -> None:
    api = site.api(token_expiration=2, reuse_refresh_token=reuse)
    pair = api.pair(app)
    api.until(401, pair["access_token"])
    new = issued(api.refresh(app, pair["refresh_token"]))
    assert new["expires_in"] == 2
    assert api.get(new["access_token"]).status == 200
    api.until(401, new["access_token"])


def test_refresh_token_dies_with_its_ttl(site: Site, app: App) -> None:
    api = site.api(refresh_token_ttl=1000)
    pair = api.pair(app)
    row = site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 200)
    assert 995 <= row["ttl"] <= 1000
    assert age(site, app, 1001) == 1
    refused(api.refresh(app, pair["refresh_token"]), *INVALID_REFRESH)
    site.admin("GET", f"/oauth2_tokens/{row['id']}", 404)
    assert row["id"] not in {
        listed["id"] for listed in site.admin("GET", f"/oauth2/{app.id}/oauth2_tokens", 200)["data"]
    }


def age(site: Site, app: App, seconds: int) -> int:
    """Make the tokens of this client older; how many there are."""
    return site.change_row(
        "UPDATE oauth2_tokens SET created_at = created_at - ?, gone_at = gone_at - ?"
        " WHERE credential_id = ?",
        seconds, seconds, app.row["id"],
    )  # fmt: skip


def test_refresh_starts_the_ttl_anew(site: Site, app: App) -> None:
    api = site.api(refresh_token_ttl=1000, reuse_refresh_token=True)
    pair = api.pair(app)
    assert age(site, app, 900) == 1
    old = site.admin("GET", f"/oauth2_tokens/{pair['access_token']}", 200)
    assert 90 <= old["ttl"] <= 100
    new = issued(api.refresh(app, pair["refresh_token"]))
    row = site.admin("GET", f"/oauth2_tokens/{new['access_token']}", 200)
    assert 990 <= row["ttl"] <= 1000
    assert row["created_at"] >= old["created_at"] + 900


@pytest.mark.parametrize(
    ("config", "unlimited"),
    [({"refresh_token_ttl": 0}, True), ({"token_expiration": 0}, True), ({}, False)],
    ids=["ttl 0", "never expires", "default"],
)
def test_ttl_is_unlimited_where_either_time_is_0(
    site: Site, app: App, config: dict[str, Any], unlimited: bool
) -> None:
    api = site.api(**config)
    token = issued(api.password(app))["access_token"]
    row = site.admin("GET", f"/oauth2_tokens/{token}", 200)
    if unlimited:
        assert row.get("ttl") is None
    else:
        assert 1209590 <= row["ttl"] <= 1209600


def test_token_that_never_expires_says_0_to_the_admin(site: Site, app: App) -> None:
    token = issued(site.api(token_expiration=0).password(app))["access_token"]
    assert site.admin("GET", f"/oauth2_tokens/{token}", 200)["expires_in"] == 0
