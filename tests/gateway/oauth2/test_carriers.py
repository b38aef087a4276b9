"""Carriers of tokens for browsers: subprotocol, cookie, ticket.  spec/oauth2.md §14."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.gateway.oauth2.answers import INVALID, MISSING, Answer, unauthorized
from tests.gateway.oauth2.apis import UPGRADE, App, Sockets, bearer, unique
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

UNKNOWN = "A" * 32
ORIGIN, FOREIGN = "https://app.test", "https://evil.test"
PREFIX = "narthex.token."
K8S = "base64url.bearer.authorization.k8s.io."
CARRIERS = ["header", "query", "subprotocol", "ticket", "cookie"]
CONFIG = {"token_carriers": CARRIERS, "subprotocol_prefix": PREFIX, "cookie_name": "sid"}


@pytest.fixture(scope="module")
def sockets(site: Site) -> Sockets:
    """Takes tokens from everywhere, and pages from ORIGIN."""
    return site.sockets({"allowed_origins": [ORIGIN]}, **CONFIG)


@pytest.fixture(scope="module")
def token(site: Site, sockets: Sockets) -> str:
    return sockets.issuer.access(site.shared_app())


def offer(*protocols: str) -> tuple[str, str]:
    return ("Sec-WebSocket-Protocol", ", ".join(protocols))


# --- subprotocol ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "left", "answered"),
    [
        (["bearer", "{}"], None, "bearer"),
        (["chat", "bearer", "{}"], "chat", "chat"),
        (["bearer", "{}", "chat"], "chat", "chat"),
        (["other", "bearer", "{}"], "other", "bearer"),
        (["bearer", "{}", "other", "chat"], "other, chat", "chat"),
        ([PREFIX + "{}", "chat"], "chat", "chat"),
        (["other", PREFIX + "{}", "chat"], "other, chat", "chat"),
        (["other", PREFIX + "{}"], "other", None),
    ],
    ids=repr,
)
def test_s58_token_in_a_subprotocol_is_taken_and_taken_out(
    site: Site,
    sockets: Sockets,
    token: str,
    offered: list[str],
    left: str | None,
    answered: str | None,
) -> None:
    protocols = [element.format(token) for element in offered]
    answer = sockets.handshake(headers=[offer(*protocols)])
    assert answer.status == 101, answer.body
    assert answer["Sec-WebSocket-Protocol"] == answered
    seen = site.ws.last()
    told = seen["Sec-WebSocket-Protocol"]
    assert (told and ", ".join(part.strip() for part in told.split(","))) == left
    assert not seen.mentions(token)
    assert not any(token in value for _, value in answer.fields)


@pytest.mark.parametrize(
    ("offered", "left", "answered"),
    [
        (["chat", K8S + "{}"], "chat", "chat"),
        ([K8S + "{}", "other", "chat"], "other, chat", "chat"),
        (["other", K8S + "{}"], "other", None),
    ],
    ids=repr,
)
def test_s58_token_of_kubernetes_clients_is_taken_and_taken_out(
    site: Site,
    sockets: Sockets,
    token: str,
    offered: list[str],
    left: str,
    answered: str | None,
) -> None:
    """As the name says, and as those clients do, the token is in base64url there."""
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    answer = sockets.handshake(headers=[offer(*(e.format(encoded) for e in offered))])
    assert answer.status == 101, answer.body
    assert answer["Sec-WebSocket-Protocol"] == answered
    seen = site.ws.last()
    assert seen["Sec-WebSocket-Protocol"] == left
    assert not seen.mentions(encoded)


def test_token_of_kubernetes_clients_needs_a_protocol_beside_it(
    site: Site, sockets: Sockets, token: str
) -> None:
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    before = len(site.ws.requests)
    assert sockets.handshake(headers=[offer(K8S + encoded)]).status == 400
    assert len(site.ws.requests) == before


def test_subprotocol_in_several_headers_is_one_list(
    site: Site, sockets: Sockets, token: str
) -> None:
    answer = sockets.handshake(headers=[offer("chat", "bearer"), offer(token)])
    assert answer.status == 101
    assert answer["Sec-WebSocket-Protocol"] == "chat"
    assert not site.ws.last().mentions(token)


@pytest.mark.parametrize(
    "offered",
    [["bearer", UNKNOWN], ["chat", "bearer", UNKNOWN], [PREFIX + UNKNOWN, "chat"]],
    ids=repr,
)
def test_unknown_token_in_a_subprotocol_is_refused(
    site: Site, sockets: Sockets, offered: list[str]
) -> None:
    before = len(site.ws.requests)
    unauthorized(sockets.handshake(headers=[offer(*offered)]), INVALID)
    assert len(site.ws.requests) == before


def test_subprotocols_without_a_token_are_a_missing_token(sockets: Sockets) -> None:
    unauthorized(sockets.handshake(headers=[offer("chat", "other")]), MISSING)


@pytest.mark.parametrize(
    "offered",
    [
        ["bearer", "{}", PREFIX + "{}"],
        [PREFIX + "{}", PREFIX + "{}", "chat"],
        [PREFIX + "{}", PREFIX + UNKNOWN, "chat"],
    ],
    ids=repr,
)
def test_two_tokens_are_a_bad_request(
    site: Site, sockets: Sockets, token: str, offered: list[str]
) -> None:
    before = len(site.ws.requests)
    answer = sockets.handshake(headers=[offer(*(e.format(token) for e in offered))])
    assert answer.status == 400
    assert token.encode() not in answer.body
    assert len(site.ws.requests) == before


@pytest.mark.parametrize("where", ["header", "query"])
def test_s58_subprotocol_is_not_asked_where_header_or_query_hold_a_token(
    site: Site, sockets: Sockets, token: str, where: str
) -> None:
    """And what looks like a token there goes no further all the same."""
    headers = [offer("chat", "bearer", UNKNOWN)]
    target = f"?access_token={token}" if where == "query" else ""
    answer = sockets.handshake(token if where == "header" else None, headers, target=target)
    assert answer.status == 101
    seen = site.ws.last()
    assert seen["Sec-WebSocket-Protocol"] == "chat"
    assert not seen.mentions(UNKNOWN)


def test_wrong_header_is_not_made_good_by_a_subprotocol(sockets: Sockets, token: str) -> None:
    unauthorized(sockets.handshake(UNKNOWN, [offer("bearer", token)]), INVALID)
    target = f"?access_token={UNKNOWN}"
    unauthorized(sockets.handshake(headers=[offer("bearer", token)], target=target), INVALID)


def test_carriers_that_are_not_named_are_none(site: Site, app: App) -> None:
    sockets = site.sockets(token_carriers=["subprotocol"])
    token = sockets.issuer.access(app)
    assert sockets.handshake(headers=[offer("bearer", token)]).status == 101
    unauthorized(sockets.handshake(token), MISSING)
    unauthorized(sockets.handshake(target=f"?access_token={token}"), MISSING)
    unauthorized(sockets.handshake(headers=[("Cookie", f"sid={token}")]), MISSING)


# --- cookie --------------------------------------------------------------------------------------


def with_cookie(value: str, origin: str | None = ORIGIN) -> list[tuple[str, str]]:
    return [("Cookie", value), *([("Origin", origin)] if origin else [])]


@pytest.mark.parametrize(
    ("cookie", "left"),
    [
        ("sid={}", None),
        ("a=b; sid={}; c=d", "a=b; c=d"),
        ("sid={}; xsid=1; sidx=2", "xsid=1; sidx=2"),
    ],
)
def test_s60_cookie_of_a_listed_origin_is_taken_and_taken_out(
    site: Site, sockets: Sockets, token: str, cookie: str, left: str | None
) -> None:
    answer = sockets.handshake(headers=with_cookie(cookie.format(token)))
    assert answer.status == 101, answer.body
    seen = site.ws.last()
    assert seen["Cookie"] == left
    assert seen["Origin"] == ORIGIN
    assert not seen.mentions(token)


def test_s60_cookie_without_origin_is_no_token(site: Site, sockets: Sockets, token: str) -> None:
    before = len(site.ws.requests)
    unauthorized(sockets.handshake(headers=with_cookie(f"sid={token}", None)), MISSING)
    assert len(site.ws.requests) == before


def test_s60_cookie_of_a_foreign_page_is_refused(site: Site, sockets: Sockets, token: str) -> None:
    before = len(site.ws.requests)
    answer = sockets.handshake(headers=with_cookie(f"sid={token}", FOREIGN))
    assert answer.status == 403
    assert len(site.ws.requests) == before


def test_s60_cookie_without_a_list_of_origins_is_no_token(site: Site, app: App) -> None:
    """Then no page is a listed one: a foreign one with the user's cookies gets 401."""
    sockets = site.sockets(**CONFIG)
    token = sockets.issuer.access(app)
    before = len(site.ws.requests)
    for origin in (ORIGIN, FOREIGN, None):
        answer = sockets.handshake(headers=with_cookie(f"sid={token}", origin))
        unauthorized(answer, MISSING)
    assert len(site.ws.requests) == before
    assert sockets.handshake(token).status == 101


