"""Large frames, which pass from socket to socket without a copy.  _large.pyx.

Every test ends with the workers' pipes empty, and one for each: see `splicing`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    handshake,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib

LARGE = 32768  # bytes of payload from which a frame is passed on without a copy
PASS = 2 * 65536 + 1024  # bytes of a pass at most
FROM_CLIENT = pytest.param("client", id="from-client")
FROM_UPSTREAM = pytest.param("upstream", id="from-upstream")
both_ways = pytest.mark.parametrize("source", [FROM_CLIENT, FROM_UPSTREAM])


def pipes() -> dict[str, int]:
    """The pipes of this process, each with a descriptor of one of its ends."""
    return dict(descriptors("pipe:"))


def descriptors(kind: str) -> Iterator[tuple[str, int]]:
    """What this process has open of a kind, by the name in /proc."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if (name := str(entry.readlink())).startswith(kind):
                yield name, int(entry.name)


def bytes_in(pipe: int) -> int:
    (size,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(size)


@contextlib.contextmanager
def splicing(
    workers: int = 1, *, opened: Callable[[Rig], None] = Rig.open_route, **policy: Any
) -> Iterator[Rig]:
    """An engine with a route; when all is over its pipes, one a worker, hold nothing."""
    before = pipes()
    with new_rig(workers) as rig:
        ours = {name: fd for name, fd in pipes().items() if name not in before}
        assert len(ours) == workers
        with rig.session_policy(**policy):
            opened(rig)
        yield rig
        until(lambda: not any(bytes_in(fd) for fd in ours.values()))
        assert ours.keys() <= pipes().keys()


class Way:
    """One direction of a session: who sends, who receives, and how frames are made."""

    def __init__(self, rig: Rig, source: str, *fields: bytes) -> None:
        client, upstream = rig.session(*fields)
        self.rig = rig
        self.from_client = source == "client"
        self.sender, self.receiver = (client, upstream) if self.from_client else (upstream, client)

    def make(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        return (up if self.from_client else frame)(opcode, payload, **options)

    def answer(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        return (frame if self.from_client else up)(opcode, payload, **options)

    def warm(self) -> int:
        """Send a large frame, so that the next is spliced.  Bytes spliced until then."""
        sent = self.make(BINARY, payload_of(LARGE))
        self.sender.send(sent)
        assert self.receiver.exactly(len(sent)) == sent
        return self.spliced()

    def spliced(self) -> int:
        return int(self.rig.count("bytes_spliced"))

    def counted(self) -> tuple[int, int]:
        """Messages and bytes of payload of this direction."""
        way = "in" if self.from_client else "out"
        return self.rig.count(f"messages_{way}"), self.rig.count(f"bytes_{way}")


def payload_of(size: int, salt: int = 0) -> bytes:
    return (bytes((n + salt) % 256 for n in range(251)) * (size // 251 + 1))[:size]


@contextlib.contextmanager
def sending(sender: Line, data: bytes, piece: int = 0) -> Iterator[None]:
    """Send from a thread of its own, in pieces of that size or as it goes."""

    def work() -> None:
        for at in range(0, len(data), piece or len(data)):
            sender.sock.sendall(data[at : at + (piece or len(data))])

    writer = threading.Thread(target=work)
    writer.start()
    try:
        yield
    finally:
        writer.join()


def gateway_end(line: Line) -> socket.socket:
    """The engine's own socket of this connection: it runs in this process."""
    near, far = line.sock.getsockname(), line.sock.getpeername()
    for _, fd in descriptors("socket:"):
        found = socket.socket(fileno=os.dup(fd))
        with contextlib.suppress(OSError):  # not connected
            if found.getsockname() == far and found.getpeername() == near:
                return found
        found.close()
    raise AssertionError("no such socket")


def narrow(receiver: Line, window: int = 200000) -> None:
    """Let the gateway's socket take little for a receiver: twice the window.

    A receiver's own buffer under a segment of loopback, 64 KiB, would wait for timers.
    """
    with gateway_end(receiver) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window)


# --- passing on -----------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    "size",
    [LARGE - 1, LARGE, LARGE + 1, 65521, 65535, 65536, 65537, PASS - 14, PASS, 300000, 1 << 20],
)
def test_frame_around_every_bound_arrives_byte_for_byte(source: str, size: int) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        before = way.warm()
        spliced = 0
        for opcode in (TEXT, BINARY):
            sent = way.make(opcode, payload_of(size))
            way.sender.send(sent)
            assert way.receiver.exactly(len(sent)) == sent
            spliced += len(sent) if size >= LARGE else 0
        until(lambda: way.spliced() == before + spliced)
        assert way.counted() == (3, LARGE + 2 * size)


def test_small_frames_are_never_spliced() -> None:
    with splicing() as rig:
        way = Way(rig, "upstream")
        for _ in range(20):
            way.sender.send(*[way.make(BINARY, payload_of(LARGE - 1))] * 4)
            way.receiver.frames(4)
        assert way.spliced() == 0


@both_ways
@pytest.mark.parametrize("seed", range(3))
def test_any_mix_of_frames_in_any_pieces_arrives_in_order(source: str, seed: int) -> None:
    chance = random.Random(f"{source} {seed}")
    messages, size, in_message = 0, 0, False
    with splicing() as rig:
        way = Way(rig, source)
        parts = []
        for _ in range(150):
            if chance.random() < 0.2:
                control = chance.choice((PING, PONG))
                parts.append(way.make(control, payload_of(chance.randrange(126))))
                continue
            some = chance.choice((0, 5, 126, 4000, LARGE, 65536, 140000)) + chance.randrange(3)
            opcode = CONTINUATION if in_message else chance.choice((TEXT, BINARY))
            fin = in_message or chance.random() < 0.7
            parts.append(way.make(opcode, payload_of(some, len(parts)), fin=fin))
            in_message = not fin
            messages, size = messages + fin, size + some
        whole = b"".join(parts)
        with sending(way.sender, whole, chance.choice((0, 1000, 30000, 100000))):
            assert way.receiver.exactly(len(whole)) == whole
        assert way.counted() == (messages, size)
        assert way.spliced() > 100000


@both_ways
def test_frame_arrives_wherever_its_header_is_cut(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        sent = way.make(BINARY, payload_of(LARGE))
        header = len(sent) - LARGE
        for cut in range(1, header + 3):
            way.warm()
            way.sender.send(sent[:cut])
            assert cut >= header or way.receiver.silent(0.02)
            way.sender.send(sent[cut:])
            assert way.receiver.exactly(len(sent)) == sent


@both_ways
@pytest.mark.parametrize("piece", [37, 300, 1400])
def test_frames_in_small_pieces_fill_the_pipe_and_the_socket_and_arrive(
    source: str, piece: int
) -> None:
    """The pipe has room for 256 pieces, however small, and the socket for less than it said, as
    each costs more memory than its bytes: what is behind them waits its turn.
    """
    with splicing() as rig:
        way = Way(rig, source)
        before = way.warm()
        narrow(way.receiver)
        sizes = [LARGE + n for n in range(60)]
        whole = b"".join(way.make(BINARY, payload_of(size, size)) for size in sizes)
        with sending(way.sender, whole, piece):
            until(lambda: rig.count("reads_held") > 0)
            assert way.receiver.exactly(len(whole)) == whole
        assert way.counted() == (61, LARGE + sum(sizes))
        assert way.spliced() > before


def test_sessions_share_a_pipe_and_never_a_byte() -> None:
    with splicing() as rig, contextlib.ExitStack() as stack:
        ways = [Way(rig, source) for source in ("client", "upstream") * 6]
        wholes = [
            b"".join(way.make(BINARY, payload_of(70000 + number, salt)) for number in range(20))
            for salt, way in enumerate(ways)
        ]
        for way, whole in zip(ways, wholes, strict=True):
            stack.enter_context(sending(way.sender, whole))
        for way, whole in zip(ways, wholes, strict=True):
            assert way.receiver.exactly(len(whole)) == whole
        assert rig.count("bytes_spliced") > 12 * 10 * 70000


def test_both_directions_of_a_session_at_once_on_two_workers() -> None:
    with splicing(2) as rig:
        client, upstream = rig.session()
        there = up(BINARY, payload_of(200000, 1)) * 30
        back = frame(BINARY, payload_of(200000, 2)) * 30
        with sending(client, there), sending(upstream, back):
            heard: list[bytes] = []
            reader = threading.Thread(target=lambda: heard.append(client.exactly(len(back))))
            reader.start()
            assert upstream.exactly(len(there)) == there
            reader.join()
        assert heard == [back]
        assert rig.count("bytes_in") == rig.count("bytes_out") == 30 * 200000
        assert rig.count("bytes_spliced") > 30 * 200000


def test_compressed_frames_are_spliced_when_compression_was_agreed() -> None:
    with splicing() as rig:
        extension = b"Sec-WebSocket-Extensions: permessage-deflate"
        client = rig.client(handshake(b"/", extension))
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(switching(extension))
        assert client.head().status == 101
        sent = up(TEXT, payload_of(100000), rsv=4, fin=False)
        sent += up(CONTINUATION, payload_of(50000))
        for _ in range(3):
            client.send(sent)
            assert upstream.exactly(len(sent)) == sent
        until(lambda: rig.count("bytes_spliced") > 2 * len(sent))


# --- who does not splice --------------------------------------------------------------------------


@both_ways
def test_text_that_is_checked_is_read(source: str) -> None:
    with splicing(validate_utf8=True) as rig:
        way = Way(rig, source)
        for _ in range(3):
            way.sender.send(way.make(TEXT, "é".encode() * 40000))
            heard = b""
            while len(heard) < 80000:
                heard += way.receiver.frame().payload
            assert heard == "é".encode() * 40000
        way.sender.send(way.make(TEXT, b"e" * 70000 + b"\xff" + b"e" * 70000))
        while (last := way.receiver.frame()).opcode != CLOSE:
            pass
        way.receiver.send(way.answer(CLOSE, last.payload))
        assert way.sender.frame().code == 1007
        assert way.spliced() == 0


@both_ways
def test_opaque_sessions_are_read(source: str) -> None:
    with splicing(opened=Rig.http_route) as rig:
        way = Way(rig, source)
        sent = way.make(BINARY, payload_of(100000)) * 5
        with sending(way.sender, sent):
            assert way.receiver.exactly(len(sent)) == sent
        assert way.counted() == (5, 500000)
        assert way.spliced() == 0


@both_ways
def test_tls_is_read(source: str, self_signed: tuple[Path, Path]) -> None:
    def opened(rig: Rig) -> None:
        rig.use_tls(self_signed)
        rig.open_route()

    with splicing(opened=opened) as rig:
        client = rig.secure(handshake())
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(switching())
        assert client.head().status == 101
        sender, receiver = (client, upstream) if source == "client" else (upstream, client)
        sent = (up if source == "client" else frame)(BINARY, payload_of(100000)) * 5
        with sending(sender, sent):
            assert receiver.exactly(len(sent)) == sent
        assert rig.count("bytes_spliced") == 0


# --- control frames and ends ----------------------------------------------------------------------


@both_ways
def test_pings_and_pongs_between_large_frames_keep_their_place(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        before = way.warm()
        large = way.make(BINARY, payload_of(100000))
        parts = [large, way.make(PING, b"1"), large, way.make(PONG, payload_of(125)), large]
        parts += [way.make(PING, b"2"), large, large]
        way.sender.send(*parts)
        assert [f.raw for f in way.receiver.frames(len(parts))] == parts
        way.receiver.send(way.answer(PONG, b"2"))
        assert way.sender.frame().raw == way.answer(PONG, b"2")
        assert way.counted() == (6, LARGE + 500000)
        assert way.spliced() > before


@both_ways
def test_ping_of_ours_goes_between_large_frames_and_its_pong_stops_here(source: str) -> None:
    with splicing(ping_interval_ms=200, ping_timeout_ms=8000) as rig:
        way = Way(rig, source)
        large = way.make(BINARY, payload_of(150000))
        way.sender.send(large, large[:100000])
        assert way.receiver.exactly(len(large)) == large
        assert way.receiver.exactly(100000) == large[:100000]
        assert way.sender.frame().opcode == PING  # now the receiver's would be due, too
        pings = rig.count("pings")
        assert way.receiver.silent(0.3)
        assert rig.count("pings") == pings
        way.sender.send(large[100000:])
        assert way.receiver.exactly(len(large) - 100000) == large[100000:]
        ping = way.receiver.frame()
        assert (ping.opcode, len(ping.payload)) == (PING, 8)
        answer = way.answer(PONG, ping.payload) + way.answer(BINARY, payload_of(90000))
        way.receiver.send(answer)
        while (heard := way.sender.frame()).opcode == PING:
            pass
        assert heard.raw == way.answer(BINARY, payload_of(90000))


@both_ways
def test_close_behind_large_frames_passes_and_so_does_its_answer(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        way.warm()
        large = way.make(BINARY, payload_of(100000))
        end = way.make(CLOSE, struct.pack("!H", 1000) + b"done")
        way.sender.send(large, large, end, large)
        assert [f.raw for f in way.receiver.frames(3)] == [large, large, end]
        way.receiver.send(way.answer(CLOSE, b"\x03\xe8"))
        assert way.sender.frame().code == 1000
        assert way.receiver.rest() == b"" == way.sender.rest()
        assert rig.record("ended")[f"messages_from_{source}"] == 3


@both_ways
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_no_close_is_put_into_a_large_frame_that_its_sender_left_torn(
    source: str, how: str
) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        before = way.warm()
        sent = way.make(BINARY, payload_of(300000))
        way.sender.send(sent[:200000])
        assert way.receiver.exactly(200000) == sent[:200000]
        until(lambda: way.spliced() == before + 200000)
        {"close": way.sender.close, "reset": way.sender.reset, "half": way.sender.shut}[how]()
        assert way.receiver.rest() == b""
        way.receiver.close()
        record = rig.record("ended")
        assert record["why"] == f"{source} went away"
        assert (record["client_code"] or 1011, record["upstream_code"] or 1001) == (1011, 1001)


@both_ways
def test_large_frames_before_the_senders_end_still_arrive(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        way.warm()
        sent = way.make(BINARY, payload_of(400000)) * 10
        with sending(way.sender, sent):
            assert way.receiver.exactly(400000) == sent[:400000]
        way.sender.shut()
        assert way.receiver.exactly(len(sent) - 400000) == sent[400000:]
        assert way.receiver.frame().code == (1001 if source == "client" else 1011)


@both_ways
def test_receiver_that_is_lost_leaves_nothing_for_the_next_session(source: str) -> None:
    with splicing() as rig:
        for _ in range(5):
            way = Way(rig, source)
            way.warm()
            sent = way.make(BINARY, payload_of(900000)) * 8
            sender = way.sender.sock
            with contextlib.suppress(OSError):
                sender.setblocking(False)
                sender.send(sent)
            way.receiver.exactly(100000)
            way.receiver.reset()
            way.sender.close()
            assert rig.record("ended")["why"].endswith("went away")
            after = Way(rig, source)
            after.warm()
            after.sender.send(after.make(TEXT, payload_of(100000, 7)))
            assert after.receiver.frame().payload == payload_of(100000, 7)


@both_ways
def test_session_that_drains_completes_the_large_frame_in_hand(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        way.warm()
        sent = way.make(BINARY, payload_of(300000))
        way.sender.send(sent[:150000])
        assert way.receiver.exactly(150000) == sent[:150000]
        rig.engine.drain(0)
        assert way.sender.frame().code == (1012 if source == "client" else 1001)
        way.sender.send(sent[150000:], sent)
        assert way.receiver.exactly(len(sent) - 150000) == sent[150000:]
        assert way.receiver.frame().code == (1001 if source == "client" else 1012)


# --- violations -----------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("what", ["mask", "rsv", "opcode", "continuation", "size", "fragments"])
def test_what_breaks_a_rule_behind_large_frames_stops_there(source: str, what: str) -> None:
    with splicing(client_message_max=200000, upstream_message_max=200000) as rig:
        way = Way(rig, source)
        before = way.warm()
        large = payload_of(100000)
        start = way.make(BINARY, large, fin=False)
        broken = {
            "mask": way.answer(BINARY, large),
            "rsv": way.make(BINARY, large, rsv=2),
            "opcode": way.make(3, large),
            "continuation": way.make(CONTINUATION, large),
            "size": way.make(BINARY, payload_of(200001)),
            "fragments": start + way.make(CONTINUATION, payload_of(100001)),
        }[what]
        fine = [way.make(BINARY, large), way.make(BINARY, payload_of(200000))]
        if what == "fragments":
            fine.append(start)
        with sending(way.sender, b"".join(fine[:2]) + broken):
            assert [f.raw for f in way.receiver.frames(len(fine))] == fine
            told = way.receiver.frame()
        code = 1009 if what in ("size", "fragments") else 1002
        upstreams = 1001 if code == 1009 else 1011
        assert told.code == (1001 if source == "client" else upstreams)
        way.receiver.send(way.answer(CLOSE, told.payload))
        assert way.receiver.rest() == b""
        assert way.sender.frame().code == code
        messages, size = way.counted()
        assert (messages, size) == (3, LARGE + 300000 + 100000 * (what == "fragments"))
        assert way.spliced() >= before + len(fine[0])


# --- back-pressure --------------------------------------------------------------------------------


def stall(sender: Line, receiver: Line, piece: bytes) -> int:
    """Send a piece over and over until the gateway takes no more.  Bytes that went."""
    sender.sock.setblocking(False)
    taken = 0
    while taken < 1 << 27 and select.select([], [sender.sock], [], 0.3)[1]:
        taken += sender.sock.send(piece[taken % len(piece) :])
    sender.sock.settimeout(10)
    return taken


@both_ways
@pytest.mark.parametrize("most", [1024, 65536, 1 << 20])
@pytest.mark.parametrize("window", [150000, 200000, 1 << 20])
def test_s69_stalled_reader_of_large_frames_stops_the_sender_and_loses_nothing(
    source: str, most: int, window: int
) -> None:
    """`window`: half of what the gateway's socket towards the reader takes."""
    with splicing(buffered_max=most) as rig:
        way = Way(rig, source)
        spliced = way.warm()
        narrow(way.receiver, window)
        piece = way.make(BINARY, payload_of(180000))
        taken = stall(way.sender, way.receiver, piece)
        assert taken < 1 << 27
        assert rig.count("reads_held") > 0
        rest = -taken % len(piece)
        with sending(way.sender, piece[len(piece) - rest :] + piece * 5):
            for _ in range((taken + rest) // len(piece) + 5):
                assert way.receiver.exactly(len(piece)) == piece
        assert way.spliced() > spliced


@both_ways
@pytest.mark.parametrize("most", [1024, 65536, 1 << 20])
def test_s69_stalled_readers_of_large_frames_hold_what_the_policy_says(
    source: str, most: int
) -> None:
    with splicing(buffered_max=most) as rig:
        ways = [Way(rig, source) for _ in range(10)]
        for way in ways:
            way.warm()
            narrow(way.receiver)
        piece = ways[0].make(BINARY, payload_of(180000))
        before = rss_kib()
        for way in ways:
            assert stall(way.sender, way.receiver, piece) < 1 << 27
        # A direction: what the setting says, a buffer's growth, and what Python itself takes.
        assert rss_kib() - before < 10 * (most * 1.25 + 4096) / 1024 + 1024


@both_ways
def test_slow_reader_gets_every_byte(source: str) -> None:
    with splicing() as rig:
        way = Way(rig, source)
        way.warm()
        narrow(way.receiver)
        whole = b"".join(way.make(BINARY, payload_of(50000 * n, n)) for n in range(1, 9))
        heard = bytearray()
        with sending(way.sender, whole):
            while len(heard) < len(whole):
                heard += way.receiver.sock.recv(20000)
        assert bytes(heard) == whole
        assert way.counted() == (9, LARGE + 50000 * 36)


# --- time -----------------------------------------------------------------------------------------


@both_ways
def test_large_frame_that_trickles_keeps_its_session_and_then_it_idles(source: str) -> None:
    """Its sender answers no Ping, and all that comes is one frame, a piece at a time."""
    with splicing(idle_timeout_ms=1000, ping_interval_ms=300, ping_timeout_ms=700) as rig:
        way = Way(rig, source)
        before = way.warm()
        sent = way.make(BINARY, payload_of(1 << 20))
        began = time.monotonic()
        at = 0
        while time.monotonic() - began < 2:
            way.sender.send(sent[at : at + 5000])
            assert way.receiver.exactly(5000) == sent[at : at + 5000]
            at += 5000
            select.select([], [], [], 0.05)
        assert rig.engine.live_sessions() == 1
        until(lambda: way.spliced() == before + at)
        while way.sender.frame().opcode == PING:
            pass
        way.sender.close()
        way.receiver.close()
        assert rig.record("ended")["why"] in ("idle for too long", f"no Pong from the {source}")


def test_pings_between_large_frames_do_not_keep_a_session_from_idling() -> None:
    with splicing(idle_timeout_ms=800, ping_interval_ms=0) as rig:
        way = Way(rig, "client")
        way.warm()
        began = time.monotonic()
        way.sender.sock.settimeout(0.05)
        while not way.sender.data:
            way.sender.send(way.make(PING, b"still here"))
            with contextlib.suppress(TimeoutError):
                way.sender.fill()
        assert 0.7 < time.monotonic() - began < 5
        assert way.sender.frame().raw == close(4408, b"idle for too long")
        way.sender.send(close(4408, mask=MASK))
