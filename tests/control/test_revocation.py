"""The revocation endpoint.  RFC 7009; S30, S39."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential, Plugin
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    ON_SERVICE,
    PLAIN,
    Answer,
    Issuing,
    basic,
    refused,
)

PATH = "/token-route/oauth2/revoke"
APP = {"client_id": "app", "client_secret": "s3cret"}
ISSUER = "https://auth.example/token-route"

both = pytest.mark.parametrize("profile", ["kong", "strict"])


@pytest.fixture(autouse=True)
def enabled(issuer: Issuing) -> None:
    issuer.configure(enable_authorization_code=True, issuer=ISSUER)


def revoke(issuer: Issuing, token: Any, **options: Any) -> Answer:
    return issuer.post(APP | {"token": token}, path=PATH, **options)


def revoked(answer: Answer) -> None:
    assert (answer.status, answer.json) == (200, {})
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def kinds(issuer: Issuing) -> list[tuple[str, bytes]]:
    return [(r.kind, r.key) for change in issuer.changes for r in change.revocations]


@both
@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "anything"])
def test_access_token_is_ended_whatever_the_hint(
    issuer: Issuing, app: OAuth2Credential, profile: str, hint: str | None
) -> None:
    issuer.configure(oauth_profile=profile)
    token = issuer.grant().json["access_token"]
    issuer.changes.clear()
    params = APP | {"token": token} | ({"token_type_hint": hint} if hint else {})
    revoked(issuer.post(params, path=PATH))
    assert issuer.tokens() == []
    assert kinds(issuer) == [("token", token_digest(token))]
    revoked(revoke(issuer, token))  # once more: it is nobody's now


def test_access_token_takes_its_refresh_token_along(issuer: Issuing, app: OAuth2Credential) -> None:
    pair = issuer.redeem(issuer.code()).json
    revoked(revoke(issuer, pair["access_token"]))
    assert issuer.refresh(pair["refresh_token"]).status == 400


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
def test_s39_refresh_token_kills_its_access_tokens(
    issuer: Issuing, app: OAuth2Credential, token_format: str
) -> None:
    issuer.configure(token_format=token_format)
    first = issuer.redeem(issuer.code()).json
    second = issuer.refresh(first["refresh_token"]).json
    other = issuer.grant().json["access_token"]
    issuer.changes.clear()
    revoked(revoke(issuer, second["refresh_token"]))
    assert [row.access_token_digest for row in issuer.tokens()] == [token_digest(other)]
    ended = kinds(issuer)
    assert ("token", token_digest(second["access_token"])) in ended
    assert len(ended) == (2 if token_format == "jwt" else 1)


def test_rotated_refresh_token_ends_its_family_too(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(oauth_profile="strict")
    first = issuer.redeem(issuer.code()).json
    issuer.refresh(first["refresh_token"])
    revoked(revoke(issuer, first["refresh_token"]))
    assert issuer.tokens() == []


@both
def test_s39_unknown_token_is_revoked_already(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    for token in ("unknown", "a.b.c", "\u20ac", "x" * 9000):
        revoked(revoke(issuer, token))
    assert kinds(issuer) == []


@both
@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_s39_client_cannot_end_the_token_of_another(
    issuer: Issuing, app: OAuth2Credential, profile: str, which: str
) -> None:
    pair = issuer.redeem(issuer.code()).json
    issuer.client("other")
    issuer.configure(oauth_profile=profile)
    issuer.changes.clear()
    params = {"client_id": "other", "client_secret": "s3cret", "token": pair[which]}
    answer = issuer.post(params, path=PATH)
    said = {
        "error": "invalid_grant",
        "error_description": "The token was issued to another client",
    }
    refused(answer, said)
    assert len(issuer.tokens()) == 1 and kinds(issuer) == []


def test_jwt_is_ended_by_its_jti_and_by_any_text_that_verifies(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """S05: under ES256 the same signature has two texts."""
    issuer.configure(token_format="jwt")
    token = issuer.grant().json["access_token"]
    (row,) = issuer.tokens()
    issuer.changes.clear()
    revoked(revoke(issuer, other_text(token)))
    assert issuer.tokens() == []
    assert kinds(issuer) == [("token", token_digest(token)), ("jti", uuid.UUID(row.id).bytes)]


def other_text(token: str) -> str:
    """The same ES256 token with n - s for s."""
    import base64

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    s = order - int.from_bytes(raw[32:], "big")
    varied = base64.urlsafe_b64encode(raw[:32] + s.to_bytes(32, "big")).rstrip(b"=").decode()
    return f"{signed}.{varied}"


# --- who may ask ---


@both
def test_client_proves_itself_as_at_the_token_endpoint(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    token = issuer.grant().json["access_token"]
    strict = profile == "strict"
    wrong = 401 if strict else 400
    for params, headers, status in (
        ({"token": token}, {}, wrong),
        ({"token": token, "client_id": "app"}, {}, wrong),
        ({"token": token, "client_id": "app", "client_secret": "no"}, {}, wrong),
        ({"token": token, "client_id": "nobody", "client_secret": "no"}, {}, wrong),
        ({"token": token}, basic("app", "no"), 401),
        ({"token": token}, basic("nobody", "no"), 401),
    ):
        answer = issuer.post(params, path=PATH, headers=headers)
        refused(answer, INVALID_CLIENT, status)
        assert ("www-authenticate" in answer.headers) is (status == 401)
    assert len(issuer.tokens()) == 1
    revoked(issuer.post({"token": token}, path=PATH, headers=basic("app", "s3cret")))


def test_public_client_ends_its_own_token_by_its_id(issuer: Issuing) -> None:
    issuer.client("page", client_secret="unused", client_type="public")
    issuer.configure(pkce="none")
    token = issuer.post({"grant_type": "client_credentials", "client_id": "page"}).json
    revoked(issuer.post({"client_id": "page", "token": token["access_token"]}, path=PATH))
    assert issuer.tokens() == []


def test_s24_guesses_are_counted_here_too(issuer: Issuing, app: OAuth2Credential) -> None:
    wrong = {"client_id": "app", "client_secret": "no", "token": "x"}
    answers = [issuer.post(wrong, path=PATH) for _ in range(21)]
    assert [a.status for a in answers] == [400] * 20 + [429]
    assert "retry-after" in answers[-1].headers


@pytest.mark.parametrize("token", [None, "", ["a", "b"]])
def test_request_without_one_token_is_invalid(
    issuer: Issuing, app: OAuth2Credential, token: Any
) -> None:
    params = APP | ({} if token is None else {"token": token})
    refused(
        issuer.post(params, path=PATH),
        {"error": "invalid_request", "error_description": "token is missing"},
    )


def test_s27_s28_strict_refuses_repetition_and_what_stands_in_the_query(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(oauth_profile="strict")
    for query, params in (
        ("token=a", APP),
        ("client_secret=s3cret", {"client_id": "app", "token": "a"}),
        ("", APP | {"token": ["a", "b"]}),
    ):
        answer = issuer.post(params, path=PATH, query=query)
        assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    answer = issuer.post(APP | {"token": "a"}, path=PATH, headers=basic("app", "s3cret"))
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_s29_plain_http_is_refused(issuer: Issuing, app: OAuth2Credential) -> None:
    answer = revoke(issuer, "x", context=PLAIN)
    refused(answer, {"error": "access_denied", "error_description": "You must use HTTPS"})


def test_endpoint_is_there_where_endpoints_are_all_or_no_service_is(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert revoke(issuer, "x", context=ON_SERVICE).status == 404
    issuer.configure(endpoints="all")
    revoked(revoke(issuer, "x", context=ON_SERVICE))
    gone = replace(CONTEXT, plugin_id=str(uuid.UUID(int=99)))
    assert revoke(issuer, "x", context=gone).status == 404
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
        session.note_config()
    assert revoke(issuer, "x").status == 404


@pytest.mark.parametrize("endpoint", ["revoke", "introspect"])
def test_only_post_is_answered(issuer: Issuing, endpoint: str) -> None:
    name = {"revoke": "revocation", "introspect": "introspection"}[endpoint]
    answer = issuer.post(method="GET", path=f"/r/oauth2/{endpoint}")
    text = f"The HTTP method GET is invalid for the {name} endpoint"
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json == {"error": "invalid_method", "error_description": text}
    assert answer.headers["cache-control"] == "no-store"
    assert issuer.post(CREDENTIALS, path=PATH, body=b"x" * 65537).status == 413
