"""From a client's head to its 101, or to the answer that it gets instead: _handshake.pyx."""

from __future__ import annotations

import json
import re
import socket
import time

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    BINARY,
    KEY,
    TEXT,
    UPGRADE,
    Head,
    Rig,
    accept_of,
    close,
    frame,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    text_id,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid
from tests.harness import free_ports

BAD_UPSTREAM = "An invalid response was received from the upstream server"
TIMING_OUT = "The upstream server is timing out"


def refusal(rig: Rig, *parts: bytes) -> tuple[Head, bytes]:
    """The answer to a request that goes nowhere."""
    return rig.client(*parts).answer()


def template(body: bytes) -> dict[str, str]:
    """An error body in JSON, byte for byte as the contract has it."""
    found = re.fullmatch(
        rb'\{\n  "message":"(.*)",\n  "request_id":"([0-9a-f]{32})"\n\}', body, re.DOTALL
    )
    assert found, body
    parsed: dict[str, str] = json.loads(body)
    return parsed


# --- the way through ------------------------------------------------------------------------------


def test_client_is_switched_after_the_upstream_was(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/chat"))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.line == "GET /chat HTTP/1.1"
    assert client.silent()
    upstream.send(switching())
    answer = client.head()
    assert answer.line == "HTTP/1.1 101 Switching Protocols"
    assert answer.get("Sec-WebSocket-Accept") == accept_of(KEY).decode()
    assert answer.get("Upgrade") == "websocket"
    assert answer.get("Connection") == "Upgrade"
    client.send(up(TEXT, b"hello"))
    assert upstream.frame().payload == b"hello"
    upstream.send(frame(TEXT, b"there"))
    assert client.frame().raw == frame(TEXT, b"there")
    assert rig.count("handshakes") == {101: 1}
    assert rig.count("live_sessions") == 1
    assert rig.users() == 1


def test_client_is_switched_wherever_its_head_is_cut(rig: Rig) -> None:
    rig.guarded_route()
    whole = handshake(b"/a?b=c", b"Authorization: Bearer " + rig.token()) + up(TEXT, b"now")
    for cut in range(1, len(whole)):
        client = rig.client(whole[:cut])
        client.send(whole[cut:])
        upstream = rig.upstream.accept()
        assert upstream.head().target == "/a?b=c"
        upstream.send(switching())
        assert client.head().status == 101
        assert upstream.frame().payload == b"now"
        client.close()
        upstream.close()
    until(lambda: rig.count("live_sessions") == 0)


def test_client_is_switched_when_its_head_comes_byte_by_byte(rig: Rig) -> None:
    rig.open_route()
    client = rig.connect()
    for byte in handshake():
        client.send(bytes([byte]))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101


def test_client_is_switched_wherever_the_upstreams_answer_is_cut(rig: Rig) -> None:
    rig.open_route()
    whole = switching(b"Server: far") + frame(TEXT, b"first")
    for cut in range(1, len(whole)):
        client = rig.client(handshake())
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(whole[:cut])
        upstream.send(whole[cut:])
        assert client.head().get("Server") == "far"
        assert client.frame().payload == b"first"
        client.close()
        upstream.close()
    until(lambda: rig.count("live_sessions") == 0)


def test_s46_frames_behind_a_handshake_are_held_until_the_upstream_switched(rig: Rig) -> None:
    """They are never part of a request."""
    rig.open_route()
    sent = up(TEXT, b"early") + up(BINARY, b"\x00" * 3000) + up(TEXT, b"GET / HTTP/1.1\r\n\r\n")
    client = rig.client(handshake(), sent)
    upstream = rig.upstream.accept()
    upstream.head()
    assert upstream.silent()
    client.send(up(TEXT, b"later"))
    assert upstream.silent()
    upstream.send(switching())
    assert [f.payload for f in upstream.frames(4)] == [
        b"early",
        b"\x00" * 3000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"later",
    ]
    assert client.head().status == 101


def test_a_flood_behind_a_handshake_waits_in_the_clients_socket(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    payload = bytes(range(256)) * 256
    client.send(up(BINARY, payload[:60000]))
    client.send(*[up(BINARY, payload[:1000]) for _ in range(100)])
    upstream.send(switching())
    assert upstream.frame().payload == payload[:60000]
    assert all(f.payload == payload[:1000] for f in upstream.frames(100))


def test_upstream_speaks_first_in_the_segment_of_its_answer(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching() + frame(TEXT, b"one") + frame(BINARY, b"two") + close(1000, b"bye"))
    client.head()
    assert [f.payload for f in client.frames(2)] == [b"one", b"two"]
    assert client.frame().raw == close(1000, b"bye")
    client.send(close(1000, b"", mask=b"abcd"))
    assert upstream.frame().code == 1000


@pytest.mark.parametrize("together", [True, False])
def test_interim_answers_of_the_upstream_are_passed_over(rig: Rig, together: bool) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    parts = [b"HTTP/1.1 100 Continue\r\n\r\n", hint, hint, switching(), frame(TEXT, b"x")]
    if together:
        upstream.send(*parts)
    else:
        for part in parts:
            upstream.send(part)
    assert client.head().status == 101
    assert client.frame().payload == b"x"


def test_endless_interim_answers_are_a_bad_gateway(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 20)
    assert client.answer()[0].status == 502
    assert upstream.rest() == b""


# --- answers of ours: §12.1, §13 ------------------------------------------------------------------


def test_unknown_path_is_not_found(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    head, body = refusal(rig, handshake(b"/nowhere"))
    assert head.line == "HTTP/1.1 404 Not Found"
    assert template(body)["message"] == "no Route matched with those values"
    assert head.get("Content-Type") == "application/json; charset=utf-8"
    assert head.get("Server") == "narthex/test"
    assert head.get("X-Kong-Request-Id") == template(body)["request_id"]
    assert int(head.get("X-Kong-Response-Latency") or "-1") >= 0
    assert head.get("Via") is None
    record = rig.record("refused")
    assert record["status"] == 404
    assert record["route"] is None
    assert record["client"] == rig.lines[0].local
    assert record["request_id"] == template(body)["request_id"]
    assert rig.count("handshakes") == {404: 1}


def test_request_that_is_no_handshake_leaves_no_record(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    assert refusal(rig, request(b"/nowhere"))[0].status == 404
    assert rig.count("handshakes") == {}
    assert rig.engine.records() == []


def without(*names: bytes) -> list[bytes]:
    return [f for f in UPGRADE if not f.lower().startswith(tuple(n.lower() for n in names))]


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (request(b"/", *UPGRADE, method=b"POST"), 400, "bad method"),
        (request(b"/", *UPGRADE, method=b"OPTIONS"), 400, "bad method"),
        (request(b"/", *UPGRADE).replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad http version"),
        (request(b"/"), 426, 'bad "upgrade" request header'),
        (request(b"/", *without(b"Upgrade:")), 426, 'bad "upgrade" request header'),
        (
            request(b"/", *without(b"Upgrade:"), b"Upgrade: h2c"),
            426,
            'bad "upgrade" request header',
        ),
        (request(b"/", *without(b"Connection:")), 426, 'bad "connection" request header'),
        (
            request(b"/", *without(b"Connection:"), b"Connection: keep-alive"),
            426,
            'bad "connection" request header',
        ),
        (
            request(b"/", *without(b"Sec-WebSocket-Key")),
            400,
            'bad "sec-websocket-key" request header',
        ),
        (
            request(b"/", *UPGRADE, b"Sec-WebSocket-Key: " + KEY),
            400,
            'bad "sec-websocket-key" request header',
        ),
        (
            request(b"/", *without(b"Sec-WebSocket-Key"), b"Sec-WebSocket-Key: c2hvcnQ="),
            400,
            'bad "sec-websocket-key" request header',
        ),
        (
            request(b"/", *without(b"Sec-WebSocket-Key"), b"Sec-WebSocket-Key:"),
            400,
            'bad "sec-websocket-key" request header',
        ),
        (
            request(b"/", *without(b"Sec-WebSocket-Version")),
            426,
            'bad "sec-websocket-version" request header',
        ),
        (
            request(b"/", *without(b"Sec-WebSocket-Version"), b"Sec-WebSocket-Version: 8"),
            426,
            'bad "sec-websocket-version" request header',
        ),
        (
            request(b"/", *UPGRADE, b"Sec-WebSocket-Version: 13"),
            426,
            'bad "sec-websocket-version" request header',
        ),
        (request(b"/", *UPGRADE, b"Content-Length: 1") + b"x", 400, "a body is not allowed"),
        (
            request(b"/", *UPGRADE, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
            400,
            "a body is not allowed",
        ),
    ],
)
def test_s42_s43_s52_broken_handshake_is_refused_before_the_upstream(
    rig: Rig, sent: bytes, status: int, reason: str
) -> None:
    rig.guarded_route()
    head, body = refusal(rig, sent)
    assert head.status == status
    assert template(body)["message"] == f"invalid WebSocket handshake: {reason}"
    if status == 426:
        assert head.get("Upgrade") == "websocket"
        assert "Upgrade" in (head.get("Connection") or "")
        assert head.get("Sec-WebSocket-Version") == "13"
    else:
        assert head.get("Upgrade") is None
    assert head.get("WWW-Authenticate") is None
    assert rig.upstream.untouched()
    assert rig.record("refused")["status"] == status


@pytest.mark.parametrize("upgrade", [b"WebSocket", b"websocket, h2c", b"WEBSOCKET"])
def test_upgrade_is_read_without_case_and_by_its_first_value(rig: Rig, upgrade: bytes) -> None:
    rig.open_route()
    client = rig.client(request(b"/", *without(b"Upgrade:"), b"Upgrade: " + upgrade))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Upgrade") == "websocket"
    upstream.send(switching())
    assert client.head().status == 101


def test_body_of_no_bytes_is_no_body(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/", b"Content-Length: 0"))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Content-Length") is None
    upstream.send(switching())
    assert client.head().status == 101


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        b"GET http://other/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_s53_host_missing_repeated_or_malformed_is_refused(rig: Rig, sent: bytes) -> None:
    rig.open_route()
    client = rig.client(sent)
    head, body = client.answer()
    assert head.status == 400
    assert head.get("Connection") == "close"
    assert body.startswith(b"Bad request\nrequest_id: ")
    assert client.rest() == b""
    assert rig.upstream.untouched()


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", 400, "Bad request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "Bad request"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad request"),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad request"),
        (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400, "Bad request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "Bad request"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP version not supported"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "Method not allowed"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, "Method not allowed"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "URI too long"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
            400,
            "Request header or cookie too large",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100 + b"\r\n",
            400,
            "Request header or cookie too large",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 4000 + b"\r\n") * 9 + b"\r\n",
            400,
            "Request header or cookie too large",
        ),
    ],
)
def test_head_that_nobody_can_read_is_refused_and_the_connection_ended(
    rig: Rig, sent: bytes, status: int, message: str
) -> None:
    rig.open_route()
    client = rig.client(sent)
    head, body = client.answer()
    assert head.status == status
    assert head.get("Connection") == "close"
    assert head.get("Content-Type") == "text/plain; charset=utf-8"
    assert body.decode() == f"{message}\nrequest_id: {head.get('X-Kong-Request-Id')}\n"
    assert client.rest() == b""
    assert rig.upstream.untouched()


