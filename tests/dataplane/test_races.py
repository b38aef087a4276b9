"""What crosses threads, changed under traffic: nothing is torn, lost, or freed while in use.

`make sanitize` runs these under AddressSanitizer, which sees memory used after it was given back,
and under ThreadSanitizer, which sees what two threads touch without an order between them.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplane import wire
from tests.dataplane.engine_kit import (
    CONSUMER,
    CREDENTIAL,
    MASK,
    PLUGIN,
    SECONDS,
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
from tests.dataplane.engine_kit import rig as new_rig
from tests.dataplane.snapshots import uid

# Rounds of the Python thread; each is made of many requests of the others.  More for a long hunt.
ROUNDS = int(os.environ.get("NARTHEX_RACE_ROUNDS", "60"))
CLIENTS = 4


class Echo:
    """An upstream on threads of its own: it accepts every handshake and echoes every frame."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.sock.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(Line(sock),), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, line: Line) -> None:
        try:
            line.head()
            line.send(switching())
            while (got := line.frame()).opcode != 8:
                line.send(frame(got.opcode, got.payload))
            line.send(frame(8, got.payload))
            line.rest()
        except (AssertionError, OSError):
            pass  # the gateway cut the session, which is for the clients to judge
        finally:
            line.close()

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for thread in self.threads:
            thread.join(SECONDS)


class Crowd:
    """Threads that do one thing over and over until told to end; the first fault is raised."""

    def __init__(self, work: Callable[[int], None], count: int = CLIENTS) -> None:
        self.done = 0
        self.over = threading.Event()
        self.faults: list[BaseException] = []
        self.work = work
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            while not self.over.is_set():
                self.work(number)
                self.done += 1
        except BaseException as fault:
            self.faults.append(fault)
            self.over.set()

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(3 * SECONDS)
            assert not thread.is_alive()
        if self.faults:
            raise self.faults[0]


@contextmanager
def crowd(work: Callable[[int], None], count: int = CLIENTS) -> Iterator[Crowd]:
    made = Crowd(work, count)
    try:
        yield made
    finally:
        made.end()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def busy() -> Iterator[tuple[Rig, Echo]]:
    """Two workers and a small token cache, so that it evicts; an upstream that echoes."""
    gc.collect()
    before = descriptors()
    echo = Echo()
    with new_rig(2, token_cache=32) as made:
        yield made, echo
    echo.close()
    del made
    gc.collect()
    # The fixture's caller still holds this engine: two times epoll, inbox, the spare one and the
    # pipe's two, and the questions'.
    assert descriptors() <= before + 11


def talk(rig: Rig, *fields: bytes, target: bytes = b"/", rounds: int = 3) -> int:
    """One client: its handshake, some messages and their echoes, an orderly end.  Its status."""
    line = Line(socket.create_connection(("127.0.0.1", rig.port), SECONDS))
    try:
        line.send(handshake(target, *fields))
        status = line.head().status
        if status == 101:
            for number in range(rounds):
                line.send(up(TEXT, b"%d" % number * 200))
                assert line.frame().payload == b"%d" % number * 200
            line.send(close(1000, mask=MASK))
            assert line.frame().code == 1000
            assert line.rest() == b""
        return status
    finally:
        line.close()


def housekeeping(rig: Rig) -> None:
    """What the Python thread does beside: read what workers wrote while they write it."""
    counters = rig.engine.counters()
    assert counters["live_sessions"] >= 0
    rig.engine.live_sessions()
    for kind, fields in rig.engine.records():
        assert kind in ("ended", "refused")
        assert fields["client"].startswith("127.0.0.1:")
    rig.engine.sweep()
    rig.names.sweep()


def parts(port: int, number: int) -> list[Any]:
    """A configuration in which the policy, the consumer and a route's path are new each time."""
    return [
        service(port, path=f"/round/{number}"),
        route(paths=["/"]),
        route(id=uid(1000 + number), paths=[f"/only/{number}"], oauth2=None),
        plugin(realm=f"realm-{number}"),
        wire.Consumer(CONSUMER, f"alex-{number}", f"custom-{number}"),
    ]


