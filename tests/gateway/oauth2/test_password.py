"""The password grant.  spec/oauth2.md §5.4."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import (
    INVALID_CLIENT,
    INVALID_PROVISION_KEY,
    INVALID_REDIRECT,
    MISSING_USER,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import PROVISION_KEY, USER, Api, App
from tests.gateway.oauth2.kit import Site


@pytest.mark.parametrize("key", [None, "", "x", PROVISION_KEY.upper()])
def test_provision_key_is_needed(api: Api, app: App, key: str | None) -> None:
    params = {"grant_type": "password", "authenticated_userid": USER} | app.params
    params |= {} if key is None else {"provision_key": key}
    refused(api.token(params), *INVALID_PROVISION_KEY)


def test_provision_key_is_checked_before_user_and_scope(api: Api, app: App) -> None:
    wrong = {"provision_key": "x", "authenticated_userid": "", "scope": "wot"}
    refused(api.password(app, **wrong), *INVALID_PROVISION_KEY)


@pytest.mark.parametrize("user", [None, "", " ", "\t"], ids=repr)
def test_user_id_is_needed_and_must_not_be_blank(api: Api, app: App, user: str | None) -> None:
    params = {"grant_type": "password", "provision_key": PROVISION_KEY} | app.params
    params |= {} if user is None else {"authenticated_userid": user}
    refused(api.token(params), *MISSING_USER)


def test_user_id_is_checked_before_the_scope(api: Api, app: App) -> None:
    refused(api.password(app, authenticated_userid="", scope="wot"), *MISSING_USER)


def test_scope_is_checked(api: Api, app: App) -> None:
    refused(api.password(app, scope="wot"), "invalid_scope", '"wot" is an invalid scope')


def test_client_is_checked_before_the_grant(site: Site, api: Api, app: App) -> None:
    refused(api.password(app, provision_key="x", client_secret="x"), *INVALID_CLIENT)
    refused(api.password(app, provision_key="x", redirect_uri="http://a.test/"), *INVALID_REDIRECT)
    refused(api.password(site.shared_app(redirect_uris=None)), *INVALID_CLIENT)


@pytest.mark.parametrize("how", ["params", "header"])
def test_token_comes_with_a_refresh_token(api: Api, app: App, how: str) -> None:
    if how == "params":
        body = issued(api.password(app))
    else:
        own = {"provision_key": PROVISION_KEY, "authenticated_userid": USER}
        body = issued(api.token({"grant_type": "password"} | own, headers=[app.basic()]))
    assert len(body["refresh_token"]) == 32
    assert body["refresh_token"] != body["access_token"]


def test_username_and_password_are_not_looked_at(api: Api, app: App) -> None:
    issued(api.password(app, username="thibault", password="kong"))
    params = {"username": "thibault", "password": "kong", "authenticated_userid": ""}
    refused(api.password(app, **params), *MISSING_USER)


def test_token_carries_user_and_scope(api: Api, app: App) -> None:
    token = issued(api.password(app, scope="profile email"))["access_token"]
    seen = api.get(token).seen
    assert seen["X-Authenticated-UserId"] == USER
    assert seen["X-Authenticated-Scope"] == "profile email"


def test_refresh_token_is_no_access_token(api: Api, app: App) -> None:
    assert api.get(issued(api.password(app))["refresh_token"]).status == 401


def test_public_client_gets_a_token_without_a_secret(api: Api, public: App) -> None:
    assert api.get(issued(api.password(public))["access_token"]).status == 200


def test_s33_implicit_and_password_grants_are_off_by_default(site: Site) -> None:
    made = site.admin(
        "POST", "/plugins", 201,
        {
            "name": "oauth2",
            "route": {"id": site.new_api().route["id"]},
            "config": {"enable_client_credentials": True},
        },
    )  # fmt: skip
    config = made["config"]
    assert config["enable_implicit_grant"] is False
    assert config["enable_password_grant"] is False
    assert config["enable_authorization_code"] is False
