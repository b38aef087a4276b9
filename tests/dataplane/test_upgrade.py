"""A WebSocket on an http or https route, routing-and-proxy.md §11, and statements about heads."""

from __future__ import annotations

import pytest

from tests.dataplane.engine_kit import (
    KEY,
    TEXT,
    UPGRADE,
    Line,
    Rig,
    accept_of,
    close,
    frame,
    handshake,
    request,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asked(rig: Rig, *sent: bytes) -> tuple[Line, Line]:
    client = rig.client(*(sent or (handshake(),)))
    upstream = rig.upstream.accept()
    upstream.head()
    return client, upstream


# --- the way through ------------------------------------------------------------------------------


def test_handshake_and_answer_pass_unchanged(rig: Rig) -> None:
    rig.http_route()
    client = rig.client(
        handshake(
            b"/chat?x=y",
            b"Sec-WebSocket-Protocol: a, b",
            b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover, x-own",
            b"Origin: https://page.test",
        )
    )
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.line == "GET /chat?x=y HTTP/1.1"
    assert head.get("Connection") == "keep-alive, Upgrade"
    assert head.get("Upgrade") == "websocket"
    assert head.get("Sec-WebSocket-Key") == KEY.decode()
    assert head.get("Sec-WebSocket-Version") == "13"
    assert head.get("Sec-WebSocket-Protocol") == "a, b"
    assert head.get("Sec-WebSocket-Extensions") == (
        "permessage-deflate; client_no_context_takeover, x-own"
    )
    assert head.get("Origin") == "https://page.test"
    assert head.get("X-Forwarded-Proto") == "http"
    assert client.silent()
    upstream.send(
        b"HTTP/1.1 101 Web Socket Protocol Handshake\r\nupgrade: WebSocket\r\n"
        b"connection: Keep-Alive, upgrade\r\nSec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n"
        b"Sec-WebSocket-Protocol: never-offered\r\nSec-WebSocket-Extensions: x-own\r\n\r\n"
    )
    answer = client.head()
    assert answer.status == 101
    assert answer.get("Upgrade") == "WebSocket"
    assert answer.get("Connection") == "Keep-Alive, upgrade"
    assert answer.get("Sec-WebSocket-Accept") == accept_of(KEY).decode()
    assert answer.get("Sec-WebSocket-Protocol") == "never-offered"
    assert answer.get("Sec-WebSocket-Extensions") == "x-own"
    assert answer.get("Via") == "1.1 narthex/test"
    client.send(up(TEXT, b"hello"))
    assert upstream.frame().payload == b"hello"
    upstream.send(frame(TEXT, b"there"))
    assert client.frame().raw == frame(TEXT, b"there")
    assert (rig.count("live_sessions"), rig.count("live_exchanges")) == (1, 0)


@pytest.mark.parametrize(
    "fields",
    [
        (b"Upgrade: websocket", b"Connection: upgrade"),
        (b"Upgrade: websocket",),
        (b"Upgrade: WEBSOCKET, x", b"Connection: Upgrade", b"Sec-WebSocket-Version: 8"),
    ],
)
def test_handshake_is_the_upstreams_to_judge(rig: Rig, fields: tuple[bytes, ...]) -> None:
    """No key, another version: nothing of it is checked here."""
    rig.http_route()
    client, upstream = asked(rig, request(b"/", *fields))
    upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    )
    assert client.head().status == 101
    until(lambda: rig.count("live_sessions") == 1)


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.0", b"x, websocket"])
def test_other_upgrades_are_dropped(rig: Rig, upgrade: bytes) -> None:
    rig.http_route()
    fields = (b"Upgrade: " + upgrade, b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: x")
    client = rig.client(request(b"/", *fields))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("Upgrade") is None
    assert head.get("Connection") == "keep-alive"
    assert head.get("HTTP2-Settings") is None
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_upgrade_of_http_1_0_is_none(rig: Rig) -> None:
    rig.http_route()
    client = rig.client(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    upstream = rig.upstream.accept()
    assert upstream.head().get("Upgrade") is None
    upstream.send(OK)
    assert client.message()[0].status == 200


def test_handshakes_to_a_full_gateway_are_a_503_and_requests_are_not() -> None:
    with new_rig(1, max_sessions=1) as rig:
        rig.http_route()
        _, upstream = asked(rig)
        upstream.send(switching())
        until(lambda: rig.count("live_sessions") == 1)
        assert rig.client(handshake()).answer()[0].status == 503
        client, upstream = asked(rig, request())
        upstream.send(OK)
        assert client.message()[1] == b"ok"


# --- S44, S45, S46 on http routes -----------------------------------------------------------------


def test_s44_other_answer_is_relayed_and_the_clients_next_bytes_go_elsewhere(rig: Rig) -> None:
    rig.http_route()
    client, upstream = asked(rig)
    upstream.send(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")
    head, body = client.message()
    assert (head.status, body) == (403, b"no")
    assert rig.record("refused")["status"] == 403
    client.send(request(b"/next"))
    assert upstream.rest() == b""
    another = rig.upstream.accept()
    assert another.head().target == "/next"
    another.send(OK)
    assert client.message()[1] == b"ok"


@pytest.mark.parametrize("kind", ["http", "ws"])
def test_s44_what_came_behind_a_refused_handshake_is_judged_anew(rig: Rig, kind: str) -> None:
    """It waited for the 101; now it is a request like any other, on an upstream of its own."""
    rig.http_route() if kind == "http" else rig.open_route()
    client, upstream = asked(rig, handshake(), request(b"/next"))
    assert upstream.silent()
    upstream.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    head, body = client.message()
    assert (head.status, body) == (403, b"no")
    assert upstream.rest() == b""
    if kind == "http":
        another = rig.upstream.accept()
        assert another.head().target == "/next"
        another.send(OK)
        assert client.message()[1] == b"ok"
    else:
        assert client.answer()[0].status == 426
        assert rig.upstream.untouched()


@pytest.mark.parametrize("kind", ["http", "ws"])
@pytest.mark.parametrize(
    "answer",
    [
        switching().replace(b"Upgrade: websocket\r\n", b""),
        switching().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        switching().replace(b"Connection: Upgrade\r\n", b""),
        switching().replace(b"Connection: Upgrade", b"Connection: keep-alive"),
        switching(accept=accept_of(b"another")),
        switching().replace(b"Sec-WebSocket-Accept", b"X-Accept"),
        switching(b"Sec-WebSocket-Accept: " + accept_of(KEY)),
    ],
)
def test_s45_bad_101_is_a_502_and_closes_both_sides(rig: Rig, answer: bytes, kind: str) -> None:
    """What the client sent behind its handshake is then no request either."""
    rig.http_route() if kind == "http" else rig.open_route()
    client, upstream = asked(rig, handshake(), request(b"/smuggled"))
    upstream.send(answer + frame(TEXT, b"smuggled"))
    head, body = client.answer()
    assert (head.status, head.get("Connection")) == (502, "close")
    assert body.startswith(b"An invalid response was received from the upstream server")
    assert client.rest() == b""
    assert upstream.rest() == b""
    assert rig.upstream.untouched()
    assert rig.count("sessions_total") == 0


@pytest.mark.parametrize("key", [b"short", KEY + b"x", KEY[:-1]])
def test_s45_101_to_a_key_that_has_no_answer_is_a_502(rig: Rig, key: bytes) -> None:
    rig.http_route()
    sent = request(b"/", *UPGRADE[:2], b"Sec-WebSocket-Key: " + key, UPGRADE[3])
    client, upstream = asked(rig, sent)
    upstream.send(switching(accept=accept_of(key)))
    assert client.answer()[0].status == 502
    assert upstream.rest() == b"" == client.rest()


def test_s45_101_nobody_asked_for_is_a_502(rig: Rig) -> None:
    rig.http_route()
    client, upstream = asked(rig, request())
    upstream.send(switching())
    assert client.answer()[0].status == 502
    assert upstream.rest() == b"" == client.rest()


def test_s46_what_comes_behind_a_handshake_waits_for_the_101_and_is_frames(rig: Rig) -> None:
    rig.http_route()
    early = up(TEXT, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    client, upstream = asked(rig, handshake() + early)
    assert upstream.silent()
    client.send(up(TEXT, b"later"))
    assert upstream.silent()
    upstream.send(switching())
    assert upstream.frame().payload == b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    assert upstream.frame().payload == b"later"
    assert rig.upstream.untouched()


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_s46_request_behind_a_handshake_is_a_broken_frame_once_switched(rig: Rig, cut: int) -> None:
    """None of it is forwarded, as a request or otherwise; some of it comes after the 101."""
    rig.open_route()
    smuggled = request(b"/smuggled")
    client, upstream = asked(rig, handshake(), smuggled[: len(smuggled) - cut])
    assert upstream.silent()
    upstream.send(switching())
    assert client.head().status == 101
    client.send(smuggled[len(smuggled) - cut :])
    assert upstream.frame().code == 1001
    upstream.send(close(1001))
    assert client.frame().code == 1002
    assert client.rest() == b"" == upstream.rest()
    assert rig.upstream.untouched()


# --- S42, S51, S52 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "versions",
    [(), (b"",), (b"8",), (b"14",), (b"013",), (b"13, 8",), (b"13", b"13"), (b"8", b"13")],
)
def test_s42_version_missing_other_or_repeated_is_a_426(
    rig: Rig, versions: tuple[bytes, ...]
) -> None:
    rig.open_route()
    fields = [b"Sec-WebSocket-Version: " + version for version in versions]
    client = rig.client(request(b"/", *UPGRADE[:3], *fields))
    head, _ = client.answer()
    assert (head.status, head.get("Sec-WebSocket-Version")) == (426, "13")
    assert rig.upstream.untouched()


LIMITS = [
    (b"GET /" + b"a" * 8178 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 200),  # a line of 8192 bytes
    (b"GET /" + b"a" * 8179 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /" + b"a" * 60_000, 414),  # which never ends
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 8189 + b"\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 8190 + b"\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 60_000, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 99 + b"\r\n", 200),  # 100 fields
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100 + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"a" * 4000) * 8 + b"\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"a" * 4000) * 9 + b"\r\n", 400),
]


@pytest.mark.parametrize("kind", ["http", "ws"])
@pytest.mark.parametrize(("sent", "status"), LIMITS)
def test_s51_heads_have_bounds(rig: Rig, sent: bytes, status: int, kind: str) -> None:
    rig.http_route() if kind == "http" else rig.open_route()
    client = rig.client(sent)
    if status == 200 and kind == "http":
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(OK)
        assert client.message()[1] == b"ok"
        return
    head, body = client.answer()
    if status == 200:
        assert head.status == 426  # it was read: no handshake
        return
    assert (head.status, head.get("Connection")) == (status, "close")
    said = "URI too long" if status == 414 else "Request header or cookie too large"
    assert body.decode().startswith(said)
    assert client.rest() == b""
    assert rig.upstream.untouched()


@pytest.mark.parametrize("pieces", [1, 8])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 8178,
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 8180,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 99,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"a" * 8000) * 4 + b"Y: " + b"a" * 600,
    ],
    ids=["line", "field", "fields", "head"],
)
def test_s51_head_without_an_end_takes_no_more_than_its_limit(head: bytes, pieces: int) -> None:
    """200 of them, each just under its bound, and what a connection takes without one."""
    count = 200
    with new_rig(1) as rig:
        rig.http_route()
        idle = [rig.client(head[:1]) for _ in range(count)]  # the slots are there from now on
        until(lambda: rig.count("connections") == count)
        for client in idle:
            client.close()
        rig.idle()
        rig.lines.clear()
        before = rss_kib()
        clients = [rig.client(head[:1]) for _ in range(count)]
        step = len(head) // pieces + 1
        for at in range(1, len(head), step):
            for client in clients:
                client.send(head[at : at + step])
            assert all(client.silent(0) for client in clients)
        # Events are served in their order: when this is answered, all of that was read.
        assert rig.client(request(method=b"TRACE")).answer()[0].status == 405
        assert rss_kib() - before < count * (32 + 1) + 512
        for client in clients:  # they were read: the byte over a bound is answered at once
            client.send(b"a" * 8192 + b"\r\n" * 2 + b"X: a\r\n" * 100)
            assert client.answer()[0].status in (400, 414)


@pytest.mark.parametrize("kind", ["http", "ws"])
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([b"Content-Length: 1"], b"x"),
        ([b"Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        ([b"Content-Length: 60000"], b""),
    ],
)
def test_s52_handshake_with_a_body_is_a_400(
    rig: Rig, kind: str, fields: list[bytes], body: bytes
) -> None:
    rig.http_route() if kind == "http" else rig.open_route()
    head, said = rig.client(handshake(b"/", *fields) + body).answer()
    assert head.status == 400
    assert b"a body is not allowed" in said
    assert rig.upstream.untouched()
