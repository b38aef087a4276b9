"""Sessions that follow the grant, and refusals that a script can read.  spec/oauth2.md §14."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from tests.gateway.oauth2.answers import issued
from tests.gateway.oauth2.apis import App, Sockets, bearer
from tests.gateway.oauth2.kit import Site
from tests.harness import eventually

UNKNOWN = "A" * 32
ORIGIN = "https://app.test"
LATE = 1.5  # seconds after its end at which a session may still be there: one, and the clock's


class Opened:
    """Opens WebSockets and closes all of them in the end."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def __call__(
        self, sockets: Sockets, token: str | None = None, **options: Any
    ) -> ClientConnection:
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        socket = connect(sockets.url, additional_headers=headers, proxy=None, **options)
        return self.stack.enter_context(socket)


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    with made.stack:
        yield made


def closing(socket: ClientConnection, seconds: float = 20) -> Close:
    """The Close that ends this session."""
    with pytest.raises(ConnectionClosed) as ended:
        socket.recv(timeout=seconds)
    assert ended.value.rcvd is not None
    return ended.value.rcvd


def echoes(socket: ClientConnection) -> None:
    socket.send("still here")
    assert socket.recv(timeout=10) == "still here"


def pair(sockets: Sockets, app: App) -> dict[str, Any]:
    return sockets.issuer.pair(app)


# --- ends ----------------------------------------------------------------------------------------


def test_session_ends_when_its_token_expires(site: Site, app: App, opened: Opened) -> None:
    sockets = site.sockets(token_expiration=2)
    token = sockets.issuer.access(app)
    expires = time.time() + 2
    socket = opened(sockets, token)
    echoes(socket)
    assert closing(socket).code == 4401
    assert expires - 1.1 <= time.time() <= expires + LATE


@pytest.mark.parametrize("what", ["token", "credential", "consumer"])
def test_session_ends_with_what_it_depends_on(site: Site, opened: Opened, what: str) -> None:
    sockets = site.sockets()
    owner = site.consumer()
    app, unharmed = site.app(owner), site.shared_app()
    token = sockets.issuer.access(app)
    socket, other = opened(sockets, token), opened(sockets, sockets.issuer.access(unharmed))
    echoes(socket)
    path = {
        "token": f"/oauth2_tokens/{token}",
        "credential": f"/oauth2/{app.id}",
        "consumer": f"/consumers/{owner['id']}",
    }[what]
    site.admin("DELETE", path, 204)
    assert closing(socket, 10).code == (4401 if what == "token" else 4403)
    echoes(other)


def test_ignored_expiry_leaves_sessions_open(site: Site, app: App, opened: Opened) -> None:
    """Shown beside one that ends: both have the same token."""
    closed, kept = site.sockets(token_expiration=2), site.sockets(session_expiry="ignore")
    token = closed.issuer.access(app)
    ends, stays = opened(closed, token), opened(kept, token)
    assert closing(ends).code == 4401
    assert kept.handshake(token).status == 401
    echoes(stays)


def test_session_max_age_ends_any_session(site: Site, app: App, opened: Opened) -> None:
    sockets = site.sockets(session_max_age=2)
    begun = time.time()
    socket = opened(sockets, sockets.issuer.access(app))
    echoes(socket)
    assert closing(socket).code == 4401
    assert begun + 1.9 <= time.time() <= begun + 2 + LATE


# --- refresh -------------------------------------------------------------------------------------


def test_refresh_moves_the_deadline_of_its_sessions_and_of_no_others(
    site: Site, app: App, opened: Opened
) -> None:
    sockets = site.sockets(token_expiration=3)
    mine, others = pair(sockets, app), pair(sockets, app)
    moved, left = opened(sockets, mine["access_token"]), opened(sockets, others["access_token"])
    # Let the clock of the first tokens run on, so that the new token's end is another.
    begun = time.time()
    eventually(lambda: time.time() > begun + 1, 5)
    new = issued(sockets.issuer.refresh(app, mine["refresh_token"]))
    assert closing(left).code == 4401
    echoes(moved)
    assert sockets.handshake(mine["access_token"]).status == 401
    assert sockets.handshake(new["access_token"]).status == 101
    assert closing(moved).code == 4401


