"""Authentication of WebSocket handshakes.  spec/oauth2.md §8, routing-and-proxy.md §12.1."""

from __future__ import annotations

import json

import pytest
from websockets.sync.client import connect

from tests.gateway.oauth2.answers import (
    GLOBAL,
    INVALID,
    JSON_TYPE,
    MISSING,
    issued,
    unauthorized,
)
from tests.gateway.oauth2.apis import FORM_TYPE, UPGRADE, USER, Api, App, Sockets, bearer
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

UNKNOWN = "A" * 32


@pytest.fixture(scope="module")
def sockets(site: Site) -> Sockets:
    return site.sockets()


@pytest.fixture(scope="module")
def token(site: Site, sockets: Sockets) -> str:
    return sockets.issuer.access(site.shared_app())


# --- ws and wss routes ----------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("where", ["Bearer {}", "token {}", "{}", "query"])
def test_token_of_a_handshake_is_taken(sockets: Sockets, token: str, where: str, tls: bool) -> None:
    headers = [] if where == "query" else [("Authorization", where.format(token))]
    target = f"?access_token={token}" if where == "query" else ""
    assert sockets.handshake(headers=headers, target=target, tls=tls).status == 101


def test_messages_go_both_ways_once_the_token_is_taken(sockets: Sockets, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with connect(sockets.url, additional_headers=headers, proxy=None) as socket:
        for message in ("hello", b"\x00\x01", "x" * 70000):
            socket.send(message)
            assert socket.recv(timeout=10) == message


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("realm", [None, "test-realm"])
@pytest.mark.parametrize(
    ("headers", "query", "kind"),
    [
        ([], "", MISSING),
        ([("Authorization", "")], "", MISSING),
        ([], "?access_token", MISSING),
        ([bearer(UNKNOWN)], "", INVALID),
        ([("Authorization", "Basic abc")], "", INVALID),
        ([], f"?access_token={UNKNOWN}", INVALID),
    ],
    ids=["none", "empty", "valueless", "unknown", "basic", "query"],
)
def test_refused_handshake_is_an_http_answer(
    site: Site,
    realm: str | None,
    headers: list[tuple[str, str]],
    query: str,
    kind: tuple[str, str],
    tls: bool,
) -> None:
    sockets = site.sockets(**({"realm": realm} if realm else {}))
    before = len(site.ws.requests)
    answer = sockets.handshake(headers=headers, target=query, tls=tls)
    unauthorized(answer, kind, realm)
    assert answer["Upgrade"] is None and answer["Sec-WebSocket-Accept"] is None
    assert len(site.ws.requests) == before


def test_connection_stays_http_after_a_refusal(site: Site, sockets: Sockets, token: str) -> None:
    """The same connection carries the next, right, handshake."""
    connection = site.connection(tls=False)
    try:
        for fields, status in (([], 401), ([bearer(UNKNOWN)], 401), ([bearer(token)], 101)):
            connection.putrequest("GET", sockets.path)
            for name, value in [*UPGRADE, *fields]:
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status == status
            if status != 101:
                assert json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_expired_token_opens_no_websocket(site: Site, app: App) -> None:
    sockets = site.sockets(token_expiration=2)
    token = sockets.issuer.access(app)
    assert sockets.handshake(token).status == 101

    eventually(lambda: sockets.handshake(token).status == 401, 10)
    unauthorized(sockets.handshake(token), INVALID)


def test_s12_token_of_another_service_opens_no_websocket(
    site: Site, sockets: Sockets, api: Api, app: App
) -> None:
    unauthorized(sockets.handshake(api.access(app)), INVALID)


def test_s12_global_token_opens_no_websocket_where_tokens_are_bound(site: Site, token: str) -> None:
    bound = site.sockets(global_credentials=False)
    unauthorized(bound.handshake(token), GLOBAL)


def test_bound_token_opens_a_websocket_of_its_service(site: Site, app: App) -> None:
    bound = site.sockets(global_credentials=False)
    made = site.post(
        "/oauth2_tokens",
        credential={"id": app.row["id"]}, service={"id": bound.service["id"]}, expires_in=60,
    )  # fmt: skip
    eventually(lambda: bound.handshake(made["access_token"]).status == 101, 10)


def test_upstream_hears_who_it_is(site: Site, sockets: Sockets, app: App) -> None:
    token = issued(sockets.issuer.password(app, scope="email"))["access_token"]
    forged = [("X-Consumer-ID", "forged"), ("x-anonymous-consumer", "true")]
    assert sockets.handshake(token, forged).status == 101
    seen = site.ws.last()
    assert seen["X-Consumer-ID"] == app.consumer["id"]
    assert seen["X-Consumer-Username"] == app.consumer["username"]
    assert seen["X-Consumer-Custom-ID"] == app.consumer["custom_id"]
    assert seen["X-Credential-Identifier"] == app.id
    assert seen["X-Authenticated-Scope"] == "email"
    assert seen["X-Authenticated-UserId"] == USER
    assert seen["X-Anonymous-Consumer"] is None
    # Nothing is hidden by default.
    assert seen["Authorization"] == f"Bearer {token}"


def test_subprotocol_and_cookie_are_no_carriers_by_default(sockets: Sockets, token: str) -> None:
    for headers in (
        [("Sec-WebSocket-Protocol", f"bearer, {token}")],
        [("Sec-WebSocket-Protocol", f"base64url.bearer.authorization.k8s.io.{token}, chat")],
        [("Cookie", f"access_token={token}")],
    ):
        unauthorized(sockets.handshake(headers=headers), MISSING)
    unauthorized(sockets.handshake(target="?ticket=abc"), MISSING)


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ([], 426, True),
        (UPGRADE[:1] + UPGRADE[2:], 426, True),
        (UPGRADE[1:], 426, True),
        ([*UPGRADE[:2], ("Sec-WebSocket-Version", "8"), UPGRADE[3]], 426, True),
        (UPGRADE[:2] + UPGRADE[3:], 426, True),
        (UPGRADE[:3], 400, False),
        ([*UPGRADE[:3], ("Sec-WebSocket-Key", "short")], 400, False),
    ],
    ids=["none", "no upgrade", "no connection", "version 8", "no version", "no key", "bad key"],
)
def test_handshake_is_checked_before_its_token(
    site: Site, sockets: Sockets, headers: list[tuple[str, str]], status: int, message: bool
) -> None:
    answer = site.ask("GET", sockets.path, headers=headers, tls=False)
    assert answer.status == status
    assert answer.json["message"].startswith("invalid WebSocket handshake")
    assert answer["WWW-Authenticate"] is None
    if status == 426:
        assert answer["Upgrade"] == "websocket"
        assert "upgrade" in str(answer["Connection"]).lower()


