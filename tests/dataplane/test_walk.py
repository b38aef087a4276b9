"""What is checked of a frame as it passes: text, compression, small frames.  _walk.pyx."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable

import pytest

from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Line,
    Rig,
    frame,
    handshake,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib

FROM_CLIENT = pytest.param("client", id="from-client")
FROM_UPSTREAM = pytest.param("upstream", id="from-upstream")
both_ways = pytest.mark.parametrize("source", [FROM_CLIENT, FROM_UPSTREAM])
Make = Callable[..., bytes]
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"
TURN_BYTES = 4 * 65536  # READS_MAX reads of SCRATCH_BYTES, a connection and turn


def sides(rig: Rig, source: str, *fields: bytes) -> tuple[Line, Line, Make]:
    """A session as (sending end, receiving end, how the sender makes frames)."""
    client, upstream = rig.session(*fields)
    return (client, upstream, up) if source == "client" else (upstream, client, frame)


def innocent_code(source: str) -> int:
    return 1001 if source == "client" else 1011


def violated(sender: Line, receiver: Line, source: str, code: int) -> None:
    """The receiver is ended, then the sender hears why."""
    assert receiver.frame().code == innocent_code(source)
    receiver.close()
    heard = sender.frame()
    assert (heard.opcode, heard.code) == (CLOSE, code)
    sender.close()


# --- text -----------------------------------------------------------------------------------------

TEXTS = [
    "",
    "plain",
    "grüße",
    "κόσμε",
    "😀" * 300,
    "a" * 70000 + "€" * 5000,
    "\ufffe\uffff\U0010ffff",
]
NOT_TEXT = [  # what stands before the first bad byte, and that with what follows
    (b"", b"\x80"),
    (b"", b"\xff"),
    (b"good ", b"\xc3\x28"),
    (b"good ", b"\xc0\xaf"),
    (b"", b"\xed\xa0\x80"),
    (b"", b"\xf4\x90\x80\x80"),
    ("κόσμε".encode(), b"\xed\xa0\x80edited"),
    (b"a" * 66000, b"\xe2\x82\x28"),
]


def message(line: Line) -> tuple[int, bytes]:
    """The next data message, however it was cut on its way: its opcode and payload."""
    first = line.frame()
    assert first.opcode in (TEXT, BINARY)
    payload = first.payload
    fin = first.fin
    while not fin:
        more = line.frame()
        assert more.opcode == CONTINUATION
        payload += more.payload
        fin = more.fin
    return first.opcode, payload


@both_ways
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_that_is_checked_arrives_whole_wherever_it_is_cut(
    rig: Rig, source: str, text: str
) -> None:
    with rig.session_policy(validate_utf8=True):
        rig.open_route()
    sender, receiver, make = sides(rig, source)
    data = text.encode()
    whole = make(TEXT, data)
    for cut in {0, 1, 3, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        sender.send(whole[:cut])
        sender.send(whole[cut:], make(PING, b"p"))
        assert message(receiver) == (TEXT, data)
        assert receiver.frame().payload == b"p"
    for cut in {0, 1, len(data) // 2}:  # as fragments, cut within a character too
        sender.send(make(TEXT, data[:cut], fin=False), make(CONTINUATION, data[cut:]))
        assert message(receiver) == (TEXT, data)


@both_ways
@pytest.mark.parametrize("how", ["whole", "bytes", "fragments", "never ended"])
@pytest.mark.parametrize(("good", "bad"), NOT_TEXT, ids=range(len(NOT_TEXT)))
def test_s67_text_that_is_not_utf8_ends_with_1007_where_it_is_checked(
    rig: Rig, source: str, good: bytes, bad: bytes, how: str
) -> None:
    """However it comes, and before the message has ended; what was good may have gone on."""
    with rig.session_policy(validate_utf8=True):
        rig.open_route()
    sender, receiver, make = sides(rig, source)
    sender.send(make(TEXT, b"before"))
    assert receiver.frame().payload == b"before"
    whole = make(TEXT, good + bad)
    if how == "whole":
        sender.send(whole)
    elif how == "bytes":
        sender.send(whole[: -len(bad)])
        for byte in whole[-len(bad) :]:
            with contextlib.suppress(ConnectionError):
                sender.send(bytes([byte]))
    elif how == "fragments":
        sender.send(make(TEXT, good + bad[:1], fin=False), make(CONTINUATION, bad[1:], fin=False))
        with contextlib.suppress(ConnectionError):
            sender.send(make(CONTINUATION, b""))
    else:
        sender.send(make(TEXT, good + bad + b" and more" * 100)[: len(whole) + 8])
    passed = b""
    while (heard := receiver.frame()).opcode != CLOSE:
        assert heard.opcode in (TEXT, CONTINUATION)
        passed += heard.payload
    assert heard.code == innocent_code(source)
    assert (good + bad).startswith(passed)
    assert len(passed) < len(good) + len(bad)
    receiver.close()
    heard = sender.frame()
    assert (heard.opcode, heard.code) == (CLOSE, 1007)
    assert heard.payload[2:] == b"invalid payload data"
    sender.close()
    assert rig.record("ended")[f"{source}_code"] == 1007


@both_ways
@pytest.mark.parametrize("fragmented", [False, True])
def test_s67_text_cut_off_within_a_character_ends_with_1007(
    rig: Rig, source: str, fragmented: bool
) -> None:
    with rig.session_policy(validate_utf8=True):
        rig.open_route()
    sender, receiver, make = sides(rig, source)
    half = "€".encode()[:2]
    if fragmented:
        sender.send(make(TEXT, half, fin=False))
        assert receiver.frame().payload == half
        sender.send(make(CONTINUATION, b""))
    else:
        sender.send(make(TEXT, half))
    violated(sender, receiver, source, 1007)


@both_ways
def test_s67_close_reason_that_is_not_utf8_ends_with_1007_where_text_is_checked(
    rig: Rig, source: str
) -> None:
    with rig.session_policy(validate_utf8=True):
        rig.open_route()
    sender, receiver, make = sides(rig, source)
    sender.send(make(CLOSE, struct.pack("!H", 1000) + "€".encode()[:2]))
    violated(sender, receiver, source, 1007)


@both_ways
def test_text_is_not_looked_at_where_nobody_asked_and_binary_never(rig: Rig, source: str) -> None:
    for checked in (False, True):
        with rig.session_policy(validate_utf8=checked):
            rig.open_route()
        sender, receiver, make = sides(rig, source)
        sent = make(BINARY if checked else TEXT, b"\xff\xfe\x80")
        sender.send(sent)
        assert receiver.frame().raw == sent


@both_ways
def test_text_left_torn_at_the_end_of_tcp_is_a_fragment_and_a_close(rig: Rig, source: str) -> None:
    """Checked text goes on in fragments: its receiver stands at a boundary, and hears why."""
    with rig.session_policy(validate_utf8=True):
        rig.open_route()
    sender, receiver, make = sides(rig, source)
    sender.send(make(TEXT, b"x" * 1000)[:500])
    heard = receiver.frame()
    assert (heard.opcode, heard.fin, set(heard.payload)) == (TEXT, False, {120})
    sender.close()
    assert receiver.frame().code == (1001 if source == "client" else 1011)


# --- compression ----------------------------------------------------------------------------------


def compressing(rig: Rig, source: str) -> tuple[Line, Line, Make]:
    """As `sides`, with permessage-deflate agreed."""
    client = rig.client(handshake(b"/", DEFLATE))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Sec-WebSocket-Extensions") == "permessage-deflate"
    upstream.send(switching(DEFLATE))
    assert client.head().get("Sec-WebSocket-Extensions") == "permessage-deflate"
    return (client, upstream, up) if source == "client" else (upstream, client, frame)


def bomb() -> bytes:
    """64 MiB of zeros as a compressed message.  RFC 7692 §7.2.1."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(64)]
    packed = b"".join([*parts, packer.flush(zlib.Z_SYNC_FLUSH)])
    return packed.removesuffix(b"\0\0\xff\xff")