def test_s60_cookie_is_no_token_unless_named(site: Site, app: App) -> None:
    sockets = site.sockets({"allowed_origins": [ORIGIN]})
    token = sockets.issuer.access(app)
    for name in ("sid", "access_token", "token", "authorization"):
        answer = sockets.handshake(headers=with_cookie(f"{name}={token}"))
        unauthorized(answer, MISSING)


def test_cookie_of_another_name_is_no_token(sockets: Sockets, token: str) -> None:
    for cookie in (f"SID={token}", f"xsid={token}", f"sidx={token}"):
        unauthorized(sockets.handshake(headers=with_cookie(cookie)), MISSING)


def test_unknown_token_in_a_cookie_is_refused(sockets: Sockets) -> None:
    unauthorized(sockets.handshake(headers=with_cookie(f"sid={UNKNOWN}")), INVALID)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://app.test.evil.test",
        "https://xapp.test",
        "https://sub.app.test",
        "https://app.test.",
        "https://APP.test",
        "https://app.test:444",
        "http://app.test",
        "https://app.test/",
        "app.test",
    ],
)
def test_s59_only_the_listed_origin_passes(
    site: Site, sockets: Sockets, token: str, origin: str
) -> None:
    before = len(site.ws.requests)
    assert sockets.handshake(token, [("Origin", origin)]).status == 403
    assert len(site.ws.requests) == before


