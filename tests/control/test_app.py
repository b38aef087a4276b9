"""control/app.py: how the parts meet; what the whole Admin API answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError
from starlette.types import Receive, Scope, Send

from control import openapi
from control.app import Shield, create_app
from control.settings import load
from tests.control.issuing import CONTEXT, JSON, Answer, Issuing

ROW = {
    "id": "00000000-0000-0000-0000-000000000009",
    "hostname": "dp",
    "ip": "127.0.0.1",
    "version": "0.1.0",
    "certificate": None,
    "connected": True,
    "last_seen": 1,
    "sync_status": "normal",
    "config_version": 3,
    "refused_version": None,
    "refused_reason": None,
    "sessions": 2,
    "handshakes": 4,
    "uptime": 5,
}


class Admin:
    """The Admin API over an issuer's store, called in process."""

    def __init__(self, issuer: Issuing) -> None:
        self.issuer = issuer
        self.app = create_app(load(), issuer.store, dataplanes=lambda: [ROW])

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        sent = {"host": "localhost:8001", **JSON, **headers}
        return self.issuer.post(
            method=method, path=path, body=body, headers=sent, context=None, app=self.app
        )


@pytest.fixture
def admin(issuer: Issuing) -> Admin:
    return Admin(issuer)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/services", {}, 200),
        ("GET", "/no-such-path", {}, 404),
        ("DELETE", "/services", {}, 405),
        ("GET", "/services", {"host": "evil.example"}, 403),
        ("GET", "/services", {"origin": "https://evil.example"}, 403),
    ],
)
def test_every_answer_is_json_and_names_us(
    admin: Admin, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = admin(method, path, **headers)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["server"].startswith("narthex/")
    assert int(answer.headers["x-kong-admin-latency"]) >= 0
    assert status == 200 or set(answer.json) == {"message"}


def test_token_endpoint_is_not_on_the_admin_api(admin: Admin) -> None:
    for path in ("/oauth2/token", "/token-route/oauth2/token"):
        assert admin("POST", path).status in (404, 405)


def test_no_page_of_fastapis_own_is_served(admin: Admin) -> None:
    """They load scripts from elsewhere; ours is `control.admin.docs`."""
    assert "cdn." not in admin("GET", "/docs").body.decode()
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert admin("GET", path).status == 404


def test_document_is_served_as_it_is_printed(admin: Admin) -> None:
    assert admin("GET", "/openapi.json").json == openapi.document()


def test_document_refers_only_to_what_it_has() -> None:
    document = openapi.document()
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            found.extend(v for k, v in part.items() if k == "$ref" and isinstance(v, str))
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(document)
    there = {
        f"#/components/{kind}/{name}"
        for kind, components in document["components"].items()
        for name in components
    }
    assert found and set(found) <= there


def test_document_has_no_error_of_fastapis_own() -> None:
    text = openapi.text()
    assert "HTTPValidationError" not in text and '"422"' not in text


def test_dataplanes_are_those_the_link_knows(admin: Admin) -> None:
    answer = admin("GET", "/dataplanes")
    assert (answer.status, answer.json) == (200, {"data": [ROW], "next": None})


@pytest.mark.parametrize("path", ["/services", "/oauth2/token"])
def test_s97_fault_shows_nothing_and_leaves_one_log_line(
    admin: Admin, issuer: Issuing, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT hunter2 FROM /etc/passwd")

    monkeypatch.setattr(issuer.store, "reading", broken)
    with structlog.testing.capture_logs() as logged:
        answer = admin("GET", path) if path == "/services" else issuer.post({}, path=path)
    assert (answer.status, answer.json) == (500, {"message": "An unexpected error occurred"})
    (line,) = logged
    assert (line["event"], line["log_level"], line["path"]) == ("unexpected error", "error", path)


@pytest.mark.parametrize(
    ("error", "status"), [(OperationalError, 503), (DatabaseError, 503), (ProgrammingError, 500)]
)
def test_locked_or_broken_database_is_503_and_one_line(
    admin: Admin, issuer: Issuing, monkeypatch: pytest.MonkeyPatch,
    error: type[DatabaseError], status: int,
) -> None:  # fmt: skip
    def locked(*_: object, **__: object) -> None:
        raise error("SELECT hunter2", {}, Exception("database is locked"))

    monkeypatch.setattr(issuer.store, "reading", locked)
    with structlog.testing.capture_logs() as logged:
        answer = admin("GET", "/oauth2_tokens/T0kenT0kenT0kenT0kenT0kenT0ken")
    assert answer.status == status
    (line,) = logged
    assert line["path"] == "/oauth2_tokens/[redacted]"
    if status == 503:
        assert answer.headers["retry-after"] == "1"
        assert answer.json == {"message": "the database cannot be used at the moment, try again"}
        assert (line["event"], line["why"]) == ("database.unavailable", "database is locked")
        assert "exc_info" not in line and "hunter2" not in str(line)


def test_s97_fault_after_the_answer_began_sends_no_second_one(issuer: Issuing) -> None:
    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise RuntimeError

    with structlog.testing.capture_logs() as logged:
        answer = issuer.post({}, app=Shield(half))
    assert (answer.status, answer.body) == (200, b"x")
    assert len(logged) == 1


def test_s87_a_rebuilt_url_is_never_what_decides(admin: Admin) -> None:
    """CVE-2026-48710: a Host that ends like a path must not change which endpoint is met."""
    for host in ("localhost/status?", "localhost/status#", "localhost:8001/status?x="):
        assert admin("DELETE", f"/routes/{CONTEXT.route_id}", host=host).status == 403
    assert admin("GET", f"/routes/{CONTEXT.route_id}").status == 200


@pytest.mark.parametrize("hashed", [False, True])
def test_what_the_admin_api_makes_is_what_the_issuer_uses(admin: Admin, hashed: bool) -> None:
    def make(path: str, **body: Any) -> Any:
        answer = admin("POST", path, json.dumps(body).encode())
        assert answer.status == 201, answer.body
        return answer.json

    make("/consumers", username="sam")
    make("/routes", name="tokens", paths=["/how-to"], protocols=["https"], methods=["POST"])
    make(
        "/routes/tokens/plugins",
        name="oauth2",
        config={
            "scopes": ["email"],
            "global_credentials": True,
            "enable_client_credentials": True,
            "provision_key": "known-to-the-backend",
            "realm": "r",
        },
    )
    secret = {"client_secret": "s3cret", "hash_secret": True} if hashed else {}
    client = make("/consumers/sam/oauth2", name="TestApp", **secret)
    sent = {
        "grant_type": "client_credentials",
        "client_id": client["client_id"],
        "client_secret": "s3cret" if hashed else client["client_secret"],
        "scope": "email",
        "authenticated_userid": "u",
        "provision_key": "known-to-the-backend",
    }

    def ask(method: str = "POST", **params: str) -> Answer:
        path = "/how-to/oauth2/token"
        return admin.issuer.post(
            sent | params, path=path, context=None, scheme="https", method=method
        )

    assert ask().status == 200
    assert ask(client_secret="no").json["error"] == "invalid_client"
    assert ask(provision_key="no").json["error"] == "invalid_provision_key"
    assert ask("GET").headers["www-authenticate"].startswith('Bearer realm="r", ')
    (row,) = admin("GET", "/oauth2_tokens").json["data"]
    assert (row["access_token"], row["scope"], row["expires_in"]) == (None, "email", 7200)