def test_s47_http2_preface_is_refused_and_h2_settings_never_go_on(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert client.answer()[0].status == 400
    assert client.rest() == b""
    fields = (*without(b"Connection"), b"Connection: Upgrade, HTTP2-Settings")
    settings = b"HTTP2-Settings: AAMAAABkAAQAAP__"
    for value in (b"h2c", b"h2c, websocket", b"TLS/1.3"):
        sent = request(b"/", *[f for f in fields if not f.startswith(b"Upgrade")], settings)
        answer = rig.client(sent.replace(b"\r\n\r\n", b"\r\nUpgrade: " + value + b"\r\n\r\n"))
        assert answer.head().status == 426
    assert rig.upstream.untouched()
    rig.client(request(b"/", *fields, settings, b"Upgrade: h2c"))
    upstream = rig.upstream.accept()
    head = upstream.head()
    assert head.get("Upgrade") == "websocket"
    assert head.get("HTTP2-Settings") is None
    assert head.get("Connection") == "Upgrade"


def test_without_a_service_there_is_a_503(rig: Rig) -> None:
    rig.publish(route(service=None, oauth2=None, paths=["/"]))
    head, body = refusal(rig, handshake())
    assert head.status == 503
    assert template(body)["message"] == "no Service found with those values"


def test_without_any_configuration_there_is_a_503(rig: Rig) -> None:
    head, body = refusal(rig, handshake())
    assert head.status == 503
    assert template(body)["message"] == "no configuration has arrived yet"
    assert head.get("Retry-After") == "1"
    assert rig.record("refused")["route"] is None
    rig.open_route()
    rig.session()


@pytest.mark.parametrize(
    ("status", "secure_only"), [(426, ["wss"]), (301, ["wss"]), (302, ["wss"]), (308, ["https"])]
)
def test_plain_request_to_a_tls_only_route_is_sent_to_tls(
    rig: Rig, status: int, secure_only: list[str]
) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(protocols=secure_only, paths=["/"], https_redirect_status_code=status, oauth2=None),
    )
    client = rig.client(handshake(b"/a%2e/b?c=d&e", b"X-Forwarded-Proto: https"))
    head, body = client.answer()
    assert head.status == status
    if status == 426:
        assert template(body)["message"] == "Please use HTTPS protocol"
        assert head.get("Upgrade") == "TLS/1.2, HTTP/1.1"
        assert head.get("Connection") == "Upgrade"
    else:
        assert head.get("Location") == "https://gateway.test/a%2e/b?c=d&e"
        assert body == b""
    client.send(
        b"GET http://gateway.test/x?y HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        b"GET ws://gateway.test HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    )
    for target in ("/x?y", "/"):
        head, _ = client.answer()
        assert head.get("Location") == (None if status == 426 else f"https://gateway.test{target}")


def test_trusted_peer_says_whether_the_client_came_by_tls() -> None:
    trusted = [(bytes(10) + b"\xff\xff\x7f\x00\x00\x00", 104)]
    with new_rig(1, trusted=trusted) as rig:
        rig.publish(service(rig.upstream.port), route(protocols=["wss"], paths=["/"], oauth2=None))
        assert refusal(rig, handshake())[0].status == 426
        assert refusal(rig, handshake(b"/", b"X-Forwarded-Proto: http"))[0].status == 426
        assert refusal(rig, handshake(b"/", b"X-Forwarded-Proto: httpsa"))[0].status == 426
        rig.session(b"X-Forwarded-Proto: HTTPS")


# --- faults of the upstream -----------------------------------------------------------------------


def refused_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def test_upstream_that_refuses_the_connection_is_a_502(rig: Rig) -> None:
    rig.publish(service(refused_port()), route(paths=["/"], oauth2=None))
    client = rig.client(handshake())
    head, body = client.answer()
    assert head.line == "HTTP/1.1 502 Bad Gateway"
    assert head.get("Content-Type") == "text/plain; charset=utf-8"
    assert body.decode() == f"{BAD_UPSTREAM}\nrequest_id: {head.get('X-Kong-Request-Id')}\n"
    assert head.get("Connection") == "keep-alive"
    record = rig.record("refused")
    assert record["status"] == 502
    assert record["route"] == text_id(uid(2))
    client.send(request(b"/", b"Accept: application/json"))
    assert client.answer()[0].status == 426


@pytest.mark.parametrize(
    "answer",
    [
        switching(accept=b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        switching(accept=b""),
        switching(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        switching().replace(b"Upgrade: websocket\r\n", b""),
        switching().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        switching().replace(b"Connection: Upgrade\r\n", b""),
        switching().replace(b"Connection: Upgrade", b"Connection: keep-alive"),
        switching(b"Sec-WebSocket-Protocol: chat"),
        switching(b"Sec-WebSocket-Extensions: permessage-deflate"),
        switching(b"bad header"),
        switching(b"X: a\x00b"),
        switching(b"X: a\rb"),
        b"HTTP/1.1 101\n\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1048577\r\n\r\n",
        switching(b"X: " + b"a" * 9000),
        switching(*[b"X: a"] * 101),
    ],
)
def test_s45_s57_answer_that_is_no_switch_is_a_502_and_ends_the_upstream(
    rig: Rig, answer: bytes
) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(answer)
    head, body = client.answer()
    assert head.status == 502
    assert body.startswith(BAD_UPSTREAM.encode())
    assert upstream.rest() == b""
    assert rig.record("refused")["status"] == 502
    if head.get("Connection") == "close":  # a head that says 101 and is not one: both sides
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert client.rest() == b""
    else:
        client.send(request(b"/"))
        assert client.answer()[0].status == 426


@pytest.mark.parametrize(
    ("offered", "chosen", "status"),
    [
        ([b"chat, superchat"], b"superchat", 101),
        ([b"chat", b"v2.chat ,\tother"], b"v2.chat", 101),
        ([b"chat"], None, 101),
        ([b"chat, superchat"], b"super", 502),
        ([b"chat, superchat"], b"Chat", 502),
        ([b"chat, superchat"], b"chat, superchat", 502),
        ([b"chat"], b"", 502),
        ([], b"chat", 502),
    ],
)
def test_s58_subprotocol_must_be_one_that_the_client_offered(
    rig: Rig, offered: list[bytes], chosen: bytes | None, status: int
) -> None:
    rig.open_route()
    client = rig.client(handshake(b"/", *[b"sec-websocket-Protocol: " + o for o in offered]))
    upstream = rig.upstream.accept()
    assert upstream.head().all("Sec-WebSocket-Protocol") == [o.decode() for o in offered]
    fields = [] if chosen is None else [b"Sec-WebSocket-Protocol: " + chosen]
    upstream.send(switching(*fields))
    head = client.head()
    assert head.status == status
    if status == 101:
        assert head.get("Sec-WebSocket-Protocol") == (chosen.decode() if chosen else None)


@pytest.mark.parametrize("how", ["close", "reset", "within the head"])
def test_upstream_that_ends_without_an_answer_is_a_502(rig: Rig, how: str) -> None:
    rig.open_route({"retries": 0})
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    if how == "within the head":
        upstream.send(switching()[:40])
    upstream.reset() if how == "reset" else upstream.close()
    assert client.answer()[0].status == 502


def test_upstream_that_never_answers_is_a_504(rig: Rig) -> None:
    rig.open_route({"read_timeout_ms": 50})
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    head, body = client.answer()
    assert head.line == "HTTP/1.1 504 Gateway Timeout"
    assert body.startswith(TIMING_OUT.encode())
    assert upstream.rest() == b""
    assert rig.record("refused")["status"] == 504


def test_upstream_that_does_not_take_the_connection_is_a_504(rig: Rig) -> None:
    """A listener whose backlog is full: the kernel drops the SYN."""
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(deaf.getsockname())
        fillers.append(filler)
    try:
        rig.publish(
            service(deaf.getsockname()[1], connect_timeout_ms=100),
            route(paths=["/"], oauth2=None),
        )
        head, body = refusal(rig, handshake())
        assert head.status == 504
        assert body.startswith(TIMING_OUT.encode())
    finally:
        for filler in [*fillers, deaf]:
            filler.close()


def test_addresses_of_a_name_are_tried_in_turn_until_one_switches(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port, host="many.test", connect_timeout_ms=1000),
        route(paths=["/"], oauth2=None),
    )
    deaf = [("127.0.0.9", False), ("::1", True), ("127.0.0.8", False)]
    rig.names.set_addresses("many.test", [*deaf, ("127.0.0.1", False)])
    for _ in range(8):  # the first address is drawn
        client, upstream = rig.session()
        client.send(up(TEXT, b"x"))
        assert upstream.frame().payload == b"x"


def test_address_that_ends_or_answers_nothing_is_followed_by_the_next(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port, host="many.test", read_timeout_ms=50),
        route(paths=["/"], oauth2=None),
    )
    rig.names.set_addresses("many.test", [("127.0.0.1", False)] * 3)
    client = rig.client(handshake(b"/again"))
    first, second, third = rig.upstream.accept(), None, None
    assert first.head().target == "/again"
    first.close()
    second = rig.upstream.accept()
    assert second.head().target == "/again"
    third = rig.upstream.accept()  # the second said nothing
    assert third.head().target == "/again"
    third.send(switching())
    assert client.head().status == 101
    assert second.rest() == b""


def test_every_address_that_fails_once_is_a_502(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port, host="many.test", retries=2), route(paths=["/"], oauth2=None)
    )
    rig.names.set_addresses("many.test", [("127.0.0.1", False)] * 3)
    client = rig.client(handshake())
    for _ in range(3):
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.close()
    assert client.answer()[0].status == 502
    assert rig.upstream.untouched()


