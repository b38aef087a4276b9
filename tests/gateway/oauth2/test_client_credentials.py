"""The client_credentials grant.  spec/oauth2.md §5.3."""

from __future__ import annotations

import pytest

from tests.gateway.oauth2.answers import (
    INVALID_CLIENT,
    INVALID_PROVISION_KEY,
    issued,
    refused,
)
from tests.gateway.oauth2.apis import PROVISION_KEY, USER, Api, App, basic, unique
from tests.gateway.oauth2.kit import Site

GRANT = {"grant_type": "client_credentials"}


@pytest.mark.parametrize("key", [None, "", "x", PROVISION_KEY + "x"])
def test_user_id_needs_the_provision_key(api: Api, app: App, key: str | None) -> None:
    params = {"authenticated_userid": USER} | ({} if key is None else {"provision_key": key})
    refused(api.client_credentials(app, **params), *INVALID_PROVISION_KEY)


def test_empty_user_id_needs_the_provision_key_too(api: Api, app: App) -> None:
    """It is sent, whatever is in it."""
    refused(api.client_credentials(app, authenticated_userid=""), *INVALID_PROVISION_KEY)


def test_provision_key_is_checked_before_client_and_scope(api: Api, app: App) -> None:
    wrong = GRANT | {"authenticated_userid": USER, "scope": "wot"}
    refused(api.token(wrong), *INVALID_PROVISION_KEY)
    refused(api.token(wrong | app.params), *INVALID_PROVISION_KEY)


def test_wrong_secret_is_told_before_the_provision_key(api: Api, app: App) -> None:
    """The grant does not run after an error."""
    wrong = GRANT | {"authenticated_userid": USER, "client_id": app.id, "client_secret": "x"}
    refused(api.token(wrong), *INVALID_CLIENT)


def test_provision_key_alone_is_not_looked_at(api: Api, app: App) -> None:
    issued(api.client_credentials(app, provision_key="wrong"))


def test_unknown_client_is_400_in_parameters_and_in_the_header(api: Api) -> None:
    refused(api.token(GRANT), *INVALID_CLIENT)
    refused(api.token(GRANT | {"client_id": unique("no"), "client_secret": "x"}), *INVALID_CLIENT)
    refused(api.token(GRANT, headers=[basic(unique("no"), "x")]), *INVALID_CLIENT)


def test_unknown_client_is_told_before_the_scope(api: Api) -> None:
    refused(api.token(GRANT | {"client_id": unique("no"), "scope": "wot"}), *INVALID_CLIENT)


def test_scope_is_checked(api: Api, app: App) -> None:
    refused(
        api.client_credentials(app, scope="email wot"),
        "invalid_scope",
        '"wot" is an invalid scope',
    )


def test_token_comes_without_a_refresh_token(api: Api, app: App) -> None:
    assert "refresh_token" not in issued(api.client_credentials(app))
    assert "refresh_token" not in issued(api.client_credentials(app, scope="email"))


def test_token_carries_scope_and_no_user(api: Api, app: App) -> None:
    seen = api.get(api.access(app, scope="email")).seen
    assert seen["X-Authenticated-Scope"] == "email"
    assert seen["X-Authenticated-UserId"] is None


def test_token_carries_the_user_that_a_back_end_names(api: Api, app: App) -> None:
    own = {"authenticated_userid": "id 42", "provision_key": PROVISION_KEY}
    seen = api.get(api.access(app, **own)).seen
    assert seen["X-Authenticated-UserId"] == "id 42"


def test_public_client_gets_a_token_by_its_id(site: Site, api: Api, public: App) -> None:
    assert api.get(api.access(public)).status == 200
    issued(api.token(GRANT, headers=[public.basic("")]))


def test_each_token_is_another_and_all_are_good(api: Api, app: App) -> None:
    tokens = [api.access(app) for _ in range(5)]
    assert len(set(tokens)) == 5
    assert {api.get(token).status for token in tokens} == {200}
