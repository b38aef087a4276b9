"""The refresh_token grant: rotation, reuse, replay.  spec/oauth2.md §5.5; S20, S21."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import select

from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential, OAuth2Token, Service, SpentRefreshToken
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    ON_SERVICE,
    SERVICE_ID,
    Issuing,
    refused,
    scope_error,
)

INVALID = {"error": "invalid_request", "error_description": "Invalid refresh_token"}
INVALID_GRANT = {"error": "invalid_grant", "error_description": "Invalid refresh_token"}


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    issuer.configure(enable_authorization_code=True)


def pair(issuer: Issuing, **params: Any) -> dict[str, Any]:
    """A token and a refresh token by way of a code."""
    answer = issuer.redeem(issuer.code(**params))
    assert answer.status == 200, answer.body
    issuer.changes.clear()
    found: dict[str, Any] = answer.json
    return found


def digests(issuer: Issuing) -> list[bytes]:
    return [row.access_token_digest for row in issuer.tokens()]


def edit_token(issuer: Issuing, **values: Any) -> None:
    """Change the one token's row."""
    with issuer.store.writing() as session:
        row = session.exec(select(OAuth2Token)).one()
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)


def spent(issuer: Issuing) -> list[SpentRefreshToken]:
    with issuer.store.reading() as session:
        return list(session.exec(select(SpentRefreshToken)))


both = pytest.mark.parametrize("profile", ["kong", "strict"])


# --- rotation ------------------------------------------------------------------------------------


@both
def test_refresh_gives_a_new_pair_and_both_old_values_are_dead(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    first = pair(issuer, scope="email")
    (before,) = issuer.tokens()
    answer = issuer.refresh(first["refresh_token"], state="a b")
    assert answer.status == 200
    second = answer.json
    assert list(second) == ["access_token", "token_type", "expires_in", "refresh_token", "state"]
    assert second["state"] == "a b"
    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] != first["refresh_token"]
    (row,) = issuer.tokens()
    assert row.id != before.id
    assert row.access_token_digest == token_digest(second["access_token"])
    assert row.refresh_token_digest == token_digest(second["refresh_token"])
    assert (row.scope, row.authenticated_userid, row.credential_id) == ("email", "u7", app.id)
    assert row.family_id == before.family_id
    assert issuer.revoked() == {token_digest(first["access_token"])}
    error = issuer.refresh(first["refresh_token"])
    refused(error, INVALID_GRANT if profile == "strict" else INVALID)


@pytest.mark.parametrize("reuse", [True, False])
def test_refresh_says_which_token_took_whose_place(
    issuer: Issuing, app: OAuth2Credential, reuse: bool
) -> None:
    issuer.configure(reuse_refresh_token=reuse)
    first = pair(issuer)
    second = issuer.refresh(first["refresh_token"]).json
    (change,) = issuer.changes
    (told,) = change.refreshed
    assert told.old == token_digest(first["access_token"])
    assert told.token.digest == token_digest(second["access_token"])
    assert change.tokens == (told.token,)
    assert [(r.kind, r.key) for r in change.revocations] == [("token", told.old)]