def test_time_bounds_a_head_and_a_question_and_not_a_slow_upstream() -> None:
    """All at once, as it takes the 10 s that a head has; a question has 5."""
    with new_rig(1) as rig:
        rig.publish(
            service(rig.upstream.port, read_timeout_ms=30000),
            route(paths=["/"], oauth2=None),
            route(id=uid(9), paths=["/guarded"]),
            plugin(),
        )
        began = time.monotonic()
        waiting = rig.client(handshake()[:20])
        slow, second = rig.connect(), rig.connect()
        second.send(request(b"/"), handshake()[:-1])
        assert second.answer()[0].status == 426
        slow.send(handshake()[:30])
        token = rig.token(put=False)
        asking = rig.client(handshake(b"/guarded", b"Authorization: Bearer " + token))
        question = rig.question()[1]
        waiting.send(handshake()[20:])
        upstream = rig.upstream.accept()
        upstream.head()

        head, _ = asking.answer()
        assert (head.status, head.get("Retry-After")) == (503, "1")
        assert 4.5 < time.monotonic() - began < 8
        rig.engine.answer_token(question, "unknown")  # too late
        asking.send(request(b"/"))
        assert asking.answer()[0].status == 426

        until(lambda: not slow.silent(0.5) or slow.send(b"a"), 20)
        for line in (slow, second):
            head, body = line.answer()
            assert head.status == 408
            assert body.startswith(b"Request timeout\n")
            assert line.rest() == b""
        assert time.monotonic() - began < 13

        until(lambda: time.monotonic() - began > 10.5)
        upstream.send(switching())
        assert waiting.head().status == 101


