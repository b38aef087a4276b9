"""The password grant: the backend names the user.  spec/oauth2.md §5.4."""

from __future__ import annotations

from typing import Any

import pytest

from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    PROVISION_KEY,
    UNSUPPORTED,
    Answer,
    Issuing,
    refused,
    scope_error,
)

NO_KEY = {"error": "invalid_provision_key", "error_description": "Invalid provision_key"}
NO_USER = {
    "error": "invalid_authenticated_userid",
    "error_description": "Missing authenticated_userid parameter",
}


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    issuer.configure(enable_password_grant=True)


def ask(issuer: Issuing, **params: Any) -> Answer:
    sent = CREDENTIALS | {
        "grant_type": "password",
        "provision_key": PROVISION_KEY,
        "authenticated_userid": "u7",
        **params,
    }
    return issuer.post({name: value for name, value in sent.items() if value is not None})


def test_password_gives_a_token_and_a_refresh_token(issuer: Issuing, app: OAuth2Credential) -> None:
    answer = ask(issuer, scope="email", username="not", password="looked at")
    assert answer.status == 200
    body = answer.json
    assert list(body) == ["access_token", "token_type", "expires_in", "refresh_token"]
    (row,) = issuer.tokens()
    assert row.access_token_digest == token_digest(body["access_token"])
    assert row.refresh_token_digest == token_digest(body["refresh_token"])
    assert (row.authenticated_userid, row.scope, row.plugin_id) == (
        "u7",
        "email",
        CONTEXT.plugin_id,
    )
    again = issuer.refresh(body["refresh_token"])
    assert again.status == 200
    assert issuer.tokens()[0].authenticated_userid == "u7"


def test_token_that_never_expires_comes_alone(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(token_expiration=0)
    assert list(ask(issuer).json) == ["access_token", "token_type"]


@pytest.mark.parametrize("key", [None, "", "no"])
def test_provision_key_comes_before_user_and_scope(
    issuer: Issuing, app: OAuth2Credential, key: str | None
) -> None:
    refused(ask(issuer, provision_key=key, authenticated_userid=None, scope="wot"), NO_KEY)


@pytest.mark.parametrize("user", [None, "", "  ", ["a", "b"]])
def test_user_comes_before_the_scope(issuer: Issuing, app: OAuth2Credential, user: Any) -> None:
    refused(ask(issuer, authenticated_userid=user, scope="wot"), NO_USER)


def test_scope_is_judged(issuer: Issuing, app: OAuth2Credential) -> None:
    refused(ask(issuer, scope="wot"), scope_error('"wot" is an invalid scope'))
    issuer.configure(mandatory_scope=True)
    refused(ask(issuer), scope_error("You must specify a scope"))


def test_client_needs_redirect_uris(issuer: Issuing) -> None:
    issuer.client(redirect_uris=None)
    refused(ask(issuer), INVALID_CLIENT)


def test_grant_that_is_off(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(enable_password_grant=False)
    refused(ask(issuer), UNSUPPORTED)


def test_client_is_authenticated_first(issuer: Issuing, app: OAuth2Credential) -> None:
    refused(ask(issuer, client_secret="no", provision_key="no"), INVALID_CLIENT)


def test_route_without_service_is_an_error_of_ours(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(global_credentials=False)
    assert ask(issuer).status == 500
    assert issuer.tokens() == []
