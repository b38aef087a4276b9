"""control/oauth2/issuer.py: endpoints, methods, routes.  spec/oauth2.md §3, §5.1."""

from __future__ import annotations

from typing import Any

import pytest

from control.app import create_issuer
from control.store.tables import OAuth2Credential, Plugin
from tests.control.issuing import (
    CONTEXT,
    CREDENTIALS,
    Answer,
    Issuing,
)

# --- §3 dispatch ---


@pytest.mark.parametrize(
    "path",
    [
        "/oauth2/token",
        "/oauth2/token/",
        "/x/y/oauth2/token",
        "//x//oauth2//token//",
        "/x/%6fauth2/tok%65n",
        "/x/./oauth2/y/../token",
    ],
)
def test_endpoint_is_found_by_the_end_of_the_path(
    issuer: Issuing, app: OAuth2Credential, path: str
) -> None:
    assert issuer.post(CREDENTIALS, path=path).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/oauth2/tokens", "/oauth2/token/x", "/oauth2%2ftoken", "/oauth2/token/.."]
)
def test_other_paths_are_not_the_endpoint(
    issuer: Issuing, app: OAuth2Credential, path: str
) -> None:
    answer = issuer.post(CREDENTIALS, path=path)
    assert answer.status == 404
    assert answer.json["message"] == "no Route matched with those values"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize(("endpoint", "name"), [("token", "token"), ("authorize", "authorization")])
def test_only_post_is_a_method_of_the_endpoints(
    issuer: Issuing, method: str, endpoint: str, name: str
) -> None:
    answer = issuer.post(method=method, path=f"/r/oauth2/{endpoint}")
    text = f"The HTTP method {method} is invalid for the {name} endpoint"
    assert (answer.status, answer.json) == (
        405,
        {"error": "invalid_method", "error_description": text},
    )
    expected = f'Bearer error="invalid_method", error_description="{text}"'
    assert answer.headers["www-authenticate"] == expected
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert "cache-control" not in answer.headers and "pragma" not in answer.headers


def test_s57_realm_stands_first_and_cannot_leave_its_header(issuer: Issuing) -> None:
    issuer.configure(realm='a"b\\c\r\nX: y\u20ac')
    header = issuer.post(method="GET").headers["www-authenticate"]
    assert header.startswith('Bearer realm="a\\"b\\\\c??X: y?", error="invalid_method", ')


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("endpoint", ["token", "authorize"])
def test_plugin_that_is_gone_or_disabled_leaves_no_route(
    issuer: Issuing, app: OAuth2Credential, method: str, endpoint: str
) -> None:
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
    answer = issuer.post(CREDENTIALS, method=method, path=f"/oauth2/{endpoint}")
    body = {"message": "no Route matched with those values", "request_id": "r1"}
    assert (answer.status, answer.json) == (404, body)


# --- the authorize endpoint: more in test_authorize_endpoint.py ---


def test_authorize_refuses_a_body_over_64_kib(issuer: Issuing) -> None:
    assert issuer.post(path="/r/oauth2/authorize", body=b"x" * 65537).status == 413


# --- ISSUER_LISTEN: the route is found by path ---


def test_issuer_by_itself_finds_route_and_plugin_by_path(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    app_ = create_issuer(issuer.store)

    def ask(path: str, **kwargs: Any) -> Answer:
        return issuer.post(CREDENTIALS, context=None, path=path, app=app_, **kwargs)

    assert ask("/token-route/oauth2/token", scheme="https").status == 200
    assert ask("/elsewhere/oauth2/token", scheme="https").status == 404
    assert ask("/token-route/oauth2/token").json["error"] == "access_denied"
    forged = {"x-forwarded-proto": "https"}
    assert ask("/token-route/oauth2/token", headers=forged).json["error"] == "access_denied"
    # A change of the configuration is seen by the next request.
    with issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
        session.note_config()
    assert ask("/token-route/oauth2/token", scheme="https").status == 404