def test_tables_are_swapped_under_traffic(busy: tuple[Rig, Echo]) -> None:
    rig, echo = busy
    rig.publish(*parts(echo.port, 0))
    token = rig.token()
    authorized = b"Authorization: Bearer " + token

    def work(number: int) -> None:
        assert talk(rig, authorized) == 101
        assert talk(rig, target=b"/only/none") == 401

    with crowd(work) as clients:
        for number in range(1, ROUNDS):
            rig.publish(*parts(echo.port, number))
            del rig.tables[:-1]  # the last reference but the engine's own
            before = clients.done
            until(lambda: clients.done > before or clients.over.is_set())  # noqa: B023
            housekeeping(rig)
    rig.publish(*parts(echo.port, ROUNDS))
    until(lambda: (rig.engine.sweep(), rig.names.sweep() == 0)[1])
    assert clients.done > ROUNDS


def test_targets_are_swapped_under_traffic_that_tries_several(busy: tuple[Rig, Echo]) -> None:
    """Of three targets two refuse: requests are tried again while the targets that they know go."""
    rig, echo = busy
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]

    def publish(number: int) -> None:
        alive = wire.Target("alive.test", echo.port, 1 + number % 3)
        refusing = [wire.Target("127.0.0.1", dead, 1 + number), wire.Target("dead.test", dead)]
        rig.publish(
            service(1, host="up", retries=2),
            route(paths=["/"], oauth2=None),
            wire.Upstream(uid(90), "up", [*refusing, alive], host_header=f"round-{number}"),
        )
        del rig.tables[:-1]
        rig.names.set_addresses("alive.test", [("127.0.0.1", False)])
        rig.names.set_addresses("dead.test", [("127.0.0.1", False)] * (1 + number % 4))

    def work(number: int) -> None:
        assert talk(rig, rounds=1) == 101

    publish(0)
    with crowd(work) as clients:
        for number in range(1, ROUNDS):
            publish(number)
            before = clients.done
            until(lambda: clients.done > before or clients.over.is_set())  # noqa: B023
            housekeeping(rig)
    assert clients.done > ROUNDS


def test_tokens_are_put_removed_and_evicted_under_traffic(busy: tuple[Rig, Echo]) -> None:
    rig, echo = busy
    rig.publish(service(echo.port), route(paths=["/"]), plugin(), wire.Consumer(CONSUMER, "alex"))
    tokens = [rig.token(number, put=False) for number in range(64)]
    seen: set[int] = set()

    def work(number: int) -> None:
        for token in tokens[number::CLIENTS]:
            seen.add(talk(rig, b"Authorization: Bearer " + token, rounds=1))

    def answer_questions() -> None:
        for kind, ref, digest, passed in rig.engine.questions():
            assert kind == "token" and passed
            if digest[0] % 2:
                rig.engine.tokens.put_negative(digest, time.time() + 0.01)
                rig.engine.answer_token(ref, "unknown")
            else:
                put(rig, digest, scope="s" * (digest[1] % 64))
                rig.engine.answer_token(ref, "known")

    with crowd(work) as clients:
        for number in range(ROUNDS * 20):
            digest = wire.token_digest(tokens[number * 7 % 64].decode())
            put(rig, digest, user_id="u" * (number % 100))
            if number % 3 == 0:
                rig.engine.tokens.remove(wire.token_digest(tokens[number * 5 % 64].decode()))
            if number % 5 == 0:
                rig.engine.tokens.put_negative(digest, time.time() + 0.01)
            if number % 50 == 0:
                rig.engine.tokens.remove_credential(CREDENTIAL)
            answer_questions()
            housekeeping(rig)
            if clients.over.is_set():
                break
        clients.over.set()
        until(lambda: (answer_questions(), not any(t.is_alive() for t in clients.threads))[1], 30)
    assert {101, 401} <= seen <= {101, 401, 503}  # 503: known, and gone again before the look


def put(rig: Rig, digest: bytes, **claims: Any) -> None:
    given = {
        "credential": CREDENTIAL,
        "service": None,
        "scope": None,
        "user_id": None,
        "expires_at": time.time() + 1000,
        "version": 1,
        **claims,
    }
    rig.engine.tokens.put(digest, *given.values())


def test_names_get_new_addresses_under_traffic(busy: tuple[Rig, Echo]) -> None:
    rig, echo = busy
    rig.publish(service(echo.port, host="upstream.test"), route(paths=["/"], oauth2=None))
    seen: set[int] = set()

    def work(number: int) -> None:
        seen.add(talk(rig, rounds=1))

    def answer_questions() -> None:
        for kind, ref, host in rig.engine.questions():
            assert (kind, host) == ("name", "upstream.test")
            rig.names.set_addresses(host, [("127.0.0.1", False)])
            rig.engine.answer_name(ref, True)

    with crowd(work) as clients:
        for number in range(ROUNDS * 10):
            answer_questions()
            if clients.done:
                spare = [("127.0.0.1", False)] * (1 + number % 5)
                rig.names.set_addresses("upstream.test", spare)
                rig.names.mark_failed("upstream.test")  # the last good ones stay
            housekeeping(rig)
            if clients.over.is_set():
                break
        clients.over.set()
        until(lambda: (answer_questions(), not any(t.is_alive() for t in clients.threads))[1], 30)
    assert seen == {101}