def test_refresh_without_reuse_keeps_nothing_of_the_old_token_in_the_kong_profile(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.refresh(pair(issuer)["refresh_token"])
    assert spent(issuer) == []


@both
def test_expired_access_token_is_refreshed_while_its_row_is_there(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    first = pair(issuer)
    edit_token(issuer, created_at=time.time() - 8000)
    assert issuer.refresh(first["refresh_token"]).status == 200
    second = pair(issuer)
    with issuer.store.writing() as session:
        for row in session.exec(select(OAuth2Token)):
            row.gone_at = time.time() - 1
            session.add(row)
    error = issuer.refresh(second["refresh_token"])
    refused(error, INVALID_GRANT if profile == "strict" else INVALID)


def test_row_of_a_persistent_refresh_token_stays(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(refresh_token_ttl=0)
    first = pair(issuer)
    edit_token(issuer, created_at=time.time() - 10 * 365 * 86400)
    assert issuer.refresh(first["refresh_token"]).status == 200
    assert issuer.tokens()[0].gone_at is None


@pytest.mark.parametrize("reuse", [True, False])
def test_refresh_to_a_token_that_never_expires_gives_no_refresh_token(
    issuer: Issuing, app: OAuth2Credential, reuse: bool
) -> None:
    first = pair(issuer)
    issuer.configure(token_expiration=0, reuse_refresh_token=reuse)
    body = issuer.refresh(first["refresh_token"]).json
    assert list(body) == ["access_token", "token_type"]
    (row,) = issuer.tokens()
    assert (row.expires_in, row.gone_at) == (0, None)


# --- reuse_refresh_token -------------------------------------------------------------------------


@both
def test_reuse_updates_the_row_and_returns_the_same_refresh_token(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile, reuse_refresh_token=True)
    first = pair(issuer, scope="email")
    edit_token(issuer, created_at=time.time() - 8000, gone_at=time.time() + 5)
    (before,) = issuer.tokens()
    issuer.configure(token_expiration=60)
    second = issuer.refresh(first["refresh_token"]).json
    assert second["refresh_token"] == first["refresh_token"]
    assert second["expires_in"] == 60
    (row,) = issuer.tokens()
    assert row.id == before.id
    assert row.access_token_digest == token_digest(second["access_token"])
    assert row.refresh_token_digest == token_digest(first["refresh_token"])
    assert (row.scope, row.authenticated_userid, row.expires_in) == ("email", "u7", 60)
    assert row.created_at == pytest.approx(time.time(), abs=60)
    assert row.gone_at == pytest.approx(row.created_at + 1209600)
    assert issuer.revoked() == {token_digest(first["access_token"])}
    third = issuer.refresh(first["refresh_token"])
    assert (third.status, third.json["refresh_token"]) == (200, first["refresh_token"])


def test_strict_rotates_the_refresh_token_of_a_public_client_whatever_reuse_says(
    issuer: Issuing,
) -> None:
    issuer.configure(reuse_refresh_token=True, pkce="none")
    issuer.client(client_type="public")
    first = issuer.redeem(issuer.code(), client_secret=None).json
    issuer.configure(oauth_profile="strict")
    second = issuer.refresh(first["refresh_token"], client_secret=None).json
    assert second["refresh_token"] != first["refresh_token"]


# --- what is refused -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("token", [None, "", "x" * 32, "a\0", "é"])
def test_unknown_refresh_token(
    issuer: Issuing, app: OAuth2Credential, profile: str, token: str | None
) -> None:
    issuer.configure(oauth_profile=profile)
    expected = INVALID_GRANT if profile == "strict" else INVALID
    if profile == "strict" and not token:
        expected = {"error": "invalid_request", "error_description": "refresh_token is missing"}
    refused(issuer.refresh(token), expected)


@pytest.mark.parametrize("token", [True, 7, ["a"], {"a": 1}, "\ud800"])
def test_refresh_token_that_is_no_text(issuer: Issuing, app: OAuth2Credential, token: Any) -> None:
    sent = CREDENTIALS | {"grant_type": "refresh_token", "refresh_token": token}
    refused(issuer.post(headers=JSON, body=json.dumps(sent).encode()), INVALID)


def test_access_token_is_no_refresh_token(issuer: Issuing, app: OAuth2Credential) -> None:
    refused(issuer.refresh(pair(issuer)["access_token"]), INVALID)


@both
def test_refresh_token_of_another_client(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.client("other")
    first = pair(issuer)
    issuer.configure(oauth_profile=profile)
    answer = issuer.refresh(first["refresh_token"], client_id="other")
    refused(answer, INVALID_GRANT if profile == "strict" else INVALID_CLIENT)
    assert issuer.refresh(first["refresh_token"]).status == 200


@both
def test_refresh_token_of_another_service(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(global_credentials=False, oauth_profile=profile)
    other = str(uuid.uuid4())
    with issuer.store.writing() as session:
        session.add(
            Service(id=other, name="o", protocol="ws", host="o.example", created_at=1, updated_at=1)
        )
    first = issuer.redeem(issuer.code(context=ON_SERVICE), context=ON_SERVICE).json
    elsewhere = replace(CONTEXT, service_id=other)
    answer = issuer.refresh(first["refresh_token"], context=elsewhere)
    refused(answer, INVALID_GRANT if profile == "strict" else INVALID)
    assert issuer.refresh(first["refresh_token"], context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id == SERVICE_ID


def test_refresh_with_global_credentials_is_bound_to_no_service(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    first = issuer.redeem(issuer.code(context=ON_SERVICE), context=ON_SERVICE).json
    issuer.configure(global_credentials=True)
    assert issuer.refresh(first["refresh_token"]).status == 200
    assert issuer.tokens()[0].service_id is None


@both
@pytest.mark.parametrize("scopes", [None, [], ["profile"], ["emails"]])
def test_s36_token_with_a_scope_that_the_plugin_has_no_more(
    issuer: Issuing, app: OAuth2Credential, profile: str, scopes: list[str] | None
) -> None:
    first = pair(issuer, scope="email")
    issuer.configure(scopes=scopes, oauth_profile=profile)
    refused(issuer.refresh(first["refresh_token"]), scope_error("Scope mismatch"))
    issuer.configure(scopes=["email"])
    assert issuer.refresh(first["refresh_token"]).status == 200


def test_token_without_scope_is_refreshed_where_no_scope_is_known(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    first = pair(issuer)
    issuer.configure(scopes=None)
    assert issuer.refresh(first["refresh_token"]).status == 200


@both
@pytest.mark.parametrize("asked", ["profile", "email profile", "wot", ""])
def test_s36_refresh_never_widens_the_scope(
    issuer: Issuing, app: OAuth2Credential, profile: str, asked: str
) -> None:
    issuer.configure(oauth_profile=profile)
    first = pair(issuer, scope="email")
    answer = issuer.refresh(first["refresh_token"], scope=asked)
    assert answer.status == 200
    assert issuer.tokens()[0].scope == "email"
    # RFC 6749 §5.1, which the kong profile does not follow.
    assert answer.json.get("scope") == ("email" if profile == "strict" else None)


def test_client_of_a_refresh_is_authenticated(issuer: Issuing, app: OAuth2Credential) -> None:
    first = pair(issuer)
    refused(issuer.refresh(first["refresh_token"], client_secret="no"), INVALID_CLIENT)
    refused(issuer.refresh(first["refresh_token"], client_secret=None), INVALID_CLIENT)
    bearer = {"authorization": f"Bearer {first['access_token']}"}
    sent = CREDENTIALS | {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert issuer.post(sent, headers=list(bearer.items())).status == 200


def test_public_client_refreshes_without_a_secret(issuer: Issuing) -> None:
    issuer.configure(pkce="none")
    issuer.client(client_type="public")
    first = issuer.redeem(issuer.code(), client_secret=None).json
    assert issuer.refresh(first["refresh_token"], client_secret=None).status == 200


def test_refresh_works_with_every_other_grant_off(issuer: Issuing, app: OAuth2Credential) -> None:
    first = pair(issuer)
    issuer.configure(enable_authorization_code=False, enable_client_credentials=False)
    assert issuer.refresh(first["refresh_token"]).status == 200


def test_refresh_of_a_route_without_service_is_an_error_of_ours_and_takes_nothing(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    first = pair(issuer)
    issuer.configure(global_credentials=False)
    assert issuer.refresh(first["refresh_token"]).status == 500
    issuer.configure(global_credentials=True)
    assert issuer.refresh(first["refresh_token"]).status == 200


# --- many at once, and replay --------------------------------------------------------------------


@both
def test_s20_refresh_token_used_by_many_at_once_gives_one_token(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    sent = CREDENTIALS | {
        "grant_type": "refresh_token",
        "refresh_token": pair(issuer)["refresh_token"],
    }
    answers = issuer.post_at_once([sent] * 50)
    assert sorted(a.status for a in answers) == [200] + [400] * 49
    assert len(issuer.tokens()) == (1 if profile == "kong" else 0)


def test_s20_within_the_grace_period_many_get_one_and_the_same_answer(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict", refresh_grace=60)
    sent = CREDENTIALS | {
        "grant_type": "refresh_token",
        "refresh_token": pair(issuer)["refresh_token"],
    }
    answers = issuer.post_at_once([sent] * 50)
    assert {a.status for a in answers} == {200}
    assert len({a.body for a in answers}) == 1
    assert len(issuer.tokens()) == 1
    assert issuer.refresh(answers[0].json["refresh_token"]).status == 200


def test_s21_rotated_refresh_token_seen_again_ends_its_family(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict")
    other = pair(issuer)
    first = pair(issuer)
    second = issuer.refresh(first["refresh_token"]).json
    third = issuer.refresh(second["refresh_token"]).json
    assert third["access_token"]
    issuer.changes.clear()
    refused(issuer.refresh(first["refresh_token"]), INVALID_GRANT)
    assert issuer.revoked() == {token_digest(third["access_token"])}
    assert digests(issuer) == [token_digest(other["access_token"])]
    refused(issuer.refresh(third["refresh_token"]), INVALID_GRANT)
    assert issuer.refresh(other["refresh_token"]).status == 200


def test_s21_rotated_refresh_token_in_the_hands_of_another_client_ends_nothing(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict")
    issuer.client("other")
    first = pair(issuer)
    second = issuer.refresh(first["refresh_token"]).json
    refused(issuer.refresh(first["refresh_token"], client_id="other"), INVALID_GRANT)
    assert issuer.refresh(second["refresh_token"]).status == 200


def test_grace_gives_the_answer_again_and_after_it_the_family_ends(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict", refresh_grace=10)
    first = pair(issuer)
    second = issuer.refresh(first["refresh_token"])
    again = issuer.refresh(first["refresh_token"])
    assert (again.status, again.json) == (200, second.json)
    with issuer.store.writing() as session:
        row = session.exec(select(SpentRefreshToken)).one()
        row.spent_at -= 10.5
        session.add(row)
    refused(issuer.refresh(first["refresh_token"]), INVALID_GRANT)
    assert issuer.tokens() == []


@pytest.mark.parametrize("shown", ["access_token", "refresh_token"])
def test_grace_gives_no_tokens_that_were_revoked_since(
    issuer: Issuing, app: OAuth2Credential, shown: str
) -> None:
    issuer.configure(oauth_profile="strict", refresh_grace=60)
    first = pair(issuer)
    second = issuer.refresh(first["refresh_token"]).json
    assert issuer.refresh(first["refresh_token"]).json == second
    credentials = {"client_id": "app", "client_secret": "s3cret", "token": second[shown]}
    assert issuer.post(credentials, path="/token-route/oauth2/revoke").status == 200
    refused(issuer.refresh(first["refresh_token"]), INVALID_GRANT)


def test_s93_kept_answer_is_encrypted_at_rest(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(oauth_profile="strict", refresh_grace=10)
    body = issuer.refresh(pair(issuer)["refresh_token"]).json
    (row,) = spent(issuer)
    assert json.loads(row.answer or "")["access_token"] == body["access_token"]
    with issuer.store.engine.connect() as raw:
        answers = raw.exec_driver_sql("SELECT answer FROM oauth2_spent_refresh_tokens")
        stored = answers.scalar_one()
    assert body["access_token"].encode() not in bytes(stored)
    assert body["refresh_token"].encode() not in bytes(stored)


@pytest.mark.parametrize(("ttl", "seconds"), [(1000, 1000), (0, 400 * 86400)])
def test_spent_token_is_remembered_as_long_as_its_family_may_live(
    issuer: Issuing, app: OAuth2Credential, ttl: float, seconds: float
) -> None:
    issuer.configure(oauth_profile="strict", refresh_token_ttl=ttl)
    issuer.refresh(pair(issuer)["refresh_token"])
    (row,) = spent(issuer)
    assert row.answer is None
    assert row.gone_at == pytest.approx(row.spent_at + seconds)
