"""control/oauth2/sessions_endpoint.py: whose sessions may go over to which token.  §14."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from starlette.types import ASGIApp

from control.app import create_issuer
from control.store import queries
from control.store.changes import IssuedToken
from control.store.secrets import token_digest
from control.store.tables import OAuth2Credential, Plugin
from tests.control.issuing import CONTEXT, JSON, ON_SERVICE, SERVICE_ID, Answer, Issuing, refused

PATH = "/x/oauth2/sessions"
MISSING = {"error": "invalid_request", "error_description": "The access token is missing"}
INVALID = {
    "error": "invalid_token",
    "error_description": "The access token is invalid or has expired",
}
OTHERS = {
    "error": "access_denied",
    "error_description": "The tokens are not of the same client, user and service",
}


class Endpoint:
    """The endpoint, tokens made in its store, and the moves it asked for."""

    def __init__(self, issuer: Issuing) -> None:
        self.issuer = issuer
        self.moves: list[tuple[bytes, IssuedToken]] = []
        self.app: ASGIApp = create_issuer(issuer.store, move_sessions=self._move)

    async def _move(self, old: bytes, token: IssuedToken) -> int:
        self.moves.append((old, token))
        return 3

    def token(self, text: str, client: OAuth2Credential, **fields: Any) -> str:
        given = {"expires_in": 7200, "authenticated_userid": "u", **fields}
        with self.issuer.store.writing() as session:
            queries.insert_token(
                session,
                credential_id=client.id,
                access_token_digest=token_digest(text),
                **given,
            )
        return text

    def ask(self, bearer: str | None, old: object = None, **request: Any) -> Answer:
        headers = {**JSON, **({} if bearer is None else {"authorization": f"Bearer {bearer}"})}
        body = json.dumps({"token": old}).encode()
        given = {"headers": headers, "body": body, "path": PATH, "app": self.app, **request}
        return self.issuer.post(**given)


@pytest.fixture
def endpoint(issuer: Issuing) -> Endpoint:
    return Endpoint(issuer)


def test_sessions_of_the_old_token_go_over_to_the_one_shown(
    endpoint: Endpoint, app: OAuth2Credential
) -> None:
    old, new = endpoint.token("old", app), endpoint.token("new", app)
    answer = endpoint.ask(new, old)
    assert (answer.status, answer.json) == (200, {"sessions": 3})
    assert answer.headers["cache-control"] == "no-store"
    ((digest, token),) = endpoint.moves
    assert (digest, token.digest) == (token_digest(old), token_digest(new))
    assert token.expires_at > time.time()
    # The old one is as good as before: only its sessions went over.
    assert endpoint.ask(old, new).status == 200


def test_form_names_the_old_token_as_well(endpoint: Endpoint, app: OAuth2Credential) -> None:
    old, new = endpoint.token("old", app), endpoint.token("new", app)
    headers = {"authorization": f"Bearer {new}"}
    answer = endpoint.issuer.post({"token": old}, headers=headers, path=PATH, app=endpoint.app)
    assert (answer.status, answer.json) == (200, {"sessions": 3})


def test_token_may_name_itself_and_nothing_moves(endpoint: Endpoint, app: OAuth2Credential) -> None:
    token = endpoint.token("one", app)
    assert endpoint.ask(token, token).json == {"sessions": 0}
    assert endpoint.moves == []


@pytest.mark.parametrize(
    "different",
    [
        {"authenticated_userid": "another"},
        {"authenticated_userid": None},
        {"service_id": SERVICE_ID},
        {"expires_in": 1, "created_at": time.time() - 100},
    ],
    ids=["user", "no-user", "service", "expired"],
)
def test_sessions_of_another_owner_stay_where_they_are(
    different: dict[str, Any], endpoint: Endpoint, app: OAuth2Credential
) -> None:
    old, new = endpoint.token("old", app, **different), endpoint.token("new", app)
    refused(endpoint.ask(new, old), OTHERS, 403)
    assert endpoint.moves == []


def test_sessions_of_another_client_and_of_no_token_get_one_answer(
    endpoint: Endpoint, app: OAuth2Credential
) -> None:
    other = endpoint.issuer.client("other")
    new = endpoint.token("new", app)
    refused(endpoint.ask(new, endpoint.token("theirs", other)), OTHERS, 403)
    refused(endpoint.ask(new, "there is no such token"), OTHERS, 403)
    assert endpoint.moves == []


@pytest.mark.parametrize("realm", [None, "here"])
def test_caller_without_a_good_token_is_refused_as_by_a_resource(
    realm: str | None, endpoint: Endpoint, app: OAuth2Credential
) -> None:
    endpoint.issuer.configure(realm=realm)
    begin = "Bearer" if realm is None else 'Bearer realm="here"'
    old = endpoint.token("old", app)
    expired = endpoint.token("expired", app, expires_in=1, created_at=time.time() - 100)
    bound = endpoint.token("bound", app, service_id=SERVICE_ID)
    answer = endpoint.ask(None, old)
    refused(answer, MISSING, 401)
    assert answer.headers["www-authenticate"] == begin
    for token in ("unknown", expired, bound, "x" * 9000):
        answer = endpoint.ask(token, old)
        refused(answer, INVALID, 401)
        between = " " if realm is None else ", "
        text = 'error="invalid_token", error_description="' + INVALID["error_description"] + '"'
        assert answer.headers["www-authenticate"] == begin + between + text
    assert endpoint.moves == []


def test_token_that_is_bound_to_the_service_of_the_route_is_good(
    endpoint: Endpoint, app: OAuth2Credential
) -> None:
    endpoint.issuer.configure(endpoints="all", global_credentials=False)
    old, new = (endpoint.token(text, app, service_id=SERVICE_ID) for text in ("old", "new"))
    assert endpoint.ask(new, old, context=ON_SERVICE).status == 200
    # A global one is none here.
    refused(endpoint.ask(endpoint.token("global", app), old, context=ON_SERVICE), INVALID, 401)


@pytest.mark.parametrize("old", [None, "", 7, ["a"]])
def test_old_token_must_be_named(old: object, endpoint: Endpoint, app: OAuth2Credential) -> None:
    answer = endpoint.ask(endpoint.token("new", app), old)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_endpoint_is_there_as_endpoints_says(endpoint: Endpoint, app: OAuth2Credential) -> None:
    old, new = endpoint.token("old", app), endpoint.token("new", app)
    assert endpoint.ask(new, old, context=ON_SERVICE).status == 404
    assert endpoint.ask(new, old, context=CONTEXT).status == 200  # no service: all of them
    assert endpoint.ask(new, old, method="GET").status == 405


def test_endpoint_ends_with_its_plugin(endpoint: Endpoint, app: OAuth2Credential) -> None:
    new = endpoint.token("new", app)
    with endpoint.issuer.store.writing() as session:
        plugin = session.get_one(Plugin, CONTEXT.plugin_id)
        plugin.enabled = False
        session.add(plugin)
    assert endpoint.ask(new, "old").status == 404