# --- full ----------------------------------------------------------------------------------------


def test_gateway_that_is_full_answers_503_and_never_101() -> None:
    with new_rig(1, max_sessions=2) as rig:
        rig.open_route()
        client, upstream = rig.session()
        waiting = rig.client(handshake())  # its upstream is slow: that counts
        slow = rig.upstream.accept()
        slow.head()
        head, body = refusal(rig, handshake())
        assert (head.status, head.get("Retry-After")) == (503, "1")
        assert template(body)["message"] == "the gateway is full, try again"
        assert rig.upstream.untouched()
        assert rig.count("refused")["sessions"] == 1
        slow.send(switching())
        assert waiting.head().status == 101
        client.close()
        upstream.close()
        until(lambda: rig.count("live_sessions") == 1)
        rig.session()


# --- connections that are kept --------------------------------------------------------------------


def test_connection_is_kept_across_answers_and_ends_in_a_websocket(rig: Rig) -> None:
    rig.guarded_route()
    client = rig.connect()
    ids = set()
    for sent, status in (
        (request(b"/"), 426),
        (handshake(), 401),
        (handshake(b"/", b"Authorization: Bearer nonsense"), 401),
        (request(b"/", method=b"POST"), 400),
    ):
        client.send(sent)
        head, _ = client.answer()
        assert head.status == status
        assert "close" not in (head.get("Connection") or "")
        ids.add(head.get("X-Kong-Request-Id"))
    assert len(ids) == 4
    client.send(handshake(b"/", b"Authorization: Bearer " + rig.token()))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    assert rig.count("accepts") == 1


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    client = rig.client(*[request(b"/%d" % n) for n in range(5)], handshake(b"/known"))
    assert [client.answer()[0].status for _ in range(5)] == [404] * 5
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101