def test_s59_listed_origin_passes_and_so_does_none(sockets: Sockets, token: str) -> None:
    assert sockets.handshake(token, [("Origin", ORIGIN)]).status == 101
    assert sockets.handshake(token).status == 101


# --- ticket --------------------------------------------------------------------------------------


def ask_ticket(sockets: Sockets, token: str | None, uri: Any = None, **more: Any) -> Answer:
    """A request for a ticket to open this WebSocket, from ORIGIN's page."""
    fields = [("Origin", more.pop("origin", ORIGIN))]
    if token is not None:
        fields.append(bearer(token))
    body = {"uri": f"ws://gateway.test{sockets.path}" if uri is None else uri}
    return sockets.issuer.endpoint("ticket", json_body=body, headers=fields, **more)


def ticket(sockets: Sockets, token: str) -> str:
    answer = ask_ticket(sockets, token)
    assert answer.status == 201, (answer.status, answer.body)
    assert answer.json.keys() == {"ticket", "expires_in"}
    assert answer.json["expires_in"] == 30
    return str(answer.json["ticket"])


FROM_PAGE = [("Origin", ORIGIN)]
HOST = ("Host", "gateway.test")


@pytest.mark.parametrize("where", ["query", "subprotocol"])
def test_ticket_opens_one_websocket(
    site: Site, sockets: Sockets, token: str, app: App, where: str
) -> None:
    mine = sockets.issuer.access(app, scope="email")
    value = ticket(sockets, mine)

    def use() -> Answer:
        if where == "query":
            return sockets.handshake(headers=FROM_PAGE, target=f"?a=b&ticket={value}&c=d")
        return sockets.handshake(
            headers=[*FROM_PAGE, offer("chat", f"ticket.{value}")], target="?a=b&c=d"
        )

    answer = use()
    assert answer.status == 101, answer.body
    assert answer["Sec-WebSocket-Protocol"] == ("chat" if where == "subprotocol" else None)
    seen = site.ws.last()
    assert seen.target == f"{sockets.path}?a=b&c=d"
    assert not seen.mentions(value) and not seen.mentions(mine)
    assert seen["X-Credential-Identifier"] == app.id
    assert seen["X-Authenticated-Scope"] == "email"
    # Once.
    before = len(site.ws.requests)
    unauthorized(use(), INVALID)
    assert len(site.ws.requests) == before


