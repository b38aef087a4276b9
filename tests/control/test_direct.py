"""The short way of the link's token requests answers as the app does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError

from control.oauth2 import client_auth
from control.oauth2.requests import WholeRequest
from control.push.issuer import Issuer
from control.store import queries
from control.store.tables import OAuth2Credential
from dataplane import wire
from tests.control.issuing import (
    AUTHORIZE,
    AUTHORIZE_PATH,
    CONTEXT,
    CREDENTIALS,
    JSON,
    Answer,
    Issuing,
    _call,
    _request,
    basic,
)

MADE = ("access_token", "redirect_uri")  # differ from one answer to the next


def short(issuer: Issuing, params: Any = None, **options: Any) -> Answer | None:
    """What the short way answers; None where it leaves the request to the app."""
    assert isinstance(issuer.app, Issuer)
    scope, body = _request(params, **options)
    request = wire.TokenRequest(
        1, b"", b"", "", True, scope["method"], scope["raw_path"].decode(),
        query=scope["query_string"], headers=scope["headers"], body=body,
    )  # fmt: skip
    coming = issuer.app.direct(request, scope["narthex"])
    if coming is None:
        return None

    async def wait() -> Any:
        return await coming

    found = issuer.runner.run(wait())
    headers = {name.decode(): value.decode() for name, value in found.raw_headers}
    return Answer(found.status_code, headers, bytes(found.body))


def long(issuer: Issuing, params: Any = None, **options: Any) -> Answer:
    return issuer.runner.run(_call(issuer.app, *_request(params, **options)))


def told(answer: Answer) -> tuple[int, dict[str, str], Any]:
    body = answer.json
    headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
    return answer.status, headers, {k: k in MADE or v for k, v in body.items()}


def alike(issuer: Issuing, params: Any = None, **options: Any) -> int:
    found, expected = short(issuer, params, **options), long(issuer, params, **options)
    assert found is not None
    assert told(found) == told(expected)
    assert found.headers["cache-control"] == "no-store"
    assert found.headers["pragma"] == "no-cache"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-type"].startswith("application/json")
    return found.status


@pytest.mark.parametrize("profile", ["kong", "strict"])
def test_short_way_answers_as_the_app(issuer: Issuing, app: OAuth2Credential, profile: str) -> None:
    issuer.configure(oauth_profile=profile, enable_authorization_code=True, realm="r")
    wrong = CREDENTIALS | {"client_secret": "no", "state": "s"}
    assert alike(issuer, CREDENTIALS) == 200
    assert alike(issuer, {}) == 400
    assert alike(issuer, wrong) in (400, 401)
    grant = {"grant_type": "client_credentials"}
    assert alike(issuer, grant, headers=basic("app", "s3cret")) == 200
    assert alike(issuer, grant, headers=basic("app", "no")) == 401
    twice = [("authorization", "Bearer x"), *basic("app", "s3cret").items()]
    assert alike(issuer, grant, headers=twice) in (400, 401)
    assert alike(issuer, body=json.dumps(CREDENTIALS).encode(), headers=JSON) == 200
    assert alike(issuer, body=b"{", headers=JSON) in (400, 401)
    assert alike(issuer, query="grant_type=client_credentials&client_id=app") in (400, 401)
    assert alike(issuer, body=b"x" * 65537) == 413
    assert alike(issuer, AUTHORIZE, path=AUTHORIZE_PATH) == 200
    assert alike(issuer, {**AUTHORIZE, "provision_key": "no"}, path=AUTHORIZE_PATH) == 400
    assert alike(issuer, CREDENTIALS, path="/a//b/%6fauth2/./token/") == 200
    plain = replace(CONTEXT, tls=False)
    assert alike(issuer, CREDENTIALS, context=plain) == 400
    issuer.configure(global_credentials=False)
    assert alike(issuer, CREDENTIALS) == 500  # no service
    gone = replace(CONTEXT, plugin_id="00000000-0000-0000-0000-0000000000ff")
    assert alike(issuer, CREDENTIALS, context=gone) == 404


def test_what_is_not_a_plain_post_of_kongs_goes_through_the_app(issuer: Issuing) -> None:
    assert short(issuer, CREDENTIALS, method="GET") is None
    assert short(issuer, CREDENTIALS, headers={"origin": "https://a.example"}) is None
    for path in ("/oauth2/revoke", "/oauth2/tokens", "/x", "/.well-known/openid-configuration/x"):
        assert short(issuer, CREDENTIALS, path=path) is None


@pytest.mark.parametrize(
    ("error", "status"), [(OperationalError, 503), (DatabaseError, 503), (ProgrammingError, 500)]
)
def test_database_and_our_own_faults_read_the_same(
    issuer: Issuing,
    app: OAuth2Credential,
    monkeypatch: pytest.MonkeyPatch,
    error: type[DatabaseError],
    status: int,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("SELECT", {}, Exception("broken"))

    monkeypatch.setattr(queries, "credential_by_client_id", broken)
    assert alike(issuer, CREDENTIALS) == status
    monkeypatch.setattr(client_auth, "presented", broken)
    assert alike(issuer, CREDENTIALS) == status


def test_headers_are_found_as_starlette_finds_them() -> None:
    raw = [(b"a", b"1"), (b"b", b"\xe9"), (b"a", b"2")]
    request = WholeRequest({"type": "http", "headers": raw}, b"")
    assert request.headers.get("A") == "1"
    assert request.headers.get("b") == "é"
    assert request.headers.get("c", "none") == "none"
    assert request.headers.getlist("A") == ["1", "2"]
    assert request.headers.getlist("c") == []
