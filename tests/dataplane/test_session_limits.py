"""What a policy says of its sessions: message sizes, bytes buffered, how long a stall may last."""

from __future__ import annotations

import select
import socket
import struct
import threading

import pytest

from tests.dataplane.engine_kit import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Line,
    Rig,
    frame,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib

FROM_CLIENT = pytest.param("client", id="from-client")
FROM_UPSTREAM = pytest.param("upstream", id="from-upstream")
both_ways = pytest.mark.parametrize("source", [FROM_CLIENT, FROM_UPSTREAM])


def sides(rig: Rig, source: str) -> tuple[Line, Line]:
    """A session as (sending end, receiving end)."""
    client, upstream = rig.session()
    return (client, upstream) if source == "client" else (upstream, client)


def made_by(source: str, opcode: int, payload: bytes = b"", **options: bool) -> bytes:
    return (up if source == "client" else frame)(opcode, payload, **options)


# --- sizes ----------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("limit", [1, 125, 126, 5000, 70000])
def test_s64_message_limit_of_the_policy_holds_to_the_byte(
    rig: Rig, source: str, limit: int
) -> None:
    name = "client_message_max" if source == "client" else "upstream_message_max"
    with rig.session_policy(**{name: limit}):
        rig.open_route()
    sender, receiver = sides(rig, source)
    sender.send(made_by(source, BINARY, b"x" * limit))
    assert receiver.frame().payload == b"x" * limit
    first, rest = limit // 2, limit - limit // 2
    parts = (
        made_by(source, TEXT, b"a" * first, fin=False),
        made_by(source, CONTINUATION, b"b" * rest),
    )
    sender.send(parts[0], made_by(source, PING, b"c" * 125), parts[1])
    assert [f.raw for f in (receiver.frame(), receiver.frame(), receiver.frame())][::2] == [*parts]
    over = made_by(source, BINARY, b"x" * (limit + 1))
    sender.send(over[: len(over) - limit - 1])  # its header is enough
    assert receiver.frame().payload == struct.pack("!H", 1001)
    receiver.close()
    assert sender.frame().payload == struct.pack("!H", 1009) + b"Payload Too Large"
    record = rig.record("ended")
    assert (record["ended_by"], record["why"]) == (source, "Payload Too Large")
    assert record[f"{source}_code"] == 1009


@both_ways
def test_s64_sum_of_fragments_over_the_policys_limit_is_1009(rig: Rig, source: str) -> None:
    name = "client_message_max" if source == "client" else "upstream_message_max"
    with rig.session_policy(**{name: 300}):
        rig.open_route()
    sender, receiver = sides(rig, source)
    sender.send(made_by(source, BINARY, b"x" * 100, fin=False))
    for _ in range(2):
        sender.send(made_by(source, CONTINUATION, b"x" * 100, fin=False))
    assert [len(f.payload) for f in receiver.frames(3)] == [100] * 3
    sender.send(made_by(source, CONTINUATION, b"x"))
    assert receiver.frame().payload == struct.pack("!H", 1001)
    receiver.close()
    assert sender.frame().code == 1009


def test_limit_of_one_direction_is_not_the_others(rig: Rig) -> None:
    with rig.session_policy(client_message_max=100, upstream_message_max=200):
        rig.open_route()
    client, upstream = rig.session()
    upstream.send(frame(BINARY, b"x" * 200))
    assert len(client.frame().payload) == 200
    client.send(up(BINARY, b"x" * 101))
    assert upstream.frame().code == 1001


# --- back-pressure --------------------------------------------------------------------------------


def stall(sender: Line, receiver: Line, piece: bytes) -> int:
    """Send until the gateway takes no more, or ends it.  How many bytes it took."""
    for line, option in ((receiver, socket.SO_RCVBUF), (sender, socket.SO_SNDBUF)):
        line.sock.setsockopt(socket.SOL_SOCKET, option, 16384)
    sender.sock.settimeout(0.3)
    taken = 0
    try:
        while taken < 1 << 27 and not select.select([sender.sock], [], [], 0)[0]:
            taken += sender.sock.send(piece[taken % len(piece) :])
    except TimeoutError:
        pass
    sender.sock.settimeout(10)
    return taken


