"""The workers' loop and the engine that owns them: accept, inbox, drain, stop, what is counted."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from dataplane._engine import Engine
from tests.dataplane.engine_kit import (
    BINARY,
    MASK,
    TEXT,
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
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.memory import rss_kib
from tests.dataplane.snapshots import uid

BASE = {"token_cache": 64, "server_token": "t", "seed": bytes(32)}


# --- making and ending ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0, "max_sessions": 1},
        {"workers": 65, "max_sessions": 1},
        {"workers": 1, "max_sessions": 0},
        {"workers": 1, "max_sessions": 1, "trusted": [(bytes(16), 0)] * 65},
    ],
)
def test_engine_refuses_bounds_that_it_cannot_keep(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|at most"):
        Engine(**BASE, **wrong)  # type: ignore[arg-type]


def test_engine_that_never_started_goes_quietly() -> None:
    for _ in range(20):
        made = Engine(workers=2, max_sessions=4, **BASE)  # type: ignore[arg-type]
        made.listen("127.0.0.1", 0, False)
        made.stop()
        assert made.join(1)
        del made


def test_address_that_cannot_be_listened_on_is_said() -> None:
    made = Engine(workers=1, max_sessions=4, **BASE)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        made.listen("192.0.2.1", 0, False)
    with pytest.raises(ValueError):
        made.listen("localhost", 0, False)


def test_stop_ends_whatever_stage_a_connection_is_in(rig: Rig) -> None:
    rig.publish(
        service(rig.upstream.port),
        route(paths=["/"], oauth2=None),
        route(id=uid(8), paths=["/guarded"]),
        route(id=uid(9), paths=["/t"], protocols=["http"], service=None),
        plugin(),
    )
    token = rig.token(put=False)
    established = rig.session()
    stages = [
        rig.client(handshake()[:20]),
        rig.client(handshake(b"/guarded", b"Authorization: Bearer " + token)),
        rig.client(request(b"/t/oauth2/token", b"Content-Length: 5", method=b"POST") + b"ab"),
        rig.client(handshake()),
        *established,
    ]
    rig.question()
    rig.upstream.accept().head()
    idle = rig.client(request(b"/"))
    assert idle.answer()[0].status == 426
    until(lambda: rig.users() == 4)
    rig.engine.stop()
    assert rig.engine.join(10)
    for line in (*stages, idle):
        assert line.rest() == b""
    assert rig.users() == 0


# --- draining -------------------------------------------------------------------------------------


def test_drain_lets_no_new_session_in_and_ends_those_under_way(rig: Rig) -> None:
    rig.open_route()
    waiting = rig.client(handshake())
    upstream = rig.upstream.accept()
    upstream.head()
    partial = rig.client(handshake()[:20])
    until(lambda: rig.count("accepts") == 2)
    rig.engine.drain(0.2)
    until(lambda: not listening(rig.port))
    partial.send(handshake()[20:])
    head, _ = partial.answer()
    assert (head.status, head.get("Connection")) == (503, "close")
    upstream.send(switching())
    assert waiting.head().status == 101
    assert waiting.frame().raw == close(1012, b"gateway is shutting down")
    assert upstream.frame().code == 1001


def listening(port: int) -> bool:
    """Whether somebody listens on the port, by the kernel's table."""
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def test_drain_answers_what_was_parked(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(put=False)
    client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
    ref = rig.question()[1]
    rig.engine.drain(0)
    rig.engine.answer_token(ref, "unknown")
    head, _ = client.answer()
    assert (head.status, head.get("Connection")) == (401, "close")
    assert client.rest() == b""


# --- the ring to and from Python ------------------------------------------------------------------


def test_questions_come_in_portions_and_the_descriptor_stays_readable(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token(put=False)
    clients = [rig.client(handshake(b"/", b"Authorization: Bearer " + token)) for _ in range(20)]
    until(lambda: rig.users() == 20)
    refs: list[int] = []
    while len(refs) < 20:
        assert select.select([rig.engine.question_fd], [], [], 5)[0]
        portion = rig.engine.questions(3)
        assert 1 <= len(portion) <= 3
        refs += [question[1] for question in portion]
    assert len(set(refs)) == 20
    assert rig.engine.questions() == []
    assert not select.select([rig.engine.question_fd], [], [], 0)[0]
    for ref in refs:
        rig.engine.answer_token(ref, "unknown")
    assert [client.answer()[0].status for client in clients] == [401] * 20


def test_more_answers_than_an_inbox_holds_all_arrive() -> None:
    """What finds the inbox full is kept and posted by sweep()."""
    with new_rig(1) as rig:
        rig.guarded_route()
        token = rig.token(put=False)
        client = rig.client(handshake(b"/", b"Authorization: Bearer " + token))
        ref = rig.question()[1]
        for _ in range(20000):
            rig.engine.answer_name(ref + 1, False)  # for nobody
        rig.engine.answer_token(ref, "unknown")

        def answered() -> bool:
            rig.engine.sweep()
            return not client.silent(0)

        until(answered)
        assert client.answer()[0].status == 401


def test_answers_without_a_wake_come_with_the_next_one() -> None:
    """Those of each worker; what found an inbox full comes behind them, with sweep()."""
    with new_rig(2) as rig:
        http = ["http", "https"]
        rig.publish(service(rig.upstream.port), route(paths=["/"], protocols=http), plugin())
        posted = request(b"/oauth2/token", b"Content-Length: 0", method=b"POST")
        clients = [rig.client(posted) for _ in range(16)]
        refs = {rig.question()[1] for _ in clients}
        last = max(refs)
        for ref in refs - {last}:
            rig.engine.answer_request(ref, 200, [], b"early", wake=False)
        for _ in range(9000):
            rig.engine.answer_request(last ^ 1 << 32, 200, [], b"", wake=False)  # for nobody
        rig.engine.answer_request(last, 200, [], b"late", wake=False)
        assert all(client.silent(0) for client in clients)
        rig.engine.wake()
        until(lambda: sum(not client.silent(0) for client in clients) == 15)
        (waiting,) = [client for client in clients if client.silent(0)]
        assert {client.answer()[1] for client in clients if client is not waiting} == {b"early"}
        until(lambda: (rig.engine.sweep(), not waiting.silent(0))[1])
        assert waiting.answer()[1] == b"late"


def test_records_that_nobody_reads_are_dropped_and_counted() -> None:
    with new_rig(1) as rig:
        rig.open_route(paths=["/known"])
        client = rig.connect()
        for _ in range(50):
            client.send(handshake(b"/no") * 100)
            for _ in range(100):
                client.answer()
        kept = rig.engine.records(limit=100000)
        assert len(kept) + rig.count("records_dropped") == 5000
        assert rig.count("records_dropped") > 0
        assert rig.count("handshakes") == {404: 5000}
        client.send(handshake(b"/no"))
        client.answer()
        assert rig.record("refused")["status"] == 404


def test_records_come_in_portions(rig: Rig) -> None:
    rig.open_route(paths=["/known"])
    for _ in range(10):
        rig.client(handshake(b"/no")).answer()
    got = []
    while portion := rig.engine.records(3):
        assert len(portion) <= 3
        got += portion
    assert len(got) == 10
    assert len({fields["request_id"] for _, fields in got}) == 10


# --- what is counted ------------------------------------------------------------------------------


def test_counters_add_up_over_the_workers(rig: Rig) -> None:
    rig.guarded_route()
    token = rig.token()
    for _ in range(30):
        client, upstream = rig.session(b"Authorization: Bearer " + token)
        client.send(up(TEXT, b"12"), up(BINARY, b"345"))
        upstream.frames(2)
        upstream.send(frame(TEXT, b"6"))
        client.frame()
        client.send(close(1000, mask=MASK))
        upstream.frame()
        upstream.send(close(1000))
        client.frame()
    for _ in range(5):
        rig.client(handshake()).answer()
    until(lambda: rig.count("live_sessions") == 0)
    counters = rig.counters()
    assert counters["handshakes"] == {101: 30, 401: 5}
    assert counters["closes"] == {(1000, "client"): 30, (1000, "upstream"): 30}
    assert (counters["messages_in"], counters["bytes_in"]) == (60, 150)
    assert (counters["messages_out"], counters["bytes_out"]) == (30, 30)
    assert (counters["sessions_total"], counters["live_sessions"]) == (30, 0)
    assert (counters["token_hits"], counters["token_misses"]) == (30, 0)
    assert counters["accepts"] == 35
    assert sum(rig.engine.sessions_by_worker()) == 30
    assert (counters["records_dropped"], counters["questions_dropped"]) == (0, 0)
    assert set(counters["refused"].values()) == {0}


# --- the share of a worker ------------------------------------------------------------------------


def share_of_first(sessions: int) -> float:
    """Of sessions opened one after another, those that came to the first of two workers."""
    with new_rig(2, max_sessions=sessions) as rig:
        rig.open_route()
        for _ in range(sessions):
            rig.session()
        until(lambda: sum(rig.engine.sessions_by_worker()) == sessions)
        return rig.engine.sessions_by_worker()[0] / sessions


def test_sessions_spread_evenly_over_two_workers() -> None:
    """The kernel's hash of SO_REUSEPORT is even, and so may miss 45-55 % once in 600 times."""
    assert 0.45 <= share_of_first(1000) <= 0.55 or 0.45 <= share_of_first(1000) <= 0.55


def test_burst_of_connections_is_accepted_whole_by_turns_that_double() -> None:
    with new_rig(1, max_sessions=600) as rig:
        rig.open_route()
        waiting = [rig.connect() for _ in range(500)]
        for line in waiting:
            line.send(request(b"/"))
        assert [line.answer()[0].status for line in waiting] == [426] * 500
        assert rig.count("accepts") == 500
        alone = rig.client(request(b"/"))  # and one by itself afterwards
        assert alone.answer()[0].status == 426


# --- bounds ---------------------------------------------------------------------------------------


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_s71_ten_thousand_connections_aborted_leave_nothing(rig: Rig) -> None:
    """No descriptor, no slot and no memory, whatever stage they were in."""
    rig.open_route()
    whole = handshake()

    def abort(count: int) -> None:
        for n in range(count):
            line = rig.client(whole[: n * 7 % len(whole)] if n % 3 else whole)
            if n % 3 == 0:
                upstream = rig.upstream.accept()
                upstream.head()
                upstream.send(switching())
                if n % 2:
                    line.head()
                upstream.close()
                rig.upstream.lines.clear()
            line.reset()
            rig.lines.clear()

    abort(1000)
    rig.idle()
    settled, descriptors = rss_kib(), descriptors_open()
    abort(9000)
    rig.idle()
    assert descriptors_open() == descriptors
    assert rss_kib() - settled < 1024


def test_busy_connection_does_not_starve_another() -> None:
    """A turn reads so much of each and no more."""
    with new_rig(1) as rig:
        rig.open_route()
        flood, sink = rig.session()
        quiet, far = rig.session()
        flood.sock.setblocking(False)
        sink.sock.setblocking(False)
        piece = up(BINARY, b"f" * 65000)
        rest = b""
        for n in range(200):
            for _ in range(4):
                rest = rest or piece
                try:
                    rest = rest[flood.sock.send(rest) :]
                except BlockingIOError:
                    break
            quiet.send(up(TEXT, b"%d" % n))
            assert far.frame().payload == b"%d" % n
            try:
                while sink.sock.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
