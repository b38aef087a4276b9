"""Requests of the link that pass the app by: answered as the app answers them, or left to it."""

from __future__ import annotations

from typing import Any

import pytest

from control.app import create_issuer
from control.oauth2 import requests
from control.oauth2.requests import WholeRequest
from control.push.issuer import Issuer
from control.store.tables import OAuth2Credential
from tests.control.issuing import CONTEXT, CREDENTIALS, Answer, Issuing, basic
from tests.control.issuing import _call as call
from tests.control.issuing import _request as request_of

PLAIN: dict[str, dict[str, Any]] = {
    "good": {"params": CREDENTIALS},
    "wrong secret": {"params": CREDENTIALS | {"client_secret": "no"}},
    "wrong secret, Basic": {
        "params": {"grant_type": "client_credentials"},
        "headers": basic("app", "no"),
    },
    "unknown grant": {"params": CREDENTIALS | {"grant_type": "wot"}, "query": "state=x"},
    "too large": {"params": None, "body": b"x" * 70_000},
    "authorize": {"params": {"provision_key": "no"}, "path": "/x/oauth2/authorize/"},
    "plain HTTP": {"params": CREDENTIALS, "headers": {"x-forwarded-proto": "https"}},
}
FOR_THE_APP: dict[str, dict[str, Any]] = {
    "another method": {"params": None, "method": "GET"},
    "a page's request": {"params": CREDENTIALS, "headers": {"origin": "https://page.example"}},
    "another endpoint": {"params": None, "path": "/token-route/oauth2/introspect"},
    "no endpoint": {"params": None, "path": "/token-route"},
}


def direct(issuer: Issuing, made: Issuer, **request: Any) -> Answer:
    scope, body = request_of(context=CONTEXT, **request)
    answer = made.direct(scope, body)
    assert answer is not None
    response = issuer.runner.run(answer)  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in response.raw_headers}
    return Answer(response.status_code, headers, bytes(response.body))


def shown(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """What is the same each time."""
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    said = answer.json if answer.status != 413 else answer.body
    if answer.status == 200:
        said = sorted(said)
    return answer.status, headers, said


@pytest.mark.parametrize("name", PLAIN)
def test_answer_is_that_of_the_app(issuer: Issuing, app: OAuth2Credential, name: str) -> None:
    made = create_issuer(issuer.store)
    scope, body = request_of(context=CONTEXT, **PLAIN[name])
    by_app = issuer.runner.run(call(made, scope, body))
    assert shown(direct(issuer, made, **PLAIN[name])) == shown(by_app)


@pytest.mark.parametrize("name", FOR_THE_APP)
def test_what_the_app_has_to_see_is_left_to_it(issuer: Issuing, name: str) -> None:
    scope, body = request_of(context=CONTEXT, **FOR_THE_APP[name])
    assert create_issuer(issuer.store).direct(scope, body) is None


def test_fault_is_a_500_that_tells_nothing(
    issuer: Issuing, app: OAuth2Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(requests.params, "collect", broken)
    answer = direct(issuer, create_issuer(issuer.store), params=CREDENTIALS)
    assert answer.status == 500 and b"secret" not in answer.body


def test_headers_are_found_as_starlette_finds_them() -> None:
    raw = [(b"a", b"1"), (b"b", b"\xe9"), (b"a", b"2")]
    request = WholeRequest({"type": "http", "headers": raw}, b"")
    assert request.headers.get("A") == "1"
    assert request.headers.get("b") == "é"
    assert request.headers.get("c", "none") == "none"
    assert request.headers.getlist("A") == ["1", "2"]
    assert request.headers.getlist("c") == []