@pytest.mark.parametrize(
    "sent",
    [
        request(b"/no", b"Connection: close"),
        request(b"/no").replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(b"/no", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
        request(b"/no", b"Content-Length: 1000000", method=b"POST"),
        request(b"/no", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"),
    ],
)
def test_connection_ends_where_the_next_request_cannot_be_found(rig: Rig, sent: bytes) -> None:
    rig.open_route(paths=["/known"])
    client = rig.client(sent, request(b"/smuggled"))
    head, _ = client.answer()
    assert head.status == 404
    assert head.get("Connection") == "close"
    assert client.rest() == b""
    assert rig.count("requests") == 1


def test_body_of_a_request_answered_early_is_dropped_wherever_it_is_cut(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    body = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    size = b"Content-Length: %d" % len(body)
    whole = request(b"/no", size, method=b"POST") + body + request(b"/next", method=b"HEAD")
    client = rig.connect()
    for cut in range(1, len(whole)):
        client.send(whole[:cut])
        client.send(whole[cut:])
        assert client.answer()[0].status == 404
        assert client.answer(body=False)[0].status == 404
    assert rig.count("requests") == 2 * (len(whole) - 1)
    assert rig.count("accepts") == 1


def test_answer_to_head_has_no_body(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    client = rig.client(request(b"/no", method=b"HEAD"), request(b"/no"))
    head, _ = client.answer(body=False)
    assert head.status == 404
    assert int(head.get("Content-Length") or 0) > 50
    assert client.answer()[0].status == 404


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"application/json", "application/json"),
        (b"text/html", "text/html"),
        (b"application/xml", "application/xml"),
        (b"text/plain", "text/plain"),
        (b"*/*", "application/json"),
        (b"image/png", "application/json"),
        (b"text/plain;q=0.3, text/html;q=0.9", "text/html"),
        (b"text/html;q=0.30, application/xml;q=0.301, text/plain;q=0.2", "application/xml"),
        (b"text/html;q=0, application/json;q=0.001", "application/json"),
        (b"TEXT/HTML", "text/html"),
        (b"text/html ; q=0.5 , text/plain", "text/plain"),
        (b"", "application/json"),
    ],
)
def test_error_body_is_of_the_type_that_the_client_accepts(
    rig: Rig, accept: bytes, kind: str
) -> None:
    rig.open_route(paths=["/known"])
    head, body = refusal(rig, request(b"/no", b"Accept: " + accept))
    assert head.get("Content-Type") == f"{kind}; charset=utf-8"
    message, number = "no Route matched with those values", head.get("X-Kong-Request-Id")
    text = body.decode()
    if kind == "application/json":
        assert template(body)["message"] == message
    elif kind == "text/plain":
        assert text == f"{message}\nrequest_id: {number}\n"
    elif kind == "application/xml":
        assert f"<message>{message}</message>" in text and f"<requestid>{number}<" in text
    else:
        assert text.startswith("<!doctype html>") and message in text and str(number) in text


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ((), "text/plain"),
        ((b"Accept: application/json",), "application/json"),
        ((b"Content-Type: application/json; charset=utf-8",), "application/json"),
        ((b"Content-Type: application/json", b"Accept: text/html"), "text/html"),
        ((b"Accept: text/html", b"Content-Type: application/json"), "text/html"),
    ],
)
def test_engines_own_errors_fall_back_to_the_content_type(
    rig: Rig, fields: tuple[bytes, ...], kind: str
) -> None:
    rig.publish(service(refused_port()), route(paths=["/"], oauth2=None))
    assert refusal(rig, handshake(b"/", *fields))[0].get("Content-Type") == f"{kind}; charset=utf-8"


