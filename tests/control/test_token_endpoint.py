"""The token endpoint: its answers, rows and failures.  spec/oauth2.md §3.2, §5.2."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from control.store import queries
from control.store.tables import ClusterState, OAuth2Credential
from dataplane import wire
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    INVALID_CLIENT,
    JSON,
    ON_SERVICE,
    SERVICE_ID,
    Issuing,
    refused,
)

# --- the answer and the row ---


def test_token_is_issued_as_the_how_to_shows(issuer: Issuing, app: OAuth2Credential) -> None:
    answer = issuer.post(headers=JSON, body=json.dumps(CREDENTIALS).encode())
    assert answer.status == 200
    token = answer.json["access_token"]
    assert answer.json == {"access_token": token, "token_type": "bearer", "expires_in": 7200}
    assert len(token) == 32 and token.isalnum() and token.isascii()


def test_s30_every_answer_forbids_caching_and_sniffing(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    good, bad = issuer.grant(), issuer.grant(client_secret="no")
    too_large = issuer.post(body=b"x" * 65537)
    fault = issuer.post(CREDENTIALS, context=replace(CONTEXT, plugin_id="gone"))
    assert [a.status for a in (good, bad, too_large, fault)] == [200, 400, 413, 404]
    for answer in (good, bad, too_large, fault):
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_token_row_holds_digests_and_claims_only(issuer: Issuing, app: OAuth2Credential) -> None:
    before = time.time()
    token = issuer.grant(scope=" email   profile ").json["access_token"]
    (row,) = issuer.tokens()
    assert row.access_token_digest == hashlib.sha256(token.encode()).digest()
    assert (row.credential_id, row.service_id, row.refresh_token_digest) == (app.id, None, None)
    assert (row.scope, row.authenticated_userid, row.expires_in) == ("email profile", None, 7200)
    assert before <= row.created_at <= time.time()
    assert row.gone_at == pytest.approx(row.created_at + 1209600)
    assert not row.by_hand


def test_token_is_told_to_followers_once_committed(issuer: Issuing, app: OAuth2Credential) -> None:
    issuer.changes.clear()
    seen: list[bool] = []

    def look(change: Any) -> None:
        with issuer.store.reading() as session:
            found = queries.token_by_digest(session, change.tokens[0].digest)
            seen.append(found is not None)

    issuer.store.subscribe(look)
    token = issuer.grant(scope="email").json["access_token"]
    (change,) = issuer.changes
    assert change.version is None
    (told,) = change.tokens
    assert told.digest == wire.token_digest(token)
    assert (told.credential_id, told.service_id, told.scope) == (app.id, None, "email")
    assert told.expires_at == pytest.approx(time.time() + 7200, abs=5)
    assert seen == [True]


def test_token_carries_the_check_characters_of_the_data_plane(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    token = issuer.grant().json["access_token"]
    with issuer.store.reading() as session:
        key = session.exec(select(ClusterState)).one().check_key
    assert token[26:] == wire.token_check(key, token[:26])


@pytest.mark.parametrize(
    ("config", "answered", "stored", "ttl"),
    [
        ({"token_expiration": 0}, None, 0, None),
        ({"token_expiration": 5}, 5, 5, 1209600),
        ({"token_expiration": 0.2}, 1, 1, 1209600),
        ({"refresh_token_ttl": 0}, 7200, 7200, None),
        ({"refresh_token_ttl": 60}, 7200, 7200, 60),
    ],
)
def test_lifetimes_are_those_of_the_plugin(
    issuer: Issuing,
    app: OAuth2Credential,
    config: dict[str, Any],
    answered: int | None,
    stored: int,
    ttl: float | None,
) -> None:
    issuer.configure(**config)
    assert issuer.grant().json.get("expires_in") == answered
    (row,) = issuer.tokens()
    assert row.expires_in == stored
    assert row.gone_at == (None if ttl is None else pytest.approx(row.created_at + ttl))


def test_token_is_bound_to_the_service_without_global_credentials(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    assert issuer.post(CREDENTIALS, context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id == SERVICE_ID


def test_token_is_global_with_global_credentials_on_a_service(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert issuer.post(CREDENTIALS, context=ON_SERVICE).status == 200
    assert issuer.tokens()[0].service_id is None


def test_serviceless_route_without_global_credentials_is_an_error_of_ours(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    issuer.configure(global_credentials=False)
    answer = issuer.grant()
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})
    assert issuer.tokens() == []
    # What is wrong with the request itself is told as anywhere else.
    refused(issuer.grant(client_secret="no"), INVALID_CLIENT)


# --- store and threads ---


def test_store_out_of_reach_is_503_with_retry_after(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    monkeypatch.setattr(queries, "plugin_by_id", locked)
    for method in ("POST", "GET"):
        with structlog.testing.capture_logs() as logged:
            answer = issuer.post(CREDENTIALS, method=method)
        (line,) = logged
        assert (line["event"], line["why"]) == ("database.unavailable", "database is locked")
        assert "secret" not in str(line)
        assert (answer.status, answer.json) == (503, {"error": "temporarily_unavailable"})
        assert answer.headers["retry-after"] == "1"


def test_s97_fault_of_ours_shows_nothing_of_it(
    issuer: Issuing,
    app: OAuth2Credential,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT * FROM /etc/passwd")

    monkeypatch.setattr(queries, "insert_token", broken)
    answer = issuer.grant()
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})


def test_store_is_never_used_in_the_event_loop(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    for name in ("plugin_by_id", "credential_by_client_id", "insert_token", "cluster_state"):
        function = getattr(queries, name)

        def noting(*args: Any, _function: Any = function, **kwargs: Any) -> Any:
            threads.add(threading.get_ident())
            return _function(*args, **kwargs)

        monkeypatch.setattr(queries, name, noting)
    assert issuer.grant().status == 200
    assert issuer.post(method="GET").status == 405
    assert threads and threading.get_ident() not in threads


def test_requests_side_by_side_each_get_a_token(issuer: Issuing, app: OAuth2Credential) -> None:
    answers = issuer.post_at_once([CREDENTIALS] * 100)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["access_token"] for answer in answers}) == 100
    assert len(issuer.tokens()) == 100
