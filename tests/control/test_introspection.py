"""The introspection endpoint.  RFC 7662; S30, S38."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest

from control.store import signing_keys
from control.store.tables import OAuth2Credential, OAuth2Token, Plugin
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    ON_SERVICE,
    PLAIN,
    PROVISION_KEY,
    SERVICE_ID,
    Answer,
    Issuing,
    basic,
    refused,
)
from tests.control.test_revocation import other_text

PATH = "/token-route/oauth2/introspect"
ISSUER = "https://auth.example/token-route"
SERVER = {"client_id": "server", "client_secret": "s3cret"}  # a resource server
INACTIVE = b'{"active":false}'
ELSEWHERE = str(uuid.UUID(int=20))

both = pytest.mark.parametrize("profile", ["kong", "strict"])
formats = pytest.mark.parametrize("token_format", ["opaque", "jwt"])


@pytest.fixture(autouse=True)
def server(issuer: Issuing) -> OAuth2Credential:
    issuer.configure(issuer=ISSUER, enable_authorization_code=True)
    return issuer.client("server")


def ask(issuer: Issuing, token: Any, **options: Any) -> Answer:
    return issuer.post(SERVER | {"token": token}, path=PATH, **options)


def inactive(answer: Answer) -> None:
    assert (answer.status, answer.body) == (200, INACTIVE)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def edit(issuer: Issuing, **values: Any) -> None:
    with issuer.store.writing() as session:
        row = session.get_one(OAuth2Token, issuer.tokens()[0].id)
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)


def another_instance(issuer: Issuing, **config: Any) -> None:
    now = int(time.time())
    with issuer.store.writing() as session:
        held = session.get_one(Plugin, CONTEXT.plugin_id)
        session.add(
            Plugin(
                id=ELSEWHERE,
                name="oauth2",
                service_id=SERVICE_ID,
                config={**held.config, "endpoints": "all", **config},
                protocols=["https"],
                created_at=now,
                updated_at=now,
            )
        )
        session.note_config()


THERE = replace(ON_SERVICE, plugin_id=ELSEWHERE)


@both
@formats
def test_token_of_the_instance_is_described(
    issuer: Issuing, app: OAuth2Credential, profile: str, token_format: str
) -> None:
    issuer.configure(oauth_profile=profile, token_format=token_format)
    token = issuer.grant(
        scope="email", provision_key=PROVISION_KEY, authenticated_userid="alex"
    ).json["access_token"]
    (row,) = issuer.tokens()
    expected: dict[str, Any] = {
        "active": True,
        "scope": "email",
        "client_id": "app",
        "username": "alex",
        "token_type": "bearer",
        "exp": int(row.created_at + 7200),
        "iat": int(row.created_at),
        "sub": "alex",
        "iss": ISSUER,
    }
    if token_format == "jwt":
        expected |= {"aud": ISSUER, "jti": row.id}
    for headers, params in ((None, SERVER), (basic("server", "s3cret"), {})):
        answer = issuer.post(params | {"token": token}, path=PATH, headers=headers)
        assert (answer.status, answer.json) == (200, expected)
        assert answer.headers["cache-control"] == "no-store"


def test_token_that_never_expires_has_no_end(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(token_expiration=0)
    answer = ask(issuer, issuer.grant().json["access_token"]).json
    assert answer["active"] and "exp" not in answer and answer["sub"] == "app"


@both
@formats
def test_s38_unknown_expired_revoked_and_not_theirs_all_read_the_same(
    issuer: Issuing, app: OAuth2Credential, profile: str, token_format: str
) -> None:
    issuer.configure(oauth_profile=profile, token_format=token_format)
    for unknown in ("unknown", "a.b.c", "x" * 9000):
        inactive(ask(issuer, unknown))
    token = issuer.grant().json["access_token"]
    assert ask(issuer, token).json["active"]
    another_instance(issuer, global_credentials=False)
    inactive(ask(issuer, token, context=THERE))  # not theirs
    edit(issuer, created_at=time.time() - 7200)
    inactive(ask(issuer, token))  # expired
    edit(issuer, created_at=time.time())
    edit(issuer, gone_at=time.time() - 1)
    inactive(ask(issuer, token))  # its row has ended
    edit(issuer, gone_at=None)
    assert ask(issuer, token).json["active"]
    params = {"client_id": "app", "client_secret": "s3cret", "token": token}
    assert issuer.post(params, path="/oauth2/revoke").status == 200
    inactive(ask(issuer, token))  # revoked


def test_token_is_theirs_where_it_would_be_admitted(issuer: Issuing, app: OAuth2Credential) -> None:
    token = issuer.grant().json["access_token"]
    another_instance(issuer, global_credentials=True)
    assert ask(issuer, token, context=THERE).json["active"]
    edit(issuer, service_id=SERVICE_ID, plugin_id=None)
    assert ask(issuer, token, context=THERE).json["active"]
    inactive(ask(issuer, token))  # bound to a service that is not here
    edit(issuer, audience=["https://other.example"])
    inactive(ask(issuer, token, context=THERE))
    edit(issuer, audience=["https://other.example", ISSUER])
    answer = ask(issuer, token, context=THERE).json
    assert answer["aud"] == ["https://other.example", ISSUER]


def test_jwt_is_theirs_where_its_own_audience_and_issuer_are(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    """Its row names neither: nobody asked for a resource."""
    issuer.configure(token_format="jwt", audience="https://a.example")
    token = issuer.grant().json["access_token"]
    another_instance(issuer)
    said = ask(issuer, token, context=THERE).json
    assert (said["aud"], said["iss"]) == ("https://a.example", ISSUER)
    issuer.configure(audience="https://b.example", issuer="https://new.example")  # since then
    said = ask(issuer, token).json
    assert (said["aud"], said["iss"]) == ("https://a.example", ISSUER)
    for other in (
        {"audience": "https://b.example"},
        {"issuer": "https://new.example"},
        {"token_format": "opaque"},
    ):
        good = {"token_format": "jwt", "audience": "https://a.example", "issuer": ISSUER}
        with issuer.store.writing() as session:
            plugin = session.get_one(Plugin, ELSEWHERE)
            plugin.config = {**plugin.config, **good, **other}
            session.add(plugin)
            session.note_config()
        inactive(ask(issuer, token, context=THERE))


def test_jwt_of_a_key_that_was_ended_is_inactive(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.configure(token_format="jwt")
    token = issuer.grant().json["access_token"]
    assert ask(issuer, token).json["active"]
    assert ask(issuer, other_text(token)).json["active"]
    with issuer.store.writing() as session:
        (key,) = signing_keys.all_keys(session)
        signing_keys.remove(session, key.kid, time.time())
    inactive(ask(issuer, token))


def test_refresh_token_is_described_to_its_own_client_alone(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    pair = issuer.redeem(issuer.code(scope="email")).json
    inactive(ask(issuer, pair["refresh_token"]))
    params = {"client_id": "app", "client_secret": "s3cret", "token": pair["refresh_token"]}
    answer = issuer.post(params, path=PATH).json
    assert answer["active"] and answer["scope"] == "email" and "token_type" not in answer
    (row,) = issuer.tokens()
    assert row.gone_at is not None and answer["exp"] == int(row.gone_at)


# --- who may ask ---


@both
def test_s38_nobody_asks_without_proof(
    issuer: Issuing, app: OAuth2Credential, profile: str
) -> None:
    issuer.configure(oauth_profile=profile)
    issuer.client("page", client_type="public")
    token = issuer.grant().json["access_token"]
    for params, headers in (
        ({}, {}),
        ({"client_id": "server"}, {}),
        ({"client_id": "server", "client_secret": "no"}, {}),
        ({"client_id": "nobody", "client_secret": "no"}, {}),
        ({"client_id": "page"}, {}),
        ({}, basic("server", "no")),
        ({}, {"authorization": f"Bearer {token}"}),
    ):
        answer = issuer.post(params | {"token": token}, path=PATH, headers=headers)
        refused(answer, INVALID_CLIENT, 401)
        assert answer.headers["www-authenticate"] == 'Basic realm="OAuth2.0"'


def test_request_without_a_token_and_plain_http_are_refused(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    refused(
        issuer.post(SERVER, path=PATH),
        {"error": "invalid_request", "error_description": "token is missing"},
    )
    refused(
        ask(issuer, "x", context=PLAIN),
        {"error": "access_denied", "error_description": "You must use HTTPS"},
    )


def test_s28_strict_takes_no_token_from_the_query(issuer: Issuing, app: OAuth2Credential) -> None:
    token = issuer.grant().json["access_token"]
    assert issuer.post(SERVER, path=PATH, query=f"token={token}").json["active"]
    issuer.configure(oauth_profile="strict")
    answer = issuer.post(SERVER, path=PATH, query=f"token={token}")
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_endpoint_is_there_where_endpoints_are_all_or_no_service_is(issuer: Issuing) -> None:
    assert ask(issuer, "x", context=ON_SERVICE).status == 404
    issuer.configure(endpoints="all")
    inactive(ask(issuer, "x", context=ON_SERVICE))
    assert issuer.post(CREDENTIALS, path=PATH, body=b"x" * 65537).status == 413
