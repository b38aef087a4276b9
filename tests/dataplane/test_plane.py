"""What goes from the link into the engine, what /status says of it, and the end in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
import structlog
from cryptography.fernet import Fernet, MultiFernet

from dataplane import plane as module
from dataplane import wire
from dataplane._policies import CHANGES, PARTING
from dataplane.compile import CompileError
from dataplane.disk import DiskState
from dataplane.plane import Plane
from dataplane.settings import Listener, load
from dataplane.startup import Trust, bind
from tests.dataplane.fakes import FakeEngine, FakeNames, make_snapshot, make_token, until
from tests.harness import ROOT

pytestmark = pytest.mark.anyio


class Held:
    """A policy that the sessions of worker 1 hold, and whose route goes with its snapshot."""

    on_delete = CHANGES["drain"]

    def __init__(self, version: int) -> None:
        self.route = bytes([version])
        self.parted: list[tuple[int, ...]] = []

    def part(self, *told: int) -> list[int]:
        self.parted.append(told)
        return [1]


class Compiled:
    """What the fake compiler makes of a snapshot."""

    def __init__(self, snapshot: wire.Snapshot, previous: object) -> None:
        self.version = snapshot.version
        self.previous = previous
        self.boxes = {snapshot.version: Held(snapshot.version)}


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


@pytest.fixture
def watchdogs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the watchdog was to bite; it does not, in tests."""
    found: list[float] = []
    monkeypatch.setattr(module, "arm_watchdog", found.append)
    monkeypatch.setattr(
        module, "compile_snapshot", lambda snapshot, previous, names: Compiled(snapshot, previous)
    )
    return found


@pytest.fixture
def make_plane(
    engine: FakeEngine, tmp_path: Path, watchdogs: list[float]
) -> Iterator[Callable[..., Plane]]:
    keyring = MultiFernet([Fernet(Fernet.generate_key())])
    states: list[DiskState] = []

    def make(**given: Any) -> Plane:
        states.append(DiskState(tmp_path / "state", keyring))
        settings = load(link_url="ws://127.0.0.1:9", drain_seconds=5, workers=1, **given)
        return Plane(
            settings,
            cast("Any", engine),
            cast("Any", FakeNames()),
            states[-1],
            Trust(b"s" * 16, None),
            20000,
        )

    yield make
    for state in states:
        state.close()