def test_token_requests_are_answered_while_clients_leave(busy: tuple[Rig, Echo]) -> None:
    """Every other client goes before its answer comes: the answer must find nobody else."""
    rig, echo = busy
    rig.publish(
        service(echo.port), route(paths=["/"], protocols=["http", "https"]), plugin(id=PLUGIN)
    )

    def work(number: int) -> None:
        body = b"client=%d&" % number + b"x" * 300
        line = Line(socket.create_connection(("127.0.0.1", rig.port), SECONDS))
        try:
            fields = (b"Content-Length: %d" % len(body),)
            line.send(request(b"/oauth2/token", *fields, method=b"POST"), body)
            if number % 2:
                head, answer = line.answer()
                assert (head.status, answer) == (200, body)
            else:
                line.reset()
        finally:
            line.close()

    def answer_questions() -> None:
        for kind, ref, fields in rig.engine.questions():
            assert kind == "request"
            rig.engine.answer_request(ref, 200, [(b"X-Echo", b"1")], fields["body"])

    with crowd(work) as clients:
        deadline = time.monotonic() + 3 * SECONDS
        while clients.done < ROUNDS * 5 and not clients.over.is_set():
            answer_questions()
            housekeeping(rig)
            assert time.monotonic() < deadline
        clients.over.set()
        until(lambda: (answer_questions(), not any(t.is_alive() for t in clients.threads))[1], 30)


def test_certificate_is_changed_under_tls_handshakes(
    busy: tuple[Rig, Echo], self_signed: tuple[Path, Path]
) -> None:
    """And none of them waits for ever: a request may come in the same read as the Finished."""
    _, echo = busy
    # Listeners are opened before the workers start: an engine of its own.
    with new_rig_with_tls(self_signed) as secure:
        secure.publish(service(echo.port), route(paths=["/"], oauth2=None))

        def work(number: int) -> None:
            line = secure.secure(handshake())
            assert line.head().status == 101
            line.send(up(TEXT, b"x" * 5000))
            assert line.frame().payload == b"x" * 5000
            line.close()
            secure.lines.remove(line)

        with crowd(work) as clients:
            while clients.done < ROUNDS * 5 and not clients.over.is_set():
                secure.engine.certificate(*map(str, self_signed))
                secure.engine.sweep()


@contextmanager
def new_rig_with_tls(pair: tuple[Path, Path]) -> Iterator[Rig]:
    made = Rig(2)
    made.use_tls(pair)
    made.engine.start()
    try:
        yield made
        made.close_lines()
        made.idle()
    finally:
        made.close_lines()
        made.end()


def test_drain_and_stop_meet_handshakes_and_sessions_in_every_state(busy: tuple[Rig, Echo]) -> None:
    """Engines are ended, in order or at once, in the middle of whatever clients are doing."""
    _, echo = busy
    for number in range(max(4, ROUNDS // 10)):
        made = Rig(2, max_sessions=64)
        made.publish(service(echo.port), route(paths=["/"]), plugin())
        token = b"Authorization: Bearer " + made.token()
        made.engine.start()

        def work(client: int, made: Rig = made, token: bytes = token) -> None:
            try:
                if client == 0:  # never answered: parked
                    unknown = b"Authorization: Bearer " + made.token(7, put=False)
                    talk(made, unknown)
                else:
                    talk(made, token, rounds=20)
            except (OSError, AssertionError):
                time.sleep(0)  # refused or cut, as it must be at some time

        with crowd(work) as clients:
            until(lambda made=made: made.count("sessions_total") > 3)  # type: ignore[misc]
            if number % 2:
                made.engine.drain(0.05)
                until(lambda made=made: made.engine.live_sessions() == 0)  # type: ignore[misc]
            made.engine.stop()
            assert made.engine.join(SECONDS)
            clients.over.set()
        assert made.engine.live_sessions() == 0
        assert made.users() == 0
        made.upstream.close()
