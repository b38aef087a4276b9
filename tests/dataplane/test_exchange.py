"""Requests for the token endpoint, and answers on kept connections.  _exchange.pyx."""

from __future__ import annotations

import json
import time

import pytest

from tests.dataplane.engine_kit import (
    PLUGIN,
    ROUTE,
    SERVICE,
    Line,
    Rig,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    until,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid

TOKEN = b"/token-route/oauth2/token"
REPLY = [(b"Content-Type", b"application/json; charset=utf-8"), (b"Cache-Control", b"no-store")]


def open_endpoint(rig: Rig, **fields: object) -> None:
    """The how-to's token route: no service, POST; here without TLS."""
    rig.publish(
        service(rig.upstream.port),
        route(
            **{
                "paths": ["/token-route"],
                "protocols": ["http", "https"],
                "service": None,
                **fields,
            }
        ),
        route(id=uid(8), paths=["/ws"], oauth2=None),
        plugin(),
    )


def post(body: bytes, *fields: bytes, target: bytes = TOKEN) -> bytes:
    return request(target, b"Content-Length: %d" % len(body), *fields, method=b"POST") + body


def chunked(*chunks: bytes) -> bytes:
    coded = b"".join(b"%x;n=v\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return coded + b"0\r\nTrailer: x\r\n\r\n"


def reply(rig: Rig, ref: int, body: bytes = b"{}", status: int = 200) -> None:
    rig.engine.answer_request(ref, status, REPLY, body)


def ask(rig: Rig, client: Line, sent: bytes) -> tuple[int, dict[str, object]]:
    """Send a token request; its ref and what the Python side is told of it."""
    client.send(sent)
    kind, ref, fields = rig.question()
    assert kind == "request"
    return ref, fields


# --- what the issuer is told, and what the client hears -------------------------------------------


def test_token_request_is_handed_over_and_its_response_sent_back(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, fields = ask(
        rig,
        client,
        post(
            b"grant_type=client_credentials",
            b"Authorization: Basic YTpi",
            b"X-Consumer-ID: forged",
            b"Connection: X-Drop",
            b"X-Drop: 1",
            b"Accept: */*",
            target=TOKEN + b"/?scope=%65mail",
        ),
    )
    headers = dict(fields.pop("headers"))  # type: ignore[call-overload]
    assert len(str(fields.pop("request_id"))) == 32
    assert fields == {
        "plugin": PLUGIN,
        "route": ROUTE,
        "service": None,
        "client_ip": "127.0.0.1",
        "tls": False,
        "peer_trusted": False,
        "method": "POST",
        "path": "/token-route/oauth2/token/",
        "query": b"scope=%65mail",
        "body": b"grant_type=client_credentials",
    }
    assert headers[b"Authorization"] == b"Basic YTpi"
    assert headers[b"Accept"] == b"*/*"
    assert not {b"X-Consumer-ID", b"X-Drop", b"Connection"} & set(headers)
    assert rig.users() == 1
    rig.engine.answer_request(
        ref,
        400,
        [*REPLY, (b"WWW-Authenticate", b"Basic"), (b"Connection", b"close"), (b"server", b"x"),
         (b"content-length", b"99"), (b"Keep-Alive", b"timeout=9")],
        b'{"error":"invalid_client"}',
    )  # fmt: skip
    head, body = client.answer()
    assert head.line == "HTTP/1.1 400 Bad Request"
    assert body == b'{"error":"invalid_client"}'
    assert head.get("Content-Type") == "application/json; charset=utf-8"
    assert head.get("Cache-Control") == "no-store"
    assert head.get("WWW-Authenticate") == "Basic"
    assert head.get("Server") == "narthex/test"
    assert head.get("Connection") == "keep-alive"
    assert head.get("Keep-Alive") is None
    assert len(head.get("X-Kong-Request-Id") or "") == 32
    assert rig.users() == 0
    assert rig.upstream.untouched()


def test_authorize_is_the_issuers_too_and_names_the_service(rig: Rig) -> None:
    open_endpoint(rig, service=SERVICE)
    client = rig.connect()
    ref, fields = ask(rig, client, post(b"", target=b"/token-route/oauth2/authorize"))
    assert (fields["path"], fields["service"]) == ("/token-route/oauth2/authorize", SERVICE)
    reply(rig, ref)
    assert client.answer()[1] == b"{}"


@pytest.mark.parametrize(
    ("path", "is_endpoint"),
    [
        (b"/token-route/oauth2/token", True),
        (b"/token-route/oauth2/token/", True),
        (b"/token-route//oauth2/./%74oken", True),
        (b"/token-route/x/oauth2/token", True),
        (b"/token-route/oauth2/token//", True),  # slashes are merged first
        (b"/token-route/oauth2/tokens", False),
        (b"/token-route/oauth2%2ftoken", False),
        (b"/token-route/oauth2/token/x", False),
        (b"/token-route/oauth2/Token", False),
    ],
)
def test_endpoint_is_known_by_the_end_of_the_normalised_path(
    rig: Rig, path: bytes, is_endpoint: bool
) -> None:
    open_endpoint(rig)
    client = rig.connect()
    client.send(post(b"", target=path))
    if is_endpoint:
        reply(rig, rig.question()[1])
    assert client.answer()[0].status == (200 if is_endpoint else 401)


def test_response_to_head_has_no_body(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, fields = ask(rig, client, request(TOKEN, method=b"HEAD"))
    assert fields["method"] == "HEAD"
    reply(rig, ref, b'{"error":"invalid_method"}', 405)
    head, _ = client.answer(body=False)
    assert (head.status, head.get("Content-Length")) == (405, "26")
    client.send(request(b"/nowhere"))
    assert client.answer()[0].status == 404


def test_connection_is_kept_through_a_token_request_to_a_websocket(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    for n in range(3):
        ref, fields = ask(rig, client, post(b"n=%d" % n))
        assert fields["body"] == b"n=%d" % n
        reply(rig, ref, b"%d" % n)
        assert client.answer()[1] == b"%d" % n
    client.send(handshake(b"/ws"))
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    assert rig.count("accepts") == 1


def test_requests_behind_a_token_request_wait_for_its_response(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, fields = ask(rig, client, post(b"one") + post(b"two") + request(b"/nowhere"))
    assert fields["body"] == b"one"
    assert client.silent()
    assert rig.engine.questions() == []
    reply(rig, ref, b"1")
    ref, fields = rig.question()[1:]
    assert fields["body"] == b"two"
    reply(rig, ref, b"2")
    assert [client.answer()[1] for _ in range(2)] == [b"1", b"2"]
    assert client.answer()[0].status == 404


def test_connection_ends_when_the_client_asks_for_it(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, _ = ask(rig, client, post(b"x", b"Connection: close"))
    reply(rig, ref)
    head, _ = client.answer()
    assert head.get("Connection") == "close"
    assert client.rest() == b""


# --- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_body_is_read_wherever_it_is_cut(rig: Rig, coding: str) -> None:
    open_endpoint(rig)
    body = b"grant_type=client_credentials&x=0123456789"
    if coding == "length":
        whole = post(body)
    else:
        head = request(TOKEN, b"Transfer-Encoding: chunked", method=b"POST")
        whole = head + chunked(body[:7], body[7:8], body[8:])
    client = rig.connect()
    for cut in range(1, len(whole)):
        client.send(whole[:cut])
        ref, fields = ask(rig, client, whole[cut:])
        assert fields["body"] == body
        reply(rig, ref)
        assert client.answer()[0].status == 200


def test_chunked_body_byte_by_byte_with_a_request_behind(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    head = request(TOKEN, b"Transfer-Encoding: chunked", method=b"POST")
    for byte in head + chunked(b"ab", b"c" * 17) + post(b"next"):
        client.send(bytes([byte]))
    ref, fields = rig.question()[1:]
    assert fields["body"] == b"ab" + b"c" * 17
    reply(rig, ref)
    ref, fields = rig.question()[1:]
    assert fields["body"] == b"next"
    reply(rig, ref)
    assert [client.answer()[0].status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("coding", ["length", "chunks"])
def test_body_of_64_kib_is_taken_and_one_byte_more_is_413(rig: Rig, coding: str) -> None:
    """S31."""
    open_endpoint(rig)
    for size, good in ((65536, True), (65537, False)):
        client = rig.connect()
        body = b"b" * size
        if coding == "length":
            client.send(request(TOKEN, b"Content-Length: %d" % size, method=b"POST"))
            if good:
                client.send(body)
        else:
            client.send(request(TOKEN, b"Transfer-Encoding: chunked", method=b"POST"))
            client.send(chunked(*[body[at : at + 4096] for at in range(0, size, 4096)]))
        if good:
            ref, fields = rig.question()[1:]
            assert fields["body"] == body
            reply(rig, ref)
            assert client.answer()[0].status == 200
        else:
            head, text = client.answer()
            assert head.line == "HTTP/1.1 413 Content Too Large"
            assert head.get("Connection") == "close"
            assert json.loads(text)["message"] == "Payload too large"
            assert head.get("Cache-Control") == "no-store"
            assert client.rest() == b""
    assert rig.engine.questions() == []


@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"5 \r\nhello\r\n", b"5\r\nhelloX", b"5\nhello", b"-1\r\n", b"1" * 20]
)
def test_chunks_that_cannot_be_read_are_a_400_and_the_end(rig: Rig, body: bytes) -> None:
    open_endpoint(rig)
    client = rig.client(request(TOKEN, b"Transfer-Encoding: chunked", method=b"POST") + body)
    head, _ = client.answer()
    assert (head.status, head.get("Connection")) == (400, "close")
    assert client.rest() == b""
    assert rig.engine.questions() == []


def test_client_that_expects_to_be_told_is_told_to_go_on(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.client(
        request(TOKEN, b"Content-Length: 4", b"Expect: 100-continue", method=b"POST")
    )
    assert client.head().line == "HTTP/1.1 100 Continue"
    ref, fields = ask(rig, client, b"body")
    assert fields["body"] == b"body"
    reply(rig, ref)
    assert client.answer()[0].status == 200
    ref, _ = ask(rig, client, post(b"body", b"Expect: 100-continue"))  # it did not wait
    reply(rig, ref)
    assert client.answer()[0].status == 200


def test_expectation_of_http_1_0_is_ignored(rig: Rig) -> None:
    """RFC 9110 §10.1.1."""
    open_endpoint(rig)
    sent = request(TOKEN, b"Content-Length: 4", b"Expect: 100-continue", method=b"POST")
    client = rig.client(sent.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert client.silent()
    ref, _ = ask(rig, client, b"body")
    reply(rig, ref)
    assert client.answer()[0].status == 200


def test_client_that_goes_within_its_body_leaves_nothing(rig: Rig) -> None:
    open_endpoint(rig)
    for how in ("close", "reset"):
        client = rig.client(request(TOKEN, b"Content-Length: 100", method=b"POST") + b"half")
        until(lambda: rig.users() == 1)
        client.reset() if how == "reset" else client.close()
        rig.idle()
    assert rig.engine.questions() == []


# --- the issuer's end -----------------------------------------------------------------------------


def test_response_for_a_client_that_has_gone_is_dropped(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, _ = ask(rig, client, post(b"x"))
    client.reset()
    until(lambda: rig.users() == 0)
    reply(rig, ref)
    rig.idle()


def test_second_response_to_a_request_is_not_the_next_ones(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, _ = ask(rig, client, post(b"one"))
    reply(rig, ref, b"first")
    assert client.answer()[1] == b"first"
    later, _ = ask(rig, client, post(b"two"))
    reply(rig, ref, b"again")
    rig.engine.answer_token(ref, "unknown")
    assert client.silent()
    reply(rig, later, b"second")
    assert client.answer()[1] == b"second"


def test_issuer_that_does_not_answer_is_a_503_after_five_seconds() -> None:
    with new_rig(1) as rig:
        open_endpoint(rig)
        client = rig.connect()
        began = time.monotonic()
        ref, _ = ask(rig, client, post(b"x"))
        head, body = client.answer()
        assert 4.5 < time.monotonic() - began < 8
        assert head.status == 503
        assert json.loads(body) == {"error": "temporarily_unavailable"}
        assert head.get("Retry-After") == "1"
        assert (head.get("Cache-Control"), head.get("Pragma")) == ("no-store", "no-cache")
        assert client.rest() == b""
        reply(rig, ref)


@pytest.mark.parametrize(
    "header", [(b"X", b"a\r\nY: b"), (b"X", b"a\0"), (b"X\r\nY", b"a"), (b"X", b"a\nb")]
)
def test_s57_response_header_with_a_control_byte_is_refused(
    rig: Rig, header: tuple[bytes, bytes]
) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, _ = ask(rig, client, post(b"x"))
    with pytest.raises(ValueError, match="control byte"):
        rig.engine.answer_request(ref, 200, [header], b"")
    reply(rig, ref)
    assert client.answer()[0].status == 200


def test_large_response_reaches_a_client_that_reads_late(rig: Rig) -> None:
    open_endpoint(rig)
    client = rig.connect()
    ref, _ = ask(rig, client, post(b"x"))
    reply(rig, ref, b"r" * 60000)
    assert client.answer()[1] == b"r" * 60000


def test_endpoint_over_plain_http_on_a_tls_only_route_is_a_426(rig: Rig) -> None:
    open_endpoint(rig, protocols=["https"], methods=["POST"])
    client = rig.client(post(b"grant_type=client_credentials"))
    head, body = client.answer()
    assert head.status == 426
    assert json.loads(body)["message"] == "Please use HTTPS protocol"
    assert head.get("Upgrade") == "TLS/1.2, HTTP/1.1"
    client.send(request(b"/token-route/oauth2/token"))
    assert client.answer()[0].status == 404  # methods say POST