def test_refresh_moves_nothing_where_sessions_follow_nothing(
    site: Site, app: App, opened: Opened
) -> None:
    sockets = site.sockets(token_expiration=3, session_follow="none")
    mine = pair(sockets, app)
    expires = time.time() + 3
    socket = opened(sockets, mine["access_token"])
    eventually(lambda: time.time() > expires - 2, 5)
    new = issued(sockets.issuer.refresh(app, mine["refresh_token"]))
    assert closing(socket).code == 4401
    assert time.time() <= expires + LATE
    assert sockets.handshake(new["access_token"]).status == 101


def test_newer_token_of_the_credential_moves_sessions_where_they_follow_it(
    site: Site, app: App, opened: Opened
) -> None:
    follow = site.sockets(token_expiration=3, session_follow="credential")
    plain = site.sockets(token_expiration=3)
    kept = opened(follow, follow.issuer.access(app))
    ends = opened(plain, plain.issuer.access(app))
    begun = time.time()
    eventually(lambda: time.time() > begun + 1, 5)
    follow.issuer.access(app)
    plain.issuer.access(app)
    assert closing(ends).code == 4401
    echoes(kept)
    assert closing(kept).code == 4401


def test_newer_token_that_is_another_users_or_says_more_moves_nothing(
    site: Site, opened: Opened
) -> None:
    sockets = site.sockets(token_expiration=3, session_follow="credential")
    apps = [site.app() for _ in range(3)]

    def ask(app: App, **params: Any) -> str:
        return str(issued(sockets.issuer.password(app, **params))["access_token"])

    kept, wider, other = (opened(sockets, ask(app, scope="email profile")) for app in apps)
    begun = time.time()
    eventually(lambda: time.time() > begun + 1, 5)
    ask(apps[0], scope="email")
    ask(apps[1], scope="email profile user.email")
    ask(apps[2], scope="email", authenticated_userid="somebody else")
    assert closing(wider).code == closing(other).code == 4401
    echoes(kept)


def test_revoked_token_takes_its_sessions_along_though_there_is_a_newer_one(
    site: Site, app: App, opened: Opened
) -> None:
    sockets = site.sockets(session_follow="credential")
    old = sockets.issuer.access(app)
    socket = opened(sockets, old)
    site.admin("DELETE", f"/oauth2_tokens/{old}", 204)
    sockets.issuer.access(app)
    assert closing(socket, 10).code == 4401


# --- the sessions endpoint -----------------------------------------------------------------------


def hand_over(sockets: Sockets, new: str | None, old: Any) -> Any:
    headers = [bearer(new)] if new is not None else []
    return sockets.issuer.endpoint("sessions", json_body={"token": old}, headers=headers)


def test_sessions_go_over_to_a_new_token(site: Site, app: App, opened: Opened) -> None:
    sockets = site.sockets(token_expiration=3)
    old = sockets.issuer.access(app)
    both = [opened(sockets, old), opened(sockets, old)]
    left = opened(sockets, sockets.issuer.access(app))
    begun = time.time()
    eventually(lambda: time.time() > begun + 1, 5)
    answer = hand_over(sockets, sockets.issuer.access(app), old)
    assert (answer.status, answer.json) == (200, {"sessions": 2}), answer.body
    assert closing(left).code == 4401
    for socket in both:
        echoes(socket)
    assert {closing(socket).code for socket in both} == {4401}


def test_sessions_of_nobody_go_nowhere(site: Site, app: App) -> None:
    sockets = site.sockets()
    old, new = sockets.issuer.access(app), sockets.issuer.access(app)
    answer = hand_over(sockets, new, old)
    assert (answer.status, answer.json) == (200, {"sessions": 0})


@pytest.mark.parametrize("other", ["client", "user"])
def test_sessions_of_somebody_else_stay_where_they_are(
    site: Site, app: App, opened: Opened, other: str
) -> None:
    sockets = site.sockets()
    old = issued(sockets.issuer.password(app))["access_token"]
    socket = opened(sockets, old)
    if other == "client":
        new = issued(sockets.issuer.password(site.shared_app()))["access_token"]
    else:
        answer = sockets.issuer.password(app, authenticated_userid="somebody else")
        new = issued(answer)["access_token"]
    assert hand_over(sockets, new, old).status == 403
    echoes(socket)
    # It is still the old token's.
    site.admin("DELETE", f"/oauth2_tokens/{old}", 204)
    assert closing(socket, 10).code == 4401