BOMB = bomb()


def test_bomb_is_one() -> None:
    unpacked = zlib.decompressobj(-15).decompress(BOMB + b"\0\0\xff\xff")
    assert (len(unpacked), len(BOMB) < 70_000) == (64 << 20, True)


@both_ways
@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "text-checked"])
def test_s66_bomb_passes_as_it_came_and_costs_nothing(source: str, checked: bool) -> None:
    """A thousandth of what it would inflate to arrives, byte for byte, and nothing grows."""
    with new_rig(1) as rig:
        with rig.session_policy(validate_utf8=checked):
            rig.open_route()
        sender, receiver, make = compressing(rig, source)
        sent = make(TEXT, BOMB, rsv=4)
        sender.send(sent)
        assert receiver.exactly(len(sent)) == sent
        before = rss_kib()
        for _ in range(20):
            sender.send(sent)
            assert receiver.exactly(len(sent)) == sent
        assert rss_kib() - before < 1024


@both_ways
def test_s66_limit_of_a_message_counts_bytes_on_the_wire(rig: Rig, source: str) -> None:
    name = "client_message_max" if source == "client" else "upstream_message_max"
    with rig.session_policy(**{name: len(BOMB)}):
        rig.open_route()
    sender, receiver, make = compressing(rig, source)
    half = len(BOMB) // 2
    sent = make(TEXT, BOMB[:half], rsv=4, fin=False) + make(CONTINUATION, BOMB[half:])
    sender.send(sent)
    assert receiver.exactly(len(sent)) == sent
    sender.send(make(BINARY, BOMB + b"\0", rsv=4)[:14])
    assert receiver.frame().payload == struct.pack("!H", 1001)
    receiver.close()
    assert sender.frame().code == 1009


