"""What is bounded: each limit is reached, said in its status, counted, and let go of again."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    ROUTE,
    TEXT,
    Line,
    Rig,
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

LOOPBACK = (bytes(10) + b"\xff\xff\x7f\x00\x00\x00", 104)


def refused(rig: Rig) -> dict[str, int]:
    """What was refused so far, by reason."""
    return {reason: count for reason, count in rig.count("refused").items() if count}


def bare(line: Line, status: int) -> None:
    """A refusal at the door: no body, and the end."""
    head, body = line.answer()
    assert (head.status, body) == (status, b"")
    assert (head.get("Retry-After"), head.get("Connection")) == ("1", "close")
    assert line.rest() == b""


# --- sessions -------------------------------------------------------------------------------------


def test_max_sessions_is_exact_over_all_workers() -> None:
    with new_rig(4, max_sessions=40) as rig:
        rig.open_route()
        held = [rig.session() for _ in range(40)]
        assert sum(1 for n in rig.engine.sessions_by_worker() if n) > 1
        for _ in range(20):
            assert rig.client(handshake()).answer()[0].status == 503
        assert rig.upstream.untouched()
        assert refused(rig) == {"sessions": 20}
        for line in held.pop():
            line.close()
        until(lambda: rig.count("live_sessions") == 39)
        held.append(rig.session())
        assert rig.client(handshake()).answer()[0].status == 503


def test_max_sessions_holds_while_many_come_at_once() -> None:
    with new_rig(2, max_sessions=10) as rig:
        rig.open_route()
        rig.upstream.sock.settimeout(0.5)

        def answer_all() -> int:
            most = 0
            while True:
                try:
                    line = rig.upstream.accept()
                except TimeoutError:
                    return most
                line.head()
                line.send(switching())
                most = max(most, rig.count("live_sessions"))

        with ThreadPoolExecutor(5) as pool:
            most = pool.submit(answer_all)
            found = list(pool.map(lambda _: rig.client(handshake()).head().status, range(200)))
        assert most.result() <= 10
        assert (found.count(101), found.count(503)) == (10, 190)


def test_s74_full_gateway_refuses_before_it_looks_at_a_token() -> None:
    with new_rig(1, max_sessions=1) as rig:
        rig.guarded_route()
        rig.session(b"Authorization: Bearer " + rig.token())
        unknown = rig.token(2, put=False)
        head, _ = rig.client(handshake(b"/", b"Authorization: Bearer " + unknown)).answer()
        assert (head.status, head.get("Retry-After")) == (503, "1")
        assert rig.count("token_misses") == 0
        assert rig.engine.questions() == []


def test_s74_consumer_has_so_many_sessions_and_others_their_own() -> None:
    with new_rig(2, max_consumer_sessions=2) as rig:
        alex, sam = wire.Consumer(uid(50), "alex"), wire.Consumer(uid(51), "sam")
        rig.publish(
            service(rig.upstream.port), route(paths=["/"]), plugin(), alex, sam,
            wire.Credential(uid(60), "a", uid(50)), wire.Credential(uid(61), "b", uid(50)),
            wire.Credential(uid(62), "c", uid(51)),
        )  # fmt: skip
        bearer = {
            n: b"Authorization: Bearer " + rig.token(n, credential=uid(59 + n)) for n in (1, 2, 3)
        }
        first, second = rig.session(bearer[1]), rig.session(bearer[2])
        for n in (1, 2):  # whichever of its credentials it shows
            head, body = rig.client(handshake(b"/", bearer[n])).answer()
            assert (head.status, head.get("Retry-After")) == (429, "1")
            assert b"too many sessions of this consumer" in body
            record = rig.record("refused")
            assert (record["status"], record["route"]) == (429, text_id(ROUTE))
        rig.session(bearer[3])
        assert rig.upstream.untouched()
        assert refused(rig) == {"consumer_sessions": 2}
        for line in first:
            line.close()
        until(lambda: rig.count("live_sessions") == 2)
        rig.session(bearer[2])
        for line in second:
            line.close()


def test_session_slots_come_back_from_upstreams_that_refuse() -> None:
    with new_rig(1, max_sessions=1, max_consumer_sessions=1) as rig:
        rig.guarded_route()
        bearer = b"Authorization: Bearer " + rig.token()
        client = rig.connect()
        for _ in range(5):
            client.send(handshake(b"/", bearer))
            upstream = rig.upstream.accept()
            upstream.head()
            upstream.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            assert client.answer()[0].status == 403
        for _ in range(5):  # and from clients that go while theirs is being asked
            leaving = rig.client(handshake(b"/", bearer))
            upstream = rig.upstream.accept()
            upstream.head()
            leaving.reset()
            upstream.close()
            until(lambda: rig.users() == 0)
        rig.session(bearer)


# --- connections ----------------------------------------------------------------------------------


def test_s74_connections_in_total_get_503_before_anything_is_read(
    rig_of: Callable[..., Rig],
) -> None:
    rig = rig_of(2, max_connections=20)
    rig.open_route(paths=["/known"])
    held = [rig.client(handshake(b"/known")[:20]) for _ in range(20)]
    until(lambda: rig.count("accepts") == 20)
    for _ in range(10):
        bare(rig.client(handshake(b"/known")), 503)
    assert refused(rig) == {"connections": 10}
    assert rig.count("connections") == 20
    held.pop().close()
    until(lambda: rig.count("connections") == 19)
    assert rig.client(request(b"/none")).answer()[0].status == 404


def test_s74_connections_of_an_address_get_429_and_other_addresses_do_not(
    rig_of: Callable[..., Rig],
) -> None:
    rig = rig_of(2, max_address_connections=5)
    rig.open_route()
    first, _ = rig.session()
    held = [rig.client(handshake()[:20]) for _ in range(4)]
    until(lambda: rig.count("accepts") == 5)
    for _ in range(6):
        bare(rig.client(handshake()), 429)
    assert refused(rig) == {"address_connections": 6}
    other = from_address(rig, "127.0.0.2", request(b"/"))
    assert other.answer()[0].status == 426
    first.close()
    until(lambda: rig.count("connections") == 5 and rig.count("live_sessions") == 0)
    rig.session()
    held[0].close()


def from_address(rig: Rig, address: str, sent: bytes) -> Line:
    """A connection that comes from another address of this machine."""
    line = Line(socket.create_connection(("127.0.0.1", rig.port), 10, (address, 0)))
    rig.lines.append(line)
    line.send(sent)
    return line


@pytest.fixture
def rig_of() -> Iterator[Callable[..., Rig]]:
    """Rigs with bounds of the test's own; each must hold nothing at the end."""
    made: list[object] = []

    def make(workers: int, **options: object) -> Rig:
        holder = new_rig(workers, **options)
        made.append(holder)
        return holder.__enter__()

    yield make
    for holder in made:
        holder.__exit__(None, None, None)  # type: ignore[attr-defined]