@pytest.mark.parametrize("new", [None, UNKNOWN])
def test_sessions_endpoint_needs_a_good_token(site: Site, app: App, new: str | None) -> None:
    sockets = site.sockets()
    answer = hand_over(sockets, new, sockets.issuer.access(app))
    assert answer.status == 401
    assert str(answer["WWW-Authenticate"]).startswith("Bearer")


def test_session_that_went_over_ends_with_its_new_token(
    site: Site, app: App, opened: Opened
) -> None:
    sockets = site.sockets()
    old, new = sockets.issuer.access(app), sockets.issuer.access(app)
    socket = opened(sockets, old)
    assert hand_over(sockets, new, old).json == {"sessions": 1}
    site.admin("DELETE", f"/oauth2_tokens/{old}", 204)
    eventually(lambda: sockets.handshake(old).status == 401, 10)
    echoes(socket)
    site.admin("DELETE", f"/oauth2_tokens/{new}", 204)
    assert closing(socket, 10).code == 4401


# --- refusals that a script can read -------------------------------------------------------------


def refusal(opened: Opened, sockets: Sockets, **options: Any) -> tuple[ClientConnection, Close]:
    socket = opened(sockets, **options)
    return socket, closing(socket, 10)


@pytest.mark.parametrize(
    ("token", "error"), [(None, "invalid_request"), (UNKNOWN, "invalid_token")]
)
def test_refusal_is_a_close_where_that_is_asked_for(
    site: Site, opened: Opened, token: str | None, error: str
) -> None:
    sockets = site.sockets({"on_auth_failure": "close"})
    before = len(site.ws.requests)
    _, close = refusal(opened, sockets, token=token)
    assert close.code == 4401
    assert len(close.reason.encode()) <= 123
    assert json.loads(close.reason)["error"] == error
    assert len(site.ws.requests) == before


@pytest.mark.parametrize(
    ("headers", "origin", "closes"),
    [
        ({}, None, False),
        ({}, ORIGIN, True),
        ({"Sec-Fetch-Mode": "websocket"}, None, True),
        ({"Sec-Fetch-Mode": "cors"}, None, False),
    ],
    ids=["neither", "origin", "fetch mode", "another fetch mode"],
)
def test_auto_closes_for_browsers_only(
    site: Site, opened: Opened, headers: dict[str, str], origin: str | None, closes: bool
) -> None:
    sockets = site.sockets({"on_auth_failure": "auto"})
    options: dict[str, Any] = {"headers": headers, "origin": origin}
    if closes:
        assert refusal(opened, sockets, **options)[1].code == 4401
    else:
        with pytest.raises(InvalidStatus) as refused:
            opened(sockets, **options)
        assert refused.value.response.status_code == 401


def test_http_is_the_default_for_browsers_too(site: Site) -> None:
    sockets = site.sockets()
    headers = [("Origin", ORIGIN), ("Sec-Fetch-Mode", "websocket")]
    assert sockets.handshake(headers=headers).status == 401


def test_s58_closed_refusal_speaks_the_first_protocol_without_a_token(
    site: Site, opened: Opened
) -> None:
    sockets = site.sockets(
        {"on_auth_failure": "close"}, token_carriers=["header", "query", "subprotocol"]
    )
    options = {"subprotocols": ["bearer", UNKNOWN, "chat", "other"]}
    socket, close = refusal(opened, sockets, **options)
    assert close.code == 4401
    assert socket.subprotocol != UNKNOWN
    assert socket.subprotocol in ("bearer", "chat")


def test_wrong_handshake_is_refused_in_http_all_the_same(site: Site) -> None:
    sockets = site.sockets({"on_auth_failure": "close"})
    assert site.ask("GET", sockets.path, tls=False).status == 426


def test_good_token_is_not_touched_by_it(site: Site, app: App, opened: Opened) -> None:
    sockets = site.sockets({"on_auth_failure": "close"})
    echoes(opened(sockets, sockets.issuer.access(app)))