def test_ticket_of_a_jwt_that_no_data_plane_has_seen_opens_a_websocket(
    site: Site, app: App
) -> None:
    issuer = f"https://{unique('tickets')}.test"
    sockets = site.sockets(
        {"allowed_origins": [ORIGIN]}, token_format="jwt", issuer=issuer, **CONFIG
    )
    issued = sockets.issuer.client_credentials(app, scope="email")
    mine = str(issued.json["access_token"])
    value = ticket(sockets, mine)
    answer = sockets.handshake(headers=FROM_PAGE, target=f"?ticket={value}")
    assert answer.status == 101, answer.body
    assert site.ws.last()["X-Authenticated-Scope"] == "email"


def test_ticket_is_random_and_new_each_time(sockets: Sockets, token: str) -> None:
    values = {ticket(sockets, token) for _ in range(5)}
    assert len(values) == 5
    assert all(len(value) >= 22 for value in values)


def test_unknown_ticket_is_refused(sockets: Sockets) -> None:
    unauthorized(sockets.handshake(headers=FROM_PAGE, target="?ticket=nonsense"), INVALID)
    headers = [*FROM_PAGE, offer("chat", "ticket.nonsense")]
    unauthorized(sockets.handshake(headers=headers), INVALID)


@pytest.mark.parametrize("wrong", ["path", "host", "origin", "no origin"])
def test_ticket_is_for_the_host_path_and_origin_it_was_asked_for(
    site: Site, sockets: Sockets, token: str, wrong: str
) -> None:
    value = ticket(sockets, token)
    headers = [] if wrong == "no origin" else [("Origin", ORIGIN)]
    if wrong == "origin":
        # A second page that is listed too would be needed; a foreign one is refused anyway.
        headers = [("Origin", FOREIGN)]
    if wrong == "host":
        headers.append(("Host", "other.test"))
    path = sockets.path + ("/deeper" if wrong == "path" else "")
    answer = site.handshake(f"{path}?ticket={value}", headers)
    assert answer.status == (403 if wrong == "origin" else 401)


@pytest.mark.parametrize("sent", [None, UNKNOWN], ids=["none", "unknown"])
def test_ticket_needs_a_good_token(sockets: Sockets, sent: str | None) -> None:
    answer = ask_ticket(sockets, sent)
    assert answer.status == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")  # type: ignore[union-attr]
    assert "ticket" not in answer.json


@pytest.mark.parametrize(
    "uri",
    ["", "/path", "gateway.test/path", "http://gateway.test/x", "wss://", "wss:///x", 7, [], None],
    ids=repr,
)
def test_ticket_needs_the_uri_of_a_websocket(sockets: Sockets, token: str, uri: Any) -> None:
    body = {"uri": uri} if uri is not None else {}
    answer = sockets.issuer.endpoint("ticket", json_body=body, headers=[bearer(token)])
    assert answer.status == 400
    assert answer.json["error"] in ("invalid_request", "invalid_target")


def test_ticket_is_no_bearer_token(sockets: Sockets, token: str) -> None:
    value = ticket(sockets, token)
    unauthorized(sockets.handshake(value, FROM_PAGE), INVALID)
    unauthorized(sockets.handshake(headers=FROM_PAGE, target=f"?access_token={value}"), INVALID)


def test_token_is_no_ticket(sockets: Sockets, token: str) -> None:
    unauthorized(sockets.handshake(headers=FROM_PAGE, target=f"?ticket={token}"), INVALID)


def test_ticket_of_a_token_that_was_revoked_is_refused(sockets: Sockets, app: App) -> None:
    mine = sockets.issuer.access(app)
    value = ticket(sockets, mine)
    sockets.site.admin("DELETE", f"/oauth2_tokens/{mine}", 204)
    eventually(lambda: sockets.handshake(mine).status == 401, 5)
    answer = sockets.handshake(headers=FROM_PAGE, target=f"?ticket={value}")
    unauthorized(answer, INVALID)


def test_ticket_is_taken_out_though_the_header_holds_a_token(
    site: Site, sockets: Sockets, token: str
) -> None:
    value = ticket(sockets, token)
    answer = sockets.handshake(token, FROM_PAGE, target=f"?ticket={value}")
    assert answer.status == 101
    assert not site.ws.last().mentions(value)


