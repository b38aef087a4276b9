"""An upstream that answers a handshake with other than 101 is heard by the client as it spoke."""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.dataplane.engine_kit import Line, Rig, handshake, request

BIG = b"x" * 300_000
MOST = 1 << 20  # bytes of a refusal's body
REFUSALS = [
    (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: no\r\n\r\n", [b"nope"], b"nope"),
    (b"HTTP/1.1 404 Nobody Here\r\nContent-Length: 0\r\n\r\n", [], b""),
    (b"HTTP/1.1 204 No Content\r\n\r\n", [], b""),
    (
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n",
        [b"3\r\nabc\r\n", b"2;x=y\r\nde\r", b"\n0\r\nA-Trailer: x\r\n\r\n"],
        b"abcde",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", [BIG], BIG),
]


@pytest.mark.parametrize(("head", "pieces", "body"), REFUSALS)
def test_s44_client_gets_the_upstreams_answer_and_its_next_bytes_go_elsewhere(
    rig: Rig, head: bytes, pieces: list[bytes], body: bytes
) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(head)
    for piece in pieces:
        upstream.send(piece)
    found, content = client.message()
    status, phrase = head.split(b"\r\n")[0].split(b" ", 2)[1:]
    assert found.line == f"HTTP/1.1 {status.decode()} {phrase.decode()}"
    assert content == body
    assert (found.get("Transfer-Encoding") == "chunked") is (b"chunked" in head)
    assert found.get("X-Why") == ("no" if b"X-Why" in head else None)
    assert found.get("Via") == "1.1 narthex/test"
    assert found.get("X-Kong-Upstream-Latency") is not None
    assert rig.record("refused")["why"] == "upstream refused the handshake"
    client.send(request(b"/"))  # this connection goes on; the upstream's does not
    assert client.answer()[0].status == 426
    assert upstream.rest() == b""


def test_s44_refusal_without_a_length_ends_with_the_connection(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 503 Busy\r\n\r\nlater")
    upstream.send(b", please")
    upstream.close()
    found, content = client.message()
    assert (found.status, content) == (503, b"later, please")


def test_refusal_cut_short_is_never_completed(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nabc")
    upstream.close()
    assert client.head().get("Content-Length") == "10"
    assert client.rest() == b"abc"


def test_refusal_over_1_mib_is_a_502_or_cut(rig: Rig) -> None:
    rig.open_route()
    client = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % (MOST + 1))
    assert client.answer()[0].status == 502
    client.send(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert client.head().status == 403
    sending = threading.Thread(target=endless, args=(upstream,))
    sending.start()
    assert len(client.rest()) < MOST + 70000
    sending.join()


def endless(line: Line) -> None:
    """Send until the other side has enough."""
    with contextlib.suppress(ConnectionError):
        while True:
            line.send(b"x" * 65536)