@both_ways
def test_s66_where_deflate_is_refused_it_is_not_offered_and_rsv1_ends_with_1002(
    rig: Rig, source: str
) -> None:
    with rig.session_policy(refuse_deflate=True):
        rig.open_route()
    client = rig.client(handshake(b"/", DEFLATE, b"sec-websocket-extensions: x-more"))
    upstream = rig.upstream.accept()
    assert "sec-websocket-extensions" not in upstream.head().names()
    upstream.send(switching())
    assert "sec-websocket-extensions" not in client.head().names()
    sender, receiver, make = (
        (client, upstream, up) if source == "client" else (upstream, client, frame)
    )
    sender.send(make(TEXT, b"plain"))
    assert receiver.frame().payload == b"plain"
    sender.send(make(TEXT, BOMB[:100], rsv=4))
    violated(sender, receiver, source, 1002)


@pytest.mark.parametrize("kind", ["http", "ws"])
def test_s66_upstream_that_compresses_all_the_same_is_a_502(rig: Rig, kind: str) -> None:
    with rig.session_policy(refuse_deflate=True):
        rig.http_route() if kind == "http" else rig.open_route()
    client = rig.client(handshake(b"/", DEFLATE))
    upstream = rig.upstream.accept()
    assert upstream.head().get("Sec-WebSocket-Extensions") is None
    upstream.send(switching(DEFLATE))
    assert client.answer()[0].status == 502
    assert client.rest() == b"" == upstream.rest()


@both_ways
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_s63_rsv1_on_a_control_frame_ends_with_1002_with_compression_on(
    rig: Rig, source: str, opcode: int
) -> None:
    rig.open_route()
    sender, receiver, make = compressing(rig, source)
    sent = make(TEXT, b"\xaa", rsv=4, fin=False)
    sender.send(sent, make(opcode, b"", rsv=4))
    assert receiver.exactly(len(sent)) == sent
    violated(sender, receiver, source, 1002)


@both_ways
def test_s63_rsv1_on_a_continuation_ends_with_1002_with_compression_on(
    rig: Rig, source: str
) -> None:
    rig.open_route()
    sender, receiver, make = compressing(rig, source)
    sent = make(TEXT, b"\xaa", rsv=4, fin=False)
    sender.send(sent, make(CONTINUATION, b"\xbb", rsv=4))
    assert receiver.exactly(len(sent)) == sent
    violated(sender, receiver, source, 1002)


# --- floods ---------------------------------------------------------------------------------------

FLOODS = {
    "one-byte frames": (BINARY, b"x"),
    "empty frames": (BINARY, b""),
    "empty pings": (PING, b""),
    "long pings": (PING, b"p" * 125),
    "pongs": (PONG, b""),
}
WIRE_BYTES = 16 << 20


