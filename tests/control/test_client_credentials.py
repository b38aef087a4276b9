"""The client_credentials grant and its scope.  spec/oauth2.md §5.3, §5.6."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.oauth2.config import OAuth2Config
from control.store.tables import OAuth2Credential, Plugin
from dataplane._core import Reclaimer
from dataplane._tokens import TokenCache
from tests.control.issuing import (
    CREDENTIALS,
    JSON,
    PROVISION_KEY,
    Issuing,
    refused,
    scope_error,
)

# --- §5.3 client_credentials ---


def test_user_is_stored_for_whoever_knows_the_provision_key(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    answer = issuer.grant(authenticated_userid="id 7", provision_key=PROVISION_KEY)
    assert answer.status == 200
    assert issuer.tokens()[0].authenticated_userid == "id 7"


def test_config_shows_no_provision_key_in_its_repr() -> None:
    config = OAuth2Config.of(Plugin(config={"provision_key": "hunter2", "realm": "r"}))
    assert config.knows_provision_key("hunter2")
    assert "realm='r'" in repr(config) and "hunter2" not in repr(config)


@pytest.mark.parametrize("key", [None, "", "no", PROVISION_KEY + "x", [PROVISION_KEY, "x"]])
@pytest.mark.parametrize("user", ["id7", ""])
def test_user_without_the_provision_key_is_refused(
    issuer: Issuing, app: OAuth2Credential, key: Any, user: str
) -> None:
    sent = {"authenticated_userid": user} | ({} if key is None else {"provision_key": key})
    body = {"error": "invalid_provision_key", "error_description": "Invalid provision_key"}
    refused(issuer.grant(**sent), body)
    # It comes before the client and the scope.
    refused(issuer.grant(**sent, client_id="nobody", scope="wot"), body)


def test_plugin_without_a_provision_key_lets_nobody_name_users(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(provision_key="")
    answer = issuer.grant(authenticated_userid="id7", provision_key="")
    assert answer.json["error"] == "invalid_provision_key"


@pytest.mark.parametrize("user", [True, 7, ["a"], {"a": 1}, "\ud800", "a\0"])
def test_user_must_be_a_string(issuer: Issuing, app: OAuth2Credential, user: Any) -> None:
    sent = CREDENTIALS | {"authenticated_userid": user, "provision_key": PROVISION_KEY}
    answer = issuer.post(headers=JSON, body=json.dumps(sent).encode())
    refused(
        answer,
        {
            "error": "invalid_authenticated_userid",
            "error_description": "authenticated_userid must be a string",
        },
    )


@pytest.mark.parametrize("key", [PROVISION_KEY, "no"])
def test_provision_key_is_not_needed_without_a_user(
    issuer: Issuing, app: OAuth2Credential, key: str
) -> None:
    assert issuer.grant(provision_key=key).status == 200


# --- §5.6 scope ---


@pytest.mark.parametrize("mandatory", [False, True])
@pytest.mark.parametrize(
    ("scope", "stored"),
    [
        ("email", "email"),
        ("profile email", "profile email"),
        ("  email \t\n profile ", "email profile"),
        ("email email", "email email"),
        ("", None),
        ("   ", None),
    ],
)
def test_s36_scope_is_stored_as_asked_within_the_list(
    issuer: Issuing, app: OAuth2Credential, scope: str, stored: str | None, mandatory: bool
) -> None:
    issuer.configure(mandatory_scope=mandatory)
    assert issuer.grant(scope=scope).status == 200
    assert issuer.tokens()[0].scope == stored


@pytest.mark.parametrize(
    ("scope", "word"),
    [("wot", "wot"), ("email wot no", "wot"), ("Email", "Email"), ('em"ail', 'em"ail')],
)
def test_s36_scope_outside_the_list_is_refused(
    issuer: Issuing, app: OAuth2Credential, scope: str, word: str
) -> None:
    refused(issuer.grant(scope=scope), scope_error(f'"{word}" is an invalid scope'))
    assert issuer.tokens() == []


def test_scope_may_be_mandatory(issuer: Issuing, app: OAuth2Credential) -> None:
    assert issuer.grant().status == 200
    issuer.configure(mandatory_scope=True)
    refused(issuer.grant(), scope_error("You must specify a scope"))


@pytest.mark.parametrize("scope", [1, True, False, ["email"], {"a": 1}])
def test_scope_must_be_a_string(issuer: Issuing, app: OAuth2Credential, scope: Any) -> None:
    body = json.dumps(CREDENTIALS | {"scope": scope}).encode()
    refused(issuer.post(headers=JSON, body=body), scope_error("scope must be a string"))


@pytest.mark.parametrize("scope", ["wot", ["a", "b"]])
def test_scope_is_ignored_where_the_plugin_has_none(
    issuer: Issuing, app: OAuth2Credential, scope: Any
) -> None:
    issuer.configure(scopes=None)
    assert issuer.grant(scope=scope).status == 200
    assert issuer.tokens()[0].scope is None


@pytest.mark.parametrize(
    ("scope", "user_id", "error"),
    [
        (" ".join(["email"] * 682), None, None),  # 4,091 bytes
        (" ".join(["email"] * 683), None, "invalid_scope"),  # 4,097
        (None, "u" * 4096, None),
        (None, "u" * 4097, "invalid_authenticated_userid"),
        (None, "ü" * 2048, None),
        (None, "ü" * 2049, "invalid_authenticated_userid"),
        (None, "\x01" * 1365, None),  # %01 on the way to an upstream
        (None, "\x01" * 1366, "invalid_authenticated_userid"),
    ],
)
def test_no_token_says_more_than_data_planes_take(
    issuer: Issuing,
    app: OAuth2Credential,
    scope: str | None,
    user_id: str | None,
    error: str | None,
) -> None:
    sent = {} if scope is None else {"scope": scope}
    if user_id is not None:
        sent |= {"authenticated_userid": user_id, "provision_key": PROVISION_KEY}
    answer = issuer.grant(**sent)
    assert answer.json.get("error") == error
    assert len(issuer.tokens()) == (error is None)
    if error is None:  # and data planes do take it
        row = issuer.tokens()[0]
        cache = TokenCache(8, bytes(16), Reclaimer())
        claims = (row.access_token_digest, bytes(16), None, row.scope, row.authenticated_userid)
        cache.put(*claims, 0.0, 1)