# --- questions ------------------------------------------------------------------------------------


def test_unknown_token_is_asked_for_and_admitted_when_it_has_become_known(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(put=False)
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + token), up(TEXT, b"early"))
    kind, ref, digest, check_passed = rig.question()
    assert (kind, digest, check_passed) == ("token", wire.token_digest(token.decode()), True)
    assert rig.upstream.untouched()
    rig.put(token.decode())
    rig.engine.answer_token(ref, "known")
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    assert upstream.frame().payload == b"early"
    assert (rig.count("token_misses"), rig.count("token_hits")) == (1, 1)


@pytest.mark.parametrize(
    ("verdict", "status"), [("unknown", 401), ("unavailable", 503), ("known", 503)]
)
def test_unknown_token_is_refused_as_the_answer_says(rig: Rig, verdict: str, status: int) -> None:
    rig.guarded_route()
    token = rig.token(put=False)
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
    ref = rig.question()[1]
    rig.engine.answer_token(ref, verdict)
    head, body = client.answer()
    assert head.status == status
    if status == 503:
        assert head.get("Retry-After") == "1"
        assert token not in body
    else:
        assert json.loads(body)["error"] == "invalid_token"
    client.send(request(b"/"))
    assert client.answer()[0].status == 426
    assert rig.upstream.untouched()