def test_ticket_is_redeemed_once_by_many_at_once(site: Site, sockets: Sockets, token: str) -> None:
    target = f"{sockets.path}?ticket={ticket(sockets, token)}"
    connections = [site.connection(tls=False) for _ in range(20)]
    try:
        for connection in connections:
            connection.connect()
        for connection in connections:
            connection.request("GET", target, headers=dict([*UPGRADE, *FROM_PAGE, HOST]))
        statuses = sorted(connection.getresponse().status for connection in connections)
    finally:
        for connection in connections:
            connection.close()
    assert statuses == [101] + [401] * 19


def test_session_of_a_ticket_is_its_tokens_and_ends_with_it(
    site: Site, sockets: Sockets, app: App
) -> None:
    mine = sockets.issuer.access(app)
    # The library names the host itself, so the ticket is for that one.
    host = sockets.url.removeprefix("ws://").partition("/")[0]
    answer = ask_ticket(sockets, mine, f"ws://{host}{sockets.path}")
    uri = f"{sockets.url}?ticket={answer.json['ticket']}"
    with connect(uri, origin=ORIGIN, proxy=None) as socket:  # type: ignore[arg-type]
        socket.send("hello")
        assert socket.recv(timeout=10) == "hello"
        site.admin("DELETE", f"/oauth2_tokens/{mine}", 204)
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=10)
    assert ended.value.rcvd is not None and ended.value.rcvd.code == 4401


@pytest.mark.parametrize("name", ["ticket", "sessions"])
@pytest.mark.parametrize(("origin", "good"), [(ORIGIN, True), (FOREIGN, False)])
def test_preflight_of_a_listed_origin_is_answered(
    site: Site, sockets: Sockets, name: str, origin: str, good: bool
) -> None:
    """Although the route has only POST."""
    headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization, content-type"),
    ]
    answer = site.ask("OPTIONS", f"{sockets.issuer.path}/oauth2/{name}", headers=headers)
    if good:
        assert answer.status in (200, 204)
        assert answer["Access-Control-Allow-Origin"] == origin
        assert "POST" in str(answer["Access-Control-Allow-Methods"])
        assert "authorization" in str(answer["Access-Control-Allow-Headers"]).lower()
    else:
        assert answer["Access-Control-Allow-Origin"] is None


def test_ticket_is_shown_to_the_page_that_asked(sockets: Sockets, token: str) -> None:
    assert ask_ticket(sockets, token)["Access-Control-Allow-Origin"] == ORIGIN
    assert ask_ticket(sockets, token, origin=FOREIGN)["Access-Control-Allow-Origin"] is None


def test_s95_no_carrier_reaches_an_error_or_a_log_line(
    site: Site, sockets: Sockets, app: App
) -> None:
    mine = sockets.issuer.access(app)
    value = ticket(sockets, mine)
    canary = "canary-token-that-nobody-knows"
    refusals = [
        sockets.handshake(headers=[offer("chat", "bearer", canary)]),
        sockets.handshake(headers=[offer("chat", PREFIX + canary)]),
        sockets.handshake(headers=with_cookie(f"sid={canary}")),
        sockets.handshake(headers=FROM_PAGE, target=f"?ticket={canary}"),
        sockets.handshake(canary, target=f"?access_token={canary}"),
    ]
    for answer in refusals:
        assert answer.status in (400, 401)
        assert canary.encode() not in answer.body + repr(answer.fields).encode()
    assert sockets.handshake(headers=FROM_PAGE, target=f"?ticket={value}").status == 101
    assert sockets.handshake(headers=[offer("chat", "bearer", mine)]).status == 101
    assert sockets.handshake(headers=with_cookie(f"sid={mine}")).status == 101

    def written() -> str:
        return "".join(process.output() for process in site.gateway.processes)

    def told() -> bool:
        lines = [line for line in written().splitlines() if sockets.route["id"] in line]
        ended = sum("session.ended" in line for line in lines)
        return ended >= 3 and any("handshake.refused" in line for line in lines)

    eventually(told, 10, "log lines of these handshakes")
    metrics = site.gateway.status("/metrics").text
    for secret in (canary, mine, value):
        assert secret not in written()
        assert secret not in metrics
