"""The authorization_code grant, PKCE, and what strict adds.  spec/oauth2.md §5.5, §5.7."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import select

from control.oauth2 import issuing
from control.oauth2.pkce import normalise
from control.store.secrets import token_digest
from control.store.tables import AuthorizationCode, OAuth2Credential, Plugin, Service
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    ON_SERVICE,
    SERVICE_ID,
    UNSUPPORTED,
    Issuing,
    refused,
)

INVALID_CODE = {"error": "invalid_request", "error_description": "Invalid code"}
INVALID_GRANT = {"error": "invalid_grant", "error_description": "Invalid code"}
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"  # RFC 7636 appendix B
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
OTHER_PLUGIN = replace(CONTEXT, plugin_id=str(uuid.UUID(int=11)))


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    issuer.configure(enable_authorization_code=True)


def strict(issuer: Issuing, **config: Any) -> None:
    issuer.configure(oauth_profile="strict", **config)


def invalid(profile: str) -> dict[str, str]:
    return INVALID_GRANT if profile == "strict" else INVALID_CODE


def add_plugin(issuer: Issuing, **config: Any) -> None:
    """A second instance, on the service, with the config of the first."""
    with issuer.store.writing() as session:
        first = session.get_one(Plugin, CONTEXT.plugin_id)
        values = first.model_dump(exclude={"id", "route_id", "service_id", "config"})
        session.add(
            Plugin(
                **values,
                id=OTHER_PLUGIN.plugin_id,
                service_id=SERVICE_ID,
                config={**first.config, **config},
            )
        )
        session.note_config()


def age_code(issuer: Issuing, seconds: float) -> None:
    """Make all codes older."""
    with issuer.store.writing() as session:
        for row in session.exec(select(AuthorizationCode)):
            row.created_at -= seconds
            row.expires_at -= seconds
            session.add(row)


both = pytest.mark.parametrize("profile", ["kong", "strict"])


# --- §5.5 ----------------------------------------------------------------------------------------


def test_code_gives_a_token_and_a_refresh_token_with_its_user_and_scope(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    code = issuer.code(scope="email")
    answer = issuer.redeem(code, scope="profile")  # which is not looked at
    assert answer.status == 200
    body = answer.json
    assert list(body) == ["access_token", "token_type", "expires_in", "refresh_token"]
    assert (body["token_type"], body["expires_in"]) == ("bearer", 7200)
    assert len(body["access_token"]) == len(body["refresh_token"]) == 32
    (row,) = issuer.tokens()
    assert row.access_token_digest == token_digest(body["access_token"])
    assert row.refresh_token_digest == token_digest(body["refresh_token"])
    assert (row.authenticated_userid, row.scope, row.credential_id) == ("u7", "email", app.id)
    assert (row.service_id, row.plugin_id) == (None, CONTEXT.plugin_id)
    assert row.gone_at == pytest.approx(row.created_at + 1209600)
    (told,) = issuer.changes[-1].tokens
    assert (told.user_id, told.scope, told.plugin_id) == ("u7", "email", CONTEXT.plugin_id)


def test_answer_of_a_token_that_never_expires_has_no_refresh_token(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(token_expiration=0)
    body = issuer.redeem(issuer.code(), state="s").json
    assert list(body) == ["access_token", "token_type", "state"]
    (row,) = issuer.tokens()
    assert (row.refresh_token_digest, row.expires_in, row.gone_at) == (None, 0, None)


def test_row_without_refresh_token_ttl_lives_for_ever(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(refresh_token_ttl=0)
    assert issuer.redeem(issuer.code()).status == 200
    assert issuer.tokens()[0].gone_at is None


def test_grant_stays_when_its_flag_goes(issuer: Issuing, app: OAuth2Credential) -> None:
    code = issuer.code()
    issuer.configure(enable_authorization_code=False)
    assert issuer.redeem(code).status == 200


@both
@pytest.mark.parametrize("code", [None, "", "x" * 32, "a\0", "é", "x" * 60_000])
def test_unknown_code(
    issuer: Issuing, app: OAuth2Credential, profile: str, code: str | None
) -> None:
    issuer.configure(oauth_profile=profile)
    if profile == "strict" and not code:  # missing, not bad
        said = {"error": "invalid_request", "error_description": "code is missing"}
        refused(issuer.redeem(code), said)
    else:
        refused(issuer.redeem(code), invalid(profile))


@pytest.mark.parametrize("code", [True, 7, ["a"], {"a": 1}, "\ud800"])
def test_code_that_is_no_text(issuer: Issuing, app: OAuth2Credential, code: Any) -> None:
    sent = CREDENTIALS | {"grant_type": "authorization_code", "code": code}
    refused(issuer.post(headers=JSON, body=json.dumps(sent).encode()), INVALID_CODE)


@both
def test_code_is_redeemed_once_and_its_row_says_so_until_it_expires(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    code = issuer.code()
    assert issuer.redeem(code).status == 200
    refused(issuer.redeem(code), invalid(profile))
    with issuer.store.reading() as session:
        (row,) = session.exec(select(AuthorizationCode)).all()
    assert row.used_at == pytest.approx(time.time(), abs=30)


def test_kong_profile_leaves_the_tokens_of_a_code_that_is_used_twice(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    code = issuer.code()
    issuer.redeem(code)
    refused(issuer.redeem(code), INVALID_CODE)
    assert len(issuer.tokens()) == 1
    assert issuer.revoked() == set()


@both
def test_s19_code_redeemed_by_many_at_once_gives_one_token(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    sent = CREDENTIALS | {"grant_type": "authorization_code", "code": issuer.code()}
    answers = issuer.post_at_once([sent] * 50)
    assert sorted(a.status for a in answers) == [200] + [400] * 49
    assert all(a.json == invalid(profile) for a in answers if a.status == 400)
    # With strict the others ended what the first had got.
    assert len(issuer.tokens()) == (1 if profile == "kong" else 0)


def test_s22_code_used_again_ends_all_that_came_of_it(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    strict(issuer)
    code = issuer.code()
    first = issuer.redeem(code).json
    second = issuer.refresh(first["refresh_token"]).json
    other = issuer.redeem(issuer.code()).json
    refused(issuer.redeem(code), INVALID_GRANT)
    assert [row.access_token_digest for row in issuer.tokens()] == [
        token_digest(other["access_token"])
    ]
    assert issuer.revoked() == {
        token_digest(first["access_token"]),
        token_digest(second["access_token"]),
    }
    assert issuer.refresh(second["refresh_token"]).json["error"] == "invalid_grant"
    assert issuer.refresh(other["refresh_token"]).status == 200


def test_s22_code_used_again_by_another_client_ends_nothing(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    strict(issuer)
    issuer.client("other")
    code = issuer.code()
    issuer.redeem(code)
    refused(issuer.redeem(code, client_id="other"), INVALID_GRANT)
    assert len(issuer.tokens()) == 1


@both
@pytest.mark.parametrize(("age", "good"), [(290, True), (300.5, False)])
def test_s23_code_is_good_for_300_seconds(
    issuer: Issuing, app: OAuth2Credential, profile: str, age: float, good: bool
) -> None:
    issuer.configure(oauth_profile=profile)
    code = issuer.code()
    age_code(issuer, age)
    answer = issuer.redeem(code)
    if good:
        assert answer.status == 200
    else:
        refused(answer, invalid(profile))


@both
def test_s23_code_of_another_client(issuer: Issuing, app: OAuth2Credential, profile: str) -> None:
    issuer.configure(oauth_profile=profile)
    issuer.client("other")
    code = issuer.code()
    refused(issuer.redeem(code, client_id="other"), invalid(profile))
    assert issuer.redeem(code).status == 200  # it was not used up


@both
def test_s23_global_code_of_another_plugin_instance(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    add_plugin(issuer)
    code = issuer.code()
    refused(issuer.redeem(code, context=OTHER_PLUGIN), invalid(profile))
    assert issuer.redeem(code).status == 200


def test_code_without_plugin_is_a_legacy_one_and_allowed(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    code = issuer.code()
    with issuer.store.writing() as session:
        row = session.exec(select(AuthorizationCode)).one()
        row.plugin_id = None
        session.add(row)
    add_plugin(issuer)
    assert issuer.redeem(code, context=OTHER_PLUGIN).status == 200


@both
def test_code_is_bound_to_its_service_without_global_credentials(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile, global_credentials=False)
    other = str(uuid.uuid4())
    with issuer.store.writing() as session:
        session.add(
            Service(id=other, name="o", protocol="ws", host="o.example", created_at=1, updated_at=1)
        )
    code = issuer.code(context=ON_SERVICE)
    elsewhere = replace(CONTEXT, service_id=other)
    refused(issuer.redeem(code, context=elsewhere), invalid(profile))
    refused(issuer.redeem(code), invalid(profile))
    assert issuer.redeem(code, context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id == SERVICE_ID


def test_service_bound_code_of_another_instance_is_kongs_to_take_and_stricts_to_refuse(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    add_plugin(issuer)
    there = replace(OTHER_PLUGIN, service_id=SERVICE_ID)
    assert issuer.redeem(issuer.code(context=ON_SERVICE), context=there).status == 200
    strict_code = issuer.code(context=ON_SERVICE)
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, OTHER_PLUGIN.plugin_id)
        plugin.config = {**plugin.config, "oauth_profile": "strict"}
        session.add(plugin)
        session.note_config()
    refused(issuer.redeem(strict_code, context=there), INVALID_GRANT)


def test_code_of_a_route_without_service_and_global_credentials_is_an_error_of_ours(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    code = issuer.code()
    answer = issuer.redeem(code)
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})
    assert issuer.tokens() == []


def test_client_of_a_code_is_authenticated(issuer: Issuing, app: OAuth2Credential) -> None:
    code = issuer.code()
    refused(issuer.redeem(code, client_secret="no"), INVALID_CLIENT)
    refused(issuer.redeem(code, client_id="nobody"), INVALID_CLIENT)
    refused(issuer.redeem(code, client_id=None, client_secret=None), INVALID_CLIENT)
    refused(issuer.redeem(code, grant_type="code"), UNSUPPORTED)
    assert issuer.redeem(code).status == 200


def test_kong_profile_does_not_bind_the_code_to_its_redirect_uri(issuer: Issuing) -> None:
    issuer.client(redirect_uris=["https://a.example/", "https://b.example/"])
    code = issuer.code(redirect_uri="https://b.example/")
    assert issuer.redeem(code, redirect_uri="https://a.example/").status == 200


@pytest.mark.parametrize(
    ("at_authorize", "at_token", "good"),
    [
        ("https://b.example/", "https://b.example/", True),
        ("https://b.example/", "https://a.example/", False),
        ("https://b.example/", None, False),
        ("https://a.example/", None, False),  # named then, so to be named now
        (None, None, True),
        (None, "https://a.example/", True),  # where it went
        (None, "https://b.example/", False),
    ],
)
def test_s23_strict_binds_the_code_to_the_redirect_uri(
    issuer: Issuing, at_authorize: str | None, at_token: str | None, good: bool
) -> None:
    strict(issuer)
    issuer.client(redirect_uris=["https://a.example/", "https://b.example/"])
    code = issuer.code(**({} if at_authorize is None else {"redirect_uri": at_authorize}))
    answer = issuer.redeem(code, redirect_uri=at_token)
    if good:
        assert answer.status == 200
    else:
        refused(answer, INVALID_GRANT)
        assert issuer.tokens() == []


def test_s23_strict_binds_the_code_to_the_loopback_port(issuer: Issuing) -> None:
    strict(issuer)
    issuer.client(redirect_uris=["http://127.0.0.1/cb"])
    code = issuer.code(redirect_uri="http://127.0.0.1:5000/cb")
    refused(issuer.redeem(code, redirect_uri="http://127.0.0.1:5001/cb"), INVALID_GRANT)
    assert issuer.redeem(code, redirect_uri="http://127.0.0.1:5000/cb").status == 200


def test_code_of_a_client_that_goes_while_it_is_redeemed(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = issuing.secrets.make_token

    def delete_then_make(check_key: bytes) -> str:
        with issuer.store.writing() as session:
            session.delete(session.get_one(OAuth2Credential, app.id))
        return make(check_key)

    code = issuer.code()
    monkeypatch.setattr(issuing.secrets, "make_token", delete_then_make)
    refused(issuer.redeem(code), INVALID_CODE)
    assert issuer.tokens() == []


# --- §5.7 PKCE -----------------------------------------------------------------------------------


def test_vector_of_rfc_7636_appendix_b(issuer: Issuing, app: OAuth2Credential) -> None:
    code = issuer.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    assert issuer.redeem(code, code_verifier=VERIFIER).status == 200


@both
@pytest.mark.parametrize("pkce", ["none", "lax", "strict"])
@pytest.mark.parametrize("kind", ["confidential", "public"])
@pytest.mark.parametrize(
    ("verifier", "error", "description"),
    [
        (
            None,
            "invalid_request",
            "code_verifier is required for PKCE authorization requests",
        ),
        ("", "invalid_request", "code_verifier must be between 43 and 128 characters"),
        ("x" * 42, "invalid_request", "code_verifier must be between 43 and 128 characters"),
        ("x" * 129, "invalid_request", "code_verifier must be between 43 and 128 characters"),
        ("x" * 43, "invalid_grant", "Invalid code"),
        ("x" * 128, "invalid_grant", "Invalid code"),
        (VERIFIER + "x", "invalid_grant", "Invalid code"),
        (CHALLENGE, "invalid_grant", "Invalid code"),
    ],
)
def test_s35_challenge_is_enforced_in_every_mode_and_the_code_is_not_used_up(
    issuer: Issuing,
    profile: str,
    pkce: str,
    kind: str,
    verifier: str | None,
    error: str,
    description: str,
) -> None:
    issuer.configure(oauth_profile=profile, pkce=pkce)
    issuer.client(client_type=kind)
    secret = {"client_secret": None} if kind == "public" else {}
    code = issuer.code(code_challenge=CHALLENGE)
    body = {"error": error, "error_description": description}
    refused(issuer.redeem(code, code_verifier=verifier, **secret), body)
    assert issuer.redeem(code, code_verifier=VERIFIER, **secret).status == 200


@pytest.mark.parametrize("verifier", [True, 7, ["x" * 43], {"a": "b"}])
def test_verifier_must_be_a_string(issuer: Issuing, app: OAuth2Credential, verifier: Any) -> None:
    code = issuer.code(code_challenge=CHALLENGE)
    sent = CREDENTIALS | {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": verifier,
    }
    answer = issuer.post(headers=JSON, body=json.dumps(sent).encode())
    text = "code_verifier is not a string"
    refused(answer, {"error": "invalid_request", "error_description": text})


@pytest.mark.parametrize(
    ("kind", "pkce", "needed"),
    [
        ("confidential", "none", False),
        ("confidential", "lax", False),
        ("confidential", "strict", True),
        ("public", "none", False),
        ("public", "lax", True),
        ("public", "strict", True),
    ],
)
def test_code_without_a_challenge_where_one_is_required(
    issuer: Issuing, kind: str, pkce: str, needed: bool
) -> None:
    """As when the mode was changed between the two requests."""
    issuer.client(client_type=kind)
    secret = {"client_secret": None} if kind == "public" else {}
    issuer.configure(pkce="none")
    codes = [issuer.code(), issuer.code()]
    issuer.configure(pkce=pkce)
    if not needed:
        assert issuer.redeem(codes[0], **secret).status == 200
        # A verifier that nobody asked for is nothing to the kong profile.
        assert issuer.redeem(codes[1], code_verifier=VERIFIER, **secret).status == 200
        return
    text = "code_verifier is required for PKCE authorization requests"
    refused(
        issuer.redeem(codes[0], **secret), {"error": "invalid_request", "error_description": text}
    )
    refused(issuer.redeem(codes[0], code_verifier=VERIFIER, **secret), INVALID_GRANT)


def test_strict_refuses_a_verifier_whose_challenge_was_taken_away(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    strict(issuer)
    code = issuer.code()
    refused(issuer.redeem(code, code_verifier=VERIFIER), INVALID_GRANT)
    assert issuer.redeem(code).status == 200


def test_s35_strict_public_client_redeems_no_code_without_pkce(issuer: Issuing) -> None:
    issuer.configure(pkce="none")
    issuer.client(client_type="public")
    code = issuer.code()
    strict(issuer)
    answer = issuer.redeem(code, client_secret=None)
    text = "code_verifier is required for PKCE authorization requests"
    refused(answer, {"error": "invalid_request", "error_description": text})


def test_foreign_code_is_told_before_the_verifier(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.client("other")
    code = issuer.code(code_challenge=CHALLENGE)
    refused(issuer.redeem(code, client_id="other"), INVALID_CODE)
    refused(issuer.redeem("x" * 32, code_verifier=""), INVALID_CODE)


def test_challenge_in_any_form_of_base64_is_redeemed(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    verifier = "v" * 41 + "~-"
    digest = hashlib.sha256(verifier.encode()).digest()
    for form in (base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode()):
        code = issuer.code(code_challenge=form)
        assert issuer.redeem(code, code_verifier=verifier).status == 200


def test_normalising_a_challenge_twice_changes_nothing() -> None:
    for sent in ("", "=", "a", "ab", "abc", "a+/-_b==", "\ud800", "é" * 43, CHALLENGE):
        assert normalise(normalise(sent)) == normalise(sent)
