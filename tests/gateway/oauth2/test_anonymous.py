"""`anonymous`: a consumer that stands in where authentication fails.  spec/oauth2.md §6.5."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.oauth2.answers import (
    GLOBAL,
    INVALID,
    INVALID_CLIENT,
    INVALID_PROVISION_KEY,
    MISSING,
    issued,
    refused,
    unauthorized,
)
from tests.gateway.oauth2.apis import USER, Api, App, unique
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

UNKNOWN = "A" * 32


@pytest.fixture(scope="module")
def nobody(site: Site) -> dict[str, Any]:
    return site.consumer()


@pytest.fixture(scope="module", params=["id", "username"])
def open_api(site: Site, nobody: dict[str, Any], request: pytest.FixtureRequest) -> Api:
    """An API whose anonymous consumer is named by its id, and again by its username."""
    return site.api(anonymous=nobody[request.param])


FAILURES = {
    "nothing": {},
    "unknown": {"headers": [("Authorization", f"Bearer {UNKNOWN}")]},
    "junk": {"headers": [("Authorization", "Basic abc")]},
    "empty": {"headers": [("Authorization", "")]},
    "query": {"target": f"/get?access_token={UNKNOWN}"},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_anonymous_stands_in_for_whoever_is_not_known(
    open_api: Api, nobody: dict[str, Any], failure: str
) -> None:
    seen = open_api.get(**FAILURES[failure]).seen
    assert seen["X-Anonymous-Consumer"] == "true"
    assert seen["X-Consumer-ID"] == nobody["id"]
    assert seen["X-Consumer-Username"] == nobody["username"]
    assert seen["X-Credential-Identifier"] is None
    assert seen["X-Authenticated-Scope"] is None
    assert seen["X-Authenticated-UserId"] is None


@pytest.mark.parametrize("failure", FAILURES)
def test_without_anonymous_the_request_ends(api: Api, failure: str) -> None:
    missing = failure in ("nothing", "empty")
    unauthorized(api.get(**FAILURES[failure]), MISSING if missing else INVALID)


def test_anonymous_stands_in_for_a_token_that_expired(
    site: Site, nobody: dict[str, Any], app: App
) -> None:
    api = site.api(anonymous=nobody["id"], token_expiration=2)
    token = api.access(app)
    assert api.get(token).seen["X-Consumer-ID"] == app.consumer["id"]

    eventually(lambda: api.get(token).seen["X-Consumer-ID"] == nobody["id"], 10)


def test_anonymous_stands_in_for_a_token_of_another_service(
    open_api: Api, nobody: dict[str, Any], api: Api, app: App
) -> None:
    assert open_api.get(api.access(app)).seen["X-Consumer-ID"] == nobody["id"]


def test_good_token_is_who_it_is(open_api: Api, app: App) -> None:
    token = issued(open_api.password(app, scope="email"))["access_token"]
    seen = open_api.get(token).seen
    assert seen["X-Anonymous-Consumer"] is None
    assert seen["X-Consumer-ID"] == app.consumer["id"]
    assert seen["X-Credential-Identifier"] == app.id
    assert seen["X-Authenticated-UserId"] == USER


def test_global_token_is_refused_though_anonymous_is_set(
    site: Site, open_api: Api, app: App
) -> None:
    token = site.serviceless(global_credentials=True).access(app)
    unauthorized(open_api.get(token), GLOBAL)


@pytest.mark.parametrize("value", ["00000000-0000-4000-8000-000000000000", "no such consumer"])
def test_anonymous_that_does_not_exist_is_a_fault_of_ours(site: Site, app: App, value: str) -> None:
    api = site.api(anonymous=value)
    answer = api.get()
    assert answer.status == 500
    body = answer.json
    assert body.keys() == {"message", "request_id"}
    assert body["message"] == f"anonymous consumer {value} is configured but doesn't exist"
    # Those who are somebody do not notice.
    assert api.get(api.access(app)).status == 200


def test_anonymous_that_is_deleted_is_a_fault_of_ours(site: Site) -> None:
    owner = site.post("/consumers", username=unique("nobody"))
    api = site.api(anonymous=owner["username"])
    assert api.get().status == 200
    site.admin("DELETE", f"/consumers/{owner['id']}", 204)
    site.carried()
    assert api.get().status == 500
    site.post("/consumers", username=owner["username"])
    site.carried()
    assert api.get().status == 200


def test_endpoints_know_no_anonymous(open_api: Api) -> None:
    refused(open_api.token({"grant_type": "client_credentials"}), *INVALID_CLIENT)
    refused(open_api.authorize(), *INVALID_PROVISION_KEY)


def test_anonymous_may_open_a_websocket(site: Site, nobody: dict[str, Any]) -> None:
    sockets = site.sockets(anonymous=nobody["id"])
    for token in (None, UNKNOWN):
        assert sockets.handshake(token).status == 101
        seen = site.ws.last()
        assert seen["X-Anonymous-Consumer"] == "true"
        assert seen["X-Consumer-ID"] == nobody["id"]


def test_websocket_of_an_anonymous_that_does_not_exist_is_a_fault_of_ours(site: Site) -> None:
    sockets = site.sockets(anonymous="no such consumer")
    before = len(site.ws.requests)
    answer = sockets.handshake()
    assert answer.status == 500
    assert answer.json["message"] == (
        "anonymous consumer no such consumer is configured but doesn't exist"
    )
    assert len(site.ws.requests) == before