async def test_snapshot_is_compiled_beside_the_last_one_published_and_told(
    make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    plane = make_plane()
    assert plane.readiness().reasons == ["no configuration"]
    plane.link._on_snapshot(make_snapshot(3, {1: 1}))
    plane.link._on_snapshot(make_snapshot(4, {2: 1}))
    first, second = engine.published
    assert (first.previous, second.previous) == (None, first)
    assert engine.swept == 2
    # What the second left out parts as it says, over DRAIN_SECONDS; after the swap.
    ((parting, from_ms, until_ms),) = first.boxes[3].parted
    assert parting == PARTING["gone"] | PARTING["shut"] | PARTING["drain"]
    assert until_ms - from_ms == 5000
    assert engine.parted == [(1, 2)]
    assert plane.known.has_credential((2).to_bytes(16, "big"))
    assert plane.status()["config"]["version"] == 4
    assert plane.readiness().reasons == []


async def test_snapshot_that_does_not_compile_leaves_the_last_one(
    make_plane: Callable[..., Plane], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = make_plane()
    plane.link._on_snapshot(make_snapshot(3))

    def refuse(*_: object) -> None:
        raise ValueError("route x: no")

    monkeypatch.setattr(module, "compile_snapshot", refuse)
    with pytest.raises(ValueError, match="route x: no"):
        plane.link._on_snapshot(make_snapshot(4))
    assert [tables.version for tables in engine.published] == [3]
    assert plane.status()["config"]["version"] == 3


async def test_key_that_cannot_be_read_refuses_the_snapshot(
    make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    plane = make_plane()
    broken = msgspec.structs.replace(
        make_snapshot(3), keys=[wire.PublicKey("kid-of-it", "ES256", "{}")]
    )
    with pytest.raises(CompileError, match="kid-of-it"):
        plane.link._on_snapshot(broken)
    assert engine.published == []


async def test_heartbeats_set_the_engines_clock_and_say_when_revocations_are_complete(
    make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    plane = make_plane()
    now = time.time() + 3600
    plane._on_heartbeat(wire.Heartbeat(b"e" * 16, 1, 0, now))
    assert abs(engine.clock_offset - (now - time.clock_gettime(time.CLOCK_BOOTTIME))) < 1.0
    assert abs(plane.clock.now() - time.time() - 3600) < 1.0
    assert not plane.known.revocations_complete
    plane._on_heartbeat(wire.Heartbeat(b"e" * 16, 1, 0, now, settled=True))
    assert plane.known.revocations_complete
    plane.known.clear()  # another epoch
    assert not plane.known.revocations_complete


@pytest.mark.parametrize("damaged", [False, True])
async def test_revocations_from_the_disk_are_complete_unless_the_log_is_damaged(
    make_plane: Callable[..., Plane], tmp_path: Path, damaged: bool
) -> None:
    plane = make_plane()
    plane.restore()
    assert not plane.known.revocations_complete  # there is nothing yet
    state = plane.link._state
    state.forget(b"e" * 16)
    state.save_snapshot(wire.pack_snapshot(make_snapshot(3)), b"e" * 16, 3)
    assert state.flush(10)
    state.close()
    if damaged:
        log = tmp_path / "state" / "stream.log"
        log.write_bytes(log.read_bytes()[:-1] + b"x")
    again = make_plane()
    again.restore()
    assert again.known.revocations_complete is not damaged


async def test_tokens_and_revocations_reach_the_engine_in_order(
    make_plane: Callable[..., Plane], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = make_plane()
    good, gone, bad = make_token(1), make_token(2), make_token(3)
    put = engine.tokens.put

    def picky(digest: bytes, *claims: object, **grant: object) -> None:
        if digest == bad.digest:
            raise ValueError("a scope is too long")
        put(digest, *claims, **grant)

    monkeypatch.setattr(engine.tokens, "put", picky)
    with structlog.testing.capture_logs() as logged:
        plane.link._on_tokens([bad, good, gone])
    assert [line["why"] for line in logged] == ["a scope is too long"]
    plane.link._on_revocations([wire.Revocation(1, "token", gone.digest)])
    assert list(engine.tokens.tokens) == [good.digest]
    assert plane.link._on_forget is not None
    plane.link._on_forget()
    assert not engine.tokens.tokens


async def test_status_and_counters_say_what_the_engine_counts(
    make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    plane = make_plane()
    plane.listeners = [Listener("::1", 8443, True)]
    engine.sessions = 4
    status = plane.status()
    assert (status["sessions"], status["tokens"], status["workers"]) == (4, 0, 1)
    assert status["listeners"] == ["[::1]:8443 ssl"]
    assert status["config"] == {"version": 0, "epoch": None}
    counters = plane._counters()
    assert (counters.sessions, counters.handshakes) == (4, 3)
    wire.decode_to_control(wire.encode(counters))


async def test_readiness_tells_of_the_link_without_turning_red(
    make_plane: Callable[..., Plane],
) -> None:
    plane = make_plane()
    plane.link._on_snapshot(make_snapshot(1))
    plane.link.lost = "the control plane refused: set the same LINK_SECRET"
    plane.link.refused = "route x: no"
    found = plane.readiness()
    assert found.reasons == []
    assert found.notes == [
        "configuration refused: route x: no",
        "the control plane is not connected: the control plane refused: set the same LINK_SECRET",
    ]
    plane.link.connected, plane.link.refused = True, None
    assert plane.readiness().notes == []


@pytest.mark.parametrize("what", ["token", "jti", "credential", "consumer", "plugin"])
async def test_sessions_that_a_client_moves_make_no_token_good_again(
    what: str, make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    """The message was on its way when the token ended."""
    plane = make_plane()
    plane.link._on_snapshot(make_snapshot(3, {1: 2}))
    token = make_token(1, credential=1, version=3)
    token = msgspec.structs.replace(
        token, plugin=b"p" * 16, jti=b"j" * 16 if what == "jti" else None
    )
    reported: list[tuple[int, int]] = []
    plane.following._report = plane.link.report_moved = (  # type: ignore[method-assign]
        lambda id_, sessions: reported.append((id_, sessions))
    )
    message = wire.Superseded(b"o" * 32, token, 5)
    plane.link._on_superseded(message)  # type: ignore[misc]
    assert [how for how, *_ in engine.followed] == ["asked"] and not reported
    assert plane.known.get(token.digest) is None and not engine.tokens.tokens
    keys = {
        "token": token.digest, "jti": token.jti, "credential": token.credential,
        "consumer": make_snapshot(3, {1: 2}).consumers[0].id, "plugin": token.plugin,
    }  # fmt: skip
    plane._on_revocations([wire.Revocation(1, what, keys[what] or b"", 0.0, 4)])
    plane.link._on_superseded(msgspec.structs.replace(message, id=6))  # type: ignore[misc]
    assert reported == [(6, 0)]
    assert [how for how, *_ in engine.followed].count("asked") == 1
    assert plane.known.get(token.digest) is None and not engine.tokens.tokens


class Running:
    """A plane that runs with a status listener, in the test's loop."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.socket = bind("STATUS_LISTEN", Listener("127.0.0.1", 0))
        self.task = asyncio.create_task(plane.run(self.socket))

    async def get(self, path: str) -> httpx.Response:
        port = self.socket.getsockname()[1]
        transport = httpx.AsyncHTTPTransport(retries=20)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_first_signal_drains_until_no_session_is_left(
    make_plane: Callable[..., Plane], engine: FakeEngine, watchdogs: list[float]
) -> None:
    plane = make_plane()
    engine.sessions = engine.totals["live_sessions"] = 2
    running = Running(plane)
    plane.link._on_snapshot(make_snapshot(1))
    assert (await running.get("/status/ready")).status_code == 200
    assert b"narthex_live_sessions 2.0" in (await running.get("/metrics")).content
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "drain 5" in engine.calls)
    ready = await running.get("/status/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
    assert not running.task.done()
    engine.sessions = 0
    engine.recorded = [("ended", {})]  # what is recorded to the last moment is written
    await running.task
    assert engine.calls[-3:] == ["drain 5", "stop", "join"]
    assert not engine.recorded
    assert watchdogs == [5 + module.WATCHDOG_SECONDS]
    assert running.socket.fileno() == -1


async def test_second_signal_ends_at_once(
    make_plane: Callable[..., Plane], engine: FakeEngine
) -> None:
    engine.sessions, engine.joins = 2, False
    running = Running(make_plane())
    await running.get("/status")
    with structlog.testing.capture_logs() as logged:
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: "drain 5" in engine.calls)
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        await running.task
    assert time.monotonic() - began < 4
    assert engine.calls[-2:] == ["stop", "join"]
    assert "workers.stuck" in [line["event"] for line in logged]


async def test_drain_ends_when_its_time_is_over(
    make_plane: Callable[..., Plane], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSING_SECONDS", -4.9)
    engine.sessions = 1
    plane = make_plane()
    task = asyncio.create_task(plane.run(None))  # STATUS_LISTEN off
    await until(lambda: plane.answers is not None and not plane._stopping.is_set())
    plane.ask_to_stop()
    await task
    assert engine.calls == ["drain 5", "stop", "join"]


def test_watchdog_ends_a_process_whose_python_is_stuck() -> None:
    code = (
        "import signal, threading; from dataplane.plane import arm_watchdog;"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM]);"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN);"
        "arm_watchdog(0.1); lock = threading.Lock(); lock.acquire(); lock.acquire()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=20)
    assert ended.returncode == -signal.SIGALRM


async def test_task_that_fails_is_said_and_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0)
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise KeyError("x")
        await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(module._keep("link", job))
        await until(lambda: runs == 3)
        task.cancel()
    assert [(line["event"], line["task"], line["error"]) for line in logged] == [
        ("task.fault", "link", "KeyError: 'x'")
    ] * 2


async def test_status_listener_that_fails_is_said_and_begun_again(
    make_plane: Callable[..., Plane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0)
    serving, runs = module.serve, 0

    async def failing_once(*given: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("ours")
        await serving(*given)

    monkeypatch.setattr(module, "serve", failing_once)
    with structlog.testing.capture_logs() as logged:
        running = Running(make_plane())
        assert (await running.get("/status")).status_code == 200
        os.kill(os.getpid(), signal.SIGTERM)
        await running.task
    faults = [(line["task"], line["error"]) for line in logged if line["event"] == "task.fault"]
    assert ("status", "RuntimeError: ours") in faults
