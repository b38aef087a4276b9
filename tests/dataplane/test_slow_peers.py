"""Clients that send next to nothing, and upstreams that say nothing: each is let go of in time."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dataplane import wire
from dataplane._policies import SESSION_DEFAULTS
from tests.dataplane.engine_kit import (
    PING,
    PONG,
    Rig,
    handshake,
    route,
    service,
    switching,
    until,
    up,
)
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid

SLOW_CLIENTS = 5000
HEAD_SECONDS = 10.0
LATE_SECONDS = 3.0  # what a crowded machine may add
CHECK_SECONDS = 5.0  # for a handshake meanwhile


class SlowClients:
    """Connections that each send one byte of a head a second, driven from the test's own thread."""

    def __init__(self, port: int, count: int) -> None:
        self.poll = select.epoll()
        self.began: dict[int, float] = {}
        self.answers: dict[int, bytes] = {}
        self.answered: dict[int, float] = {}  # seconds after its first byte
        self.ended: dict[int, float] = {}
        self.sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), 30)
            sock.setblocking(False)
            self.began[sock.fileno()] = time.monotonic()
            sock.send(b"G")
            self.sockets[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
        self.sent = 1
        self.next_byte = time.monotonic() + 1

    def turn(self) -> None:
        """Send what is due, and hear what has come."""
        if time.monotonic() >= self.next_byte:
            self.next_byte += 1
            byte = handshake()[self.sent : self.sent + 1]
            self.sent += 1
            for fd, sock in self.sockets.items():
                if fd not in self.answered:
                    sock.send(byte)
        for fd, _ in self.poll.poll(0.01, 1000):
            now = time.monotonic() - self.began[fd]
            data = self.sockets[fd].recv(4096)
            if data:
                self.answered.setdefault(fd, now)
                self.answers[fd] = self.answers.get(fd, b"") + data
            else:
                self.ended[fd] = now
                self.poll.unregister(fd)

    def close(self) -> None:
        self.poll.close()
        for sock in self.sockets.values():
            sock.close()


@contextmanager
def slow_clients(rig: Rig, count: int) -> Iterator[SlowClients]:
    made = SlowClients(rig.port, count)
    try:
        yield made
    finally:
        made.close()


def test_s72_five_thousand_slow_heads_are_cut_at_ten_seconds_and_fail_no_handshake() -> None:
    with (
        new_rig(2, max_connections=SLOW_CLIENTS + 10) as rig,
        slow_clients(rig, SLOW_CLIENTS) as slow,
    ):
        rig.open_route()
        until(lambda: rig.count("connections") == SLOW_CLIENTS)
        made = 0
        next_handshake = time.monotonic()
        while len(slow.ended) < SLOW_CLIENTS:
            slow.turn()
            assert time.monotonic() - max(slow.began.values()) < HEAD_SECONDS + 2 * LATE_SECONDS
            if time.monotonic() >= next_handshake and not slow.answered:
                began = time.monotonic()
                client, upstream = rig.session()
                assert time.monotonic() - began < CHECK_SECONDS
                for line in (client, upstream):
                    line.close()
                rig.upstream.lines.clear()
                made += 1
                next_handshake = began + 0.25
        assert made >= 5
        assert {answer.split(b"\r\n")[0] for answer in slow.answers.values()} == {
            b"HTTP/1.1 408 Request Timeout"
        }
        assert len(slow.answers) == SLOW_CLIENTS
        assert min(slow.answered.values()) > HEAD_SECONDS - 0.2
        assert max(slow.answered.values()) < HEAD_SECONDS + LATE_SECONDS
        refused = {reason: n for reason, n in rig.count("refused").items() if n}
        assert refused == {}
        assert rig.count("handshakes") == {101: made, 408: SLOW_CLIENTS}


# --- upstreams ------------------------------------------------------------------------------------


@contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that takes no connection and refuses none: its backlog is full, SYNs are dropped."""
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        fillers = []
        while True:
            filler = socket.socket()
            filler.setblocking(False)
            fillers.append(filler)
            filler.connect_ex(listener.getsockname())
            if not select.select([], [filler], [], 0.2)[1]:
                break
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def slot_comes_back(rig: Rig, hole: int, answers: Callable[[], None]) -> None:
    """The one session slot is held while an upstream is waited for, and free after its timeout."""
    rig.publish(
        service(hole, connect_timeout_ms=700, read_timeout_ms=700),
        route(paths=["/hole"], oauth2=None),
        service(rig.upstream.port, id=uid(21)),
        route(id=uid(22), paths=["/good"], oauth2=None, service=uid(21)),
    )
    client = rig.client(handshake(b"/hole"))
    began = time.monotonic()
    until(lambda: rig.users() == 1)
    answers()
    assert rig.client(handshake(b"/good")).answer()[0].status == 503
    head, body = client.answer()
    assert 0.6 < time.monotonic() - began < 0.7 + LATE_SECONDS
    assert (head.status, body[:31]) == (504, b"The upstream server is timing o")
    assert rig.record("refused")["status"] == 503
    assert rig.record("refused")["why"] == "upstream timed out"
    client.send(handshake(b"/good"))  # on the same connection
    upstream = rig.upstream.accept()
    upstream.head()
    upstream.send(switching())
    assert client.head().status == 101


def test_s77_upstream_that_takes_no_connection_frees_its_slot() -> None:
    with new_rig(1, max_sessions=1) as rig, black_hole() as hole:
        slot_comes_back(rig, hole, lambda: None)


def test_s77_upstream_that_answers_no_handshake_frees_its_slot() -> None:
    with new_rig(1, max_sessions=1) as rig:
        silent = rig.another_upstream()
        slot_comes_back(rig, silent.port, lambda: [silent.accept().head()].clear())


def test_s77_timeouts_towards_upstreams_are_finite_by_default() -> None:
    made = wire.Service(uid(1), protocol="ws", host="h", port=1)
    for timeout_ms in (made.connect_timeout_ms, made.write_timeout_ms, made.read_timeout_ms):
        assert 0 < timeout_ms <= 60000
    # Of a session: how long until a silent upstream is pinged, its Pong, and a stall.
    _, _, ping_ms, pong_ms, _, stall_ms, *_ = SESSION_DEFAULTS
    for timeout_ms in (ping_ms, pong_ms, stall_ms):
        assert 0 < timeout_ms <= 60000


def test_s77_upstream_that_is_silent_in_a_session_frees_its_slot() -> None:
    """A black hole behind a 101: its TCP stands, and nothing ever comes."""
    with new_rig(1, max_sessions=1) as rig:
        with rig.session_policy(ping_interval_ms=300, ping_timeout_ms=300):
            rig.open_route()
        client, upstream = rig.session()
        assert rig.client(handshake()).answer()[0].status == 503
        while (heard := client.frame()).opcode == PING:
            client.send(up(PONG, heard.payload))
        assert heard.code == 1011
        client.close()
        until(lambda: rig.count("live_sessions") == 0)
        rig.session()
        upstream.close()