def test_addresses_that_a_trusted_peer_names_are_held_to_the_bound_and_it_is_not(
    rig_of: Callable[..., Rig],
) -> None:
    rig = rig_of(2, max_address_connections=2, trusted=[LOOPBACK])
    rig.open_route(paths=["/known"])
    anonymous = [rig.client(request(b"/")) for _ in range(10)]
    assert [line.answer()[0].status for line in anonymous] == [404] * 10
    known = request(b"/known", b"X-Real-IP: 2001:db8::7")
    neighbour = request(b"/known", b"X-Real-IP: 2001:db8::8")  # the same /64
    held = [rig.client(known), rig.client(neighbour)]
    assert [line.answer()[0].status for line in held] == [426, 426]
    late = rig.client(known)
    head, body = late.answer()
    assert (head.status, head.get("Retry-After"), head.get("Connection")) == (429, "1", "close")
    assert b"too many connections from this address" in body
    assert rig.client(request(b"/known", b"X-Real-IP: 192.0.2.1")).answer()[0].status == 426
    assert refused(rig) == {"address_connections": 1}
    held[0].send(request(b"/known", b"X-Real-IP: 192.0.2.2"))  # it now speaks for another
    assert held[0].answer()[0].status == 426
    again = rig.client(known)
    assert again.answer()[0].status == 426
    held[0].send(request(b"/known"))  # and now for nobody
    assert held[0].answer()[0].status == 426
    for _ in range(4):
        again.send(known)  # the same address again, on the connection that it has
        assert again.answer()[0].status == 426


# --- handshakes a second --------------------------------------------------------------------------


def test_s74_handshakes_of_an_address_get_429_before_a_token_is_looked_at(
    rig_of: Callable[..., Rig],
) -> None:
    rig = rig_of(2, address_handshakes=5)
    rig.guarded_route()
    unknown = handshake(b"/", b"Authorization: Bearer " + rig.token(put=False))
    begun = time.monotonic()
    statuses = [rig.client(handshake()).answer()[0].status for _ in range(5)]
    found = [rig.client(unknown).answer() for _ in range(1)]
    if time.monotonic() - begun < 0.2:  # else the sixth may come in its own right
        assert statuses == [401] * 5
        head, body = found[0]
        assert (head.status, head.get("Retry-After"), head.get("Connection")) == (429, "1", "close")
        assert b"too many handshakes from this address" in body
        assert rig.engine.questions() == []
    flood = [rig.client(handshake()).answer()[0].status for _ in range(100)]
    took = time.monotonic() - begun
    assert flood.count(429) >= 100 - 5 * took - 5
    assert refused(rig)["address_rate"] == flood.count(429) + 1
    plain = request(b"/")  # no handshake: not counted
    assert [rig.client(plain).answer()[0].status for _ in range(10)] == [426] * 10
    assert from_address(rig, "127.0.0.2", handshake()).answer()[0].status == 401
    until(lambda: rig.client(handshake()).answer()[0].status == 401)