def test_s75_junk_token_dies_without_a_question(rig: Rig) -> None:
    """Its check characters fail."""
    rig.guarded_route()
    good = rig.token(put=False)
    wrong = good[:-1] + (b"A" if good[-1:] != b"A" else b"B")
    for token in (wrong, b"x", b"y" * 5000):
        head, _ = refusal(rig, handshake(b"/", b"Authorization: Bearer " + token))
        assert head.status == 401
    assert rig.engine.questions() == []


def test_token_without_a_check_is_asked_for_once_the_cache_had_to_evict() -> None:
    """It may be one made by hand, which the Python side remembers still."""
    with new_rig(1, token_cache=1) as rig:
        rig.guarded_route()
        rig.put("made by hand")
        rig.put("another")
        assert (len(rig.engine.tokens), rig.engine.tokens.evicted) == (1, 1)
        client = rig.client(handshake(b"/", b"Authorization: Bearer made-by-hand"))
        kind, ref, digest, check_passed = rig.question()
        assert (kind, digest) == ("token", wire.token_digest("made-by-hand"))
        assert not check_passed
        rig.engine.answer_token(ref, "unknown")
        assert client.answer()[0].status == 401


def test_negative_answer_is_remembered(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(put=False)
    rig.engine.tokens.put_negative(wire.token_digest(token.decode()), time.time() + 60)
    assert refusal(rig, handshake(b"/", b"Authorization: Bearer " + token))[0].status == 401
    assert rig.engine.questions() == []


def test_answer_to_an_older_question_is_no_answer_to_the_next(rig: Rig) -> None:
    """A late answer finds its connection asking something else: it must come to nothing."""
    rig.guarded_route()
    first, second = rig.token(1, put=False), rig.token(2, put=False)
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + first))
    old = rig.question()[1]
    rig.engine.answer_token(old, "unavailable")
    assert client.answer()[0].status == 503
    client.send(handshake(b"/", b"Authorization: Bearer " + second))
    new = rig.question()[1]
    rig.engine.answer_token(old, "unknown")
    rig.engine.answer_name(old, False)
    rig.engine.answer_request(old, 200, [], b"not for you")
    assert client.silent()
    rig.put(second.decode())
    rig.engine.answer_token(new, "known")
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    rig.engine.answer_token(new, "unknown")
    rig.engine.answer_request(new, 200, [], b"")
    client.send(up(TEXT, b"alive"))
    assert upstream.frame().payload == b"alive"


