"""TLS listeners: versions, ALPN, certificates, and what runs over them.  _tls.pyx."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    MASK,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    handshake,
    plugin,
    request,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.snapshots import uid

Pair = tuple[Path, Path]


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def tls_rig(request: pytest.FixtureRequest, self_signed: Pair) -> Iterator[Rig]:
    made = Rig(request.param)
    made.use_tls(self_signed)
    made.engine.start()
    try:
        yield made
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()


def context_of(
    alpn: list[str] | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


def wrapped(rig: Rig, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", rig.tls_port), 10)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def session(rig: Rig) -> tuple[Line, Line]:
    client = rig.secure(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101
    return client, upstream


# --- the handshake of TLS -------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(tls_rig: Rig, version: ssl.TLSVersion) -> None:
    tls_rig.open_route(paths=["/known"])
    line = Line(wrapped(tls_rig, context_of(version=version)))
    tls_rig.lines.append(line)
    line.send(request(b"/no"))
    assert line.answer()[0].status == 404
    assert line.sock.version() == version.name.replace("v1_", "v1.")  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_s73_tls_below_1_2_is_refused(tls_rig: Rig, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        wrapped(tls_rig, context_of(version=version))


def suite(rig: Rig, context: ssl.SSLContext) -> str:
    with wrapped(rig, context) as sock:
        cipher = sock.cipher()
        assert cipher is not None
        return cipher[0]


def test_our_order_of_suites_goes_before_the_clients(tls_rig: Rig) -> None:
    assert suite(tls_rig, context_of()) == "TLS_AES_128_GCM_SHA256"
    old = context_of(version=ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert suite(tls_rig, old) == "ECDHE-ECDSA-AES128-GCM-SHA256"
    old.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    assert suite(tls_rig, old) == "ECDHE-ECDSA-AES256-GCM-SHA384"


def test_client_without_aes_instructions_gets_chacha20(tls_rig: Rig) -> None:
    context = context_of(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert suite(tls_rig, context) == "ECDHE-ECDSA-CHACHA20-POLY1305"


@pytest.mark.parametrize("ciphers", ["ECDHE+SHA1", "ECDHE+SHA256:!AESGCM:!CHACHA20", "kRSA", "DHE"])
def test_tls_1_2_without_aead_and_forward_secrecy_is_refused(tls_rig: Rig, ciphers: str) -> None:
    context = context_of(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(ciphers)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        wrapped(tls_rig, context)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(None, None), (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1")],
)
def test_alpn_is_http_1_1(tls_rig: Rig, offered: list[str] | None, chosen: str | None) -> None:
    with wrapped(tls_rig, context_of(offered)) as sock:
        assert sock.selected_alpn_protocol() == chosen


def test_client_that_speaks_h2_alone_is_refused(tls_rig: Rig) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        wrapped(tls_rig, context_of(["h2"]))


@pytest.mark.parametrize(
    "sent", [request(b"/"), b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\x80" * 50, b"\0"]
)
def test_what_is_no_tls_is_ended(tls_rig: Rig, sent: bytes) -> None:
    client = tls_rig.client(sent, port=tls_rig.tls_port)
    client.shut()
    client.rest()
    tls_rig.idle()


def test_handshake_cut_into_bytes_succeeds(tls_rig: Rig) -> None:
    """The client's flights are written one byte at a time."""
    tls_rig.open_route(paths=["/known"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context_of().wrap_bio(incoming, outgoing, server_hostname="localhost")
    line = tls_rig.connect(port=tls_rig.tls_port)

    def flush() -> None:
        for byte in outgoing.read():
            line.send(bytes([byte]))

    def done() -> bool:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            flush()
            incoming.write(line.sock.recv(65536))
            return False
        return True

    until(done)
    tls.write(request(b"/no"))
    flush()
    text = b""
    while b"404 Not Found" not in text:
        try:
            text += tls.read(65536)
        except ssl.SSLWantReadError:
            incoming.write(line.sock.recv(65536))
    line.close()


def test_tls_handshake_that_stops_is_ended(tls_rig: Rig) -> None:
    """S73: after 10 s; here the client ends sooner, and nothing may be left."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context_of().wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    for size in (1, 5, len(hello) // 2, len(hello)):
        client = tls_rig.client(hello[:size], port=tls_rig.tls_port)
        until(lambda: tls_rig.count("connections") == 1)
        client.reset()
        tls_rig.idle()


# --- what runs over it ----------------------------------------------------------------------------


def test_websocket_over_tls_with_large_frames_both_ways(tls_rig: Rig) -> None:
    tls_rig.guarded_route()
    client = tls_rig.secure(handshake(b"/", b"Authorization: Bearer " + tls_rig.token()))
    upstream = tls_rig.upstream.accept()
    head = upstream.head()
    assert head.get("X-Forwarded-Proto") == "https"
    assert head.get("X-Forwarded-Port") == str(tls_rig.tls_port)
    upstream.send(switching(), frame(TEXT, b"first"))
    assert client.head().status == 101
    assert client.frame().payload == b"first"
    for size in (0, 1, 125, 16384, 16385, 65536, 70000):
        payload = bytes(range(256)) * (size // 256 + 1)
        client.send(up(BINARY, payload[:size]))
        assert upstream.frame().payload == payload[:size]
        upstream.send(frame(BINARY, payload[:size]))
        assert client.frame().payload == payload[:size]
    client.send(close(1000, b"bye", mask=MASK))
    assert upstream.frame().code == 1000
    upstream.send(close(1000))
    assert client.frame().code == 1000
    assert client.rest() == b"" == upstream.rest()


def test_many_small_frames_in_one_record_arrive(tls_rig: Rig) -> None:
    """What OpenSSL has read ahead must not be forgotten for want of an event."""
    tls_rig.open_route()
    client, upstream = session(tls_rig)
    for _ in range(20):
        client.send(*[up(TEXT, b"%d" % n) for n in range(2000)])
        assert [f.payload for f in upstream.frames(2000)] == [b"%d" % n for n in range(2000)]


def test_frames_in_the_record_of_the_head_arrive(tls_rig: Rig) -> None:
    tls_rig.open_route()
    client = tls_rig.secure(handshake() + up(TEXT, b"early") + up(BINARY, b"x" * 9000))
    upstream = tls_rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert [len(f.payload) for f in upstream.frames(2)] == [5, 9000]
    assert client.head().status == 101


def test_pipelined_requests_over_tls_are_answered(tls_rig: Rig) -> None:
    tls_rig.open_route(paths=["/known"])
    client = tls_rig.secure(b"".join(request(b"/%d" % n) for n in range(10)))
    assert [client.answer()[0].status for _ in range(10)] == [404] * 10


def test_stalled_reader_over_tls_stops_the_sender_and_loses_nothing(tls_rig: Rig) -> None:
    tls_rig.open_route()
    client, upstream = session(tls_rig)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    piece = frame(BINARY, bytes(range(250)) * 200)
    upstream.sock.setblocking(False)
    sent, rest = 0, b""
    quiet = time.monotonic()
    while time.monotonic() - quiet < 0.3:
        rest = rest or piece
        try:
            rest = rest[upstream.sock.send(rest) :]
            sent += not rest
            quiet = time.monotonic()
        except BlockingIOError:
            pass
        assert sent < 2000, "the sender was never stopped"
    for n in range(sent):
        assert client.frame().raw == piece, n
    upstream.sock.setblocking(True)
    upstream.send(rest, frame(TEXT, b"after"))
    if rest:
        assert client.frame().raw == piece
    assert client.frame().payload == b"after"


def test_goodbye_of_tls_is_the_clients_end(tls_rig: Rig) -> None:
    """close_notify, then FIN: in order, so the upstream hears 1001."""
    tls_rig.open_route()
    client, upstream = session(tls_rig)
    client.sock.settimeout(0.2)
    with contextlib.suppress(OSError):  # ours comes when the upstream has answered
        client.sock.unwrap()  # type: ignore[attr-defined]
    assert upstream.frame().code == 1001


def test_client_lost_without_a_goodbye_is_lost(tls_rig: Rig) -> None:
    tls_rig.open_route()
    for how in ("close", "reset"):
        client, upstream = session(tls_rig)
        client.reset() if how == "reset" else client.close()
        assert upstream.frame().code == 1001
        upstream.close()


def test_gateway_says_goodbye_in_tls(tls_rig: Rig) -> None:
    """A stream that ends without close_notify could have been cut by anyone."""
    tls_rig.open_route()
    client, upstream = session(tls_rig)
    upstream.send(close(1000))
    assert client.frame().code == 1000
    client.send(close(1000, mask=MASK))
    assert upstream.frame().opcode == CLOSE
    assert client.sock.recv(100) == b""  # SSLEOFError without close_notify


def test_token_request_over_tls_says_so(tls_rig: Rig) -> None:
    tls_rig.publish(
        service(1),
        route(paths=["/t"], protocols=["https"], service=None, methods=["POST"]),
        route(id=uid(8), paths=["/ws"], oauth2=None),
        plugin(),
    )
    body = b"b" * 40000
    client = tls_rig.secure(
        request(b"/t/oauth2/token", b"Content-Length: 40000", method=b"POST"), body
    )
    kind, ref, fields = tls_rig.question()
    assert (kind, fields["tls"], fields["body"]) == ("request", True, body)
    tls_rig.engine.answer_request(ref, 200, [], b"answer")
    head, text = client.answer()
    assert (head.status, text) == (200, b"answer")
    assert head.get("Connection") == "keep-alive"


# --- certificates ---------------------------------------------------------------------------------


def test_certificate_is_changed_under_live_connections(
    tls_rig: Rig, self_signed: Pair, tmp_path: Path
) -> None:
    tls_rig.open_route()
    client, upstream = session(tls_rig)
    for _ in range(20):
        tls_rig.engine.certificate(str(self_signed[0]), str(self_signed[1]))
        tls_rig.engine.sweep()
    client.send(up(TEXT, b"still"))
    assert upstream.frame().payload == b"still"
    session(tls_rig)


def test_certificate_that_cannot_be_used_is_said_and_the_old_one_stays(
    tls_rig: Rig, self_signed: Pair, tmp_path: Path
) -> None:
    certificate, key = self_signed
    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for pair, said in (
        ((tmp_path / "none.pem", key), "none.pem"),
        ((junk, key), "junk.pem"),
        ((certificate, tmp_path / "none.key"), "none.key"),
        ((certificate, junk), "junk.pem"),
        ((certificate, other), "other.pem"),
    ):
        with pytest.raises(ValueError, match=said):
            tls_rig.engine.certificate(str(pair[0]), str(pair[1]))
    tls_rig.open_route(paths=["/known"])
    assert tls_rig.secure(request(b"/no")).answer()[0].status == 404


def test_connection_to_a_tls_listener_without_a_certificate_is_ended() -> None:
    made = Rig(1)
    port = made.engine.listen("127.0.0.1", 0, True)
    made.engine.start()
    try:
        client = made.client(b"\x16\x03\x01", port=port)
        assert client.rest() == b""
        made.close_lines()
        made.idle()
    finally:
        made.end()