@pytest.mark.parametrize("endpoint", ["token", "authorize"])
def test_s43_endpoints_are_not_on_a_websocket_route(
    site: Site, sockets: Sockets, app: App, endpoint: str
) -> None:
    params = {"grant_type": "client_credentials"} | app.params
    answer = site.ask("POST", f"{sockets.path}/oauth2/{endpoint}", form=params)
    assert answer.status == 400
    assert answer.json.keys() == {"message", "request_id"}
    assert answer.json["message"].startswith("invalid WebSocket handshake")


def test_body_of_a_handshake_is_no_carrier(site: Site, sockets: Sockets, token: str) -> None:
    headers = [*UPGRADE, ("Content-Type", FORM_TYPE)]
    answer = site.ask("GET", sockets.path, body=f"access_token={token}", headers=headers, tls=False)
    assert answer.status == 400


# --- http and https routes that carry an upgrade --------------------------------------------------


@pytest.fixture(scope="module")
def opaque(site: Site) -> Api:
    """An http service whose upstream speaks WebSocket."""
    made = site.new_api()
    assert made.service is not None
    url = site.ws.url.replace("ws:", "http:")
    site.admin("PATCH", f"/services/{made.service['id']}", 200, {"url": url})
    site.carried()
    return made


@pytest.mark.parametrize("tls", [False, True])
def test_http_route_lets_a_websocket_with_a_token_through(
    site: Site, opaque: Api, app: App, tls: bool
) -> None:
    token = issued(opaque.password(app, scope="email"))["access_token"]
    before = len(site.ws.requests)
    answer = site.handshake(opaque.path, [bearer(token), ("X-Consumer-ID", "forged")], tls=tls)
    assert answer.status == 101
    assert len(site.ws.requests) == before + 1
    seen = site.ws.last()
    assert seen["X-Consumer-ID"] == app.consumer["id"]
    assert seen["X-Authenticated-UserId"] == USER
    assert seen["X-Authenticated-Scope"] == "email"
    assert site.handshake(f"{opaque.path}?access_token={token}", tls=tls).status == 101


@pytest.mark.parametrize(
    ("headers", "kind"),
    [([], MISSING), ([bearer(UNKNOWN)], INVALID), ([("Authorization", "x")], INVALID)],
    ids=["none", "unknown", "junk"],
)
def test_http_route_refuses_a_websocket_in_plain_http(
    site: Site, opaque: Api, headers: list[tuple[str, str]], kind: tuple[str, str]
) -> None:
    before = len(site.ws.requests)
    unauthorized(site.handshake(opaque.path, headers), kind)
    assert len(site.ws.requests) == before


def test_http_route_answers_an_upgrade_at_its_token_endpoint(site: Site, opaque: Api) -> None:
    answer = site.handshake(f"{opaque.path}/oauth2/token")
    assert (answer.status, answer["Content-Type"]) == (405, JSON_TYPE)
    assert answer.json["error"] == "invalid_method"