def test_token_that_ends_while_the_upstream_is_asked_gets_no_switch(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token()
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
    upstream = rig.upstream.accept()
    upstream.head()
    digest = wire.token_digest(token.decode())
    rig.engine.tokens.remove(digest)
    rig.engine.tokens.put_negative(digest, time.time() + 60)
    upstream.send(switching())
    head, body = client.answer()
    assert head.status == 401
    assert json.loads(body)["error"] == "invalid_token"
    assert upstream.rest() == b""


def test_name_without_an_address_is_asked_for(rig: Rig) -> None:
    rig.publish(service(rig.upstream.port, host="up.test"), route(paths=["/"], oauth2=None))
    client = rig.client(handshake())
    kind, ref, host = rig.question()
    assert (kind, host) == ("name", "up.test")
    rig.names.set_addresses("up.test", [("127.0.0.1", False)])
    rig.engine.answer_name(ref, True)
    upstream = rig.upstream.accept()
    assert upstream.head().get("Host") == f"up.test:{rig.upstream.port}"
    upstream.send(switching())
    assert client.head().status == 101
    rig.session()  # and now it is known
    assert rig.engine.questions() == []


def test_name_that_does_not_resolve_is_a_503(rig: Rig) -> None:
    rig.publish(service(80, host="gone.test"), route(paths=["/"], oauth2=None))
    client = rig.client(handshake())
    rig.engine.answer_name(rig.question()[1], False)
    head, body = client.answer()
    assert head.status == 503
    assert template(body)["message"] == "name resolution failed"
    rig.names.mark_failed("gone.test")
    assert refusal(rig, handshake())[0].status == 503
    assert rig.engine.questions() == []


def test_question_of_a_client_that_has_gone_holds_nothing_once_answered(rig: Rig) -> None:
    rig.guarded_route()
    for how in ("close", "reset"):
        token = rig.token(1 if how == "close" else 2, put=False)
        client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
        ref = rig.question()[1]
        assert rig.users() == 1
        client.reset() if how == "reset" else client.close()
        if how == "reset":
            until(lambda: rig.users() == 0)
        rig.engine.answer_token(ref, "unknown")
        rig.idle()


def test_client_that_goes_while_the_upstream_is_asked_ends_that_too(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    client.reset()
    assert upstream.rest() == b""
    rig.idle()


# --- listeners ------------------------------------------------------------------------------------


def test_ipv6_listener_and_ipv6_upstream() -> None:
    made = Rig(2)
    port = made.engine.listen("::1", 0, False)  # before the workers start
    made.engine.start()
    try:
        upstream = made.another_upstream("::1")
        made.publish(service(upstream.port, host="::1"), route(paths=["/"], oauth2=None))
        client = made.client(handshake(), host="::1", port=port)
        line = upstream.accept()
        head = line.head()
        assert head.get("Host") == f"[::1]:{upstream.port}"
        assert head.get("X-Forwarded-For") == "::1"
        assert head.get("X-Real-IP") == "::1"
        assert head.get("X-Forwarded-Port") == str(port)
        line.send(switching())
        assert client.head().status == 101
        client.send(close(1000, mask=b"abcd"))
        assert line.frame().code == 1000
        line.send(close(1000))
        record = made.record("ended")
        assert record["client"] == client.local
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()


def test_sessions_are_spread_over_the_workers() -> None:
    with new_rig(2) as rig:
        rig.open_route()
        for _ in range(64):
            rig.session()
        until(lambda: sum(rig.engine.sessions_by_worker()) == 64)  # the 101 goes out first
        assert min(rig.engine.sessions_by_worker()) > 0


def test_port_in_use_by_another_program_is_said() -> None:
    with new_rig(1) as rig, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            rig.engine.listen("127.0.0.1", other.getsockname()[1], False)
