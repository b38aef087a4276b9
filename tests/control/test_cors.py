"""control/oauth2/cors.py: which pages may call the token endpoint from a script."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

import pytest

from control.store.tables import OAuth2Credential, Plugin
from tests.control.issuing import CONTEXT, CREDENTIALS, PROVISION_KEY, Answer, Issuing

PAGE = "https://app.example"


def allow(issuer: Issuing, origins: Iterable[str], protocols: Iterable[str] = ("https",)) -> None:
    """Put a `websocket-session` with these origins on the token route."""
    now = int(time.time())
    with issuer.store.writing() as session:
        session.add(
            Plugin(
                id=str(uuid.UUID(int=9)),
                name="websocket-session",
                route_id=CONTEXT.route_id,
                config={},
                policy={"allowed_origins": list(origins)},
                protocols=list(protocols),
                created_at=now,
                updated_at=now,
            )
        )


def preflight(issuer: Issuing, origin: str = PAGE, path: str = "/r/oauth2/token") -> Answer:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    return issuer.post(method="OPTIONS", path=path, headers=headers)


def granted(answer: Answer) -> list[str]:
    return [name for name in answer.headers if name.startswith("access-control-")]


def test_page_of_a_listed_origin_gets_a_token_and_may_read_it(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    allow(issuer, [PAGE, "https://other.example"])
    asked = preflight(issuer)
    assert (asked.status, asked.body) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert asked.headers["access-control-allow-headers"] == "Authorization, Content-Type"
    assert asked.headers["access-control-max-age"] == "600"
    answer = issuer.post(CREDENTIALS, headers={"origin": PAGE})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    for each in (asked, answer):
        assert each.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in each.headers


def test_page_may_read_why_it_was_refused(issuer: Issuing, app: OAuth2Credential) -> None:
    allow(issuer, [PAGE])
    wrong = CREDENTIALS | {"client_secret": "no"}
    refused = issuer.post(wrong, headers={"origin": PAGE})
    method = issuer.post(method="PUT", headers={"origin": PAGE})
    assert (refused.status, method.status) == (400, 405)
    for answer in (refused, method):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-expose-headers"] == "Retry-After, WWW-Authenticate"


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.evil.example",
        "https://sub.app.example",
        "https://wild.cards.example",
        "http://app.example",
        "https://app.example:8443",
        "https://APP.example",
        "https://app.example/",
        "null",
        "*",
    ],
)
def test_page_of_another_origin_gets_no_permission(
    issuer: Issuing, app: OAuth2Credential, origin: str
) -> None:
    allow(issuer, [PAGE, "https://*.cards.example"])
    asked, answer = preflight(issuer, origin), issuer.post(CREDENTIALS, headers={"origin": origin})
    assert (asked.status, answer.status) == (204, 200)
    assert granted(asked) == granted(answer) == []
    assert asked.headers["vary"] == answer.headers["vary"] == "Origin"


def test_no_list_or_one_for_other_protocols_permits_nobody(
    issuer: Issuing, app: OAuth2Credential
) -> None:
    assert granted(preflight(issuer)) == []
    allow(issuer, [PAGE], protocols=["wss"])
    assert granted(preflight(issuer)) == []


def test_options_without_a_question_is_a_wrong_method(issuer: Issuing) -> None:
    allow(issuer, [PAGE])
    assert issuer.post(method="OPTIONS").status == 405
    assert issuer.post(method="OPTIONS", headers={"origin": PAGE}).status == 405


@pytest.mark.parametrize("endpoint", ["authorize", "introspect"])
def test_authorize_and_introspect_are_for_no_page(issuer: Issuing, endpoint: str) -> None:
    allow(issuer, [PAGE])
    path = f"/r/oauth2/{endpoint}"
    asked = preflight(issuer, path=path)
    answer = issuer.post({"provision_key": PROVISION_KEY}, path=path, headers={"origin": PAGE})
    assert asked.status == 405
    assert granted(asked) == granted(answer) == []


def test_answer_to_what_is_no_page_stays_as_it_was(issuer: Issuing, app: OAuth2Credential) -> None:
    allow(issuer, [PAGE])
    assert "vary" not in issuer.grant().headers