def test_tls_handshake_is_not_begun_for_an_address_over_its_rate(
    self_signed: tuple[Path, Path],
) -> None:
    rig = Rig(1, address_handshakes=1)
    rig.use_tls(self_signed)
    rig.engine.start()
    try:
        rig.open_route(paths=["/known"])
        for _ in range(2):  # the second is over the rate, or the first of the next second
            rig.client(handshake()).answer()
        before = refused(rig).get("address_rate", 0)
        raw = rig.connect(port=rig.tls_port)
        raw.send(b"\x16\x03\x01")
        if before:
            assert raw.rest() == b""
            assert refused(rig)["address_rate"] == before + 1
        until(lambda: rig.secure(request(b"/known")).answer()[0].status == 426)
    finally:
        rig.close_lines()
        rig.end()


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_head_over_head_bytes_is_refused(cut: bool, rig_of: Callable[..., Rig]) -> None:
    rig = rig_of(1, head_bytes=2048)
    rig.open_route(paths=["/known"])
    whole = handshake(b"/none", b"X-Long: " + b"a" * 3000)
    fits = handshake(b"/none", b"X-Long: " + b"a" * (2048 - len(handshake(b"/none", b"X-Long: "))))
    assert len(fits) == 2048
    assert rig.client(fits).answer()[0].status == 404
    line = rig.client(whole[:2049] if cut else whole)
    head, body = line.answer()
    assert head.status == 400
    assert body.startswith(b"Request header or cookie too large")
    assert refused(rig) == {"head_bytes": 1}
    assert rig.record("refused")["status"] in (400, 404)
    over = handshake(b"/none", b"X-Long: " + b"a" * (2049 - len(handshake(b"/none", b"X-Long: "))))
    assert rig.client(over).answer()[0].status == 400


# --- descriptors ----------------------------------------------------------------------------------


@contextmanager
def no_descriptors_left(*, not_even_a_spare: bool = False) -> Iterator[None]:
    """Let this process, engine included, open nothing more.

    What is open below the limit and closed makes room for another, unless there must be no spare.
    """
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 if not_even_a_spare else free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_s76_without_descriptors_clients_get_503_and_live_sessions_go_on() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        waiting = [rig.connect() for _ in range(50)]  # accepted once they send something
        with no_descriptors_left():
            for line in waiting:
                line.send(handshake())
            for line in waiting:
                bare(line, 503)
            assert refused(rig) == {"descriptors": 50}
            for n in range(50):
                client.send(up(TEXT, b"on %d" % n))
                assert upstream.frame().payload == b"on %d" % n
                upstream.send(frame(TEXT, b"back"))
                assert client.frame().payload == b"back"
        rig.session()
        assert refused(rig) == {"descriptors": 50}


def test_s76_accept_loop_sleeps_when_not_even_a_refusal_can_be_made() -> None:
    """The spare descriptor gone too, the listener is looked at ten times a second and no more."""
    with new_rig(1) as rig:
        rig.open_route()
        client, upstream = rig.session()
        waiting = [rig.connect() for _ in range(5)]
        with no_descriptors_left(not_even_a_spare=True):
            for line in waiting:
                line.send(handshake())
            begun, rounds = time.monotonic(), 0
            while time.monotonic() - begun < 0.5:
                client.send(up(TEXT, b"on"))
                assert upstream.frame().payload == b"on"
                rounds += 1
            assert rounds > 20
            assert all(line.silent(0) for line in waiting)
            begun, spent = time.monotonic(), time.process_time()
            assert client.silent(0.5)
            assert time.process_time() - spent < 0.25 * (time.monotonic() - begun), "the loop spins"
        for _ in waiting:
            late = rig.upstream.accept()
            late.head()
            late.send(switching())
        assert [line.head().status for line in waiting] == [101] * 5


def test_handshake_without_a_descriptor_for_its_upstream_is_a_503() -> None:
    with new_rig(1) as rig:
        rig.open_route()
        kept = rig.client(request(b"/"))
        assert kept.answer()[0].status == 426
        with no_descriptors_left():
            kept.send(handshake())
            head, _ = kept.answer()
            assert (head.status, head.get("Retry-After")) == (503, "1")
            assert refused(rig) == {"descriptors": 1}
        kept.send(handshake())
        upstream = rig.upstream.accept()
        upstream.head()
        upstream.send(switching())
        assert kept.head().status == 101