@both_ways
@pytest.mark.parametrize("most", [4096, 65536, 1 << 20, 3 << 20])
def test_s69_direction_holds_what_the_policy_says_and_loses_nothing(source: str, most: int) -> None:
    with new_rig(1) as rig:
        with rig.session_policy(buffered_max=most):
            rig.open_route()
        sender, receiver = sides(rig, source)
        piece = made_by(source, BINARY, bytes(range(251)) * 239)
        before = rss_kib()
        taken = stall(sender, receiver, piece)
        assert rig.count("reads_held") > 0
        assert rss_kib() - before < most * 1.25 / 1024 + 1024  # and what Python itself takes
        receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        to_send = (piece[taken % len(piece) :] if taken % len(piece) else b"") + made_by(
            source, TEXT, b"after"
        )
        writer = threading.Thread(target=sender.send, args=(to_send,))
        writer.start()
        for _ in range(taken // len(piece) + (taken % len(piece) != 0)):
            assert receiver.frame().raw == piece
        writer.join()
        assert receiver.frame().payload == b"after"


def test_more_is_buffered_where_the_policy_says_so() -> None:
    """Of two directions alike but for the setting, the one with 32 MiB takes that much more.

    What the kernel's own buffers take beside it is 10 MiB at the most, and not twice the same.
    """
    taken = {}
    for most in (4096, 32 << 20):
        with new_rig(1) as rig:
            with rig.session_policy(buffered_max=most):
                rig.open_route()
            sender, receiver = sides(rig, "upstream")
            taken[most] = stall(sender, receiver, frame(BINARY, b"x" * 60000))
    assert taken[32 << 20] - taken[4096] > 20 << 20


def test_thousand_stalled_readers_grow_memory_by_no_more_than_the_limits() -> None:
    """1,000 readers that take nothing, under senders that never stop by themselves."""
    readers, most = 1000, 65536
    with new_rig(1, max_sessions=readers + 10) as rig:
        with rig.session_policy(buffered_max=most):
            rig.open_route()
        pairs = []
        for _ in range(readers):
            client, upstream = rig.session()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            upstream.sock.setblocking(False)
            pairs.append((client, upstream))
        piece = frame(BINARY, b"x" * 1000) * 60
        before = rss_kib()
        stopped = 0
        at = [0] * readers
        held = rig.count("reads_held")

        def push() -> bool:
            """Whether no sender could send anything this time round."""
            nonlocal stopped
            moved = 0
            for number, (_, upstream) in enumerate(pairs):
                try:
                    sent = upstream.sock.send(piece[at[number] % len(piece) :])
                except BlockingIOError:
                    continue
                at[number] += sent
                moved += sent
            stopped = stopped + 1 if moved == 0 else 0
            return stopped > 5

        until(push, 60)
        grown = rss_kib() - before
        assert rig.count("reads_held") - held >= readers
        # A direction: what the setting says, the frame of ours that may follow, and a page.
        assert grown < readers * (most + 1024 + 4096) / 1024 + 4096
        assert sum(at) > readers * most


# --- stalls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "code"), [("client", 1011), ("upstream", 1001)])
def test_s69_side_that_takes_nothing_is_cut_after_the_policys_stall_timeout(
    source: str, code: int
) -> None:
    with new_rig(1) as rig:
        with rig.session_policy(stall_timeout_ms=700):
            rig.open_route()
        sender, receiver = sides(rig, source)
        stall(sender, receiver, made_by(source, BINARY, b"x" * 60000))
        heard = sender.frame()
        assert heard.code == code
        sender.close()
        record = rig.record("ended")
        stalled = "upstream" if source == "client" else "client"
        assert record["why"] == f"{stalled} took nothing for too long"
        assert record["ended_by"] == stalled
        assert record[f"{stalled}_code"] == 1013
        assert record[f"{source}_code"] == code
        receiver.close()