def pour(line: Line, piece: bytes, size: int) -> threading.Thread:
    """Send a piece again and again, at line rate, until that much is out or the peer has ended."""

    def run() -> None:
        with contextlib.suppress(OSError):
            for _ in range(size // len(piece)):
                line.send(piece)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", FLOODS)
def test_s68_flood_of_small_frames_keeps_to_its_budget_of_each_turn(kind: str) -> None:
    """Every byte is read in reads of 64 KiB, four a turn: the counters say how many there were."""
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        quiet, far = rig.session()
        opcode, payload = FLOODS[kind]
        piece = up(opcode, payload) * (65536 // len(up(opcode, payload)))
        before = rig.counters()
        flood = pour(client, piece, WIRE_BYTES)
        whole = WIRE_BYTES // len(piece) * len(piece)
        left = whole
        n = 0
        while left:  # the others have their turns meanwhile
            upstream.sock.settimeout(10)
            got = len(upstream.sock.recv(min(left, 1 << 20)))
            assert got
            left -= got
            n += 1
            if n % 8 == 0:
                quiet.send(up(TEXT, b"%d" % n))
                assert far.frame().payload == b"%d" % n
        flood.join()
        after = rig.counters()
        assert (after["turns"] - before["turns"] + 2) * TURN_BYTES >= whole
        if opcode == BINARY:
            sent = whole // len(up(opcode, payload)) + n // 8
            assert after["messages_in"] - before["messages_in"] == sent


def test_s68_flood_that_outruns_its_budget_waits_for_its_next_turn() -> None:
    """2 MiB of one-byte frames are there at once: eight turns at the least, and others between."""
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        piece = up(BINARY, b"x") * 9362
        for sock, option in ((client.sock, socket.SO_SNDBUF), (upstream.sock, socket.SO_RCVBUF)):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        before = rig.counters()

        def outrun() -> bool:
            flood = pour(client, piece, 2 << 20)
            upstream.exactly((2 << 20) // len(piece) * len(piece))
            flood.join()
            return bool(rig.count("budgets_spent") > before["budgets_spent"])

        until(outrun)


@pytest.mark.parametrize("kind", FLOODS)
def test_s68_flood_of_small_frames_grows_no_queue_past_its_cap(kind: str) -> None:
    """Nobody reads: the flood is stopped, and what is held is what the policy allows."""
    most = 65536
    with new_rig(1) as rig:
        with rig.session_policy(buffered_max=most):
            rig.open_route()
        opcode, payload = FLOODS[kind]
        piece = up(opcode, payload) * (65536 // len(up(opcode, payload)))
        client, upstream = rig.session()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        before = rss_kib()
        flood = pour(client, piece, 1 << 30)
        until(lambda: rig.count("reads_held") > 0)
        bytes_in = -1

        def stopped() -> bool:
            nonlocal bytes_in
            seen, bytes_in = bytes_in, rig.count("turns")
            return bool(seen == bytes_in)

        until(stopped)
        assert rss_kib() - before < (most * 1.25 + 1024) / 1024 + 512
        assert flood.is_alive()
        other, far = rig.session()  # and the worker is free for others
        other.send(up(TEXT, b"hello"))
        assert far.frame().payload == b"hello"
        client.sock.shutdown(socket.SHUT_RDWR)
        flood.join()


# --- memory ---------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("limit", [1000, 100_000])
@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "text-checked"])
def test_s64_connection_takes_no_more_than_the_limit_and_128_kib(
    source: str, limit: int, checked: bool
) -> None:
    """50 sessions whose readers take nothing, under messages of the limit without an end."""
    count, most = 50, 65536
    with new_rig(1) as rig:
        with rig.session_policy(
            client_message_max=limit, upstream_message_max=limit, validate_utf8=checked
        ):
            rig.open_route()
        opened = [sides(rig, source) for _ in range(count)]
        make = opened[0][2]
        piece = make(TEXT, b"x" * limit)
        piece *= 200_000 // limit
        before = rss_kib()
        for sender, receiver, _ in opened:
            receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sender.sock.setblocking(False)
        at = [0] * count
        still = 0

        def stalled() -> bool:
            nonlocal still
            moved = 0
            for n, (sender, _, _) in enumerate(opened):
                with contextlib.suppress(BlockingIOError):
                    moved += (sent := sender.sock.send(piece[at[n] % len(piece) :]))
                    at[n] += sent
            still = still + 1 if moved == 0 else 0
            return still > 5

        until(stalled)
        assert rss_kib() - before < count * (limit + 131072) / 1024
        assert sum(at) > count * most
        assert rig.count("live_sessions") == count
