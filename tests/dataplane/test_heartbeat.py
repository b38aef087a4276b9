"""Pings of ours and the timeouts of a live session.  _heartbeat.pyx; routing-and-proxy.md §12.6."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.dataplane.engine_kit import (
    BINARY,
    CLOSE,
    MASK,
    PING,
    PONG,
    TEXT,
    Line,
    Rig,
    close,
    frame,
    masked,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig

FROM_CLIENT = pytest.param("client", id="client")
FROM_UPSTREAM = pytest.param("upstream", id="upstream")
either_side = pytest.mark.parametrize("side", [FROM_CLIENT, FROM_UPSTREAM])


@contextlib.contextmanager
def beating(**policy: int) -> Iterator[Rig]:
    """One worker; sessions with this policy, and no Pings but those that it names."""
    given = {"ping_interval_ms": 0, "ping_timeout_ms": 0, **policy}
    with new_rig(1) as rig:
        with rig.session_policy(**given):
            rig.open_route()
        yield rig


def by(side: str, opcode: int, payload: bytes = b"", **options: bool) -> bytes:
    """A frame as this side sends it."""
    return (up if side == "client" else frame)(opcode, payload, **options)


def both(rig: Rig, side: str) -> tuple[Line, Line]:
    """A session as (this side, the other)."""
    client, upstream = rig.session()
    return (client, upstream) if side == "client" else (upstream, client)


def but_pings(line: Line) -> bytes:
    """The next frame that is no Ping."""
    while (seen := line.frame()).opcode == PING:
        pass
    return seen.raw


def close_code(raw: bytes) -> int:
    """Of a Close to the upstream, with a code and no reason."""
    assert (raw[0], raw[1], len(raw)) == (0x80 | CLOSE, 0x82, 8)
    return int.from_bytes(masked(raw[6:], raw[2:6]), "big")


# --- Pings ----------------------------------------------------------------------------------------


@either_side
def test_silent_side_is_pinged_and_its_pong_stops_here(side: str) -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=5000) as rig:
        near, far = both(rig, side)
        other = "upstream" if side == "client" else "client"
        payloads = set()
        for _ in range(3):
            ping = near.frame()
            assert (ping.opcode, len(ping.payload), ping.fin) == (PING, 8, True)
            assert ping.masked == (side == "upstream")
            payloads.add(ping.payload)
            near.send(by(side, PONG, ping.payload), by(side, TEXT, b"behind it"))
            seen = far.frame()
            while seen.opcode == PING and len(seen.payload) == 8:
                far.send(by(other, PONG, seen.payload))  # the far side is silent as well
                seen = far.frame()
            assert seen.raw == by(side, TEXT, b"behind it")
        assert len(payloads) == 3
        assert rig.count("pings") >= 3


@either_side
def test_pong_is_taken_out_wherever_it_is_cut_and_what_is_around_it_stays(side: str) -> None:
    with beating(ping_interval_ms=200, ping_timeout_ms=5000) as rig:
        near, far = both(rig, side)
        before, after = by(side, TEXT, b"before"), by(side, BINARY, b"after" * 30)
        pong = by(side, PONG, b"12345678")
        for cut in (0, 1, 2, 3, len(pong) - 1, len(pong)):
            ping = near.frame()
            whole = before + by(side, PONG, ping.payload) + after
            near.send(whole[: len(before) + cut])
            assert but_pings(far) == before
            near.send(whole[len(before) + cut :])
            assert but_pings(far) == after


@either_side
def test_every_other_pong_goes_on(side: str) -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=5000) as rig:
        near, far = both(rig, side)
        unasked = [by(side, PONG, payload) for payload in (b"", b"8 bytes.", b"x" * 125)]
        near.send(*unasked)
        assert [f.raw for f in far.frames(3)] == unasked
        ping = near.frame()
        others = [by(side, PONG, b"\0" * 8), by(side, PONG, ping.payload + b"x")]
        near.send(others[0], by(side, PONG, ping.payload), others[1], by(side, PONG, ping.payload))
        again = by(side, PONG, ping.payload)  # once answered, it is nobody's answer
        assert [but_pings(far) for _ in range(3)] == [*others, again]


@either_side
def test_side_that_sends_is_not_pinged(side: str) -> None:
    with beating(ping_interval_ms=400, ping_timeout_ms=300) as rig:
        near, far = both(rig, side)
        far_side = "upstream" if side == "client" else "client"
        began = time.monotonic()

        def talk() -> bool:
            near.send(by(side, BINARY, b"."))
            while (seen := far.frame()).opcode == PING:
                far.send(by(far_side, PONG, seen.payload))
            return time.monotonic() - began > 1.5

        until(talk)
        assert near.silent()  # of our Pings too
        assert rig.count("live_sessions") == 1


@either_side
def test_ping_of_the_other_side_keeps_ours_back_until_its_pong(side: str) -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=20000) as rig:
        near, far = both(rig, side)
        far_side = "upstream" if side == "client" else "client"
        far.send(by(far_side, PING, b"theirs"))
        assert near.frame().payload == b"theirs"
        began = time.monotonic()

        def quiet() -> bool:
            """The far side stays lively; the near one hears only that."""
            far.send(by(far_side, TEXT, b"."))
            assert near.frame().opcode == TEXT
            return time.monotonic() - began > 1

        until(quiet)
        near.send(by(side, PONG, b"theirs"))
        assert far.frame().payload == b"theirs"
        heard = near.frame()
        while heard.opcode == TEXT:
            heard = near.frame()
        assert (heard.opcode, len(heard.payload)) == (PING, 8)


def test_no_ping_goes_into_a_frame() -> None:
    with beating(ping_interval_ms=200, ping_timeout_ms=5000) as rig:
        client, upstream = rig.session()
        sent = frame(BINARY, b"x" * 3000)
        upstream.send(sent[:1000])
        assert client.exactly(1000) == sent[:1000]
        assert client.silent(1.0)
        upstream.send(sent[1000:])
        assert client.exactly(len(sent) - 1000) == sent[1000:]
        assert client.frame().opcode == PING


def test_quiet_session_with_answered_pings_lives_on() -> None:
    with beating(ping_interval_ms=100, ping_timeout_ms=400) as rig:
        client, upstream = rig.session()
        for _ in range(10):
            client.send(up(PONG, client.frame().payload))
            upstream.send(frame(PONG, upstream.frame().payload))
        assert rig.count("live_sessions") == 1
        client.send(up(TEXT, b"still here"))
        seen = upstream.frame()
        while seen.opcode == PING:
            seen = upstream.frame()
        assert seen.payload == b"still here"
        assert rig.count("messages_in") == 1


def test_without_a_timeout_pongs_are_not_waited_for() -> None:
    with beating(ping_interval_ms=150, ping_timeout_ms=0) as rig:
        client, _ = rig.session()
        first = [client.frame().payload for _ in range(5)]
        assert len(set(first)) == 5
        assert rig.count("live_sessions") == 1


def test_without_an_interval_nobody_is_pinged() -> None:
    with beating(ping_interval_ms=0, ping_timeout_ms=100) as rig:
        client, upstream = rig.session()
        assert client.silent(0.6) and upstream.silent()
        assert rig.count("pings") == 0


# --- ends -----------------------------------------------------------------------------------------


def test_client_that_does_not_answer_hears_4408() -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=400) as rig:
        client, upstream = rig.session()
        began = time.monotonic()
        upstream.send(frame(TEXT, b"."))
        client.frame()
        assert client.frame().opcode == PING
        assert 0.25 < time.monotonic() - began < 1
        upstream.send(frame(PONG, upstream.frame().payload))
        heard = client.frame()
        assert (heard.opcode, heard.payload) == (CLOSE, b"\x11\x38no Pong from the client")
        assert 0.6 < time.monotonic() - began < 2
        assert close_code(but_pings(upstream)) == 1001
        client.close()
        upstream.close()
        record = rig.record("ended")
        assert (record["ended_by"], record["why"]) == ("client", "no Pong from the client")
        assert (record["client_code"], record["upstream_code"]) == (4408, 1001)
        assert rig.count("closes") == {(4408, "client"): 1, (1001, "upstream"): 1}


def test_client_hears_1011_when_the_upstream_does_not_answer() -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=400) as rig:
        client, upstream = rig.session()
        client.send(up(PONG, client.frame().payload))
        assert upstream.frame().opcode == PING
        heard = client.frame()
        while heard.opcode == PING:
            client.send(up(PONG, heard.payload))
            heard = client.frame()
        assert (heard.opcode, heard.payload) == (CLOSE, b"\x03\xf3no Pong from the upstream")
        client.send(close(1011, mask=MASK))
        assert client.rest() == b"" == upstream.rest()
        record = rig.record("ended")
        assert (record["ended_by"], record["why"]) == ("upstream", "no Pong from the upstream")
        assert (record["client_code"], record["upstream_code"]) == (1011, None)


@either_side
def test_any_byte_shows_that_a_side_lives(side: str) -> None:
    """It never answers a Ping, but sends now and then, at last only parts of a frame."""
    with beating(ping_interval_ms=300, ping_timeout_ms=500) as rig:
        near, far = both(rig, side)
        far_side = "upstream" if side == "client" else "client"
        slow = by(side, BINARY, b"x" * 300)
        pings = 0
        for at in range(6):
            while (heard := near.frame()).opcode != PING:
                pass
            assert len(heard.payload) == 8
            pings += 1
            near.send(slow[at : at + 1] if at < 5 else slow[5:])
            with contextlib.suppress(TimeoutError):
                far.sock.settimeout(0.01)
                far.fill()
            far.send(by(far_side, BINARY, b"alive"))
        assert rig.count("live_sessions") == 1
        assert pings == 6


@either_side
def test_side_that_owes_the_other_a_pong_and_is_silent_is_ended_too(side: str) -> None:
    with beating(ping_interval_ms=300, ping_timeout_ms=400) as rig:
        near, far = both(rig, side)
        far_side = "upstream" if side == "client" else "client"
        far.send(by(far_side, PING, b"theirs"))
        began = time.monotonic()
        heard = far.frame()
        while heard.opcode == PING:
            far.send(by(far_side, PONG, heard.payload))
            heard = far.frame()
        assert heard.code == (1001 if side == "client" else 1011)
        assert 0.6 < time.monotonic() - began < 2.5
        assert near.frame().payload == b"theirs"  # and no Ping of ours behind it
        near.close()
        far.close()
        assert rig.record("ended")["why"] == f"no Pong from the {side}"


def test_idle_session_ends_with_4408_and_pings_do_not_count() -> None:
    with beating(idle_timeout_ms=800, ping_interval_ms=200, ping_timeout_ms=5000) as rig:
        client, upstream = rig.session()
        client.send(up(TEXT, b"the last word"))
        assert upstream.frame().payload == b"the last word"
        began = time.monotonic()
        heard = client.frame()
        while heard.opcode == PING:
            client.send(up(PONG, heard.payload), up(PING, b"mine"), up(PONG, b"unasked"))
            heard = client.frame()
        assert (heard.opcode, heard.payload) == (CLOSE, b"\x11\x38idle for too long")
        assert 0.7 < time.monotonic() - began < 2
        client.send(close(4408, mask=MASK))
        while (heard := upstream.frame()).opcode != CLOSE:
            pass
        assert heard.payload == b"\x03\xe9"
        upstream.send(close(1001))
        assert client.rest() == b"" == upstream.rest()
        record = rig.record("ended")
        assert (record["ended_by"], record["why"]) == ("gateway", "idle for too long")
        assert (record["client_code"], record["upstream_code"]) == (4408, 1001)


@either_side
def test_data_of_either_side_is_not_idle(side: str) -> None:
    with beating(idle_timeout_ms=500) as rig:
        near, far = both(rig, side)
        began = time.monotonic()
        whole = by(side, BINARY, b"x" * 1_000_000)  # no machine gets to its end in time
        at = 0

        def trickle() -> bool:
            """One long frame, a few bytes at a time."""
            nonlocal at
            near.send(whole[at : at + 16])
            assert far.exactly(16) == whole[at : at + 16]
            at += 16
            return time.monotonic() - began > 1.2

        until(trickle)
        assert rig.count("live_sessions") == 1
        near.close()
        far.close()


def test_slow_reader_that_takes_some_now_and_then_is_neither_stalled_nor_silent() -> None:
    """What it takes leaves the kernel's queue long before there is room for more of ours."""
    with beating(stall_timeout_ms=1500, ping_interval_ms=700, ping_timeout_ms=900) as rig:
        client, upstream = rig.session()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        upstream.sock.setblocking(False)
        piece = frame(BINARY, b"x" * 60000)
        at = 0
        began = last = time.monotonic()

        def take() -> bool:
            nonlocal at, last
            with contextlib.suppress(BlockingIOError):
                at += upstream.sock.send(piece[at % len(piece) :])
            if time.monotonic() - last > 0.1:
                last = time.monotonic()
                client.sock.recv(20000)
            assert rig.count("live_sessions") == 1
            return time.monotonic() - began > 5

        until(take, 30)
        assert rig.count("closes") == {}
