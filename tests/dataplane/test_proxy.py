"""HTTP services proxied: bodies both ways, kept connections, early and broken ends.  _proxy.pyx."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.dataplane.engine_kit import (
    SECONDS,
    Head,
    Line,
    Rig,
    request,
    route,
    service,
    until,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib
from tests.dataplane.test_linger import accepts
from tests.dataplane.test_slow_peers import black_hole

BIG = bytes(range(256)) * 4096  # 1 MiB
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def post(body: bytes, *fields: bytes, method: bytes = b"POST") -> bytes:
    return request(b"/", b"Content-Length: %d" % len(body), *fields, method=method) + body


def coded(*chunks: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x;n=v\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + trailer + b"\r\n"


def post_coded(*chunks: bytes, trailer: bytes = b"") -> bytes:
    head = request(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    return head + coded(*chunks, trailer=trailer)


def ask(rig: Rig, *sent: bytes) -> tuple[Line, Line, Head]:
    """A client whose request the upstream has heard: both ends, and the head."""
    client = rig.client(*(sent or (request(),)))
    upstream = rig.upstream.accept()
    return client, upstream, upstream.head()


def send_aside(line: Line, data: bytes) -> threading.Thread:
    """Send what no socket takes at once."""

    def run() -> None:
        with contextlib.suppress(OSError):
            line.send(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# --- the way through ------------------------------------------------------------------------------


def test_request_and_answer_go_through_and_the_connections_are_kept(rig: Rig) -> None:
    rig.http_route()
    client, upstream, head = ask(rig, request(b"/a/b?c=d", b"X-Own: 1", b"Keep-Alive: 5"))
    assert head.line == "GET /a/b?c=d HTTP/1.1"
    assert head.get("Connection") == "keep-alive"
    assert head.get("X-Own") == "1"
    assert head.get("Keep-Alive") is None
    assert head.get("X-Forwarded-For") == "127.0.0.1"
    assert head.get("Content-Length") is None
    assert head.get("Transfer-Encoding") is None
    upstream.send(
        b"HTTP/1.1 201 Made\r\nContent-Length: 5\r\nX-Up: 2\r\nKeep-Alive: x\r\nVia: 1.0 a\r\n"
        b"Connection: X-Gone\r\nX-Gone: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhello"
    )
    answer, body = client.message()
    assert (answer.line, body) == ("HTTP/1.1 201 Made", b"hello")
    assert answer.get("Connection") == "keep-alive"
    assert answer.get("X-Up") == "2"
    assert answer.all("Set-Cookie") == ["a", "b"]
    assert answer.get("Keep-Alive") is None
    assert answer.get("X-Gone") is None
    assert answer.get("Via") == "1.0 a, 1.1 narthex/test"
    assert answer.get("Server") == "narthex/test"
    assert (answer.get("X-Kong-Upstream-Latency") or "").isdigit()
    assert (answer.get("X-Kong-Proxy-Latency") or "").isdigit()
    assert answer.get("X-Kong-Request-Id") == head.get("X-Kong-Request-Id")
    assert answer.get("X-Kong-Response-Latency") is None
    for number in range(3):  # the same two connections again
        client.send(request(b"/%d" % number))
        assert upstream.head().target == f"/{number}"
        upstream.send(OK)
        assert client.message()[1] == b"ok"
    assert rig.upstream.untouched()
    assert (rig.count("accepts"), rig.count("upstream_reused")) == (1, 3)
    assert rig.count("proxied") == {2: 4}
    assert rig.count("live_exchanges") == 0


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"X"])
def test_every_method_goes_on_as_it_is(rig: Rig, method: bytes) -> None:
    rig.http_route()
    client, upstream, head = ask(rig, post(b"abc", method=method))
    assert head.line == f"{method.decode()} / HTTP/1.1"
    assert head.get("Content-Length") == "3"
    assert upstream.exactly(3) == b"abc"
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_request_is_whole_wherever_it_is_cut(rig: Rig) -> None:
    rig.http_route()
    client = rig.connect()
    upstream = None
    for whole in (post(b"body of it"), post_coded(b"body", b" ", b"of it", trailer=b"T: x\r\n")):
        for cut in range(1, len(whole)):
            client.send(whole[:cut])
            if upstream is None:
                client.send(whole[cut:])
                upstream = rig.upstream.accept()
            elif cut < whole.index(b"\r\n\r\n") + 4:
                client.send(whole[cut:])
            else:  # the rest waits until the gateway has taken what was sent
                head = upstream.head()
                client.send(whole[cut:])
                upstream.data = b"POST " + b"/ x\r\n\r\n" + upstream.data
                assert head.target == "/"
            head, body = receive(upstream, whole)
            assert body == b"body of it"
            upstream.send(OK)
            assert client.message()[1] == b"ok"
    assert rig.upstream.untouched()


def receive(upstream: Line, whole: bytes) -> tuple[Head, bytes]:
    head = upstream.head()
    if b"chunked" in whole:
        return head, b"".join(upstream.chunks())
    return head, upstream.exactly(10)


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 Fine\r\nContent-Length: 10\r\n\r\nanswer one",
        b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n"
        + coded(b"answer", b" one", trailer=b"T: x\r\n"),
    ],
)
def test_answer_is_whole_wherever_it_is_cut(rig: Rig, whole: bytes) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    for cut in range(1, len(whole)):
        upstream.send(whole[:cut])
        if cut >= whole.index(b"\r\n\r\n") + 4:
            head = client.head()
            upstream.send(whole[cut:])
            coding = head.get("Transfer-Encoding")
            body = b"".join(client.chunks()) if coding else client.exactly(10)
        else:
            upstream.send(whole[cut:])
            body = client.message()[1]
        assert body == b"answer one"
        client.send(request())
        upstream.head()
    upstream.send(OK)
    assert client.message()[1] == b"ok"
    assert rig.upstream.untouched()


def test_requests_sent_ahead_are_answered_in_order(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, post(b"1") + post_coded(b"2") + request(b"/3") + post(b"4"))
    for number in (b"1", b"2", b"3", b"4"):
        if number != b"1":
            head = upstream.head()
            if number == b"3":
                assert head.target == "/3"
        if number == b"2":
            assert upstream.chunks() == [number]
        elif number != b"3":
            assert upstream.exactly(1) == number
        assert upstream.silent()  # one after another
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + number)
        assert client.message()[1] == number


def test_answers_without_a_body_have_none(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, request(method=b"HEAD"))
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7000\r\n\r\n")
    assert client.head().get("Content-Length") == "7000"
    client.send(request(method=b"HEAD"))
    assert upstream.head().line == "HEAD / HTTP/1.1"
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    head = client.head()
    assert (head.get("Content-Length"), head.get("Transfer-Encoding")) == (None, None)
    client.send(request())
    upstream.head()
    upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    head = client.head()
    assert (head.status, head.get("Content-Length")) == (204, None)
    client.send(request())
    upstream.head()
    upstream.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n")
    head = client.head()
    assert (head.status, head.get("Content-Length"), head.get("ETag")) == (304, "9", "x")
    client.send(request())
    upstream.head()
    upstream.send(OK)
    assert client.message()[1] == b"ok"
    assert rig.upstream.untouched()


def test_chunks_are_made_anew_and_trailers_end_here(rig: Rig) -> None:
    """Nor are they announced, either way."""
    rig.http_route()
    sent = post_coded(b"ab", b"cd", trailer=b"X-Consumer-ID: forged\r\n")
    announced = b"TRAILER: X-Consumer-ID\r\nTrailers: 1\r\n"
    client, upstream, head = ask(rig, sent.replace(b"\r\n", b"\r\n" + announced, 1))
    assert head.get("Transfer-Encoding") == "chunked"
    assert head.get("Content-Length") is None
    assert (head.get("Trailer"), head.get("Trailers")) == (None, "1")
    assert upstream.chunks() == [b"abcd"]
    upstream.send(b"HTTP/1.1 200 OK\r\nTrailer: Set-Cookie\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream.send(coded(b"12", b"34", trailer=b"Set-Cookie: x\r\n"))
    answer, body = client.message()
    assert (answer.get("Trailer"), body) == (None, b"1234")


# --- HTTP/1.0, and answers that end with the connection ------------------------------------------


def test_answer_without_a_length_is_chunked_for_http_1_1(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.0 200 OK\r\n\r\nsome")
    head = client.head()
    assert head.get("Transfer-Encoding") == "chunked"
    assert head.get("Connection") == "keep-alive"
    upstream.send(b", more")
    upstream.close()
    assert b"".join(client.chunks()) == b"some, more"
    client.send(request(b"/next"))
    upstream = rig.upstream.accept()
    assert upstream.head().target == "/next"
    upstream.send(OK)
    assert client.message()[1] == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nsome, more",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded(b"some", b", more"),
    ],
)
def test_answer_without_a_length_ends_the_connection_of_http_1_0(rig: Rig, answer: bytes) -> None:
    rig.http_route()
    client, upstream, head = ask(rig, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert head.line == "GET / HTTP/1.1"
    assert head.get("Host") == f"127.0.0.1:{rig.upstream.port}"
    upstream.send(answer)
    upstream.close()
    found = client.head()
    assert found.get("Connection") == "close"
    assert (found.get("Transfer-Encoding"), found.get("Content-Length")) == (None, None)
    assert client.rest() == b"some, more"


def test_http_1_0_client_is_kept_when_it_asks_and_there_is_a_length(rig: Rig) -> None:
    rig.http_route({"path": "/x"}, preserve_host=True)
    client, upstream, _ = ask(rig, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    upstream.send(OK)
    assert client.message()[0].get("Connection") == "keep-alive"
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    upstream.head()
    upstream.send(OK)
    assert client.message()[0].get("Connection") == "close"
    assert client.rest() == b""


def test_upstream_that_closes_is_not_asked_again(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    assert client.message()[0].get("Connection") == "keep-alive"
    assert upstream.rest() == b""
    client.send(request())
    rig.upstream.accept().head()


def test_client_that_closes_is_answered_and_the_upstream_kept(rig: Rig) -> None:
    rig.http_route()
    client, upstream, head = ask(rig, request(b"/", b"Connection: close"))
    assert head.get("Connection") == "keep-alive"
    upstream.send(OK)
    assert client.message()[0].get("Connection") == "close"
    assert client.rest() == b""
    assert upstream.silent()


# --- the pool -------------------------------------------------------------------------------------


def test_connection_of_the_pool_serves_another_client() -> None:
    with new_rig(1) as rig:
        rig.http_route()
        _, upstream, _ = ask(rig)
        upstream.send(OK)
        until(lambda: rig.count("live_exchanges") == 0)
        rig.client(request(b"/other"))
        assert upstream.head().target == "/other"
        third = rig.client(request(b"/third"))  # that one is busy
        another = rig.upstream.accept()
        assert another.head().target == "/third"
        another.send(OK)
        assert third.message()[1] == b"ok"


@pytest.mark.parametrize("sent", [request(), post(b"abc")])
def test_connection_of_the_pool_that_has_ended_is_not_used(sent: bytes) -> None:
    with new_rig(1) as rig:
        rig.http_route()
        client, upstream, _ = ask(rig)
        upstream.send(OK)
        client.message()
        upstream.close()
        client.send(sent)
        fresh = rig.upstream.accept()
        fresh.head()
        fresh.send(OK)
        assert client.message()[1] == b"ok"


def test_connection_of_the_pool_that_dies_with_a_request_is_replaced_once() -> None:
    with new_rig(1) as rig:
        rig.http_route({"retries": 0})
        client, upstream, _ = ask(rig)
        upstream.send(OK)
        client.message()
        client.send(request(b"/again"))
        assert upstream.head().target == "/again"
        upstream.close()
        fresh = rig.upstream.accept()
        assert fresh.head().target == "/again"
        fresh.close()
        assert client.answer()[0].status == 502
        assert rig.upstream.untouched()


def test_post_that_was_sent_is_not_sent_again() -> None:
    with new_rig(1) as rig:
        rig.http_route()
        client, upstream, _ = ask(rig)
        upstream.send(OK)
        client.message()
        client.send(post(b"once"))
        upstream.head()
        assert upstream.exactly(4) == b"once"
        upstream.close()
        assert client.answer()[0].status == 502
        assert rig.upstream.untouched()


def test_upstream_that_speaks_unasked_is_ended() -> None:
    with new_rig(1) as rig:
        rig.http_route()
        client, upstream, _ = ask(rig)
        upstream.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert client.message()[1] == b"ok"
        assert upstream.rest() == b""
        client.send(request())
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(OK)
        client.message()
        upstream.send(b"HTTP/1.1 408 Too Slow\r\nContent-Length: 0\r\n\r\n")
        assert upstream.rest() == b""


def test_pool_is_bounded_and_ended_by_a_drain() -> None:
    with new_rig(1) as rig:
        rig.http_route()
        busy = []
        for _ in range(300):
            client = rig.client(request())
            upstream = rig.upstream.accept()
            upstream.head()
            busy.append((client, upstream))
        for client, upstream in busy:
            upstream.send(OK)
            client.message()
            client.close()
        until(lambda: rig.count("connections") <= 256)
        assert rig.count("connections") == 256
        rig.engine.drain(0.1)
        until(lambda: rig.count("connections") == 0)


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (2, 3)])
def test_idempotent_request_is_tried_as_often_as_the_service_says(
    rig: Rig, retries: int, tries: int
) -> None:
    rig.http_route({"retries": retries})
    client = rig.client(request())
    for _ in range(tries):
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.close()
    assert client.answer()[0].status == 502
    assert rig.upstream.untouched()


def test_post_is_tried_once(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, post(b"x"))
    upstream.close()
    assert client.answer()[0].status == 502
    assert rig.upstream.untouched()


def test_upstream_errors_are_answers_and_not_retried(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
    head, body = client.message()
    assert (head.line, body) == ("HTTP/1.1 503 Busy", b"busy")
    assert rig.count("proxied") == {5: 1}


# --- 100-continue and other interim answers -------------------------------------------------------


def test_expectation_goes_to_the_upstream_and_its_word_back(rig: Rig) -> None:
    rig.http_route()
    sent = request(b"/", b"Content-Length: 4", b"Expect: 100-Continue", method=b"PUT")
    client, upstream, head = ask(rig, sent)
    assert head.get("Expect") == "100-continue"
    assert client.silent()
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n")
    hint = client.head()
    assert (hint.status, hint.get("Link"), hint.get("Connection")) == (103, "</a>", None)
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.head().line == "HTTP/1.1 100 Continue"
    client.send(b"body")
    assert upstream.exactly(4) == b"body"
    upstream.send(OK)
    head, body = client.message()
    assert (body, head.get("Connection")) == (b"ok", "keep-alive")


def test_final_answer_to_an_expectation_ends_the_connection(rig: Rig) -> None:
    rig.http_route()
    sent = request(b"/", b"Content-Length: 4", b"Expect: 100-continue", method=b"PUT")
    client, upstream, _ = ask(rig, sent)
    upstream.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
    head = client.message()[0]
    assert (head.status, head.get("Connection")) == (417, "close")
    assert client.rest() == b""
    assert upstream.rest() == b""


def test_interim_answers_are_not_for_http_1_0(rig: Rig) -> None:
    rig.http_route()
    sent = b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
    client, upstream, head = ask(rig, sent)
    assert head.get("Expect") is None
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert client.message()[0].status == 200


def test_endless_interim_answers_are_a_bad_gateway(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 20)
    for _ in range(16):
        assert client.head().status == 102
    assert client.answer()[0].status == 502
    assert upstream.rest() == b""


# --- answers that come early ----------------------------------------------------------------------


def test_answer_that_comes_early_is_relayed_and_the_connection_ended(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, request(b"/", b"Content-Length: 1000000", method=b"POST"))
    upstream.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!")
    head, body = client.message()
    assert (head.status, head.get("Connection"), body) == (413, "close", b"no!")
    assert client.rest() == b""
    assert upstream.rest() == b""


def test_answer_of_an_upstream_that_took_no_more_is_heard(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, request(b"/", b"Content-Length: 50000000", method=b"POST"))
    upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    upstream.send(b"HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
    upstream.shut()
    sending = send_aside(client, b"x" * 50_000_000)
    head, body = client.message()
    assert (head.status, body) == (413, b"no!")
    client.rest()
    sending.join(SECONDS)


def test_bodies_may_go_both_ways_at_once(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, request(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.head().get("Connection") == "close"
    for _ in range(3):
        client.send(b"4\r\nping\r\n")
        assert upstream.exactly(9) == b"4\r\nping\r\n"
        upstream.send(b"4\r\npong\r\n")
        assert client.exactly(9) == b"4\r\npong\r\n"
    client.send(b"0\r\n\r\n")
    assert upstream.exactly(5) == b"0\r\n\r\n"
    upstream.send(b"0\r\n\r\n")
    assert client.rest() == b"0\r\n\r\n"


# --- large bodies, slow readers -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_upload_of_8_mib_reaches_a_slow_upstream(rig: Rig, how: str) -> None:
    rig.http_route()
    whole = BIG * 8
    sent = post(whole) if how == "length" else post_coded(*([BIG[:50_000]] * 168))
    client = rig.connect()
    sending = send_aside(client, sent)
    upstream = rig.upstream.accept()
    upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    upstream.head()
    if how == "length":
        assert upstream.exactly(len(whole)) == whole
    else:
        assert b"".join(upstream.chunks()) == BIG[:50_000] * 168
    sending.join(SECONDS)
    upstream.send(OK)
    head, body = client.message()
    assert (body, head.get("Connection")) == (b"ok", "keep-alive")


@pytest.mark.parametrize("how", ["length", "chunked", "to the end"])
def test_download_of_8_mib_reaches_a_slow_client(rig: Rig, how: str) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    whole = BIG * 8
    if how == "length":
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole
    elif how == "chunked":
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded(*([BIG] * 8))
    else:
        answer = b"HTTP/1.1 200 OK\r\n\r\n" + whole

    def send() -> None:
        upstream.send(answer)
        if how == "to the end":
            upstream.shut()

    sending = threading.Thread(target=send)
    sending.start()
    assert client.message()[1] == whole
    sending.join(SECONDS)


def test_one_byte_chunks_do_not_grow(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    sending = send_aside(upstream, b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n")
    assert client.message()[1] == b"x" * 200_000
    sending.join(SECONDS)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_stalled_readers_hold_back_the_other_side(direction: str) -> None:
    """20 pairs whose reader takes nothing: each holds what its bounds say, and no more."""
    with new_rig(1) as rig:
        rig.http_route()
        before = rss_kib()
        stuck = []
        for _ in range(20):
            if direction == "up":
                client, upstream, _ = ask(
                    rig, request(b"/", b"Content-Length: 100000000", method=b"POST")
                )
                source = client
            else:
                client, upstream, _ = ask(rig)
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                client.head()
                source = upstream
            source.sock.setblocking(False)
            stuck.append(source)
        block = b"x" * 65536

        def full() -> bool:
            taken = 0
            for source in stuck:
                with contextlib.suppress(BlockingIOError):
                    taken += source.sock.send(block)
            return taken == 0

        until(full, 30)
        assert rss_kib() - before < 20 * 200 + 4096


# --- broken ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
    ],
)
def test_answer_that_ends_early_is_never_completed(rig: Rig, sent: bytes) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(sent)
    upstream.close()
    client.head()
    rest = client.rest()
    assert b"0\r\n\r\n" not in rest
    assert rest in (b"5\r\nhello\r\n", b"3\r\nhel\r\n", b"hello")


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nhelloX", b"5 \r\nhello\r\n", b"-1\r\n", b"\n"])
def test_malformed_chunk_of_the_upstream_cuts_the_answer(rig: Rig, chunk: bytes) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    assert client.head().get("Transfer-Encoding") == "chunked"
    assert client.exactly(8) == b"3\r\nabc\r\n"
    upstream.send(chunk)
    assert b"0\r\n\r\n" not in client.rest()
    assert upstream.rest() == b""


def test_reset_of_a_body_without_a_length_is_no_end(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
    client.head()
    assert client.exactly(9) == b"4\r\nsome\r\n"
    upstream.reset()
    assert client.rest() == b""
    old, upstream, _ = ask(rig, b"GET / HTTP/1.0\r\n\r\n")
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
    old.head()
    assert old.exactly(4) == b"some"
    upstream.reset()
    with pytest.raises(ConnectionResetError):
        old.sock.recv(1)


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"3\r\nabcd\r\n", b"3\nabc", b"ffffffffffffffffff\r\n"]
)
def test_malformed_chunk_of_the_client_is_a_400_and_the_end(rig: Rig, chunk: bytes) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig, request(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    client.send(chunk)
    head = client.answer()[0]
    assert (head.status, head.get("Connection")) == (400, "close")
    assert b"0\r\n\r\n" not in upstream.rest()
    assert client.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: %s\r\n" % (b"y" * 8000) * 5 + b"\r\n",
    ],
)
def test_head_of_the_upstream_that_has_no_one_reading_is_a_502(rig: Rig, sent: bytes) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    upstream.send(sent)
    head, body = client.answer()
    switched = sent.startswith(b"HTTP/1.1 101 ")  # S45: then the client's side ends too
    assert (head.status, head.get("Connection")) == (502, "close" if switched else "keep-alive")
    assert body.startswith(b"An invalid response was received from the upstream server")
    assert head.get("Via") is None
    assert head.get("X-Kong-Response-Latency") is not None
    assert upstream.rest() == b""
    if switched:
        assert client.rest() == b""
    else:
        client.send(request())
        rig.upstream.accept().head()


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["before the answer", "within the answer", "within the body"])
def test_client_that_goes_ends_the_upstream(rig: Rig, how: str, when: str) -> None:
    rig.http_route()
    sent = request(b"/", b"Content-Length: 9", method=b"POST") if "body" in when else request()
    client, upstream, _ = ask(rig, sent)
    if "within the answer" in when:
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\nx")
        client.head()
    getattr(client, how)()
    if "within the answer" in when:
        send_aside(upstream, b"x" * 80_000_000).join(SECONDS)
    assert upstream.rest() == b""
    until(lambda: rig.count("live_exchanges") == 0)


def test_client_that_ended_its_side_gets_its_answer(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    client.shut()
    upstream.send(OK)
    assert client.message()[1] == b"ok"
    assert client.rest() == b""


# --- timeouts -------------------------------------------------------------------------------------


def test_upstream_that_never_answers_is_a_504(rig: Rig) -> None:
    rig.http_route({"read_timeout_ms": 100})
    client, upstream, _ = ask(rig)
    head, body = client.answer()
    assert (head.status, head.get("Connection")) == (504, "keep-alive")
    assert body.startswith(b"The upstream server is timing out")
    assert upstream.rest() == b""


def test_upstream_that_stops_within_its_answer_is_cut(rig: Rig) -> None:
    rig.http_route({"read_timeout_ms": 300})
    client, upstream, _ = ask(rig)
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.head()
    began = time.monotonic()
    for _ in range(6):  # in all longer than one timeout
        assert client.silent(0.1)
        upstream.send(b"1\r\nx\r\n")
        assert client.exactly(6) == b"1\r\nx\r\n"
    assert time.monotonic() - began > 0.5
    assert client.rest() == b""
    assert upstream.rest() == b""


def test_upstream_that_takes_nothing_is_a_504(rig: Rig) -> None:
    rig.http_route({"write_timeout_ms": 200, "read_timeout_ms": 60000})
    client, _, _ = ask(rig, request(b"/", b"Content-Length: 90000000", method=b"POST"))
    sending = send_aside(client, b"x" * 90_000_000)
    head = client.answer()[0]
    assert (head.status, head.get("Connection")) == (504, "close")
    client.rest()
    sending.join(SECONDS)


def test_read_timeout_does_not_run_while_the_client_sends_its_body(rig: Rig) -> None:
    rig.http_route({"read_timeout_ms": 200})
    client, upstream, _ = ask(rig, request(b"/", b"Content-Length: 5", method=b"POST"))
    for _ in range(5):
        assert client.silent(0.1)
        client.send(b"x")
        assert upstream.exactly(1) == b"x"
    upstream.send(OK)
    assert client.message()[1] == b"ok"


# --- TLS clients, draining, unusual requests ------------------------------------------------------


def test_client_over_tls_uploads_and_downloads(self_signed: tuple[Path, Path]) -> None:
    with new_rig(1) as rig:
        rig.use_tls(self_signed)
        rig.http_route()
        client = rig.secure()
        sending = send_aside(client, post(BIG) + post_coded(BIG, b"end"))
        upstream = rig.upstream.accept()
        assert upstream.head().get("X-Forwarded-Proto") == "https"
        assert upstream.exactly(len(BIG)) == BIG
        sending.join(SECONDS)
        upstream.send(OK)
        assert client.message()[1] == b"ok"
        upstream.head()
        assert b"".join(upstream.chunks()) == BIG + b"end"
        answering = send_aside(
            upstream, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG
        )
        assert client.message()[1] == BIG
        answering.join(SECONDS)


def test_request_in_hand_is_answered_while_the_gateway_drains() -> None:
    with new_rig(1) as rig:
        rig.http_route()
        client, upstream, _ = ask(rig, request(b"/", b"Content-Length: 4", method=b"POST"))
        rig.engine.drain(0.0)
        until(lambda: not accepts(rig))
        assert rig.count("live_exchanges") == 1
        client.send(b"body")
        assert upstream.exactly(4) == b"body"
        upstream.send(OK)
        head, body = client.message()
        assert (body, head.get("Connection")) == (b"ok", "close")
        assert client.rest() == b""
        assert upstream.rest() == b""
        assert rig.count("live_exchanges") == 0


def test_head_of_the_upstream_may_be_the_largest_there_is(rig: Rig) -> None:
    rig.http_route()
    client, upstream, _ = ask(rig)
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 4000) for number in range(8))
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n" + fields + b"\r\n", b"z" * 70000)
    head, body = client.message()
    assert len(head.get("X-7") or "") == 4000
    assert body == b"z" * 70000


@pytest.mark.parametrize("given", [b"0", b""])
def test_request_of_no_bytes_says_as_much_as_it_did(rig: Rig, given: bytes) -> None:
    rig.http_route()
    fields = [b"Content-Length: " + given] if given else []
    client, upstream, head = ask(rig, request(b"/", *fields, method=b"POST"))
    assert head.get("Content-Length") == (given.decode() or None)
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_service_of_ws_on_an_http_route_is_spoken_to_in_http(rig: Rig) -> None:
    rig.http_route({"protocol": "ws"})
    client, upstream, _ = ask(rig)
    upstream.send(OK)
    assert client.message()[1] == b"ok"


def test_addresses_of_a_name_are_tried_for_a_post_that_no_one_took(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port, protocol="http", host="many.test"),
        route(paths=["/"], oauth2=None, protocols=["http"]),
    )
    deaf = [("127.0.0.9", False), ("::1", True), ("127.0.0.8", False)]
    rig.names.set_addresses("many.test", [*deaf, ("127.0.0.1", False)])
    for _ in range(8):  # the first address is drawn
        client = rig.client(post(b"once"))
        upstream = rig.upstream.accept()
        upstream.head()
        assert upstream.exactly(4) == b"once"
        upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        assert client.message()[1] == b"ok"


def test_kept_connection_that_a_next_try_comes_to_gets_the_body() -> None:
    with new_rig(1) as rig, black_hole("127.0.0.9", rig.upstream.port):
        rig.publish(
            service(rig.upstream.port, protocol="http", host="many.test", connect_timeout_ms=200),
            route(paths=["/"], oauth2=None, protocols=["http"]),
        )
        good = ("127.0.0.1", False)
        rig.names.set_addresses("many.test", [good])
        client, upstream, _ = ask(rig, request())
        upstream.send(OK)
        assert client.message()[1] == b"ok"
        rig.names.set_addresses("many.test", [("127.0.0.9", False), good])
        for _ in range(8):  # the first address is drawn
            client.send(post(b"once"))
            upstream.head()
            assert upstream.exactly(4) == b"once"
            upstream.send(OK)
            assert client.message()[1] == b"ok"
        assert rig.count("upstream_reused") == 8
