"""Access tokens as JWTs: what they claim, their rows, what data planes hear of them.  RFC 9068."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from control.oauth2.keys import Keys
from control.store import queries
from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential
from dataplane import jws
from tests.control.issuing import CONTEXT, ON_SERVICE, PROVISION_KEY, SERVICE_ID, Issuing

ISSUER = "https://auth.example/token-route"


@pytest.fixture(autouse=True)
def jwts(issuer: Issuing) -> None:
    issuer.configure(
        token_format="jwt", issuer=ISSUER, enable_authorization_code=True, session_follow="token"
    )


def claims(issuer: Issuing, token: str) -> dict[str, Any]:
    return jws.verify_access_token(token, Keys(issuer.store).verifying(time.time()), time.time())


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_jwt_claims_what_its_row_holds(issuer: Issuing, app: OAuth2Credential, alg: str) -> None:
    issuer.configure(signing_alg=alg)
    answer = issuer.grant(scope="email")
    assert answer.json.keys() == {"access_token", "token_type", "expires_in"}
    token = answer.json["access_token"]
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert (header["alg"], header["typ"]) == (alg, "at+jwt")
    (row,) = issuer.tokens()
    said = claims(issuer, token)
    assert said == {
        "iss": ISSUER,
        "sub": "app",
        "aud": ISSUER,
        "exp": int(row.created_at) + 7200,
        "iat": int(row.created_at),
        "jti": row.id,
        "client_id": "app",
        "cid": app.id,
        "scope": "email",
        "cv": said["cv"],
        "pid": CONTEXT.plugin_id,
    }
    assert row.is_jwt and row.access_token_digest == token_digest(token)
    assert row.created_at == int(row.created_at)
    assert said["cv"] >= 1


def test_jwt_of_a_user_and_a_service_says_so(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(global_credentials=False, audience="https://api.example/ws")
    token = issuer.post(
        {
            "grant_type": "client_credentials",
            "client_id": "app",
            "client_secret": "s3cret",
            "provision_key": PROVISION_KEY,
            "authenticated_userid": "alex",
        },
        context=ON_SERVICE,
    ).json["access_token"]
    said = claims(issuer, token)
    assert (said["sub"], said["uid"], said["svc"]) == ("alex", "alex", SERVICE_ID)
    assert said["aud"] == "https://api.example/ws"
    assert "scope" not in said


def test_jwt_ends_no_later_than_its_row(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(refresh_token_ttl=60)
    said = claims(issuer, issuer.grant().json["access_token"])
    assert said["exp"] == said["iat"] + 60


def test_jwt_that_no_header_could_carry_is_refused(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(scopes=[f"scope-{i}-{'x' * 90}" for i in range(40)])
    wanted = " ".join(f"scope-{i}-{'x' * 90}" for i in range(40))
    issuer.configure(audience="https://api.example/" + "x" * 1000)
    answer = issuer.grant(
        scope=wanted, provision_key=PROVISION_KEY, authenticated_userid="u" * 2900
    )
    assert answer.status == 400
    assert answer.json["error"] in ("invalid_request", "invalid_scope")
    assert issuer.tokens() == []


@pytest.mark.parametrize(("follow", "told"), [("token", 0), ("none", 0), ("credential", 1)])
def test_data_planes_hear_of_a_jwt_only_where_it_moves_other_sessions(
    issuer: Issuing, app: OAuth2Credential, follow: str, told: int
) -> None:
    issuer.configure(session_follow=follow)
    issuer.grant()
    issuer.changes.clear()
    issuer.grant()
    assert sum(len(change.tokens) for change in issuer.changes) == told


def test_refreshed_jwt_supersedes_the_old_one_and_ends_it_twice(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """Data planes hear of the new token first, with its audience; then of the old one's end."""
    first = issuer.redeem(issuer.code(scope="email")).json
    old = claims(issuer, first["access_token"])
    issuer.changes.clear()
    second = issuer.refresh(first["refresh_token"]).json
    new = claims(issuer, second["access_token"])
    assert new["jti"] != old["jti"] and new["scope"] == "email"
    (change,) = [change for change in issuer.changes if change]
    (moved,) = change.refreshed
    assert moved.old == token_digest(first["access_token"])
    assert (moved.token.jti, moved.token.audience) == (new["jti"], (ISSUER,))
    assert [r.kind for r in change.revocations] == ["token", "jti"]


def test_reused_refresh_token_gives_a_jwt_of_another_jti(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(reuse_refresh_token=True)
    first = issuer.redeem(issuer.code()).json
    second = issuer.refresh(first["refresh_token"]).json
    assert second["refresh_token"] == first["refresh_token"]
    one, two = (claims(issuer, pair["access_token"])["jti"] for pair in (first, second))
    (row,) = issuer.tokens()
    assert one != two == row.id


def test_jwt_in_the_place_of_a_token_made_by_hand_is_not_replayed(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """As an opaque token for whoever takes it: a JWT proves itself, and for whom it is."""
    issuer.configure(reuse_refresh_token=True)
    with issuer.store.writing() as session:
        queries.insert_token(
            session,
            credential_id=app.id,
            access_token_digest=token_digest("by hand"),
            refresh_token_digest=token_digest("refresh by hand"),
            expires_in=60,
            by_hand=True,
        )
    assert issuer.refresh("refresh by hand").status == 200
    with issuer.store.reading() as session:
        assert queries.tokens_to_replay(session) == []


def test_keys_are_read_once_for_each_version(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.grant()
    reads: list[int] = []
    read = jws.SigningKey.__init__
    monkeypatch.setattr(jws.SigningKey, "__init__", lambda *args: (reads.append(1), read(*args))[1])
    for _ in range(3):
        assert issuer.grant().status == 200
    assert reads == []
